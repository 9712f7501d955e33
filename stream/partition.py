"""What a worker holds of one input partition: its streams, how far they are, where to read on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from difffake.errors import DiffFakeError
from stream.broker.contract import Record, TopicPartition
from stream.checkpoint import Restored
from stream.decode import DecoderState, DecodeSettings, StreamDecoder
from stream.live import LiveModels, LiveSettings, LiveStream
from stream.messages import StateRecord
from stream.messages.codec import MessageError
from stream.verdicts import Alerts, AlertSettings

MAX_STREAM_ID_BYTES = 1024
#: The section ``evidence``: that of the stream, and its alerts.
_EVIDENCE = msgspec.msgpack.Decoder(tuple[bytes, bytes])


class StreamIdError(DiffFakeError, ValueError):
    """A record whose key names no stream."""

    exit_code = 41


def stream_id(record: Record) -> str:
    """The stream that a record belongs to: its key.

    Raises:
        StreamIdError: no key, an empty or overlong one, or one that is no UTF-8.
    """
    hint = "publish every record with the stream's id as its key, in UTF-8"
    if not record.key:
        raise StreamIdError("a record without a key: nobody knows its stream", hint=hint)
    if len(record.key) > MAX_STREAM_ID_BYTES:
        raise StreamIdError(f"a key of {len(record.key)} bytes, over {MAX_STREAM_ID_BYTES}", hint=hint)
    try:
        return record.key.decode()
    except UnicodeDecodeError as error:
        raise StreamIdError(f"a key that is no UTF-8: {record.key[:40]!r}", hint=hint) from error


@dataclass(slots=True)
class StreamState:
    """A stream that is being worked on. ``dirty``: changed since the last commit; ``seen_s``: monotonic clock."""

    name: str
    live: LiveStream
    decoder: StreamDecoder
    alerts: Alerts
    commands_offset: int
    dirty: bool = False
    seen_s: float = 0.0


class Partition:
    """One input partition that is ours.

    Args:
        source: which one.
        position: the next offset to be read; before ``next_offset`` where a decoder needs older records.
        restored: what the state topic says of it.
        models: the networks.
        decode, live, alerts: settings of its streams.
    """

    def __init__(
        self,
        source: TopicPartition,
        position: int,
        restored: Restored,
        models: LiveModels,
        *,
        decode: DecodeSettings,
        live: LiveSettings,
        alerts: AlertSettings,
    ) -> None:
        self.source, self.position = source, position
        #: The first offset whose outputs are not out yet.
        self.next_offset = position if restored.next_offset is None else restored.next_offset
        self.moved = False
        self._models, self._decode, self._live, self._alerts = models, decode, live, alerts
        self._stored = restored.streams
        self._streams: dict[str, StreamState] = {}
        #: Stored streams with an open alert, and since when nothing was heard of them here.
        self._alarmed = {name: time.monotonic() for name, state in self._stored.items() if _has_open_alert(state)}

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
            stream = self._new(name)
        self._streams[name] = stream
        return stream

    def _new(self, name: str) -> StreamState:
        live = LiveStream(name, self._models, self._live)
        return StreamState(name, live, StreamDecoder(self._decode), Alerts(self._alerts), 0, seen_s=time.monotonic())

    def _restored(self, name: str, stored: StateRecord) -> StreamState:
        decoder = StreamDecoder(self._decode)
        try:
            decoder.restore(msgspec.msgpack.decode(stored.decoder, type=DecoderState))
            evidence, told = _EVIDENCE.decode(stored.evidence)
        except msgspec.MsgspecError as error:
            raise MessageError(f"the state of {name} is damaged: {error}", hint="it begins anew") from error
        stored = msgspec.structs.replace(stored, evidence=evidence)
        live = LiveStream.restore(name, self._models, self._live, stored)
        alerts = Alerts.from_state(told, self._alerts)
        return StreamState(name, live, decoder, alerts, stored.commands_offset, seen_s=time.monotonic())

    def silent(self, before_s: float) -> list[str]:
        """Streams with an open alert that nothing was heard of since then, by the monotonic clock."""
        ready = [s.name for s in self._streams.values() if s.seen_s < before_s and s.alerts.is_open]
        return ready + [name for name, since_s in self._alarmed.items() if since_s < before_s]

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
        live = [s.decoder.resume_offset for s in self._streams.values()]
        stored = [s.resume_offset for name, s in self._stored.items() if name not in self._streams]
        return min([self.next_offset, *(o for o in (*live, *stored) if o is not None)])

    def dirty_states(self) -> Iterator[StateRecord]:
        """The state of every stream that changed, as it is to be committed."""
        for stream in self._streams.values():
            if stream.dirty:
                state = self._state_of(stream)
                self._stored[stream.name] = state
                yield state

    def committed(self) -> None:
        """All that was dirty is safe now."""
        self.moved = False
        for stream in self._streams.values():
            stream.dirty = False

    def put_away(self, count: int) -> int:
        """Keep up to ``count`` streams as bytes only, the longest unseen first; returns how many."""
        if count <= 0:
            return 0
        # Those with an open alert are few, and soon closed if nothing comes.
        calm = (s for s in self._streams.values() if not s.dirty and not s.alerts.is_open)
        idle = sorted(calm, key=lambda s: s.seen_s)[:count]
        for stream in idle:
            # Access units need their decoder as it is: its state begins at a key frame that was read long ago.
            if stream.decoder.resume_offset is None:
                del self._streams[stream.name]
        return sum(s.name not in self._streams for s in idle)

    def let_go_of_idle(self, before_s: float) -> None:
        """Forget the key frames of streams that have sent nothing since, so that they hold no offset back."""
        for stream in self._streams.values():
            if stream.seen_s < before_s and stream.decoder.resume_offset is not None:
                state = stream.decoder.state()
                stream.decoder = StreamDecoder(self._decode)
                stream.decoder.restore(msgspec.structs.replace(state, key=None))
                stream.dirty = True

    def _state_of(self, stream: StreamState) -> StateRecord:
        sections = stream.live.sections()
        sections["evidence"] = msgspec.msgpack.encode((sections["evidence"], stream.alerts.to_state()))
        return StateRecord(
            topic=self.source.topic,
            partition=self.source.partition,
            stream=stream.name,
            next_offset=self.next_offset,
            last_pts_ns=stream.live.last_pts_ns,
            **sections,
            decoder=msgspec.msgpack.encode(stream.decoder.state()),
            resume_offset=stream.decoder.resume_offset,
            commands_offset=stream.commands_offset,
        )


def _has_open_alert(state: StateRecord) -> bool:
    try:
        return Alerts.from_state(_EVIDENCE.decode(state.evidence)[1]).is_open
    except (msgspec.MsgspecError, MessageError):
        return False  # told when the stream is restored
