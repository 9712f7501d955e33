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
from stream.decode.h264 import H264Headers, SliceHead
from stream.decode.hardware import HardwareUse
from stream.decode.sniff import AV1, H264
from stream.decode.timeline import NOMINAL_NS, S
from stream.decode.units import Start, Unit

#: The first pictures after an open start of H.264 may take back references to pictures that were never seen, which is
#: an error like any other to the decoder. So many units' errors are forgiven; and for so long, and until they have all
#: come out, such a key frame is no place to restart from.
_FORGIVEN, FORGIVEN_AND_SHOWN = 20, 40
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
    """A place to restart from. `parameters`: the parameter sets needed there, where they lie in an earlier record.
    `after_units`: it is one once so many units have come after it without damage."""

    offset: int
    unit: int
    parameters: bytes
    after_units: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in display order. `is_doubtful`: it takes up its time, but is not to be shown."""

    frame: av.VideoFrame
    source: Source
    is_doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """A unit without a picture. `is_blind`: because decoding began at a key frame that is shown after it."""

    source: Source
    reason: LossReason
    is_blind: bool = False


class UnitDecoder:
    """One codec's decoder for one stream.

    At every closed key frame the codec is emptied and made anew. So what comes after is the same, to the bit and in
    the same order, whether the decoder had seen the past or starts there after a restart.

    Attributes:
        aspect: width of a pixel over its height, of the pictures last given out.
    """

    def __init__(self, content_type: str, settings: DecodeSettings, hardware: HardwareUse) -> None:
        self.content_type = content_type
        self._settings = settings
        self._hardware = hardware
        self._context: av.video.codeccontext.VideoCodecContext | None = None
        self._sent: dict[int, Source] = {}
        self._keys: dict[int, KeySource] = {}
        self._doubtful: set[int] = set()
        self._times: list[tuple[int, int]] = []
        self._next_id = 0
        self._first_id = 0
        self._blind_until = 0
        self._forgiven_until = 0
        self._step_ns = NOMINAL_NS
        self.aspect = 1.0
        self._parameters = b""
        self._carried = b""
        self._headers = H264Headers() if content_type == H264 else None
        self._field: tuple[SliceHead, int] | None = None
        self._last_reference = 0
        self._start_order: int | None = None

    def set_parameters(self, parameters: bytes) -> None:
        """The parameter sets that a restart needs and the records do not carry."""
        self._parameters = self._carried = parameters

    def decode(self, unit: Unit, source: Source) -> Iterator[Picture | Loss | KeySource]:
        """Give out what this unit sets free.

        A `KeySource` stands before the first picture that needs it, and behind all that do not.
        """
        self._remember(unit)
        head = self._headers.read(unit.data) if self._headers is not None else None
        if not unit.has_picture:
            return
        if head is not None and self._field is not None and head.completes(self._field[0]):
            number, self._field = self._field[1], None
            yield from self._push(unit.data, number, source)
            return
        parameters = b""
        if unit.start is Start.CLOSED or (self._context is None and unit.start is not Start.NONE):
            yield from self.drain()
            self._context = self._open()
            self._first_id = self._blind_until = self._next_id
            is_open = self.content_type == H264 and unit.start is not Start.CLOSED
            self._forgiven_until = self._next_id + _FORGIVEN if is_open else 0
            self._start_order = head.order if head is not None and unit.start is not Start.CLOSED else None
            parameters = b"" if unit.parameters else self._parameters
            yield KeySource(source.offset, source.unit, parameters)
        elif self._context is None:
            yield Loss(source, LossReason.WAITING_FOR_KEY_FRAME)
            return
        elif head is not None and self._headers is not None:
            if self._headers.is_gap(head.frame_num, self._last_reference):
                yield Loss(source, LossReason.DAMAGED)
                yield from self.drain()
                return
            if self._first_id >= 0 and self._headers.is_before(head.order, self._start_order):
                # Made of pictures that were never seen. The decoder fills the gap with what is never shown.
                self._follow(head)
                self._expect(source)
                yield Loss(source, LossReason.WAITING_FOR_KEY_FRAME, is_blind=True)
                return
        if not parameters and not unit.parameters:
            parameters = self._carried
        self._carried = b""
        number, self._next_id = self._next_id, self._next_id + 1
        self._sent[number] = source
        self._expect(source)
        if unit.start is Start.OPEN and number != self._first_id:
            after = FORGIVEN_AND_SHOWN if self.content_type == H264 else 0
            self._keys[number] = KeySource(source.offset, source.unit, parameters, after)
        if head is not None:
            self._follow(head)
            self._field = (head, number) if head.is_field else None
        yield from self._push(parameters + unit.data, number, source)

    def count_pictures(self, units: list[Unit]) -> int:
        """How many pictures the units of a record make: two fields make one."""
        headers, first, count = H264Headers(), None, 0
        headers.sequence = self._headers.sequence if self._headers is not None else None
        for unit in units:
            head = headers.read(unit.data) if self._headers is not None else None
            if head is not None and first is not None and head.completes(first):
                first = None
            else:
                count, first = count + unit.has_picture, head
        return count

    def _expect(self, source: Source) -> None:
        if not source.is_exact:
            heapq.heappush(self._times, (source.base_ns, source.unit))

    def _follow(self, head: SliceHead) -> None:
        if head.is_reference:
            self._last_reference = head.frame_num

    def drain(self) -> Iterator[Picture | Loss | KeySource]:
        """Give out what is held back and close the codec: the next picture must be a key frame."""
        context, self._context = self._context, None
        if context is not None:
            with contextlib.suppress(av.error.FFmpegError, ValueError):
                yield from self._out(context.decode(None))
            yield from (self._loss(number, source) for number, source in self._sent.items())
        self._forget()

    def _forget(self) -> None:
        self._sent.clear()
        self._doubtful.clear()
        self._keys.clear()
        self._times.clear()
        self._field = None

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
        context = self._hardware.open(lambda hwaccel: av.codec.context.CodecContext.create(name, "r", hwaccel), name)
        assert isinstance(context, av.video.codeccontext.VideoCodecContext)  # noqa: S101 - all three are video
        # Damage must be an error, not an invented picture. `strict`: where an H.264 stream does not say how far it
        # reorders, believe its level instead of learning from mistakes. One thread: none holds pictures back.
        options = {"max_pixels": str(self._settings.max_pixels)}
        if self.content_type == AV1:
            options["max_frame_delay"] = "1"
        else:
            options["err_detect"] = "explode+crccheck"
            sequence = self._headers.sequence if self._headers is not None else None
            if not (self._settings.low_delay or (sequence is not None and sequence.is_in_order)):
                options["strict"] = "strict"
        context.options = options
        context.thread_count = 1
        if self._settings.low_delay:
            context.flags |= av.codec.context.Flags.low_delay
        return context

    def _push(self, data: bytes, number: int, source: Source) -> Iterator[Picture | Loss | KeySource]:
        context = self._context
        if context is None:
            return
        packet = av.Packet(data)
        packet.pts = packet.dts = number
        try:
            frames = context.decode(packet)
        except (av.error.FFmpegError, ValueError):
            if number < self._forgiven_until:
                self._doubtful.add(number)
                return
            self._sent.pop(number, None)
            yield Loss(source, LossReason.DAMAGED)
            yield from self.drain()
            return
        yield from self._out(frames)
        for old in [n for n in self._sent if n < self._next_id - _MAX_REORDER]:
            yield self._loss(old, self._sent.pop(old))
            self._keys.pop(old, None)

    def _out(self, frames: list[av.VideoFrame]) -> Iterator[Picture | Loss | KeySource]:
        rate = self._context.framerate if self._context is not None else None
        if rate and 1 <= rate <= 240:
            self._step_ns = round(S / rate)
        if frames and self._context is not None:
            self._hardware.saw(self._context)
            self.aspect = float(self._context.sample_aspect_ratio or 1)
        for frame in frames:
            number = frame.pts
            source = self._sent.pop(number, None) if number is not None else None
            if source is None or number is None:
                continue
            key = self._keys.pop(number, None)
            if number == self._first_id or 0 <= self._first_id < number - _MAX_REORDER:
                self._first_id, self._blind_until = -1, self._next_id
            # Shown before the key frame that decoding began at: made of pictures that were never seen.
            if self._first_id >= 0:
                yield Loss(source, LossReason.WAITING_FOR_KEY_FRAME, is_blind=True)
            elif frame.is_corrupt:
                yield Loss(source, LossReason.DAMAGED)
            else:
                if key is not None:
                    yield key
                yield Picture(frame, source, is_doubtful=number in self._doubtful)

    def _loss(self, number: int, source: Source) -> Loss:
        """A unit whose picture never came: in the first ones after an open start it could not."""
        if number < self._blind_until:
            return Loss(source, LossReason.WAITING_FOR_KEY_FRAME, is_blind=True)
        return Loss(source, LossReason.DAMAGED)

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
