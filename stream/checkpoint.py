"""Exactly once: the outputs, the state and the input offsets of a batch are one Kafka transaction.

What a reader with `read_committed` sees of a frame it sees once, whoever died in between: the records of a
transaction become visible together or never, and a worker that lost a partition cannot commit for it (KIP-447). The
state topic is authoritative for where to go on: it is written in the same transaction as the scores, and a new owner
reads it up to its end, waiting for transactions that are still open, before it looks at the first record.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from stream.broker.contract import (
    DEFAULT_MAX_MESSAGE_BYTES,
    Consumer,
    Headers,
    Producer,
    Reader,
    Record,
    TopicPartition,
)
from stream.broker.errors import MessageTooLargeError
from stream.decode import DecoderState
from stream.decode.contract import Progress
from stream.messages import (
    AnchorsRecord,
    DeadLetter,
    PartitionRecord,
    StateKey,
    StateRecord,
    decode_state,
    encode,
)
from stream.messages.codec import UNREADABLE, MessageError, bounded
from stream.topics import Topics


@dataclass(frozen=True, slots=True)
class _Output:
    """What is to be sent; ``letter`` marks dead letters, which may go without their value."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    letter: bool = False


#: A dead letter is larger than its record by its headers, and must not be refused at the commit.
MAX_LETTER_BYTES = DEFAULT_MAX_MESSAGE_BYTES - (64 << 10)
#: Key and headers of a dead letter; what a topic takes at the least leaves room for ours beside them.
MAX_BESIDE_BYTES = 32 << 10
#: So much waits for a commit at the most, but for the last record: a flood of large dead letters would fill memory, and
#: its transaction take longer than one may.
MAX_WAITING_BYTES = 32 << 20
#: Where records come late, a commit may add so much to that time.
_LATER = 0.1
#: Header of state records: to which topic of that name the offsets belong. A header, so that older workers read it too.
TOPIC_ID = "topic-id"


@dataclass(frozen=True, slots=True)
class Restored:
    """What the state topic says of one input partition.

    Args:
        next_offset: the first input offset whose outputs are not out yet; None for a partition never worked on.
        streams: the last state of each of its streams, in the order in which they were written.
        anchors: the digest of the anchors that the topic holds of each stream.
        written_s: when the state of each was written, s since the epoch.
        damaged: streams whose state cannot be read, and why; they begin anew.
        topic_id: of the input topic that the state was written of; empty where nobody said.
        is_remade: that topic was deleted and made again since: no offset of before means anything.
    """

    next_offset: int | None = None
    streams: dict[str, StateRecord] = field(default_factory=dict)
    anchors: dict[str, bytes] = field(default_factory=dict)
    written_s: dict[str, float] = field(default_factory=dict)
    damaged: dict[str, MessageError] = field(default_factory=dict)
    topic_id: str = ""
    is_remade: bool = False

    @property
    def resume_offset(self) -> int | None:
        """Where to read on: never past a key frame that a decoder still needs."""
        needed = [s.resume_offset for s in self.streams.values() if s.resume_offset is not None]
        if self.next_offset is None:
            return min(needed, default=None)
        return min([self.next_offset, *needed])


def restore(
    reader: Reader, topics: Topics, state_partitions: int, source: TopicPartition, topic_id: str = ""
) -> Restored:
    """Read the state of one input partition, up to the end that the state topic has now.

    A record that cannot be read costs its stream the state, not the partition; one of a newer version is an error.
    Of a topic with another id than ``topic_id`` the streams keep all but their place in it.

    Raises:
        MessageError: the state was written by a newer version.
    """
    partition = TopicPartition(topics.state, source.partition % state_partitions)
    found = Restored()
    next_offset: int | None = None
    written_of, is_remade = "", False
    anchors: dict[str, Record] = {}
    for record in reader.read(partition, None, reader.end_offset(partition)):
        key = _key(record)
        if key is None or (key.topic, key.partition) != source:
            continue
        if key.stream is not None and key.is_anchors:
            anchors[key.stream] = record
            continue
        if key.stream is not None:
            for table in (found.streams, found.written_s, found.damaged):
                table.pop(key.stream, None)
        if record.value is None:
            continue
        try:
            state = decode_state(record.key, record.value)
        except MessageError as error:
            if key.stream is None or error.newer:
                raise
            found.damaged[key.stream] = error
            continue
        its_topic = dict(record.headers).get(TOPIC_ID, b"").decode(errors="replace")
        is_another = bool(topic_id and its_topic) and its_topic != topic_id
        if isinstance(state, PartitionRecord):
            written_of, is_remade = its_topic, is_another
            next_offset = None if is_another else state.next_offset
        elif isinstance(state, StateRecord):
            found.streams[state.stream] = _from_the_beginning(state) if is_another else state
            found.written_s[state.stream] = time.time() if record.timestamp_ms < 0 else record.timestamp_ms / 1e3
    _join(found, anchors)
    return Restored(next_offset, found.streams, found.anchors, found.written_s, found.damaged, written_of, is_remade)


