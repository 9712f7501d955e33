"""Producers on Apache Kafka: transactional, and plain (idempotent).

kafka-python 3.0.12 read and tested, and what is done about it here:

- A batch that is given up (its delivery timeout passed) does not spoil its transaction: `commit_transaction` would
  succeed without it. `commit` here waits for every record and looks at each before it commits.
- After an epoch bump in mid-transaction (KIP-360) `commit_transaction` reports success although the broker has
  aborted. The bump fails the batch that caused it, so the same look refuses to commit.
- Its commit, abort and offsets wait for ever when the brokers are gone. Here they wait for `loss_timeout_s`.
- Offsets go with generation and member id (TxnOffsetCommit v3, KIP-447), so a zombie is refused. But without a
  generation, which is what a member has that was thrown out and knows it, the broker checks nothing at all: `commit`
  refuses that itself.
- It buffers without a limit. `send` waits when too many bytes are on their way.
- It sends 16 KiB of a partition at a time, and after 5 ms what there is: a commit was three requests where one does.
  What is too large together for a topic it divides itself, and its `flush` takes that for an unknown error: `arrive`
  waits for each record instead.
- It wakes its I/O thread for the first record of every partition, which at once tells the transaction's coordinator of
  the partitions so far: a commit of 16 partitions was as many requests. Here it sleeps until all records are there.
- A transaction's request is forgotten where the connection to its coordinator fails just then: the records behind it
  were never sent, at a whole core, until they expired. What fails so is tried again (`_patient_with_coordinators`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import kafka
import kafka.errors
from kafka.structs import OffsetAndMetadata

from stream.broker.contract import Headers, TopicPartition
from stream.broker.errors import BrokerError, BrokerUnavailableError, FencedError, StaleGroupError
from stream.broker.kafka_client import MIB, KafkaSettings, as_ours, connect, translated
from stream.broker.kafka_consumer import theirs

UNSENT_BYTES = 64 * MIB
DISCARD_S = 2.0
#: Of one partition in one request. Below what any topic takes that nobody has restricted.
BATCH_BYTES = MIB // 4
#: How kafka-python calls the connection to a coordinator.
_COORDINATOR = "coordinator-"
#: How long records wait for others, ms; those of a transaction go with its commit in any case.
_LINGER_MS, _LINGER_IN_TRANSACTION_MS = 5, 100


class _Producer(kafka.KafkaProducer):  # type: ignore[misc]  # kafka-python has no types
    """Lets its I/O thread sleep where that is asked for, unless it must ask where a topic's partitions are."""

    def let_sleep(self) -> None:
        """Records that are sent do not wake it, until `may_wake`."""
        self._sender.wakeup = _nobody

    def may_wake(self) -> None:
        """Take that back."""
        self._sender.__dict__.pop("wakeup", None)

    def _wait_on_metadata(self, topic: str, max_wait_ms: float) -> Any:
        self.may_wake()
        return super()._wait_on_metadata(topic, max_wait_ms)


def _nobody() -> None:
    """Whom a record wakes."""


def _patient_with_coordinators(client: Any) -> None:
    """A coordinator that cannot be reached is told as "not ready", after which its request is tried again; what
    kafka-python raises instead loses it."""
    await_ready = client.await_ready

    def is_ready(node: Any, timeout_ms: float) -> bool:
        try:
            return bool(await_ready(node, timeout_ms=timeout_ms))
        except kafka.errors.RetriableError:
            if str(node).startswith(_COORDINATOR):
                return False
            raise

    client.await_ready = is_ready


