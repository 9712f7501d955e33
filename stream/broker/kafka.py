"""Apache Kafka behind the broker's contract, by kafka-python 3.0.

Its group consumer and producers live beside (`kafka_consumer`, `kafka_producer`), with what was found about
kafka-python and what is done about it. Threads are kafka-python's own: one per client.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import kafka
import kafka.errors
from kafka.admin import OffsetSpec

from stream.broker.contract import Consumer, PlainProducer, Producer, Reader, Record, TopicPartition, TopicSpec
from stream.broker.errors import BrokerError, TopicNotFoundError
from stream.broker.kafka_client import TRANSIENT, KafkaSettings, connect, retried, translated
from stream.broker.kafka_consumer import KafkaConsumer, name, reading, record, theirs, unstick
from stream.broker.kafka_producer import KafkaPlainProducer, KafkaProducer

__all__ = ["KafkaBroker", "KafkaSettings"]

READ_STEP_S = 0.2
READ_RECORDS = 500
CLOSE_S = 5.0


class _Closable(Protocol):
    def close(self, timeout_s: float) -> None: ...


Made = TypeVar("Made", bound=_Closable)


class KafkaBroker:
    """`stream.broker.contract.Broker` on Apache Kafka; connected when it returns.

    Raises:
        BrokerUnavailableError, AuthenticationError: see `kafka_client.connect`.
        MissingExtraError: Kafka's checksums would run in pure Python.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        settings.check()
        self.settings = settings
        self._made: list[_Closable] = []
        self._admin: Any = connect(kafka.KafkaAdminClient, settings)

    def consumer(self, group: str, *, instance_id: str | None = None) -> Consumer:
        """See the contract."""
        return self._keep(KafkaConsumer(self.settings, group, instance_id, self.partitions))

    def producer(self, transactional_id: str) -> Producer:
        """See the contract."""
        return self._keep(KafkaProducer(self.settings, transactional_id, self.partitions))

    def plain_producer(self) -> PlainProducer:
        """See the contract."""
        return self._keep(KafkaPlainProducer(self.settings, self.partitions))

    def reader(self, *, committed: bool = True) -> Reader:
        """See the contract."""
        return self._keep(KafkaReader(self, committed=committed))

    def ensure_topics(self, topics: Sequence[TopicSpec]) -> None:
        """See the contract."""
        with translated("creating topics"):
            known = set(self._retried(self._admin.list_topics))
            for spec in topics:
                if spec.name not in known:
                    with contextlib.suppress(kafka.errors.TopicAlreadyExistsError):  # another worker was faster
                        self._retried(functools.partial(self._admin.create_topics, {spec.name: _configuration(spec)}))
            self._admin.wait_for_topics([spec.name for spec in topics], self.settings.loss_timeout_s * 1000)

    def partitions(self, topic: str) -> int:
        """See the contract."""
        found = self._described([topic])
        if not found:
            raise TopicNotFoundError(f"no topic {topic}", hint="Create the topic first, or check its name.")
        return len(found[0]["partitions"])

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """See `stream.broker.contract.Reader`."""
        return {found["name"]: str(found.get("topic_id") or "") for found in self._described(list(topics))}

    def _described(self, topics: list[str]) -> list[Any]:
        """What the cluster says of those topics that exist."""

        def ask() -> list[Any]:
            found = self._admin.describe_topics(topics)
            for one in found:
                if one["error_code"] not in (0, kafka.errors.UnknownTopicOrPartitionError.errno):
                    raise kafka.errors.for_code(one["error_code"])(one["name"])
            return [one for one in found if not one["error_code"]]

        with translated(f"looking up {', '.join(topics)}"):
            existing: list[Any] = self._retried(ask)
        return existing

    def offset(self, partition: TopicPartition, spec: Any) -> int:
        """An offset by kafka-python's `OffsetSpec` or a timestamp in ms; open transactions count. -1: none."""
        there = theirs(partition)
        with translated(f"asking for offsets of {name(partition)}"):
            found = self._retried(lambda: self._admin.list_partition_offsets({there: spec}))
        return int(found[there].offset)

    def close(self) -> None:
        """See the contract."""
        made, self._made = self._made, []
        for one in made:
            with contextlib.suppress(BrokerError):
                one.close(CLOSE_S)
        self._admin.close()

    def _keep(self, made: Made) -> Made:
        self._made.append(made)
        return made

    def _retried(self, call: Callable[[], Any]) -> Any:
        return retried(call, within_s=self.settings.loss_timeout_s)


def _configuration(topic: TopicSpec) -> dict[str, Any]:
    return {
        "num_partitions": topic.partitions,
        "replication_factor": topic.replicas or -1,
        "configs": {
            "cleanup.policy": "compact" if topic.compacted else "delete",
            "max.message.bytes": str(topic.max_message_bytes),
        },
    }


class KafkaReader:
    """`stream.broker.contract.Reader` on Apache Kafka."""

    def __init__(self, broker: KafkaBroker, *, committed: bool) -> None:
        self._broker = broker
        self._settings = broker.settings
        self._kafka: Any = connect(kafka.KafkaConsumer, self._settings, **reading(self._settings, committed=committed))
        self._closed = False

    def read(self, partition: TopicPartition, start: int | None, stop: int) -> Iterator[Record]:
        """See the contract."""
        if partition.partition >= self._broker.partitions(partition.topic):
            raise TopicNotFoundError(f"there is no {name(partition)}", hint="Check the partition's number.")
        there = theirs(partition)
        position = self.beginning_offset(partition) if start is None else start
        with translated(f"reading {name(partition)}"):
            self._kafka.assign([there])
            self._kafka.seek(there, position)
            moved = time.monotonic()
            while position < stop:
                unstick(self._kafka)
                found: list[Any] = []
                now: int | None = None
                try:
                    found = self._kafka.poll(timeout_ms=READ_STEP_S * 1000, max_records=READ_RECORDS).get(there, [])
                except TRANSIENT:  # it tries again by itself, and says so all the same
                    time.sleep(READ_STEP_S)
                for one in found:
                    if one.offset >= stop:
                        return
                    yield record(one)
                # Past aborted and compacted records there are positions, but no records.
                with contextlib.suppress(*TRANSIENT):
                    now = self._kafka.position(there, timeout_ms=READ_STEP_S * 1000)
                if now is not None and now > position:
                    position, moved = now, time.monotonic()
                elif time.monotonic() - moved > self._settings.loss_timeout_s:
                    raise BrokerError(
                        f"reading {name(partition)} stands still at {position}, before {stop}",
                        hint="A transaction is open there longer than its timeout, or the brokers are gone.",
                    )

    def beginning_offset(self, partition: TopicPartition) -> int:
        """See the contract."""
        return self._broker.offset(partition, OffsetSpec.EARLIEST)

    def end_offset(self, partition: TopicPartition) -> int:
        """See the contract."""
        return self._broker.offset(partition, OffsetSpec.LATEST)

    def offset_for_time(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """See the contract."""
        offset = self._broker.offset(partition, timestamp_ms)
        return None if offset < 0 else offset

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """See the contract."""
        return self._broker.topic_ids(topics)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """See the contract."""
        if not self._closed:
            self._closed = True
            self._kafka.close(autocommit=False, timeout_ms=int(timeout_s * 1000))
