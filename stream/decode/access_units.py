"""Pictures out of access units, with one decoder that lives across records and can be rebuilt from any key frame."""

from __future__ import annotations

import contextlib
import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import av
import av.error
import av.video.codeccontext

from stream.decode.codec import open_codec, packet
from stream.decode.contract import DecodeSettings, Gear, LossReason, Progress
from stream.decode.h264 import H264Headers, SliceHead
from stream.decode.hardware import HardwareUse
from stream.decode.sniff import H264
from stream.decode.timeline import NOMINAL_NS, S
from stream.decode.unit_pictures import KeySource, Loss, Picture, Source
from stream.decode.units import Start, Unit, temporal_layers

#: The first pictures after an open start of H.264 may take back references to pictures that were never seen, which is
#: an error like any other to the decoder. So many units' errors are forgiven; and for so long, and until they have all
#: come out, such a key frame is no place to restart from.
_FORGIVEN, FORGIVEN_AND_SHOWN = 20, 40
#: H.264 and H.265 hold at most 16 pictures back (32 fields): what is older will not come.
_MAX_REORDER = 34
_MAX_PARAMETERS = 64 << 10
#: Units that wait undecoded for a picture that is due, or for a closer look.
_MAX_WAITING, _MAX_WAITING_BYTES = 1_000, 4 << 20


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A unit that the codec has not been given yet."""

    number: int
    data: bytes
    source: Source


class UnitDecoder:
    """One codec's decoder for one stream.

    At every closed key frame the codec is emptied and made anew. So what comes after is the same, to the bit and in
    the same order, whether the decoder had seen the past or starts there after a restart.

    Where the codec gives the picture of a key frame out at once, pictures are not reordered. Then each one's time is
    known when its unit comes, and units wait until a picture is due: those behind the last one before a key frame, and
    those that no other needs, are never decoded. Damage in these is not seen. Reordered pictures are all decoded.

    In `Gear.WATCH` key frames alone are decoded; the units since the last one wait, so that a closer look can begin
    there. In `Gear.SHED` nothing is, and nothing waits: pictures after a shed one wait for a key frame.

    Attributes:
        aspect: width of a pixel over its height, of the pictures last given out.
        damaged: the unit that was found to be damaged when a picture was fetched, last.
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
        self._is_unread = True
        self.aspect = 1.0
        self.damaged: Source | None = None
        self._parameters = b""
        self._carried = b""
        self._headers = H264Headers() if content_type == H264 else None
        self._field: tuple[SliceHead, int] | None = None
        self._last_reference = 0
        self._start_order: int | None = None
        self._gear = Gear.ANALYSE
        self._is_in_order = False
        self._fed: tuple[int, int] | None = None
        #: In order: placed in time, not decoded.
        self._unfed: deque[_Waiting] = deque()
        self._unfed_bytes = 0
        #: Reordered, in `Gear.WATCH`: since the key frame, or since the codec stood still.
        self._backlog: list[tuple[Unit, Source]] = []
        self._backlog_bytes = 0
        self._is_shown = False
        self._swallow: Source | None = None
        self._is_again = self._is_first_group = False
        #: Of the key frame at hand in `Gear.WATCH`.
        self._key_units: list[tuple[Unit, Source]] = []
        self._resumed: Progress | None = None

    def set_parameters(self, parameters: bytes) -> None:
        """The parameter sets that a restart needs and the records do not carry."""
        self._parameters = self._carried = parameters

    def progress(self) -> Progress:
        """What `resume` takes, beside the units from the last key frame on."""
        is_waiting = self._context is None and not self._backlog
        return Progress(is_waiting, self._fed, self._is_shown)

    def resume(self, progress: Progress) -> None:
        """Take units that were decoded before a restart by `decode_again`."""
        self._resumed = progress

    def decode_again(self, unit: Unit, source: Source) -> Iterator[Picture | Loss | KeySource]:
        """A unit that was decoded before: bring the codec to where it was. What comes out came out before."""
        progress = self._resumed or Progress()
        at = (source.offset, source.unit)
        if progress.is_waiting:
            self._remember(unit)
            if self._headers is not None:
                self._headers.read(unit.data)
        elif progress.is_shown:
            self._is_shown = True
            self._put_by(unit, source)
        elif progress.fed is not None and at <= progress.fed:
            yield from self._take(unit, source)
            self._feed()
        elif self._is_in_order:
            yield from self._take(unit, source)
        else:
            self._put_by(unit, source)

    def decode(self, unit: Unit, source: Source, gear: Gear = Gear.ANALYSE) -> Iterator[Picture | Loss | KeySource]:
        """Give out what this unit sets free.

        A `KeySource` stands before the first picture that needs it, and behind all that do not.
        """
        self._gear = gear
        if gear is Gear.SHED:
            yield from self._shed(unit, source)
        elif gear is Gear.WATCH:
            yield from self._watch(unit, source)
        else:
            yield from self._catch_up()
            yield from self._take(unit, source)

    def fetch(self, picture: Picture) -> av.VideoFrame | LossReason:
        """Decode a picture that waits, and what it needs. Only for the last one that `decode` has given out."""
        if picture.frame is not None:
            return picture.frame
        frames = self._feed()
        if isinstance(frames, LossReason):
            return frames
        if self._context is not None:
            self._hardware.saw(self._context)
            self.aspect = float(self._context.sample_aspect_ratio or 1)
        number = self._next_id - 1
        frame = next((frame for frame in frames if frame.pts == number), None)
        return LossReason.DAMAGED if frame is None or frame.is_corrupt else frame

    def _feed(self) -> list[av.VideoFrame] | LossReason:
        """Give the codec all that waits; the pictures of the last unit, or why there are none."""
        frames: list[av.VideoFrame] = []
        lost: LossReason | None = None
        while self._unfed and self._context is not None:
            waiting = self._unfed.popleft()
            self._fed = (waiting.source.offset, waiting.source.unit)
            lost = None
            try:
                frames = self._context.decode(packet(waiting.data, waiting.number))
            except (av.error.FFmpegError, ValueError):
                if waiting.number >= self._forgiven_until:
                    self.damaged = waiting.source
                    self._stop()
                    return LossReason.DAMAGED
                lost = LossReason.WAITING_FOR_KEY_FRAME
        self._unfed_bytes = 0
        return frames if lost is None else lost

    def _shed(self, unit: Unit, source: Source) -> Iterator[Picture | Loss | KeySource]:
        if not self._may_leave_out(unit) and unit.has_picture:
            yield from self.drain()
        self._remember(unit)
        if self._headers is not None:
            self._headers.read(unit.data)
        if unit.has_picture:
            yield Loss(source, LossReason.SHED)

    def _may_leave_out(self, unit: Unit) -> bool:
        """Whether every other picture can be decoded without this one."""
        if not unit.is_disposable or not self._is_in_order or self._context is None:
            return False
        return self.content_type == H264 or temporal_layers(self._parameters) == 1

    def _watch(self, unit: Unit, source: Source) -> Iterator[Picture | Loss | KeySource]:
        if self._field is not None and self._key_units:
            self._key_units.append((unit, source))
            yield from self._take(unit, source)
            yield from self._show_key()
        elif unit.is_key:
            yield from self.drain()
            self._key_units = [(unit, source)]
            yield from self._take(unit, source)
            yield from self._show_key()
        elif self._context is not None and self._is_in_order:
            yield from self._take(unit, source)
        elif self._context is not None or self._backlog:
            if not self._put_by(unit, source):
                yield from self.drain()
        else:
            self._remember(unit)
            if self._headers is not None:
                self._headers.read(unit.data)

    def _show_key(self) -> Iterator[Picture | Loss | KeySource]:
        """Give the picture of a key frame out that the codec holds back, unless it is but half of one. To go on, the
        codec must begin there again."""
        if self._field is not None:
            return
        units, self._key_units = self._key_units, []
        if self._context is None or self._is_in_order:
            return
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            yield from self._out(self._context.decode(None))
        for number, source in self._sent.items():
            yield from self._loss(number, source)
        is_shown = not self._sent
        self._stop()
        if is_shown:
            self._is_shown = True
            for unit, source in units:
                self._put_by(unit, source)

    def _put_by(self, unit: Unit, source: Source) -> bool:
        """Let a unit wait, undecoded; False: there is no room."""
        self._backlog.append((unit, source))
        self._backlog_bytes += len(unit.data)
        return len(self._backlog) <= _MAX_WAITING and self._backlog_bytes <= _MAX_WAITING_BYTES

    def _catch_up(self) -> Iterator[Picture | Loss | KeySource]:
        """Decode what was put by."""
        if not self._backlog:
            return
        backlog, self._backlog, self._backlog_bytes = self._backlog, [], 0
        if self._is_shown:
            self._is_shown, self._swallow = False, backlog[0][1]
        for unit, source in backlog:
            yield from self._take(unit, source)

    def _take(self, unit: Unit, source: Source) -> Iterator[Picture | Loss | KeySource]:
        self._remember(unit)
        head = self._headers.read(unit.data) if self._headers is not None else None
        if not unit.has_picture:
            return
        if head is not None and self._field is not None and head.completes(self._field[0]):
            number, self._field = self._field[1], None
            yield from self._push(unit.data, number, source)
            return
        parameters = b""
        self._is_first_group = self._is_first_group and not unit.is_key
        if unit.start is Start.CLOSED or (self._context is None and unit.start is not Start.NONE):
            yield from self.drain()
            self._context, self._is_unread = self._open(), True
            self._first_id = self._blind_until = self._next_id
            is_open = self.content_type == H264 and unit.start is not Start.CLOSED
            self._forgiven_until = self._next_id + _FORGIVEN if is_open else 0
            self._start_order = head.order if head is not None and unit.start is not Start.CLOSED else None
            parameters = b"" if unit.parameters else self._parameters
            self._is_first_group = unit.start is not Start.CLOSED
            self._is_again = source == self._swallow
            if not self._is_again:
                yield KeySource(source.offset, source.unit, parameters)
        elif self._context is None:
            yield Loss(source, LossReason.WAITING_FOR_KEY_FRAME)
            return
        elif unit.is_leading and self._is_first_group:
            yield from self._skip_blind(source)
            return
        elif head is not None and self._headers is not None:
            if self._headers.is_gap(head.frame_num, self._last_reference):
                yield Loss(source, LossReason.DAMAGED)
                yield from self.drain()
                return
            if self._first_id >= 0 and self._headers.is_before(head.order, self._start_order):
                # Made of pictures that were never seen. The decoder fills the gap with what is never shown.
                self._follow(head)
                yield from self._skip_blind(source)
                return
        if not parameters and not unit.parameters:
            parameters = self._carried
        self._carried = b""
        number, self._next_id = self._next_id, self._next_id + 1
        if source != self._swallow:
            self._expect(source)
        key = None
        if unit.start is Start.OPEN and number != self._first_id:
            after = FORGIVEN_AND_SHOWN if self.content_type == H264 else 0
            key = KeySource(source.offset, source.unit, parameters, after)
        if head is not None:
            self._follow(head)
            self._field = (head, number) if head.is_field else None
            if head.is_field:
                self._feed()
                self._is_in_order = False
        data = parameters + unit.data
        if self._is_in_order:
            if key is not None:
                yield key
            yield from self._let_wait(unit, _Waiting(number, data, source))
            return
        self._sent[number] = source
        if key is not None:
            self._keys[number] = key
        is_first = number == self._first_id
        yield from self._push(data, number, source)
        self._is_in_order = is_first and self._context is not None and number not in self._sent

    def _let_wait(self, unit: Unit, waiting: _Waiting) -> Iterator[Picture | Loss]:
        self._unfed.append(waiting)
        self._unfed_bytes += len(waiting.data)
        yield Picture(None, waiting.source)
        if self._unfed and self._unfed[-1] is waiting and self._may_leave_out(unit):
            self._unfed_bytes -= len(self._unfed.pop().data)
        if len(self._unfed) > _MAX_WAITING or self._unfed_bytes > _MAX_WAITING_BYTES:
            if self._gear is Gear.WATCH:
                self._stop()
            elif isinstance(self._feed(), LossReason) and self._context is None:
                yield Loss(waiting.source, LossReason.DAMAGED)

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
            for number, source in self._sent.items():
                yield from self._loss(number, source)
        self._stop()

    def _stop(self) -> None:
        """Forget codec and units: the next picture must be a key frame."""
        for unit, _ in self._backlog:
            self._remember(unit)
        self._backlog, self._backlog_bytes, self._is_shown = [], 0, False
        self._unfed.clear()
        self._context, self._fed, self._unfed_bytes, self._is_in_order = None, None, 0, False
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
        sequence = self._headers.sequence if self._headers is not None else None
        is_in_order = sequence is not None and sequence.is_in_order
        return open_codec(self.content_type, self._settings, self._hardware, is_in_order=is_in_order)

    def _push(self, data: bytes, number: int, source: Source) -> Iterator[Picture | Loss | KeySource]:
        context = self._context
        if context is None:
            return
        self._fed = (source.offset, source.unit)
        try:
            frames = context.decode(packet(data, number))
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
            yield from self._loss(old, self._sent.pop(old))
            self._keys.pop(old, None)

    def _out(self, frames: list[av.VideoFrame]) -> Iterator[Picture | Loss | KeySource]:
        if self._is_unread and self._context is not None:
            self._read(self._context, is_whole=bool(frames))
        for frame in frames:
            number = frame.pts
            source = self._sent.pop(number, None) if number is not None else None
            if source is None or number is None:
                continue
            key = self._keys.pop(number, None)
            if number == self._first_id or 0 <= self._first_id < number - _MAX_REORDER:
                self._first_id, self._blind_until = -1, self._next_id
            if source == self._swallow:
                self._swallow = None
                continue
            # Shown before the key frame that decoding began at: made of pictures that were never seen.
            if self._first_id >= 0:
                yield from self._blind(source)
            elif frame.is_corrupt:
                yield Loss(source, LossReason.DAMAGED)
            else:
                if key is not None:
                    yield key
                yield Picture(frame, source, is_doubtful=number in self._doubtful)

    def _read(self, context: av.video.codeccontext.VideoCodecContext, *, is_whole: bool) -> None:
        """What a codec says of all its pictures; ``is_whole``: one has come out. It is made anew before that changes,
        and to ask makes fractions."""
        rate = context.framerate
        if rate and 1 <= rate <= 240:
            self._step_ns = round(S / rate)
        if is_whole:
            self._hardware.saw(context)
            self.aspect = float(context.sample_aspect_ratio or 1)
            self._is_unread = False

    def _loss(self, number: int, source: Source) -> Iterator[Loss]:
        """A unit whose picture never came: in the first ones after an open start it could not."""
        if number < self._blind_until:
            yield from self._blind(source)
        else:
            yield Loss(source, LossReason.DAMAGED)

    def _skip_blind(self, source: Source) -> Iterator[Loss]:
        self._expect(source)
        self._fed = (source.offset, source.unit)
        yield from self._blind(source)

    def _blind(self, source: Source) -> Iterator[Loss]:
        """A picture that is shown before the key frame that decoding began at. Where that one was shown already, in
        `Gear.WATCH`, its time has passed."""
        if not self._is_again:
            yield Loss(source, LossReason.WAITING_FOR_KEY_FRAME, is_blind=True)

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