class _Sender:
    """What both producers share: one kafka-python producer, its records on their way, and a bound on them."""

    def __init__(
        self, settings: KafkaSettings, partitions: Callable[[str], int], *, is_patient: bool = False, **options: Any
    ) -> None:
        self._settings = settings
        self._partitions_of = partitions
        self._is_patient = is_patient  # nothing is to go before `arrive`
        self._known_topics: set[str] = set()
        self._sent: list[Any] = []  # kafka-python's futures since the last `_arrive`
        self._unsent_bytes = 0
        self._kafka: Any = connect(
            _Producer,
            settings,
            acks="all",
            enable_idempotence=True,
            max_request_size=settings.max_message_bytes,
            max_block_ms=int(settings.loss_timeout_s * 1000),
            delivery_timeout_ms=int(settings.loss_timeout_s * 1000),
            compression_type=settings.compression,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            **{"batch_size": BATCH_BYTES, "linger_ms": _LINGER_MS} | options,
        )
        _patient_with_coordinators(self._kafka._sender._client)

    def send(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
        timestamp_ms: int | None,
    ) -> None:
        if topic not in self._known_topics:
            # Asked ourselves: kafka-python would wait for its metadata until the timeout.
            self._partitions_of(topic)
            self._known_topics.add(topic)
        size = len(value or b"") + len(key or b"")
        if self._unsent_bytes + size > UNSENT_BYTES:
            self.arrive(self._settings.loss_timeout_s)
        if self._is_patient:
            self._kafka.let_sleep()
        with translated(f"sending to {topic}"):
            try:
                future = self._kafka.send(
                    topic, value=value, key=key, headers=list(headers), partition=partition, timestamp_ms=timestamp_ms
                )
            except ValueError as error:  # no key and no value, or no such partition
                raise BrokerError(f"sending to {topic}: {error}", hint="Check key, value and partition.") from error
            finally:
                self._kafka.may_wake()
        self._sent.append(future)
        self._unsent_bytes += size

    def arrive(self, timeout_s: float) -> None:
        """Returns when the broker has everything; raises kafka-python's error for the first record it has not."""
        sent, self._sent, self._unsent_bytes = self._sent, [], 0
        until_s, accumulator = time.monotonic() + timeout_s, self._kafka._accumulator
        accumulator.begin_flush()
        try:
            self._kafka._sender.wakeup()
            for future in sent:
                while not future.is_done and (left_s := until_s - time.monotonic()) > 0:
                    future._produce_future.wait(left_s)  # of its batch, or of the part that it is in by then
        finally:
            accumulator._flushes_in_progress.decrement()
        for future in sent:
            if not future.is_done:
                raise kafka.errors.KafkaTimeoutError("a record was not acknowledged in time")
            if not future.succeeded():
                raise future.exception

    def discard(self) -> None:
        """Ends without waiting for anything."""
        self._kafka._sender.force_close()
        with contextlib.suppress(kafka.errors.KafkaError):
            self._kafka.close(timeout=DISCARD_S)


class KafkaPlainProducer:
    """`stream.broker.contract.PlainProducer` on Apache Kafka."""

    def __init__(self, settings: KafkaSettings, partitions: Callable[[str], int]) -> None:
        self._settings = settings
        self._partitions_of = partitions
        self._sender: _Sender | None = _Sender(settings, partitions)
        self._closed = False

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
        """See the contract."""
        with self._open() as sender:
            sender.send(topic, key=key, value=value, headers=headers, partition=partition, timestamp_ms=timestamp_ms)

    def flush(self, timeout_s: float) -> None:
        """See the contract."""
        with self._open() as sender:
            sender.arrive(timeout_s)

    def close(self, timeout_s: float) -> None:
        """See the contract."""
        if self._closed:
            return
        try:
            if self._sender is not None:  # else what it had is lost, and was told: nothing to look for a broker for
                self.flush(timeout_s)
        finally:
            self._closed = True
            if self._sender is not None:
                self._sender.discard()

    @contextlib.contextmanager
    def _open(self) -> Iterator[_Sender]:
        if self._closed:
            raise BrokerError("this producer is closed", hint="Open a new one.")
        self._sender = self._sender or _Sender(self._settings, self._partitions_of)
        with translated("publishing"):
            try:
                yield self._sender
            except kafka.errors.KafkaError:
                # One refused batch ends an idempotent producer of kafka-python for good: the next call starts anew.
                sender, self._sender = self._sender, None
                sender.discard()
                raise


