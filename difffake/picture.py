"""One decoded frame of any kind -> upright 8-bit RGB with square pixels: the whole, a small one, or a part of it."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, cast

import av
import av.error
import av.filter
import av.video.plane
import av.video.stream
import cv2
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData, SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter

from difffake.errors import ArgumentError

U8 = npt.NDArray[np.uint8]
_Region = tuple[int, int, int, int]

_HDR = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
#: Pixel aspects beyond this are damage, not anamorphic video.
_MAX_ASPECT = 4.0
#: Chroma subsampling (sideways, downwards) of the formats whose planes may be cut and shrunk before they become RGB:
#: 8 bits, and each pixel's colour comes from its own chroma sample alone. Of deeper ones swscale interpolates chroma.
_PLANES = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (2, 1),
    "yuvj422p": (2, 1),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
}
#: What hardware decoders give, and the planar layout of the same samples.
_PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le"}


class Picture(Protocol):
    """One picture, upright, with square pixels. Every array is RGB ``uint8`` and C-contiguous, but for `crop`.

    The same arguments give the same pixels, whatever was asked before. Not for two threads at once.
    """

    @property
    def width_px(self) -> int:
        """Width."""

    @property
    def height_px(self) -> int:
        """Height."""

    def small(self, width_px: int, height_px: int) -> U8:
        """The whole picture, area averaged, ``(height_px, width_px, 3)``. Colours may differ by a level or two from
        those of `rgb` averaged."""

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> U8:
        """``rgb()[y0:y1, x0:x1]``, to the bit: do not write into it. Each row is contiguous, but may be part of a
        longer one.

        Raises:
            ValueError: empty, or beyond the edges.
        """

    def rgb(self) -> U8:
        """The whole picture ``(height_px, width_px, 3)``, converted once: do not write into it."""


class RgbPicture:
    """A `Picture` of an RGB image ``(H, W, 3) uint8``.

    Raises:
        ArgumentError: it is another kind of array. Numbers of another kind would be scored, and wrongly.
    """

    def __init__(self, image: U8) -> None:
        is_picture = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
        if not is_picture or image.dtype != np.uint8:
            kind = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ArgumentError(
                f"a picture is RGB (H, W, 3) uint8, 0 to 255, not {kind}",
                hint="scale 0 to 1 by 255, drop alpha; of OpenCV's own: cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)",
            )
        self._image = image

    @property
    def width_px(self) -> int:
        """Width."""
        return int(self._image.shape[1])

    @property
    def height_px(self) -> int:
        """Height."""
        return int(self._image.shape[0])

    def small(self, width_px: int, height_px: int) -> U8:
        """See `Picture.small`."""
        return _shrunk(self._image, width_px, height_px)

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> U8:
        """See `Picture.crop`."""
        _check_region(self, x0, y0, x1, y1)
        return self._image[y0:y1, x0:x1]

    def rgb(self) -> U8:
        """See `Picture.rgb`."""
        return self._image


class VideoPicture:
    """A `Picture` of a decoded frame; only what is asked for is converted.

    It keeps the frame's buffer, and with it memory of the decoder, until it is dropped: hold few.

    Args:
        frame: progressive.
        converter: of its stream.
    """

    def __init__(self, frame: av.VideoFrame, converter: RgbConverter) -> None:
        self._frame, self._converter = frame, converter
        self._rgb: U8 | None = None
        width, height = converter.width_px(frame), frame.height
        self._turn = _orientation(frame)
        self.width_px, self.height_px = (height, width) if self._turn.is_turned else (width, height)
        even = frame.width % 2 == 0 and frame.height % 2 == 0  # of odd ones swscale interpolates chroma, too
        frame = self._frame = _planar(frame)
        is_plain = even and frame.format.name in _PLANES and frame.color_trc not in _HDR
        self._steps = _PLANES[frame.format.name] if is_plain and all(p.line_size > 0 for p in frame.planes) else None

    def rgb(self) -> U8:
        """See `Picture.rgb`."""
        if self._rgb is None:
            self._rgb = self._converter(self._frame)
        return self._rgb

    def small(self, width_px: int, height_px: int) -> U8:
        """See `Picture.small`."""
        if self._steps is None:
            return _shrunk(self.rgb(), width_px, height_px)
        width, height = (height_px, width_px) if self._turn.is_turned else (width_px, height_px)
        frame, scale = self._frame, 1
        # Planes are cheaper to halve than RGB; but only while their chroma is left as fine as the picture will be.
        while (
            frame.width % (4 * scale) == 0
            and frame.height % (4 * scale) == 0
            and min(frame.width // width, frame.height // height) >= 4 * scale
        ):
            scale *= 2
        if scale == 1:
            image = _plain_rgb(frame)
        else:
            new = _blank(frame, frame.width // scale, frame.height // scale)
            for plane, _, _, target in self._planes(new):
                _halve_into(target, plane)
            image = _plain_rgb(new)
        return np.ascontiguousarray(self._turn.upright(_shrunk(image, width, height)))

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> U8:
        """See `Picture.crop`."""
        _check_region(self, x0, y0, x1, y1)
        is_square = self._converter.width_px(self._frame) == self._frame.width
        if self._rgb is not None or self._steps is None or not is_square:
            return self.rgb()[y0:y1, x0:x1]
        left, top, right, bottom = self._turn.coded((x0, y0, x1, y1), self.width_px, self.height_px)
        # From whole chroma samples, and an even number of lines: with odd ones swscale would interpolate chroma.
        even_left, even_top = left & ~1, top & ~1
        new = _blank(self._frame, right - even_left, bottom - even_top)
        for plane, step_x, step_y, target in self._planes(new):
            at_x, at_y = even_left // step_x, even_top // step_y
            target[:] = plane[at_y : at_y + target.shape[0], at_x : at_x + target.shape[1]]
        region = _plain_rgb(new)[top - even_top : bottom - even_top, left - even_left : right - even_left]
        upright = self._turn.upright(region)
        return upright if upright.strides[0] > 0 and upright[:1].flags.c_contiguous else np.ascontiguousarray(upright)

    def _planes(self, new: av.VideoFrame) -> Iterator[tuple[U8, int, int, U8]]:
        """Each plane with its subsampling, and the plane of another frame."""
        step_x, step_y = self._steps or (1, 1)
        for at, (plane, target) in enumerate(zip(self._frame.planes, new.planes, strict=True)):
            yield _samples(plane), step_x if at else 1, step_y if at else 1, _samples(target)


class RgbConverter:
    """Converts the frames of one stream, whole.

    One for the whole stream: setting up a conversion can cost more than converting, two seconds where HDR is involved.

    Args:
        aspect: width of a pixel over its height; pictures are stretched sideways by it.
    """

    def __init__(self, aspect: float = 1.0) -> None:
        self._aspect = aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0
        self._reformatter = VideoReformatter()
        # Pictures of one stream may be looked at while its next ones are decoded by another thread.
        self._lock = threading.Lock()
        self._checked: tuple[object, ...] = ()

    def __call__(self, frame: av.VideoFrame) -> U8:
        """RGB ``(H, W, 3) uint8`` of any pixel format and depth, HDR brought to BT.709, turned upright."""
        # PQ and HLG code values read as if they were BT.709 look washed out, unlike any face of the training.
        is_hdr = frame.color_trc in _HDR
        with self._lock:
            plain = self._reformatter.reformat(
                _planar(frame),
                width=self.width_px(frame),
                format="rgb24",
                dst_color_trc=ColorTrc.BT709 if is_hdr else None,
                dst_color_primaries=ColorPrimaries.BT709 if is_hdr else None,
                threads=1,
            )
        return np.ascontiguousarray(_orientation(frame).upright(np.asarray(plain.to_ndarray(), np.uint8)))

    def check(self, frame: av.VideoFrame) -> None:
        """See whether such frames can be converted, by converting the first one of each kind.

        Raises:
            av.error.FFmpegError, ValueError: they cannot.
        """
        kind = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range, frame.color_trc)
        if kind != self._checked:
            self(frame)
            self._checked = kind

    def width_px(self, frame: av.VideoFrame) -> int:
        """Width of the converted frame, before it is turned."""
        return round(frame.width * self._aspect)


def rotation_deg(frame: av.VideoFrame) -> int:
    """How far the container asks to turn the frame for display, degrees counter-clockwise."""
    return int(frame.rotation) % 360


@dataclass(frozen=True, slots=True)
class _Orientation:
    """How a coded picture becomes upright: columns and rows change places, then it is mirrored downwards, sideways."""

    is_turned: bool
    is_flipped: bool
    is_mirrored: bool

    def upright(self, image: U8) -> U8:
        """A view."""
        if self.is_turned:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.is_flipped else 1, :: -1 if self.is_mirrored else 1]

    def coded(self, region: _Region, width: int, height: int) -> _Region:
        """Where a region of the upright picture, of this size, lies in the coded one."""
        x0, y0, x1, y1 = region
        if self.is_mirrored:
            x0, x1 = width - x1, width - x0
        if self.is_flipped:
            y0, y1 = height - y1, height - y0
        return (y0, x0, y1, x1) if self.is_turned else (x0, y0, x1, y1)


def _orientation(frame: av.VideoFrame) -> _Orientation:
    """By the display matrix: turns by quarters and mirror images."""
    matrix = _display_matrix(frame)
    if matrix is None:
        quarters = round(rotation_deg(frame) / 90) % 4
        return _Orientation(quarters % 2 == 1, quarters in (1, 2), quarters in (2, 3))
    a, b, c, d = matrix
    is_turned = abs(a) + abs(d) < abs(b) + abs(c)
    if is_turned:
        a, d = c, b
    return _Orientation(is_turned, d < 0, a < 0)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """The four turning entries (a, b, c, d): a source point (x, y) is shown at (a x + c y, b x + d y)."""
    # Not `frame.side_data`, which keeps the frame, and the frame it: until the garbage collector comes, the decoder
    # must make new buffers, a page fault for every 4 KiB of them.
    container = cast("Callable[[av.VideoFrame], Iterable[SideData]]", SideDataContainer)
    try:
        data = next((d for d in container(frame) if d.type == SideDataType.DISPLAYMATRIX), None)
    except ValueError:  # side data of a kind that PyAV has no name for hides the rest
        return None
    if data is None or data.buffer_size < 36:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    return a, b, c, d


def _check_region(picture: Picture, x0: int, y0: int, x1: int, y1: int) -> None:
    if not (0 <= x0 < x1 <= picture.width_px and 0 <= y0 < y1 <= picture.height_px):
        raise ValueError(f"({x0}, {y0}, {x1}, {y1}) is no part of {picture.width_px} x {picture.height_px} pixels")


def _shrunk(image: U8, width: int, height: int) -> U8:
    """Averaged by halves as far as that goes, which OpenCV does fast, then interpolated: an area average at a tenth
    of its cost."""
    while not (image.shape[0] % 2 or image.shape[1] % 2 or image.shape[0] < 2 * height or image.shape[1] < 2 * width):
        image = _resized(image, image.shape[1] // 2, image.shape[0] // 2, cv2.INTER_AREA)
    rest = max(image.shape[0] / height, image.shape[1] / width)
    return _resized(image, width, height, cv2.INTER_AREA if rest > 2 else cv2.INTER_LINEAR)


def _halve_into(target: U8, image: U8) -> None:
    """Averaged by halves alone, once or more."""
    while image.shape[0] > 2 * target.shape[0]:
        image = _resized(image, image.shape[1] // 2, image.shape[0] // 2, cv2.INTER_AREA)
    cv2.resize(image, target.shape[::-1], dst=target, interpolation=cv2.INTER_AREA)


def _resized(image: U8, width: int, height: int, interpolation: int) -> U8:
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def _planar(frame: av.VideoFrame) -> av.VideoFrame:
    """The same samples, each component in a plane of its own, so that hardware's frames give software's colours."""
    name = _PLANAR.get(frame.format.name)
    return frame if name is None else VideoReformatter().reformat(frame, format=name, threads=1)


def _samples(plane: av.video.plane.VideoPlane) -> U8:
    """The samples of a plane of 8 bits ``(h, w) uint8``, not copied."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width]


