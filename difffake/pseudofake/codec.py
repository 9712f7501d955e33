"""Pictures through a real video encoder and back: the artefacts that streams carry."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal, cast

import av
import av.error
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext

from difffake.errors import DataError, EngineError
from difffake.pseudofake.bank import F32, U8

Codec = Literal["h264", "h265"]
#: x265 codes pictures of 16 and 32 px across in another way each time: wider ones it repeats to the bit.
X265_LEAST_WIDTH = 48
_ENCODERS: dict[Codec, tuple[str, str]] = {"h264": ("libx264", "x264-params"), "h265": ("libx265", "x265-params")}


def through_codec(images: U8, crf: int, moves_px: F32, *, codec: Codec = "h264") -> U8:
    """Each of ``images (B, H, W, 3) uint8`` as a P frame of an H.264 or H.265 stream, same shape and order.

    One encoder takes the whole batch as groups of two pictures: a key frame that shows the image moved by
    ``moves_px (B, 2) float32``, then the image itself, which is predicted from it and of which the decoded
    picture is returned. ``crf`` is 0 (best) to 51. Raises DataError for wrong input, EngineError where PyAV was
    built without the encoder.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or min(images.shape[1:3], default=0) < 16:
        raise DataError(
            f"cannot encode images of shape {images.shape} and type {images.dtype}",
            hint="Give (B, H, W, 3) uint8 with sides of at least 16 px.",
        )
    if not 0 <= crf <= 51:
        raise DataError(f"CRF {crf} is outside 0 to 51", hint="Streams are coded at CRF 18 to 40.")
    count, height, width = images.shape[:3]
    if moves_px.shape != (count, 2):
        raise DataError(f"moves {moves_px.shape} for {count} images", hint="Give one (x, y) an image.")
    if count == 0:
        return images.copy()
    planes = _to_i420(images, moves_px, X265_LEAST_WIDTH if codec == "h265" else 0)
    decoded = _decode(_encode(planes, crf, codec), codec)
    if len(decoded) != len(planes):
        raise EngineError(
            f"{codec} gave back {len(decoded)} of {len(planes)} pictures",
            hint="Update PyAV; this build of its encoder drops frames.",
        )
    out = np.empty_like(images)
    for row, frame in enumerate(decoded[1::2]):
        out[row] = cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_I420)[:height, :width]
    return out


def _to_i420(images: U8, moves_px: F32, least_width: int = 0) -> list[U8]:
    """Key frame and picture for every image, as I420 planes with even sides."""
    height, width = images.shape[1:3]
    pad_y, pad_x = height % 2, max(width % 2, least_width - width)
    planes: list[U8] = []
    for image, move in zip(images, moves_px, strict=True):
        even = cv2.copyMakeBorder(image, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE) if pad_y or pad_x else image
        shift = np.array([[1, 0, move[0]], [0, 1, move[1]]])
        before = cv2.warpAffine(even, shift, even.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        planes += [
            cast(U8, cv2.cvtColor(before, cv2.COLOR_RGB2YUV_I420)),
            cast(U8, cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420)),
        ]
    return planes


def _encode(planes: list[U8], crf: int, codec: Codec) -> list[av.Packet[Any]]:
    name, params = _ENCODERS[codec]
    # qcomp and ipratio of 1 stop rate control from remembering: what happens to a picture must not depend on
    # its place in the batch, or a fake behind its real twin would differ from it by that alone.
    fixed = "keyint=2:min-keyint=2:scenecut=0:bframes=0:open-gop=0:qcomp=1:ipratio=1"
    fixed += ":log-level=none:pools=1:frame-threads=1" if codec == "h265" else ":threads=1"
    options = {
        "crf": str(crf),
        "preset": "ultrafast" if codec == "h265" else "veryfast",
        "tune": "zerolatency",
        params: fixed,
    }
    try:
        encoder = cast(VideoCodecContext, av.CodecContext.create(name, "w"))
    except (av.error.FFmpegError, ValueError) as error:
        raise EngineError(
            f"this PyAV has no encoder {name}", hint="Install PyAV from its wheel, which carries it."
        ) from error
    encoder.height, encoder.width = planes[0].shape[0] * 2 // 3, planes[0].shape[1]
    encoder.pix_fmt = "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
    encoder.options = options
    packets: list[av.Packet[Any]] = []
    for number, plane in enumerate(planes):
        frame = av.VideoFrame.from_ndarray(plane, format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return packets


def _decode(packets: list[av.Packet[Any]], codec: Codec) -> list[U8]:
    decoder = av.CodecContext.create("hevc" if codec == "h265" else "h264", "r")
    decoder.thread_count = 1
    frames: list[av.VideoFrame] = []
    for packet in packets:
        frames += decoder.decode(packet)
    frames += decoder.decode(None)
    frames.sort(key=lambda frame: frame.pts or 0)
    return [np.asarray(frame.to_ndarray(), np.uint8) for frame in frames]
