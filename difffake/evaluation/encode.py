"""Pictures through a video encoder and back, one by one, without a file between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from numpy.typing import NDArray

from difffake.errors import DataError, DiffFakeError, LimitExceededError
from difffake.evaluation.recompress import DEFAULT_FPS, ENCODERS, TIME_BASE, Codec, Recompression, encoder_options
from difffake.picture import RgbConverter
from difffake.video import Frame

_DECODERS = {Codec.H264: "h264", Codec.H265: "hevc", Codec.VP9: "vp9", Codec.AV1: "libdav1d"}
_NAMES = {Codec.H264: "H.264", Codec.H265: "H.265", Codec.VP9: "VP9", Codec.AV1: "AV1"}
_MIN_SIDE_PX = 32
#: Encoders look ahead by tens of pictures; one that holds back more would fill the memory.
_MAX_WAITING = 512


@dataclass(frozen=True, slots=True)
class Encode:
    """A stage: each picture ``(H, W, 3) uint8`` is encoded and decoded again; times stay, an odd row or column goes.

    One thread, so that the same pictures give the same bits on every machine with the same encoder. ``shrink`` of the
    recompression must be 1: sizes are another stage's.
    """

    recompression: Recompression

    def __post_init__(self) -> None:
        if self.recompression.shrink != 1:
            raise DataError("an encode in place does not shrink", hint="put a change of size before it")

    def __str__(self) -> str:
        told = self.recompression
        preset = f" {told.preset}" if told.codec in (Codec.H264, Codec.H265) else ""
        return f"{_NAMES[told.codec]} CRF {told.crf}{preset}"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:  # noqa: ARG002  (panels share an encode)
        """Raises DataError where the encoder is missing or refuses, LimitExceededError where the size changes."""
        coder: _Coder | None = None
        try:
            for frame in frames:
                image = frame.image[: frame.image.shape[0] // 2 * 2, : frame.image.shape[1] // 2 * 2]
                if min(image.shape[:2]) < _MIN_SIDE_PX:
                    raise DataError(
                        f"a picture of {image.shape[1]} x {image.shape[0]} px is too small to be encoded",
                        hint="leave it out",
                    )
                if coder is None:
                    coder = _Coder(self.recompression, image.shape[0], image.shape[1])
                yield from coder.push(frame, image)
            if coder is not None:
                yield from coder.flush()
        except DiffFakeError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise DataError(
                f"a picture cannot be encoded as {self}: {error}",
                hint="give pictures of at least 64 x 64 px, and a PyAV that has this encoder",
            ) from None


class _Coder:
    """An encoder and a decoder, back to back."""

    def __init__(self, recompression: Recompression, height: int, width: int) -> None:
        self._encoder = cast(VideoCodecContext, av.CodecContext.create(ENCODERS[recompression.codec], "w"))
        self._encoder.height, self._encoder.width = height, width
        self._encoder.pix_fmt = "yuv420p"
        self._encoder.time_base = TIME_BASE
        self._encoder.framerate = Fraction(DEFAULT_FPS).limit_denominator(1001)
        self._encoder.thread_count = 1
        options = encoder_options(recompression)
        if recompression.codec is Codec.H265:
            options["x265-params"] += ":pools=none:frame-threads=1"
        self._encoder.options = options
        self._decoder = cast(VideoCodecContext, av.CodecContext.create(_DECODERS[recompression.codec], "r"))
        self._decoder.thread_count = 1
        self._to_rgb = RgbConverter()
        self._size = height, width
        self._waiting: dict[int, Frame] = {}
        self._last = -1

    def push(self, frame: Frame, image: NDArray[np.uint8]) -> Iterator[Frame]:
        if image.shape[:2] != self._size:
            raise LimitExceededError(
                f"the picture changes its size midway, from {self._size} to {image.shape[:2]}",
                hint="evaluate this file without a condition",
            )
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        # Two pictures may claim the same moment; no encoder takes that.
        self._last = max(round(frame.pts_s / TIME_BASE), self._last + 1)
        picture.pts, picture.time_base = self._last, TIME_BASE
        self._waiting[self._last] = frame
        if len(self._waiting) > _MAX_WAITING:
            raise DataError("the encoder gives no picture back", hint="take another codec, or update PyAV")
        yield from self._decoded(self._encoder.encode(picture))

    def flush(self) -> Iterator[Frame]:
        yield from self._decoded(self._encoder.encode(None))
        yield from self._taken(self._decoder.decode(None))

    def _decoded(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[Frame]:
        for packet in packets:
            yield from self._taken(self._decoder.decode(packet))

    def _taken(self, pictures: Iterable[av.VideoFrame]) -> Iterator[Frame]:
        for picture in pictures:
            frame = self._waiting.pop(picture.pts if picture.pts is not None else -1, None)
            if frame is not None:
                yield replace(frame, image=self._to_rgb(picture))
