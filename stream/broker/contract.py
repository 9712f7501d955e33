"""What the worker asks of a broker: a group consumer, a transactional producer, a reader of given partitions.

Two implementations keep it, and one test class runs on both: `stream.broker.kafka` (Apache Kafka) and
`stream.broker.memory` (the same semantics in one process). Semantics follow Kafka: KIP-98 (transactions), KIP-447
(offsets fenced by the group's generation), KIP-429 (cooperative rebalancing).

Objects from a broker belong to the thread that uses them: one consumer or producer is never shared by two threads.
Every method can raise `BrokerUnavailableError` once the broker has been gone for as long as the settings allow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes]]

DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: Header of a record that a client could not read within its bounds, in place of its own ones: says why. Dead letters
#: leave it out, as all that begins like this.
REFUSED = "difffake-error-refused"


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """One message as it was read. `timestamp_ms`: milliseconds since the epoch; -1 where the producer gave none."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int

    @property
    def source(self) -> TopicPartition:
        """The partition it was read from."""
        return TopicPartition(self.topic, self.partition)


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as `Broker.ensure_topics` creates it; one that exists is left as it is.

    `compacted`: keeps the newest record of every key instead of the newest days. `replicas`: None is the
    cluster's default.
    """

    name: str
    partitions: int
    compacted: bool = False
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    replicas: int | None = None


class Listener(Protocol):
    """What happens to a consumer's partitions; called inside `Consumer.poll` and `close`, on the caller's thread.

    An error that a listener raises leaves `poll` as it is.
    """

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """Newly ours; those that stay are not named again. Before their first record: restore state here."""

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """Still ours until this returns: flush and commit here (with `Consumer.group()` as usual)."""

    def lost(self, partitions: list[TopicPartition]) -> None:
        """Already somebody else's: drop the work, commit nothing."""


class Consumer(Protocol):
    """A member of a consumer group. Sees committed records only; never commits by itself.

    A partition without a committed offset starts at its beginning.
    """

    def subscribe(self, topics: Sequence[str] | re.Pattern[str], listener: Listener) -> None:
        """Names, or a pattern that also takes in topics created later (matched from the start of the name).

        Raises `TopicNotFoundError` for a name that does not exist.
        """

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        """At most `max_records` records in offset order per partition; empty after `timeout_s`.

        Call it at least every few seconds (`pause` everything when there is no room): rebalances wait for it. A member
        that was thrown out may still give out what it had fetched before; its commit is refused then.
        """

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are ours now."""

    def committed(self, partition: TopicPartition) -> int | None:
        """The group's committed offset (the next to read). Waits for offsets of transactions still open (KIP-447)."""

    def position(self, partition: TopicPartition) -> int:
        """The next offset that `poll` will give out."""

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Reads on from `offset`. The partition must be ours."""

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Gives out no records of these until `resume`; they stay ours."""

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Ends `pause`; those not paused are left alone."""

    def group(self) -> Any:
        """Opaque: our place in the group (generation, member id), for `Producer.commit`. Ask anew for every commit."""

    def close(self, timeout_s: float) -> None:
        """Leaves the group. Calls `revoked` for what is still ours. A second call does nothing.

        A static member (`instance_id`) keeps its partitions until the session times out or it comes back.
        """


class Producer(Protocol):
    """A transactional producer. A new one with the same transactional id fences the old one and aborts its work."""

    def begin(self) -> None:
        """Opens a transaction. Nothing is sent outside one."""

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """Sends in the background; what the broker refuses surfaces at `commit`.

        Without `partition` the key decides (murmur2, as every Kafka client). At once it raises `MessageTooLargeError`
        when the record is beyond this client's own limit, and `TopicNotFoundError`; it was not sent then, and the
        transaction goes on.
        """

    def commit(self, offsets: Mapping[TopicPartition, int], group: Any) -> None:
        """Makes all that was sent and these offsets (the next to read) visible at once, or none of it.

        `group` comes from `Consumer.group()`. When it raises, the transaction has been aborted and `begin` opens the
        next one, except after `FencedError` and `BrokerUnavailableError`, which end this producer (after the latter
        the outcome may be unknown: read it from the committed offsets).

        Raises:
            StaleGroupError: the group went on without us; nothing was written.
            FencedError: another producer has our transactional id.
            MessageTooLargeError, TopicNotFoundError, AuthenticationError, BrokerError: nothing was written.
        """

    def abort(self) -> None:
        """Drops all that was sent since `begin`. Without an open transaction it does nothing."""

    def close(self, timeout_s: float) -> None:
        """Aborts an open transaction and ends. A second call does nothing."""


class PlainProducer(Protocol):
    """A producer without transactions: in order and without doubles (idempotent)."""

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """As `Producer.send`; what the broker refuses surfaces at `flush` (or at a `send` that had to wait)."""

    def flush(self, timeout_s: float) -> None:
        """Returns when the broker has everything; raises what went wrong with any record since the last flush.

        After an error any of these records may be missing; the next `send` works again.
        """

    def close(self, timeout_s: float) -> None:
        """Flushes and ends. A second call does nothing."""


class Reader(Protocol):
    """Reads given partitions, outside every group."""

    def read(self, partition: TopicPartition, start: int | None, stop: int) -> Iterator[Record]:
        """Records from `start` (None: the beginning) up to, not including, offset `stop`.

        Ends when the position has reached `stop`: transactions still open below it are waited for (reading
        committed records). Fewer records than offsets is normal: aborted and compacted ones are gone.

        Raises:
            BrokerError: the position did not advance for as long as the settings allow.
            TopicNotFoundError: no such topic or partition.
        """

    def beginning_offset(self, partition: TopicPartition) -> int:
        """The first offset that is still there."""

    def end_offset(self, partition: TopicPartition) -> int:
        """One past the last offset, transactions that are still open included, so that `read` waits for them."""

    def offset_for_time(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """The first offset at or after that time; None when there is none."""

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """Of each topic what tells it from another one of that name, made when it was deleted (KIP-516); empty where
        the broker does not say. Those that do not exist are left out."""

    def close(self) -> None:
        """A second call does nothing."""


class Broker(Protocol):
    """The door: makes everything else. Nothing that it made outlives `close`."""

    def consumer(self, group: str, *, instance_id: str | None = None) -> Consumer:
        """`instance_id`: static membership (KIP-345); a restart within the session timeout moves no partition."""

    def producer(self, transactional_id: str) -> Producer:
        """Fences any producer with the same id before it returns."""

    def plain_producer(self) -> PlainProducer:
        """For publishing."""

    def reader(self, *, committed: bool = True) -> Reader:
        """`committed=False` also sees open and aborted transactions."""

    def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """Creates those that do not exist; returns when all can be used."""

    def partitions(self, topic: str) -> int:
        """How many partitions. Raises `TopicNotFoundError`."""

    def close(self) -> None:
        """Ends what is left open. A second call does nothing."""
