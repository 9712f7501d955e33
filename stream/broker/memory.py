"""A broker in this process with the semantics of Apache Kafka: for tests, and wherever no cluster is wanted.

What it shares with Kafka is told by the tests that run on both: transactions, last stable offset, fencing, groups with
cooperative rebalancing, stable offsets, static members, compaction, limits on message size. What it has besides, for
tests, are the methods of `MemoryBroker` that no contract names: `compact`, `silence`, `fail_next_commit`,
`disconnect`, and a clock that can be moved.

Two things differ on purpose: a lost connection shows at once, not after a timeout; and records of an open transaction
are written when they are sent, not when they are flushed.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kafka.partitioner import murmur2

from stream.broker.contract import DEFAULT_MAX_MESSAGE_BYTES, TopicPartition, TopicSpec
from stream.broker.errors import BrokerError, BrokerUnavailableError, TopicNotFoundError
from stream.broker.memory_clients import MemoryConsumer, MemoryPlainProducer, MemoryProducer, MemoryReader
from stream.broker.memory_group import Group
from stream.broker.memory_log import Log, State, Transaction


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """As `KafkaSettings`, as far as it has a meaning here. `loss_timeout_s` bounds waiting for open transactions."""

    session_timeout_s: float = 10.0
    max_poll_interval_s: float = 300.0
    transaction_timeout_s: float = 60.0
    loss_timeout_s: float = 60.0
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES


class ManualClock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.now_s += seconds


class MemoryBroker:
    """`stream.broker.contract.Broker` in memory; thread-safe. `clock`: monotonic seconds, for every timeout."""

    def __init__(self, settings: MemorySettings | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings or MemorySettings()
        self.clock = clock
        self.changed = threading.Condition(threading.RLock())
        self.epochs: dict[str, int] = {}
        self._topics: dict[str, TopicSpec] = {}
        self._ids: dict[str, str] = {}
        self._logs: dict[TopicPartition, Log] = {}
        self._groups: dict[str, Group] = {}
        self._open: dict[str, Transaction] = {}
        self._connected = True
        self._commit_faults: list[tuple[BrokerError, bool]] = []
        self._keyless = itertools.count()

    def consumer(self, group: str, *, instance_id: str | None = None) -> MemoryConsumer:
        """See the contract."""
        with self.session():
            return MemoryConsumer(self, group, instance_id)

    def producer(self, transactional_id: str) -> MemoryProducer:
        """See the contract."""
        with self.session():
            self.fence(transactional_id)
            return MemoryProducer(self, transactional_id)

    def plain_producer(self) -> MemoryPlainProducer:
        """See the contract."""
        with self.session():
            return MemoryPlainProducer(self)

    def reader(self, *, committed: bool = True) -> MemoryReader:
        """See the contract."""
        with self.session():
            return MemoryReader(self, committed=committed)

    def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See the contract."""
        with self.session():
            for spec in topics:
                if spec.name not in self._topics:
                    self._topics[spec.name], self._ids[spec.name] = spec, uuid.uuid4().hex
                    for number in range(spec.partitions):
                        source = TopicPartition(spec.name, number)
                        self._logs[source] = Log(source)

    def partitions(self, topic: str) -> int:
        """See the contract."""
        with self.session():
            return self.spec(topic).partitions

    def close(self) -> None:
        """See the contract."""

    def compact(self, topic: str, *, drop_tombstones: bool = False) -> None:
        """What Kafka's log cleaner does some day to a compacted topic."""
        with self.session():
            if not self.spec(topic).compacted:
                raise BrokerError(f"{topic} is not compacted", hint="Create it with compacted=True.")
            for source, log in self._logs.items():
                if source.topic == topic:
                    log.compact(drop_tombstones=drop_tombstones)

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        """What Kafka's retention does some day."""
        with self.session():
            self.log(partition).delete_before(offset)

    def delete_topic(self, topic: str) -> None:
        """As an administrator does it: its records, and what groups have committed for it, are gone."""
        with self.session():
            self.spec(topic)
            del self._topics[topic], self._ids[topic]
            for source in [source for source in self._logs if source.topic == topic]:
                del self._logs[source]
                for group in self._groups.values():
                    group.committed.pop(source, None)

    def silence(self, consumer: MemoryConsumer) -> None:
        """From now on no heartbeat of it arrives, until it polls again: a process that was stopped or killed."""
        with self.session():
            consumer.silence(self.clock())

    def fail_next_commit(self, error: BrokerError, *, after: bool = False) -> None:
        """The next commit raises `error`: aborted, or (`after`) when all is written and only the answer got lost."""
        self._commit_faults.append((error, after))

    def disconnect(self) -> None:
        """Every call raises `BrokerUnavailableError` until `reconnect`."""
        with self.changed:
            self._connected = False
            self.changed.notify_all()

    def reconnect(self) -> None:
        """Ends `disconnect`."""
        with self.changed:
            self._connected = True

    @contextmanager
    def session(self) -> Iterator[None]:
        """The lock, with everything that time has done meanwhile done; whoever waits looks again afterwards."""
        with self.changed:
            if not self._connected:
                raise BrokerUnavailableError("the connection is gone", hint="Reconnect the in-memory broker.")
            now_s = self.clock()
            for transactional_id, transaction in list(self._open.items()):
                if now_s - transaction.began_s > self.settings.transaction_timeout_s:
                    self.fence(transactional_id)
            for group in self._groups.values():
                group.expire(now_s)
                group.notice(self._logs.keys())
            try:
                yield
            finally:
                self.changed.notify_all()

    def wait(self, until_s: float) -> bool:
        """Inside `session`: lets others work. False when the real time `until_s` has come."""
        # Short waits: a clock moved by a test wakes nobody.
        self.changed.wait(min(0.02, max(0.0, until_s - time.monotonic())))
        return time.monotonic() < until_s

    def spec(self, topic: str) -> TopicSpec:
        """Raises `TopicNotFoundError`."""
        if topic not in self._topics:
            raise TopicNotFoundError(f"no topic {topic}", hint="Create the topic first, or check its name.")
        return self._topics[topic]

    def topic_id(self, topic: str) -> str | None:
        """None where there is no such topic."""
        return self._ids.get(topic)

    def log(self, partition: TopicPartition) -> Log:
        """Raises `TopicNotFoundError`."""
        self.spec(partition.topic)
        if partition not in self._logs:
            raise TopicNotFoundError(f"no partition {partition}", hint="Check the partition's number.")
        return self._logs[partition]

    def group(self, name: str) -> Group:
        """Made when first asked for."""
        if name not in self._groups:
            self._groups[name] = Group(
                name,
                session_timeout_s=self.settings.session_timeout_s,
                max_poll_interval_s=self.settings.max_poll_interval_s,
            )
        return self._groups[name]

    def choose(self, topic: str, key: bytes | None) -> TopicPartition:
        """The partition for a key: as every Kafka client chooses it."""
        count = self.spec(topic).partitions
        number = next(self._keyless) if key is None else murmur2(key) & 0x7FFFFFFF
        return TopicPartition(topic, number % count)

    def begin(self, transactional_id: str) -> Transaction:
        """An open transaction."""
        transaction = Transaction(self.clock())
        self._open[transactional_id] = transaction
        return transaction

    def end(self, transactional_id: str, state: State) -> None:
        """Commits or aborts what is open under that id."""
        transaction = self._open.pop(transactional_id, None)
        if transaction is None:
            return
        transaction.state = state
        for source in transaction.logs:
            self._logs[source].mark(transaction)
        if state is State.COMMITTED:
            for name, offsets in transaction.offsets.items():
                self.group(name).committed.update(offsets)

    def fence(self, transactional_id: str) -> None:
        """Whoever has that id now is too old; what it has open is aborted."""
        self.end(transactional_id, State.ABORTED)
        self.epochs[transactional_id] = self.epochs.get(transactional_id, 0) + 1

    def pending(self, group: str, partition: TopicPartition) -> bool:
        """Whether an open transaction holds an offset of that group (KIP-447: it has to be waited for)."""
        return any(partition in transaction.offsets.get(group, {}) for transaction in self._open.values())

    def commit_fault(self) -> tuple[BrokerError, bool] | None:
        """What the next commit shall suffer."""
        return self._commit_faults.pop(0) if self._commit_faults else None
