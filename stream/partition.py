"""What a worker holds of one input partition: its streams, how far they are, where to read on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from difffake.errors import DiffFakeError
from stream.alerts import Alerts, AlertSettings, Rarity
from stream.broker.contract import REFUSED, Record, TopicPartition
from stream.checkpoint import Restored
from stream.commands_log import Pending
from stream.decode import DecoderState, DecodeSettings, StreamDecoder
from stream.decode.timeline import BELIEVED_S
from stream.gears import Gears, GearSettings, GearState
from stream.live import LiveModels, LiveSettings, LiveStream
from stream.messages import AnchorsRecord, StateKey, StateRecord, digest_of
from stream.messages.codec import UNREADABLE, MessageError
from stream.metrics.coverage import Coverage

MAX_STREAM_ID_BYTES = 1024
#: States deleted in one commit: a transaction must not grow with how long a worker was away.
MAX_GOING = 1000


class _Evidence(msgspec.Struct, frozen=True, array_like=True):
    """The section ``evidence``: that of the stream, its alerts, its gear."""

    windows: bytes
    alerts: bytes
    gear: GearState = GearState()


_EVIDENCE = msgspec.msgpack.Decoder(_Evidence)


class StreamIdError(DiffFakeError, ValueError):
    """A record whose key names no stream."""

    exit_code = 41


def stream_id(record: Record) -> str:
    """The stream that a record belongs to: its key.

    Raises:
        StreamIdError: no key, an empty or overlong one, or one that is no UTF-8; or the broker's client refused it.
    """
    refused = next((value for name, value in record.headers if name == REFUSED), None)
    if refused is not None:
        raise StreamIdError(
            f"refused as it was read: {refused[:200].decode(errors='replace')}",
            hint="send records with few headers, in batches that do not unpack to many times their size",
        )
    hint = "publish every record with the stream's id as its key, in UTF-8"
    if not record.key:
        raise StreamIdError("a record without a key: nobody knows its stream", hint=hint)
    if len(record.key) > MAX_STREAM_ID_BYTES:
        raise StreamIdError(f"a key of {len(record.key)} bytes, over {MAX_STREAM_ID_BYTES}", hint=hint)
    try:
        return record.key.decode()
    except UnicodeDecodeError as error:
        raise StreamIdError(f"a key that is no UTF-8: {record.key[:40]!r}", hint=hint) from error


def believed_ns(timestamp_ms: int) -> int | None:
    """A record's timestamp, ns since the epoch; None where it has none, or one that cannot be believed."""
    return timestamp_ms * 1_000_000 if timestamp_ms / 1e3 > BELIEVED_S else None


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Settings of the rooms that a stream is made of."""

    decode: DecodeSettings = field(default_factory=DecodeSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    gears: GearSettings = field(default_factory=GearSettings)


@dataclass(slots=True)
class StreamState:
    """A stream that is being worked on, as of its last whole record.

    Args:
        decoder: belongs to the record in progress while there is one; ``decoder_state``: as of the last whole record.
        next_offset: the first record that is not in this state.
        commands_offset: the first command that is not.
        dirty: changed since the last commit.
        in_parts: a part of a record is in it: not to be committed as it is.
        seen_s: monotonic clock, of the last record.
        run: how many records are taken in one go, next time.
        coverage: how much of it was really looked at; for metrics alone.
    """

    name: str
    live: LiveStream
    decoder: StreamDecoder
    decoder_state: DecoderState
    alerts: Alerts
    gears: Gears
    next_offset: int = 0
    commands_offset: int = 0
    dirty: bool = False
    in_parts: bool = False
    seen_s: float = field(default_factory=time.monotonic)
    run: int = 1
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def resume_offset(self) -> int | None:
        """The record with the key frame that the decoder still needs."""
        key = self.decoder_state.key
        return None if key is None else key.offset

    @property
    def begins_anew(self) -> bool:
        """Whether nothing of it was looked at yet and no command is in it, so that what operators told may be of a life
        before. A state that was saved and restored says the same."""
        return self.commands_offset == 0 and self.live.last_pts_ns is None

    def apply(self, commands: Iterable[Pending], record_ns: int | None) -> list[str]:
        """Do what operators told; returns warnings.

        Args:
            commands: in their order.
            record_ns: when the record was published that they come before, ns since the epoch; None: nobody knows.
        """
        began_ns = record_ns if self.begins_anew else None
        warnings = []
        for command in commands:
            warnings += command.apply(self.live, self.gears, self.alerts, began_ns)
            self.commands_offset = command.offset + 1
        self.dirty = True
        return warnings


def _untold(_stream: str, _error: MessageError) -> None:
    pass


class Partition:
    """One input partition that is ours. Records may be done in another order than that of their offsets.

    Args:
        source: which one.
        position: the next offset to be read; before the first unfinished one where a decoder needs older records.
        restored: what the state topic says of it.
        models: the networks.
        settings: of its streams.
        topic_id: tells its topic from another one of that name.
        lost: is told of a stream whose state cannot be used, and why: it begins anew.
    """

    def __init__(
        self,
        source: TopicPartition,
        position: int,
        restored: Restored,
        models: LiveModels,
        settings: StreamSettings,
        topic_id: str = "",
        lost: Callable[[str, MessageError], None] = _untold,
    ) -> None:
        self.source, self.position, self.topic_id, self._lost = source, position, topic_id, lost
        #: The first offset whose outputs were not all out when this partition became ours.
        self.first_offset = position if restored.next_offset is None else restored.next_offset
        self.moved = False
        self._models, self._settings = models, settings
        self._rarity = Rarity.of(models.bundle)
        self._stored = restored.streams
        #: Digest of the anchors that the state topic holds of each stream, or will with the commit at hand.
        self._anchors = restored.anchors
        #: When the state of each was written, by the monotonic clock, the longest ago first: a machine's clock that is
        #: set right must not make all streams look forgotten, for their states would be deleted.
        ahead_s = time.time() - time.monotonic()
        self._written_s = {name: written_s - ahead_s for name, written_s in restored.written_s.items()}
        self._going: list[str] = []
        self._streams: dict[str, StreamState] = {}
        #: Stored streams with an open alert, and since when nothing was heard of them here.
        self._alarmed = {name: time.monotonic() for name, state in self._stored.items() if _has_open_alert(state)}
        self._begun: deque[int] = deque()
        self._finished: set[int] = set()
        #: Timestamps of the records in `_begun`.
        self._times_s: deque[float] = deque()

    # -- records -----------------------------------------------------------------------------------------------------
    def begin(self, offset: int, timestamp_ms: int = -1) -> None:
        """A record was read; those in between were compacted, or belong to aborted transactions."""
        self.position = offset + 1
        self._begun.append(offset)
        now_s, stamp_s = time.time(), timestamp_ms / 1e3
        # A producer's clock may be anywhere. Ahead of ours it would hide that we are late; before there was Kafka it
        # would say that we are late by half a century, and scale the workers up to the most that there may be.
        self._times_s.append(min(stamp_s, now_s) if stamp_s > BELIEVED_S else now_s)

    def finish(self, offset: int) -> None:
        """A record that was begun is done with."""
        self._finished.add(offset)
        while self._begun and self._begun[0] in self._finished:
            self._finished.remove(self._begun.popleft())
            self._times_s.popleft()
        self.moved = True

    @property
    def next_offset(self) -> int:
        """The first offset that is not done with: below it everything is out."""
        return max(self.first_offset, self._begun[0] if self._begun else self.position)

    @property
    def lowest(self) -> int | None:
        """The first record that was begun and is not done with."""
        return self._begun[0] if self._begun else None

    @property
    def oldest_s(self) -> float | None:
        """The timestamp of that record, seconds since the epoch; when it was read where it has none, or one that cannot
        be believed."""
        return self._times_s[0] if self._times_s else None

    def is_new(self, stream: StreamState, offset: int) -> bool:
        """Whether nothing of a record is out yet. What is read again for a decoder's sake leaves no second trace."""
        return offset >= max(self.first_offset, stream.next_offset)

    # -- streams -----------------------------------------------------------------------------------------------------
    def stream(self, name: str) -> StreamState:
        """The stream, from memory, from its stored state, or new; a damaged state costs it its memory."""
        if name in self._streams:
            return self._streams[name]
        self._alarmed.pop(name, None)
        stored = self._stored.get(name)
        try:
            stream = self._new(name) if stored is None else self._restored(name, stored)
        except MessageError as error:
            if error.newer:
                raise
            self._lost(name, error)
            stream = self._new(name)
            stream.next_offset = 0 if stored is None else stored.next_offset
        self._streams[name] = stream
        return stream

    def knows(self, name: str) -> bool:
        """Whether there is a state of this stream, or will be with the next commit."""
        stream = self._streams.get(name)
        return name in self._stored or (stream is not None and stream.dirty)

    def _new(self, name: str) -> StreamState:
        decoder = StreamDecoder(self._settings.decode)
        return StreamState(
            name,
            LiveStream(name, self._models, self._settings.live),
            decoder,
            decoder.state(),
            Alerts(self._settings.alerts, self._rarity),
            Gears(self._settings.gears),
        )

    def _restored(self, name: str, stored: StateRecord) -> StreamState:
        try:
            decoder_state = msgspec.msgpack.decode(stored.decoder, type=DecoderState)
            evidence = _EVIDENCE.decode(stored.evidence)
        except UNREADABLE as error:
            raise MessageError(f"the state of {name} is damaged: {error}", hint="it begins anew") from error
        stored = msgspec.structs.replace(stored, evidence=evidence.windows)
        return StreamState(
            name,
            LiveStream.restore(name, self._models, self._settings.live, stored),
            self._decoder(decoder_state),
            decoder_state,
            Alerts.from_state(evidence.alerts, self._settings.alerts, self._rarity),
            Gears(self._settings.gears, evidence.gear),
            stored.next_offset,
            stored.commands_offset,
            coverage=Coverage(stored.last_pts_ns),
        )

    def _decoder(self, state: DecoderState) -> StreamDecoder:
        decoder = StreamDecoder(self._settings.decode)
        decoder.restore(state)
        return decoder

    def silent(self, before_s: float, busy: set[str]) -> list[str]:
        """Streams with an open alert that nothing was heard of since then, by the monotonic clock, and that are not
        busy."""
        ready = [s.name for s in self._streams.values() if s.seen_s < before_s and s.alerts.is_open]
        ready += [name for name, since_s in self._alarmed.items() if since_s < before_s]
        return [name for name in ready if name not in busy]

    @property
    def has_dirty(self) -> bool:
        """Whether any stream changed since the last commit."""
        return any(stream.dirty for stream in self._streams.values())

    @property
    def live_count(self) -> int:
        """Streams kept ready."""
        return len(self._streams)

    @property
    def resume_offset(self) -> int:
        """The offset to commit: never past a key frame that a decoder still needs."""
        live = [s.resume_offset for s in self._streams.values()]
        stored = [s.resume_offset for name, s in self._stored.items() if name not in self._streams]
        return min([self.next_offset, *(o for o in (*live, *stored) if o is not None)])

    # -- what is committed -------------------------------------------------------------------------------------------
    def take_part(self, stream: StreamState) -> None:
        """A part of a record is about to change a stream: until the rest has, it is committed as it was before."""
        if not stream.in_parts and stream.dirty:
            self._stored[stream.name] = self._state_of(stream)
        stream.in_parts = True

    def dirty_states(self) -> Iterator[StateRecord | AnchorsRecord]:
        """The state of every stream that changed, as it is to be committed, behind its anchors where they changed."""
        for stream in self._streams.values():
            if stream.dirty:
                if not stream.in_parts:
                    self._stored[stream.name] = self._state_of(stream)
                self._written_s.pop(stream.name, None)
                self._written_s[stream.name] = time.monotonic()
                state, anchors = self._stored[stream.name].apart()
                if state.arrays_digest and self._anchors.get(stream.name) != state.arrays_digest:
                    self._anchors[stream.name] = state.arrays_digest
                    yield anchors
                yield state

    def outdated(self, before_s: float, busy: set[str], most: int) -> list[StateKey]:
        """The states to be deleted with the next commit: of streams whose state was last written before then, by the
        monotonic clock, or the longest ago where there are more than ``most``; that are not busy and have no alert
        open. There are `MAX_GOING` of them at most."""
        self._going = []
        excess = len(self._written_s) - most
        for name, written_s in self._written_s.items():
            if (written_s >= before_s and len(self._going) >= excess) or len(self._going) >= MAX_GOING:
                break
            stream = self._streams.get(name)
            is_open = name in self._alarmed if stream is None else stream.dirty or stream.alerts.is_open
            if not (is_open or name in busy or self._stored[name].next_offset > self.next_offset):
                self._going.append(name)
        keys = [StateKey(self.source.topic, self.source.partition, name) for name in self._going]
        return keys + [key.anchors for key in keys if key.stream in self._anchors]

    def committed(self) -> int:
        """All that was dirty is safe now, and what was outdated is gone; returns of how many streams."""
        self.moved = False
        for stream in self._streams.values():
            stream.dirty = False
        gone, self._going = self._going, []
        for name in gone:
            for table in (self._stored, self._anchors, self._written_s, self._streams):
                table.pop(name, None)
        return len(gone)

    def put_away(self, count: int, busy: set[str]) -> int:
        """Keep up to ``count`` streams that are not busy as bytes only, the longest unseen first; returns how many."""
        if count <= 0:
            return 0
        # Those with an open alert are few, and soon closed if nothing comes.
        idle = [s for s in self._streams.values() if not (s.dirty or s.alerts.is_open or s.name in busy)]
        gone = 0
        for stream in sorted(idle, key=lambda s: s.seen_s)[:count]:
            # Access units need their decoder as it is: its state begins at a key frame that was read long ago.
            if stream.resume_offset is None:
                del self._streams[stream.name]
                gone += 1
        return gone

    def let_go_of_idle(self, before_s: float, busy: set[str]) -> None:
        """Forget the key frames of streams that have sent nothing since, so that they hold no offset back."""
        for stream in self._streams.values():
            if stream.seen_s < before_s and stream.resume_offset is not None and stream.name not in busy:
                stream.decoder_state = msgspec.structs.replace(stream.decoder_state, key=None)
                stream.decoder = self._decoder(stream.decoder_state)
                stream.dirty = True

    def _state_of(self, stream: StreamState) -> StateRecord:
        sections = stream.live.sections()
        evidence = _Evidence(sections["evidence"], stream.alerts.to_state(), stream.gears.state)
        sections["evidence"] = msgspec.msgpack.encode(evidence)
        before = self._stored.get(stream.name)
        is_same = before is not None and before.arrays_digest and before.arrays == sections["arrays"]
        return StateRecord(
            topic=self.source.topic,
            partition=self.source.partition,
            stream=stream.name,
            next_offset=stream.next_offset,
            last_pts_ns=stream.live.last_pts_ns,
            **sections,
            arrays_digest=before.arrays_digest if before is not None and is_same else digest_of(sections["arrays"]),
            decoder=msgspec.msgpack.encode(stream.decoder_state),
            resume_offset=stream.resume_offset,
            commands_offset=stream.commands_offset,
        )


def _has_open_alert(state: StateRecord) -> bool:
    try:
        return Alerts.from_state(_EVIDENCE.decode(state.evidence).alerts).is_open
    except (*UNREADABLE, MessageError):
        return False  # told when the stream is restored
