"""Records of every kind that a stream may carry, encoded on the spot from a picture that never repeats."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from functools import cache

import av
import cv2
import numpy as np
import numpy.typing as npt

from stream.decode import Payload

U8 = npt.NDArray[np.uint8]
FRAME_NS = 40_000_000
_ENCODERS = {"video/h264": "libx264", "video/h265": "libx265", "video/av1": "libsvtav1"}


@cache
def pictures(count: int, width: int = 96, height: int = 64) -> U8:
    """`(count, height, width, 3)`: a moving gradient with noise, every picture different."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    t = np.arange(count)[:, None, None]
    base = np.stack([x * 2 + t * 5, y * 3 + t * 3, x + y + t * 7], axis=-1) % 256
    return np.clip(base + rng.integers(-12, 13, base.shape), 0, 255).astype(np.uint8)


def image(extension: str, width: int = 96, height: int = 64, seed: int = 0) -> bytes:
    """A `.jpg`, `.png` or `.webp`."""
    done, data = cv2.imencode(extension, pictures(8, width, height)[seed])
    assert done
    return bytes(data)


@cache
def segment(
    container: str,
    frames: int = 25,
    codec: str = "libx264",
    options: tuple[tuple[str, str], ...] = (),
    first: int = 0,
    sound: bool = False,
) -> bytes:
    """A segment of 25 pictures a second that begins at picture `first`; `container` is a muxer of FFmpeg."""
    out = io.BytesIO()
    codec_options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with av.open(out, "w", format=container, options=dict(options)) as file:
        stream = file.add_stream(codec, rate=25, options={"g": "12", **codec_options})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.time_base = Fraction(1, 25)
        audio = file.add_stream("aac", rate=44100) if sound else None
        if audio is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            tone.sample_rate, tone.pts = 44100, 0
            file.mux(audio.encode(tone))
        for number, picture in enumerate(pictures(frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = first + number
            frame.time_base = Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if audio is not None:
            file.mux(audio.encode(None))
    _take_ordinary_priority()
    return out.getvalue()


def _take_ordinary_priority() -> None:
    """SVT-AV1 gives the thread that calls it real-time priority where it may (root), and whatever the thread starts
    inherits it: nothing else would run beside the tests."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@cache
def access_units(
    content_type: str, frames: int = 30, options: tuple[tuple[str, str], ...] = (), fps: int = 25
) -> list[tuple[bytes, int]]:
    """(bytes, number in display order) of every access unit, in decoding order."""
    encoder = av.codec.CodecContext.create(_ENCODERS[content_type], "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 96, 64, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
    encoder.options = dict(options)
    packets = []
    for number, picture in enumerate(pictures(frames)):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    _take_ordinary_priority()
    return [(bytes(p), int(p.pts)) for p in packets]


H264_B = (("g", "10"), ("bf", "3"), ("preset", "medium"), ("tune", "ssim"))
H264_OPEN = (("x264-params", "keyint=10:min-keyint=10:bframes=3:open-gop=1:scenecut=0"),)
H264_BASE = (("profile", "baseline"), ("g", "10"))
H265_OPEN = (
    ("x265-params", "keyint=10:min-keyint=10:bframes=3:open-gop=1:repeat-headers=1:scenecut=0:log-level=none"),
)
H265_CLOSED = (("x265-params", "keyint=10:min-keyint=10:bframes=3:open-gop=0:repeat-headers=1:log-level=none"),)
AV1_GOP = (("preset", "12"), ("g", "10"), ("svtav1-params", "lp=1"))
UNIT_KINDS = [
    ("video/h264", H264_B),
    ("video/h264", H264_OPEN),
    ("video/h264", H264_BASE),
    ("video/h265", H265_OPEN),
    ("video/h265", H265_CLOSED),
    ("video/av1", AV1_GOP),
]


def unit_records(
    content_type: str,
    options: tuple[tuple[str, str], ...],
    frames: int = 40,
    *,
    base_ns: int = 10**18,
    per_record: int = 1,
    with_pts: bool = True,
    typed: bool = True,
) -> list[Payload]:
    """One record per access unit (or `per_record`), stamped in decoding order.

    `pts-ns` is in display order, or, where it stands for several units, in decoding order.
    """
    units = access_units(content_type, frames, options)
    records = []
    for at in range(0, len(units), per_record):
        group = units[at : at + per_record]
        headers: list[tuple[str, bytes]] = [("content-type", content_type.encode())] if typed else []
        if with_pts:
            headers.append(("pts-ns", str(base_ns + (group[0][1] if per_record == 1 else at) * FRAME_NS).encode()))
        records.append(
            Payload(b"".join(data for data, _ in group), tuple(headers), base_ns // 10**6 + at * 40, at // per_record)
        )
    return records