def _from_the_beginning(state: StateRecord) -> StateRecord:
    """The state of a stream that goes on in another topic: people, anchors, evidence and its time stay."""
    try:
        decoder = msgspec.msgpack.decode(state.decoder, type=DecoderState)
    except UNREADABLE:
        decoder = DecoderState()
    decoder = msgspec.structs.replace(decoder, offset=-1, key=None, progress=Progress())
    return msgspec.structs.replace(state, next_offset=0, resume_offset=None, decoder=msgspec.msgpack.encode(decoder))


def _join(found: Restored, records: dict[str, Record]) -> None:
    """Give every state its anchors; one that lacks them is damaged."""
    anchors: dict[str, AnchorsRecord] = {}
    for stream, record in records.items():
        if record.value is None:
            continue
        found.anchors[stream] = b""  # something is there, and is to go with its stream
        try:
            state = decode_state(record.key, record.value)
        except MessageError as error:
            if error.newer:
                raise
            continue
        if isinstance(state, AnchorsRecord):
            anchors[stream], found.anchors[stream] = state, state.digest
    for stream, whole in list(found.streams.items()):
        try:
            found.streams[stream] = whole.whole(anchors.get(stream))
        except MessageError as error:
            del found.streams[stream], found.written_s[stream]
            found.damaged[stream] = error


def _key(record: Record) -> StateKey | None:
    try:
        return StateKey.parse(record.key)
    except MessageError:
        return None


