"""The codecs of access units, set up so that they show damage and hold nothing back that they need not."""

from __future__ import annotations

import av
import av.codec.context
import av.stream
import av.video.codeccontext

from stream.decode.contract import DecodeSettings
from stream.decode.hardware import HardwareUse
from stream.decode.sniff import AV1, H264


def open_codec(
    content_type: str, settings: DecodeSettings, hardware: HardwareUse, *, is_in_order: bool
) -> av.video.codeccontext.VideoCodecContext:
    """A new decoder. ``is_in_order``: the headers promise that pictures are not reordered."""
    name = {AV1: "libdav1d", H264: "h264"}.get(content_type, "hevc")
    context = hardware.open(lambda hwaccel: av.codec.context.CodecContext.create(name, "r", hwaccel), name)
    assert isinstance(context, av.video.codeccontext.VideoCodecContext)  # noqa: S101 - all three are video
    # Damage must be an error, not an invented picture. `strict`: where an H.264 stream does not say how far it
    # reorders, believe its level instead of learning from mistakes. One thread: none holds pictures back.
    options = {"max_pixels": str(settings.max_pixels)}
    if content_type == AV1:
        options["max_frame_delay"] = "1"
    else:
        options["err_detect"] = "explode+crccheck"
        if not (settings.low_delay or is_in_order):
            options["strict"] = "strict"
    context.options = options
    context.thread_count = 1
    if settings.low_delay:
        context.flags |= av.codec.context.Flags.low_delay
    return context


def packet(data: bytes, number: int) -> av.Packet[av.stream.Stream]:
    """An access unit; its picture will have this number as pts."""
    made = av.Packet(data)
    made.pts = made.dts = number
    return made
