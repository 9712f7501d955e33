"""Which packets of a segment must be decoded for some of its pictures, where that can be told before.

A segment is known whole. In H.264, H.265 and AV1 a packet is a picture, and its time is the packet's; so what is due is
known before anything is decoded. From one closed key frame to the next nothing needs what lies beyond: a run. In a run
nothing after the last picture that is due need be decoded, and before it no picture that no other refers to. What is
decoded comes out to the bit as if all were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import av
import av.error
import av.video.codeccontext
import av.video.stream

from stream.decode.sniff import AV1, H264, H265
from stream.decode.units import Start, split_units, temporal_layers

_CODECS = {"h264": H264, "hevc": H265, "libdav1d": AV1, "av1": AV1}
#: Unknown, and progressive: fields that are coded apart are two packets a picture.
_WHOLE_FRAMES = (0, 1)
_ERRORS = (av.error.FFmpegError, ValueError)


@dataclass(frozen=True, slots=True)
class Shot:
    """A packet that holds one picture: when it is shown, and until when, after the segment's start."""

    packet: av.Packet[av.video.stream.VideoStream]
    pts: int
    at_ns: int
    end_ns: int
    is_key: bool


Run = list[Shot]


def find_runs(
    packets: Sequence[av.Packet[av.video.stream.VideoStream]],
    context: av.video.codeccontext.VideoCodecContext,
    times_ns: Callable[[av.Packet[av.video.stream.VideoStream]], tuple[int, int]],
) -> list[Run] | None:
    """The runs of a segment, each in decoding order; None where all of it must be decoded to know what is in it.

    Args:
        packets: without the empty one at the end.
        context: of their stream.
        times_ns: when the picture of a packet with a pts is shown, and until when.
    """
    content_type = _CODECS.get(context.name)
    if content_type is None or not packets or context.field_order not in _WHOLE_FRAMES:
        return None
    if any(p.pts is None or p.is_corrupt for p in packets) or len({p.pts for p in packets}) < len(packets):
        return None
    length_size = _length_size(context.extradata or b"", content_type)
    runs: list[Run] = []
    for packet in packets:
        if packet.is_keyframe and _is_closed(bytes(packet), content_type, length_size):
            runs.append([])
        if not runs:
            return None
        at_ns, end_ns = times_ns(packet)
        runs[-1].append(Shot(packet, packet.pts or 0, at_ns, end_ns, packet.is_keyframe))
    return runs


def _length_size(extradata: bytes, content_type: str) -> int | None:
    """Bytes of the length before each unit (ISO/IEC 14496-15); None where start codes part them."""
    at = {H264: 4, H265: 21}.get(content_type)
    if at is None or extradata[:1] != b"\x01" or len(extradata) <= at:
        return None
    return (extradata[at] & 3) + 1


def _is_closed(data: bytes, content_type: str, length_size: int | None) -> bool:
    if length_size is not None:
        data = _with_start_codes(data, length_size)
    units = split_units(data, content_type)
    return len(units) == 1 and units[0].start is Start.CLOSED


def _with_start_codes(data: bytes, length_size: int) -> bytes:
    parts: list[bytes] = []
    at = 0
    while at + length_size < len(data):
        end = at + length_size + int.from_bytes(data[at : at + length_size], "big")
        parts += (b"\x00\x00\x01", data[at + length_size : end])
        at = end
    return b"".join(parts)


def _may_skip(context: av.video.codeccontext.VideoCodecContext) -> bool:
    """Whether the decoder knows the pictures that no other refers to."""
    if context.name == "h264":
        return True
    # In H.265 it looks only at references among pictures of one temporal layer.
    return context.name == "hevc" and _temporal_layers(context.extradata or b"") == 1


def _temporal_layers(extradata: bytes) -> int:
    if extradata[:1] == b"\x01":
        return extradata[21] >> 3 & 7 if len(extradata) > 21 else 0
    return temporal_layers(extradata)


class RunDecoder:
    """Decodes the pictures that are wanted, run by run, with the decoder of the segment.

    Args:
        context: new.
        runs: of one segment, to be decoded in their order.
    """

    def __init__(self, context: av.video.codeccontext.VideoCodecContext, runs: list[Run]) -> None:
        self._context, self._runs = context, runs
        self._may_skip = _may_skip(context)
        self._stash: list[av.VideoFrame] = []
        self._fed = 0
        self._is_drained = False

    def probe(self, *, only_keys: bool) -> bool:
        """Whether the segment begins with a picture that can be decoded; its work is not lost."""
        for shot in self._runs[0][: 1 if only_keys else None]:
            try:
                self._stash = self._context.decode(shot.packet)
            except _ERRORS:
                break
            self._fed += 1
            if self._stash:
                break
        else:
            self._stash = self._drained()
        if any(not frame.is_corrupt for frame in self._stash):
            return True
        self._drained()
        self._reset()
        return False

    def decode(self, run: Run, wanted: Collection[int], *, only_keys: bool) -> Iterator[tuple[int, av.VideoFrame]]:
        """(pts, picture) of those in ``wanted`` that come out undamaged, in display order.

        Args:
            run: the next one.
            wanted: pts.
            only_keys: those wanted are key frames: decode nothing else.
        """
        frames = self._keys(run, wanted) if only_keys else self._all(run, wanted)
        for frame in frames:
            if frame.pts in wanted and frame.pts is not None and not frame.is_corrupt:
                yield frame.pts, frame

    def _all(self, run: Run, wanted: Collection[int]) -> Iterator[av.VideoFrame]:
        stash, self._stash = self._stash, []
        yield from stash
        last = max((at for at, shot in enumerate(run) if shot.pts in wanted), default=-1)
        for shot in run[self._fed : last + 1]:
            if self._may_skip:
                self._context.skip_frame = "DEFAULT" if shot.pts in wanted else "NONREF"
            self._fed += 1
            with contextlib.suppress(*_ERRORS):
                yield from self._context.decode(shot.packet)
        if self._fed:
            yield from self._drained()
            self._reset()

    def _keys(self, run: Run, wanted: Collection[int]) -> Iterator[av.VideoFrame]:
        stash, self._stash = self._stash, []
        for at, shot in enumerate(run):
            if shot.pts not in wanted:
                continue
            if at == 0 and stash:
                yield from stash
            else:
                self._reset()
                with contextlib.suppress(*_ERRORS):
                    yield from self._context.decode(shot.packet)
            yield from self._drained()
        self._reset()

    def _drained(self) -> list[av.VideoFrame]:
        """What the decoder still holds; after it, it takes nothing before `_reset`."""
        if self._is_drained:
            return []
        self._is_drained = True
        with contextlib.suppress(*_ERRORS):
            return self._context.decode(None)
        return []

    def _reset(self) -> None:
        if self._may_skip:
            self._context.skip_frame = "DEFAULT"
        self._context.flush_buffers()
        self._stash, self._fed, self._is_drained = [], 0, False
