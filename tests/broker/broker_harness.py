"""The two brokers behind one door for the tests that run on both."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any, Protocol

from stream.broker.contract import Broker, Consumer, Record, TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.broker.memory import ManualClock, MemoryBroker, MemorySettings

SESSION_S = 2.0
TRANSACTION_S = 2.0
LOSS_S = 15.0
MAX_BYTES = 200_000


class Harness(Protocol):
    """What a test needs besides the contract."""

    kind: str

    def broker(self) -> Broker:
        """Another connection to the same cluster."""

    def silence(self, consumer: Consumer) -> None:
        """Stops its heartbeats, as a process that was stopped."""

    def wake(self, consumer: Consumer) -> None:
        """Ends `silence`."""

    def pass_time(self, seconds: float) -> None:
        """Lets the cluster's time pass."""

    def delete_topic(self, name: str) -> None:
        """Deletes a topic with all that is in it."""


class MemoryHarness:
    """The in-memory twin, with a clock of its own."""

    kind = "memory"

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.twin = MemoryBroker(
            MemorySettings(
                session_timeout_s=SESSION_S,
                transaction_timeout_s=TRANSACTION_S,
                loss_timeout_s=LOSS_S,
                max_message_bytes=MAX_BYTES,
            ),
            clock=self.clock,
        )

    def broker(self) -> Broker:
        return self.twin

    def silence(self, consumer: Any) -> None:
        self.twin.silence(consumer)

    def wake(self, consumer: Any) -> None:
        """Polling ends it."""

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def delete_topic(self, name: str) -> None:
        self.twin.delete_topic(name)


class KafkaHarness:
    """A real cluster."""

    kind = "kafka"

    def __init__(self, bootstrap: str) -> None:
        self.settings = KafkaSettings(
            bootstrap_servers=bootstrap,
            session_timeout_s=SESSION_S,
            transaction_timeout_s=TRANSACTION_S,
            loss_timeout_s=LOSS_S,
            connect_timeout_s=10.0,
            max_message_bytes=MAX_BYTES,
            metadata_max_age_s=1.0,
        )
        self._brokers: list[KafkaBroker] = []

    def broker(self, **changes: Any) -> Broker:
        self._brokers.append(KafkaBroker(replace(self.settings, **changes)))
        return self._brokers[-1]

    def silence(self, consumer: Any) -> None:
        consumer._kafka._coordinator._disable_heartbeat()

    def wake(self, consumer: Any) -> None:
        consumer._kafka._coordinator._enable_heartbeat()

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def delete_topic(self, name: str) -> None:
        broker = self.broker()
        reader = broker.reader()
        broker._admin.delete_topics([name])  # type: ignore[attr-defined]
        while reader.topic_ids([name]):
            time.sleep(0.05)

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()


class Told:
    """A listener that keeps what it was told, and can act on it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, list[TopicPartition]]] = []
        self.on_assigned: Any = None
        self.on_revoked: Any = None

    def assigned(self, partitions: list[TopicPartition]) -> None:
        self.events.append(("assigned", partitions))
        if self.on_assigned:
            self.on_assigned(partitions)

    def revoked(self, partitions: list[TopicPartition]) -> None:
        self.events.append(("revoked", partitions))
        if self.on_revoked:
            self.on_revoked(partitions)

    def lost(self, partitions: list[TopicPartition]) -> None:
        self.events.append(("lost", partitions))

    def of(self, kind: str) -> set[TopicPartition]:
        """Every partition that was named in events of that kind."""
        return {part for name, parts in self.events if name == kind for part in parts}


def topic(broker: Broker, partitions: int = 1, **options: Any) -> str:
    """A new topic under a name of its own."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    broker.ensure_topics([TopicSpec(name, partitions, **{"max_message_bytes": MAX_BYTES} | options)])
    return name


def publish(broker: Broker, name: str, values: list[bytes], **options: Any) -> None:
    """Without a transaction."""
    producer = broker.plain_producer()
    for value in values:
        producer.send(name, key=options.get("key", value), value=value, partition=options.get("partition"))
    producer.flush(options.get("within_s", 10))
    producer.close(10)


def take(consumer: Consumer, count: int, within_s: float = 15.0, wait_s: float = 0.2) -> list[Record]:
    """Polls until `count` records came; fails loudly after `within_s`."""
    found: list[Record] = []
    until = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < until, f"only {len(found)} of {count} records came"
        found += consumer.poll(wait_s, count - len(found))
        time.sleep(0.0 if wait_s else 0.002)
    return found


def settle(consumers: list[Consumer], sizes: list[int], within_s: float = 20.0, wait_s: float = 0.05) -> None:
    """Polls all until they hold as many partitions as `sizes` says, in any order."""
    until = time.monotonic() + within_s
    while sorted(len(one.assignment()) for one in consumers) != sorted(sizes):
        assert time.monotonic() < until, f"no balance: {[one.assignment() for one in consumers]}"
        for one in consumers:
            one.poll(wait_s, 1)
            time.sleep(0.0 if wait_s else 0.002)


def offsets(records: list[Record]) -> dict[TopicPartition, int]:
    """What to commit after these."""
    return {record.source: record.offset + 1 for record in records}
