"""Encode a video again, as a platform or an encoder on the way would: what is left of a score after that?

The whole picture goes through one encode. For side-by-side material that means that the real and the
manipulated half get the same bits, and that compression cannot give the answer away.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from difffake.errors import DataError, LimitExceededError
from difffake.limits import Limits
from difffake.video import open_video

TIME_BASE = Fraction(1, 90_000)
MAX_SHRINK = 16
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
DEFAULT_FPS = 25.0  # for rate control only, where a file does not tell its rate


class Codec(StrEnum):
    """What to encode with."""

    H264 = "h264"
    H265 = "h265"
    VP9 = "vp9"
    AV1 = "av1"


ENCODERS = {Codec.H264: "libx264", Codec.H265: "libx265", Codec.VP9: "libvpx-vp9", Codec.AV1: "libsvtav1"}
MAX_CRF = {Codec.H264: 51, Codec.H265: 51, Codec.VP9: 63, Codec.AV1: 63}


@dataclass(frozen=True, slots=True)
class Recompression:
    """Codec, constant rate factor (0 best .. 51 worst, 63 for VP9 and AV1), encoder preset (of H.264 and H.265; the
    others are always coded fast); each side divided by ``shrink`` (1 to 16)."""

    codec: Codec = Codec.H264
    crf: int = 23
    preset: str = "veryfast"
    shrink: int = 1

    def __post_init__(self) -> None:
        worst = MAX_CRF[self.codec]
        if not 0 <= self.crf <= worst:
            raise DataError(f"a CRF of {self.crf} does not exist", hint=f"choose 0 (best) to {worst} (worst)")
        if self.preset not in PRESETS:
            raise DataError(f"no preset {self.preset[:40]!r}", hint=f"choose one of {', '.join(PRESETS)}")
        if not 1 <= self.shrink <= MAX_SHRINK:
            raise DataError(f"a picture cannot be shrunk by {self.shrink}", hint=f"choose 1 (not) to {MAX_SHRINK}")

    def __str__(self) -> str:
        shrunk = "" if self.shrink == 1 else f"-by{self.shrink}"
        return f"{self.codec.value}-crf{self.crf}-{self.preset}{shrunk}"


DEFAULT_RECOMPRESSION = Recompression()


def recompress(
    path: Path,
    out: Path,
    recompression: Recompression = DEFAULT_RECOMPRESSION,
    *,
    stop_s: float | None = None,
    limits: Limits | None = None,
) -> Path:
    """Encode the video ``path`` into the MP4 file ``out``; frame times and number of frames stay, and so does the size
    unless it is to shrink.

    What is encoded is what a scan would see: upright, deinterlaced, 8 bits. An odd width or height loses its
    last column or row, since 4:2:0 has none. ``out`` appears whole or not at all; ``stop_s`` encodes no more
    than that many seconds of the beginning.

    Raises:
        DiffFakeError: the source cannot be read (as ``open_video`` says).
        DataError: the encoder is missing or refuses.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder) / "part.mp4"
        try:
            _encode(path, part, recompression, stop_s, limits)
        except av.FFmpegError as error:
            raise DataError(
                f"{path.name} cannot be encoded as {recompression}: {error.strerror}",
                hint="give a picture of at least 64 x 64 px, and a PyAV that has this encoder",
            ) from None
        part.replace(out)
    return out


def _encode(path: Path, out: Path, recompression: Recompression, stop_s: float | None, limits: Limits | None) -> None:
    with open_video(path, limits=limits, stop_s=stop_s) as video, av.open(str(out), "w") as container:
        stream: VideoStream | None = None
        size = (0, 0)
        for frame in video:
            height, width = frame.image.shape[:2]
            step = 2 * recompression.shrink
            even = (height // step * 2, width // step * 2)
            if not all(even):
                raise DataError(f"{path.name} has {width} x {height} px: too small", hint="shrink it less, or not")
            if stream is None:
                size = even
                stream = _open_stream(container, recompression, size, video.info.fps)
            if size != even:
                raise LimitExceededError(
                    f"{path.name} changes its picture size midway", hint="evaluate it without --crf"
                )
            image = np.ascontiguousarray(
                frame.image[: size[0] * recompression.shrink, : size[1] * recompression.shrink]
            )
            if recompression.shrink > 1:
                image = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = round(frame.pts_s / TIME_BASE), TIME_BASE
            container.mux(stream.encode(picture))
        if stream is not None:
            container.mux(stream.encode())


def encoder_options(recompression: Recompression) -> dict[str, str]:
    """What the encoder of ``recompression.codec`` is told."""
    crf = str(recompression.crf)
    match recompression.codec:
        case Codec.VP9:
            # Without a rate of 0 the factor would only be a bound.
            return {"crf": crf, "b": "0", "deadline": "realtime", "cpu-used": "8"}
        case Codec.AV1:
            os.environ.setdefault("SVT_LOG", "1")  # errors alone: it writes to stderr by itself
            return {"crf": crf, "preset": "12", "svtav1-params": "lp=1"}
        case Codec.H265:
            return {"crf": crf, "preset": recompression.preset, "x265-params": "log-level=error"}  # stderr, too
        case Codec.H264:
            return {"crf": crf, "preset": recompression.preset}


def _open_stream(
    container: OutputContainer, recompression: Recompression, size: tuple[int, int], fps: float | None
) -> VideoStream:
    rate = Fraction(fps or DEFAULT_FPS).limit_denominator(1001)
    stream = container.add_stream(ENCODERS[recompression.codec], rate=rate, options=encoder_options(recompression))
    if not isinstance(stream, VideoStream):
        raise DataError(f"{recompression.codec} is no video encoder here", hint="install the PyAV wheel from PyPI")
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = TIME_BASE
    return stream