class KafkaProducer:
    """`stream.broker.contract.Producer` on Apache Kafka."""

    def __init__(self, settings: KafkaSettings, transactional_id: str, partitions: Callable[[str], int]) -> None:
        self._settings = settings
        self._id = transactional_id
        self._partitions_of = partitions
        self._over: BrokerError | None = None
        self._in_transaction = False
        self._sender: _Sender | None = self._start()

    def begin(self) -> None:
        """See the contract."""
        if self._over is not None:
            raise self._over
        if self._in_transaction:
            raise BrokerError("a transaction is open", hint="Commit or abort it first.")
        self._sender = self._sender or self._start()
        with translated(f"beginning a transaction as {self._id}"):
            self._sender._kafka.begin_transaction()
        self._in_transaction = True

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
        """See the contract."""
        self._open().send(topic, key=key, value=value, headers=headers, partition=partition, timestamp_ms=timestamp_ms)

    def commit(self, offsets: Mapping[TopicPartition, int], group: Any) -> None:
        """See the contract."""
        sender = self._open()
        try:
            if offsets and group.generation_id < 0:
                raise StaleGroupError(
                    f"{self._id}: this member is out of its group", hint="Poll again to join the group anew."
                )
            transactions = sender._kafka._transaction_manager
            sender.arrive(self._settings.loss_timeout_s)
            if offsets:
                stamped = {theirs(part): OffsetAndMetadata(offset, "", -1) for part, offset in offsets.items()}
                self._wait(sender, transactions.send_offsets_to_transaction(stamped, group))
            self._wait(sender, transactions.begin_commit())
        except (kafka.errors.KafkaError, BrokerError) as error:
            ours = error if isinstance(error, BrokerError) else as_ours(error, f"committing as {self._id}")
            self._fail(ours)
            raise ours from error
        self._in_transaction = False

    def abort(self) -> None:
        """See the contract."""
        if not self._in_transaction or self._sender is None:
            return
        self._in_transaction = False
        sender = self._sender
        sender._sent, sender._unsent_bytes = [], 0
        try:
            self._wait(sender, sender._kafka._transaction_manager.begin_abort())
        except kafka.errors.KafkaError as error:
            ours = as_ours(error, f"aborting as {self._id}")
            self._drop()
            if isinstance(ours, FencedError):
                self._over = ours
                raise ours from error
            # The next `begin` starts a new producer, and with that the broker aborts what is open.

    def close(self, timeout_s: float) -> None:
        """See the contract."""
        deadline = time.monotonic() + timeout_s
        if self._over is None:
            with contextlib.suppress(BrokerError):
                self.abort()
            self._over = BrokerError("this producer is closed", hint="Open a new one.")
        if self._sender is not None:
            sender, self._sender = self._sender, None
            with contextlib.suppress(kafka.errors.KafkaError):
                sender._kafka.close(timeout=max(0.0, deadline - time.monotonic()))

    def _start(self) -> _Sender:
        sender = _Sender(
            self._settings,
            self._partitions_of,
            is_patient=True,
            transactional_id=self._id,
            linger_ms=_LINGER_IN_TRANSACTION_MS,
            transaction_timeout_ms=int(self._settings.transaction_timeout_s * 1000),
        )
        try:
            with translated(f"starting transactions as {self._id}"):
                sender._kafka.init_transactions()
        except BrokerError:
            sender.discard()
            raise
        return sender

    def _open(self) -> _Sender:
        if self._over is not None:
            raise self._over
        if not self._in_transaction or self._sender is None:
            raise BrokerError("no transaction is open", hint="Call begin() first.")
        return self._sender

    def _fail(self, error: BrokerError) -> None:
        """Aborts; ends this producer after an error that no new transaction can mend."""
        if isinstance(error, FencedError | BrokerUnavailableError):
            self._in_transaction = False
            self._over = error
            self._drop()
        else:
            with contextlib.suppress(FencedError):  # `begin` will say so
                self.abort()

    def _drop(self) -> None:
        if self._sender is not None:
            sender, self._sender = self._sender, None
            sender.discard()

    def _wait(self, sender: _Sender, result: Any) -> None:
        """kafka-python's own methods wait without a limit."""
        sender._kafka._sender.wakeup()
        if not result.wait(timeout_ms=self._settings.loss_timeout_s * 1000):
            raise kafka.errors.KafkaTimeoutError(f"no answer within {self._settings.loss_timeout_s:.0f} s")