def _blank(like: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """A frame with the colours of another, its size rounded up to even numbers."""
    new = av.VideoFrame(width + width % 2, height + height % 2, like.format.name)
    new.colorspace, new.color_range = like.colorspace, like.color_range
    return new


def _plain_rgb(frame: av.VideoFrame) -> U8:
    """RGB of a frame of a format in `_PLANES`, as it is coded: a view of FFmpeg's memory, whose rows may be longer than
    the picture's. To set such a conversion up costs microseconds."""
    plane = VideoReformatter().reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)
    return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)


class Deinterlacer:
    """Passes progressive frames on; from the first interlaced one, weaves no more but interpolates (yadif).

    yadif looks at the frame before and after, so it must see every frame, sampled or not.

    Attributes:
        active: whether the frames last passed on went through the filter.
    """

    def __init__(self) -> None:
        self.active = False
        self._graph: av.filter.Graph | None = None
        self._key: tuple[int, int, str] | None = None

    def run(self, frames: Iterable[av.VideoFrame], stream: av.video.stream.VideoStream) -> Iterator[av.VideoFrame]:
        """Yield the frames, deinterlaced where the decoder says that they are interlaced."""
        for frame in frames:
            self.active = self.active or frame.interlaced_frame
            if not self.active:
                yield frame
                continue
            key = (frame.width, frame.height, frame.format.name)
            if key != self._key:
                yield from self._drain()
                self._graph, self._key = _yadif(frame, stream), key
            if self._graph is not None:
                self._graph.vpush(frame)
                yield from _pull(self._graph)
        yield from self._drain()

    def _drain(self) -> Iterator[av.VideoFrame]:
        if self._graph is not None:
            self._graph.vpush(None)
            yield from _pull(self._graph)
            self._graph = None


def _yadif(frame: av.VideoFrame, stream: av.video.stream.VideoStream) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        template=stream,
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or stream.time_base,
    )
    graph.link_nodes(
        source, graph.add("yadif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def _pull(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def deinterlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """One interlaced frame made progressive out of itself (estdif); progressive ones pass.

    For sampled frames of a stream: unlike `Deinterlacer`, it needs no neighbours, so that the result is the same
    wherever reading began.
    """
    if not frame.interlaced_frame:
        return frame
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    graph.link_nodes(source, graph.add("estdif", "mode=frame:deint=interlaced"), graph.add("buffersink")).configure()
    graph.vpush(frame)
    graph.vpush(None)
    return next(_pull(graph), frame)
