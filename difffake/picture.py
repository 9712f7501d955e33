"""One decoded frame of any kind -> upright 8-bit RGB with square pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import av
import av.error
import av.filter
import av.video.stream
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter

U8 = npt.NDArray[np.uint8]

_HDR = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
#: Pixel aspects beyond this are damage, not anamorphic video.
_MAX_ASPECT = 4.0


class RgbConverter:
    """Converts the frames of one stream.

    One for the whole stream: setting up a conversion costs more than converting, two seconds where HDR is involved.

    Args:
        aspect: width of a pixel over its height; pictures are stretched sideways by it.
    """

    def __init__(self, aspect: float = 1.0) -> None:
        self._aspect = aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> U8:
        """RGB ``(H, W, 3) uint8`` of any pixel format and depth, HDR brought to BT.709, turned upright."""
        # PQ and HLG code values read as if they were BT.709 look washed out, unlike any face of the training.
        is_hdr = frame.color_trc in _HDR
        plain = self._reformatter.reformat(
            frame,
            width=self.width_px(frame),
            format="rgb24",
            dst_color_trc=ColorTrc.BT709 if is_hdr else None,
            dst_color_primaries=ColorPrimaries.BT709 if is_hdr else None,
        )
        return np.ascontiguousarray(_upright(np.asarray(plain.to_ndarray(), np.uint8), frame))

    def width_px(self, frame: av.VideoFrame) -> int:
        """Width of the converted frame, before it is turned."""
        return round(frame.width * self._aspect)


def rotation_deg(frame: av.VideoFrame) -> int:
    """How far the container asks to turn the frame for display, degrees counter-clockwise."""
    return int(frame.rotation) % 360


def _upright(image: U8, frame: av.VideoFrame) -> U8:
    """Apply the display matrix: turns by quarters and mirror images."""
    turn = rotation_deg(frame)
    matrix = _display_matrix(frame)
    if matrix is None:
        return np.rot90(image, round(turn / 90) % 4)
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """The four turning entries (a, b, c, d): a source point (x, y) is shown at (a x + c y, b x + d y)."""
    try:
        every = cast("Iterable[SideData]", frame.side_data)  # iterates over values, for all that its type says
        data = next((d for d in every if d.type == SideDataType.DISPLAYMATRIX), None)
    except ValueError:  # side data of a kind that PyAV has no name for hides the rest
        return None
    if data is None or data.buffer_size < 36:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    return a, b, c, d


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
