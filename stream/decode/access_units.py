"""Pictures out of access units, with one decoder that lives across records and can be rebuilt from any key frame."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import av
import av.codec.context
import av.error
import av.video.codeccontext

from stream.decode.contract import DecodeSettings, LossReason
from stream.decode.sniff import AV1, H264
from stream.decode.timeline import NOMINAL_NS, S
from stream.decode.units import Start, Unit

#: H.264 and H.265 hold at most 16 pictures back (32 fields): what is older will not come.
_MAX_REORDER = 34
_MAX_PARAMETERS = 64 << 10


@dataclass(frozen=True, slots=True)
class Source:
    """Where a picture comes from. `base_ns`: its record's time; `is_exact`: its own time too, whatever the order."""

    offset: int
    unit: int
    base_ns: int
    is_exact: bool
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class KeySource:
    """A place to restart from. `parameters` are needed there and lie in an earlier record."""

    offset: int
    unit: int
    parameters: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in display order. `key`: later pictures can be decoded again from there."""

    frame: av.VideoFrame
    source: Source
    key: KeySource | None


@dataclass(frozen=True, slots=True)
class Loss:
    """A unit without a picture."""

    source: Source
    reason: LossReason


class UnitDecoder:
    """One codec's decoder for one stream.

    At every closed key frame the codec is emptied and made anew. So what comes after is the same, to the bit and in
    the same order, whether the decoder had seen the past or starts there after a restart.

    Attributes:
        aspect: width of a pixel over its height, of the pictures last given out.
    """

    def __init__(self, content_type: str, settings: DecodeSettings) -> None:
        self.content_type = content_type
        self._settings = settings
        self._context: av.video.codeccontext.VideoCodecContext | None = None
        self._sent: dict[int, Source] = {}
        self._keys: dict[int, KeySource] = {}
        self._times: list[tuple[int, int]] = []
        self._next_id = 0
        self._first_id = 0
        self._blind_until = 0
        self._step_ns = NOMINAL_NS
        self.aspect = 1.0
        self._parameters = b""
        self._carried = b""

    def set_parameters(self, parameters: bytes) -> None:
        """The parameter sets that a restart needs and the records do not carry."""
        self._parameters = self._carried = parameters

    def decode(self, unit: Unit, source: Source) -> Iterator[Picture | Loss]:
        """Give out what this unit sets free."""
        self._remember(unit)
        if not unit.has_picture:
            return
        parameters = b""
        if unit.start is Start.CLOSED or (self._context is None and unit.start is not Start.NONE):
            yield from self.drain()
            self._context = self._open()
            self._first_id = self._next_id
            self._blind_until = self._next_id
            if not unit.parameters:
                parameters = self._parameters
        elif self._context is None:
            yield Loss(source, LossReason.WAITING_FOR_KEY_FRAME)
            return
        elif self._carried and not unit.parameters:
            parameters = self._carried
        self._carried = b""
        yield from self._send(parameters + unit.data, unit, source, parameters)

    def drain(self) -> Iterator[Picture | Loss]:
        """Give out what is held back and close the codec: the next picture must be a key frame."""
        context, self._context = self._context, None
        if context is not None:
            with contextlib.suppress(av.error.FFmpegError, ValueError):
                yield from self._out(context.decode(None))
            yield from (self._loss(number, source) for number, source in self._sent.items())
        self._forget()

    def _forget(self) -> None:
        self._sent.clear()
        self._keys.clear()
        self._times.clear()

    def _remember(self, unit: Unit) -> None:
        if unit.parameters:
            # A unit with all of them replaces them; one with only a picture parameter set adds to them.
            kind = unit.parameters[4] & 0x1F if self.content_type == H264 else unit.parameters[4] >> 1
            begins_anew = kind in ((7,) if self.content_type == H264 else (32, 33))
            joined = unit.parameters if begins_anew else self._parameters + unit.parameters
            self._parameters = joined if len(joined) <= _MAX_PARAMETERS else unit.parameters[-_MAX_PARAMETERS:]
            if not unit.has_picture:
                self._carried = self._parameters

    def _open(self) -> av.video.codeccontext.VideoCodecContext:
        name = {AV1: "libdav1d", H264: "h264"}.get(self.content_type, "hevc")
        context = av.codec.context.CodecContext.create(name, "r")
        assert isinstance(context, av.video.codeccontext.VideoCodecContext)  # noqa: S101 - all three are video
        # Damage must be an error, not an invented picture. `strict`: where an H.264 stream does not say how far it
        # reorders, believe its level instead of learning from mistakes. One thread: none holds pictures back.
        options = {"max_pixels": str(self._settings.max_pixels)}
        if self.content_type == AV1:
            options["max_frame_delay"] = "1"
        else:
            options["err_detect"] = "explode"
            if not self._settings.low_delay:
                options["strict"] = "strict"
        context.options = options
        context.thread_count = 1
        if self._settings.low_delay:
            context.flags |= av.codec.context.Flags.low_delay
        return context

    def _send(self, data: bytes, unit: Unit, source: Source, parameters: bytes) -> Iterator[Picture | Loss]:
        context = self._context
        if context is None:
            return
        number, self._next_id = self._next_id, self._next_id + 1
        packet = av.Packet(data)
        packet.pts = packet.dts = number
        self._sent[number] = source
        if not source.is_exact:
            heapq.heappush(self._times, (source.base_ns, source.unit))
        if unit.start >= Start.OPEN:
            self._keys[number] = KeySource(source.offset, source.unit, parameters)
        try:
            frames = context.decode(packet)
        except (av.error.FFmpegError, ValueError):
            self._sent.pop(number, None)
            yield Loss(source, LossReason.DAMAGED)
            yield from self.drain()
            return
        yield from self._out(frames)
        for old in [n for n in self._sent if n < self._next_id - _MAX_REORDER]:
            yield self._loss(old, self._sent.pop(old))
            self._keys.pop(old, None)

    def _out(self, frames: list[av.VideoFrame]) -> Iterator[Picture | Loss]:
        rate = self._context.framerate if self._context is not None else None
        if rate and 1 <= rate <= 240:
            self._step_ns = round(S / rate)
        if frames and self._context is not None:
            self.aspect = float(self._context.sample_aspect_ratio or 1)
        for frame in frames:
            number = frame.pts
            source = self._sent.pop(number, None) if number is not None else None
            if source is None or number is None:
                continue
            key = self._keys.pop(number, None)
            if number == self._first_id:
                self._first_id, self._blind_until = -1, self._next_id
            # Shown before the key frame that decoding began at: made of pictures that were never seen.
            if self._first_id >= 0:
                yield Loss(source, LossReason.WAITING_FOR_KEY_FRAME)
            elif frame.is_corrupt:
                yield Loss(source, LossReason.DAMAGED)
            else:
                yield Picture(frame, source, key)

    def _loss(self, number: int, source: Source) -> Loss:
        """A unit whose picture never came: in the first ones after an open start it could not."""
        blind = number < self._blind_until
        return Loss(source, LossReason.WAITING_FOR_KEY_FRAME if blind else LossReason.DAMAGED)

    def time_ns(self, source: Source, after_ns: int | None) -> int:
        """The producer's time of a picture that has just come out.

        Where records bring no time of each picture, times come in decoding order: the smallest that is left belongs
        to the picture that is shown next. When none is left after the last picture, it follows at once.
        """
        if source.is_exact:
            return source.base_ns
        step = self._step_ns
        while self._times:
            base, unit = heapq.heappop(self._times)
            if after_ns is None or base + unit * step > after_ns:
                return base + unit * step
        own = source.base_ns + source.unit * step
        if after_ns is not None and 0 <= after_ns - own <= self._settings.clock_restart_s * S:
            return after_ns + step
        return own