class Checkpoint:
    """The batch at hand: outputs wait in memory until `commit` writes them, state and offsets in one transaction.

    So a transaction is open for milliseconds: a worker that is killed seldom leaves one behind for its partitions' new
    owners to wait for, and a record that takes long to analyse does not outlive its transaction.

    Args:
        producer: transactional.
        consumer: whose place in the group stands behind the offsets.
        topics: where things go.
        state_partitions: of the state topic.
        interval_s, max_records: when a commit is due.
        late_s: the longest time between two, where all records come to it late.
    """

    def __init__(
        self,
        producer: Producer,
        consumer: Consumer,
        topics: Topics,
        state_partitions: int,
        *,
        interval_s: float,
        max_records: int,
        late_s: float = 0.0,
    ) -> None:
        self._producer, self._consumer, self._topics = producer, consumer, topics
        self._state_partitions = state_partitions
        self._interval_s, self._max_records = interval_s, max_records
        self._late_s = max(interval_s, late_s)
        #: When the newest of the records that are done was published.
        self._newest_s = -math.inf
        self._outputs: list[_Output] = []
        self._records = self._bytes = 0
        self._opened_s: float | None = None
        #: The topic of dead letters takes no large ones: learned from a commit that was refused.
        self._letters_are_small = False

    @property
    def is_open(self) -> bool:
        """Whether anything waits for a commit."""
        return self._opened_s is not None

    def is_due(self, *, is_busy: bool) -> bool:
        """Whether the batch is old or large enough; ``is_busy``: more is being worked on, or waits for that."""
        if self._opened_s is None:
            return False
        is_full = self._records >= self._max_records or self._bytes >= MAX_WAITING_BYTES
        return is_full or time.monotonic() - self._opened_s >= (self._pace_s if is_busy else self._interval_s)

    @property
    def _pace_s(self) -> float:
        """Time between two commits while there is more to do. To who gets a score late, a tenth later is nothing, and
        the worker has that much more time to catch up; but one stream that is not late is enough to hurry for."""
        late_s = time.time() - self._newest_s if self._records else 0.0
        return min(max(self._interval_s, _LATER * late_s), self._late_s)

    def finished(self, published_s: float = math.inf) -> None:
        """An input record is done; ``published_s``: when it was, since the epoch, as far as is known."""
        self._open()
        self._records += 1
        self._newest_s = max(self._newest_s, published_s)

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = ()) -> None:
        """Add an output; visible with the commit."""
        self._add(_Output(topic, key, value, headers))

    def bury(self, record: Record, error: Exception, stage: str) -> None:
        """Add a dead letter; one too large to be sent again goes without its value, and what beside that is too large
        for any value to make room for goes, too: a record that cannot be buried would end one worker after another."""
        letter = DeadLetter.from_record(record, error, stage)
        if len(record.value or b"") > MAX_LETTER_BYTES:
            letter = letter.without_value()
        beside_bytes = len(record.key or b"") + sum(len(name.encode()) + len(value) for name, value in letter.original)
        if beside_bytes > MAX_BESIDE_BYTES:
            note = f"key and headers of {beside_bytes} bytes are left out: {letter.error.message}"
            told = msgspec.structs.replace(letter.error, message=bounded(note))
            letter = replace(letter, key=None, original=(), error=told)
        self._add(_Output(self._topics.deadletters, letter.key, letter.value, letter.headers, letter=True))

    def commit(
        self,
        states: Iterable[StateRecord | AnchorsRecord],
        done: dict[TopicPartition, int],
        resume: dict[TopicPartition, int],
        gone: Iterable[StateKey] = (),
        topic_ids: Mapping[str, str] | None = None,
    ) -> None:
        """Make all outputs since the last commit visible, with the state that belongs to them.

        Args:
            states: of the streams that changed.
            done: first unfinished offset of the input partitions that moved.
            resume: the offsets to commit for them: never past a key frame still needed.
            gone: streams whose state is deleted.
            topic_ids: of the input topics, see `stream.broker.contract.Reader.topic_id`.

        Raises:
            StaleGroupError, FencedError, BrokerError: nothing was written, see `stream.broker.contract.Producer`.
        """
        if not self.is_open:
            return
        outputs = self._outputs
        ids = {topic: ((TOPIC_ID, one.encode()),) for topic, one in (topic_ids or {}).items() if one}
        self.abort()
        self._producer.begin()
        try:
            for output in outputs:
                self._write(output)
            for state in states:
                self._send_state(state.partition, state.key, encode(state), ids.get(state.topic, ()))
            for key in gone:
                self._send_state(key.partition, key.encode(), None)
            for source, offset in done.items():
                record = PartitionRecord(topic=source.topic, partition=source.partition, next_offset=offset)
                self._send_state(source.partition, record.key, encode(record), ids.get(source.topic, ()))
        except Exception:
            self._producer.abort()
            raise
        try:
            self._producer.commit(resume, self._consumer.group())
        except MessageTooLargeError:
            self._letters_are_small = True
            raise

    def abort(self) -> None:
        """Drop all outputs since the last commit."""
        self._outputs, self._records, self._bytes, self._opened_s = [], 0, 0, None
        self._newest_s = -math.inf

    def _write(self, output: _Output) -> None:
        value = None if output.letter and self._letters_are_small else output.value
        try:
            self._producer.send(output.topic, key=output.key, value=value, headers=output.headers)
        except MessageTooLargeError:
            if not output.letter:
                raise
            self._producer.send(output.topic, key=output.key, value=None, headers=output.headers)

    def _send_state(self, partition: int, key: bytes, value: bytes | None, headers: Headers = ()) -> None:
        self._producer.send(
            self._topics.state, key=key, value=value, headers=headers, partition=partition % self._state_partitions
        )

    def _add(self, output: _Output) -> None:
        self._open()
        self._outputs.append(output)
        self._bytes += len(output.value or b"")

    def _open(self) -> None:
        if self._opened_s is None:
            self._opened_s = time.monotonic()
