"""Consumer, producers and reader of the in-memory broker."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stream.broker.contract import Headers, Listener, Record, TopicPartition
from stream.broker.errors import BrokerError, FencedError, MessageTooLargeError, StaleGroupError
from stream.broker.memory_group import Member, Membership
from stream.broker.memory_log import State, Transaction, size_bytes

if TYPE_CHECKING:
    from stream.broker.memory import MemoryBroker

READ_RECORDS = 500


class MemoryConsumer:
    """`stream.broker.contract.Consumer` in memory."""

    def __init__(self, broker: MemoryBroker, group: str, instance_id: str | None) -> None:
        self._broker = broker
        self._group = broker.group(group)
        self._instance_id = instance_id
        self._topics: tuple[str, ...] | re.Pattern[str] | None = None
        self._listener: Listener | None = None
        self._member: Member | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._held: set[TopicPartition] = set()
        self._paused: set[TopicPartition] = set()
        self._closed = False

    def subscribe(self, topics: Sequence[str] | re.Pattern[str], listener: Listener) -> None:
        """See the contract."""
        with self._broker.session():
            if not isinstance(topics, re.Pattern):
                topics = tuple(topics)
                for topic in topics:
                    self._broker.spec(topic)
            self._topics, self._listener = topics, listener

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        """See the contract."""
        until_s = time.monotonic() + timeout_s
        while True:
            self._settle()
            with self._broker.session():
                records = self._fetch(max_records)
                if records or not self._broker.wait(until_s):
                    return records

    def assignment(self) -> set[TopicPartition]:
        """See the contract."""
        return set(self._held)

    def committed(self, partition: TopicPartition) -> int | None:
        """See the contract."""
        until_s = time.monotonic() + self._broker.settings.loss_timeout_s
        while True:
            with self._broker.session():
                if not self._broker.pending(self._group.name, partition):
                    return self._group.committed.get(partition)
                if not self._broker.wait(until_s):
                    raise BrokerError(f"an open transaction holds the offset of {partition}", hint="Wait for its end.")

    def position(self, partition: TopicPartition) -> int:
        """See the contract."""
        self._must_hold(partition)
        if partition not in self._positions:
            self._positions[partition] = self.committed(partition) or 0
        return self._positions[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See the contract."""
        self._must_hold(partition)
        self._positions[partition] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See the contract."""
        for partition in partitions:
            self._must_hold(partition)
            self._paused.add(partition)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """See the contract."""
        for partition in partitions:
            self._must_hold(partition)
            self._paused.discard(partition)

    def group(self) -> Any:
        """See the contract."""
        member = self._member
        name, generation = (member.name, member.generation) if member else ("", -1)
        return Membership(self._group.name, name, generation, self._instance_id)

    def silence(self, now_s: float) -> None:
        """No heartbeat arrives from now on."""
        if self._member is not None:
            self._member.silent_since_s = now_s

    def close(self, timeout_s: float) -> None:  # noqa: ARG002  (nothing here takes time)
        """See the contract."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._held and self._listener is not None:
                tell = self._listener.revoked if self._is_member() else self._listener.lost
                tell(sorted(self._held))
        finally:
            self._forget(set(self._held))
            with self._broker.session():
                if self._member is not None and self._instance_id is None:
                    self._group.leave(self._member)
                else:
                    self.silence(self._broker.clock())

    def _is_member(self) -> bool:
        with self._broker.session():
            return self._member is not None and self._group.members.get(self._member.name) is self._member

    def _settle(self) -> None:
        """Takes its place in the group and tells the listener what has changed, outside the broker's lock."""
        if self._closed or self._topics is None or self._listener is None:
            raise BrokerError("nothing is subscribed, or closed", hint="Call subscribe() before poll().")
        if self._member is not None and not self._is_member():
            gone, self._member = set(self._held), None
            self._forget(gone)
            if gone:
                self._listener.lost(sorted(gone))
        with self._broker.session():
            now_s = self._broker.clock()
            if self._member is None:
                self._member = self._group.join(self._topics, self._instance_id, now_s)
            member = self._member
            member.polled_s, member.silent_since_s = now_s, None
            member.generation = self._group.generation
            revoked = self._held - member.target
        if revoked:
            try:
                self._listener.revoked(sorted(revoked))
            finally:
                with self._broker.session():
                    self._forget(revoked)
                    member.owned -= revoked
        with self._broker.session():
            added = self._group.free(member) if self._group.members.get(member.name) is member else set()
            member.owned |= added
            self._held |= added
        if added:
            self._listener.assigned(sorted(added))

    def _fetch(self, limit: int) -> list[Record]:
        found: list[Record] = []
        for partition in sorted(self._held - self._paused):
            if partition not in self._positions:
                if self._broker.pending(self._group.name, partition):
                    continue
                self._positions[partition] = self._group.committed.get(partition, 0)
            records, self._positions[partition] = self._broker.log(partition).read(
                self._positions[partition], limit - len(found), committed=True
            )
            found += records
            if len(found) == limit:
                break
        return found

    def _forget(self, partitions: set[TopicPartition]) -> None:
        self._held -= partitions
        self._paused -= partitions
        for partition in partitions:
            self._positions.pop(partition, None)

    def _must_hold(self, partition: TopicPartition) -> None:
        if partition not in self._held:
            raise BrokerError(f"{partition} is not ours", hint="Only partitions of `assignment()` can be moved.")


class _Sender:
    """What both producers share."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def _append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
        timestamp_ms: int | None,
        transaction: Transaction | None,
    ) -> BrokerError | None:
        """What the broker refuses comes back and is raised later, as on a real one."""
        content = tuple(headers)
        size = size_bytes(key, value, content)
        if size > self._broker.settings.max_message_bytes:
            raise _too_large(topic, size, self._broker.settings.max_message_bytes)
        if key is None and value is None:
            raise BrokerError(f"sending to {topic}: neither key nor value", hint="Give at least one of them.")
        with self._broker.session():
            spec = self._broker.spec(topic)
            source = self._broker.choose(topic, key) if partition is None else TopicPartition(topic, partition)
            if not 0 <= source.partition < spec.partitions:
                raise BrokerError(f"sending to {topic}: no partition {partition}", hint="Check the partition.")
            if size > spec.max_message_bytes:
                return _too_large(topic, size, spec.max_message_bytes)
            stamp = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
            self._broker.log(source).append(
                key=key, value=value, headers=content, timestamp_ms=stamp, transaction=transaction
            )
        return None


def _too_large(topic: str, size: int, limit: int) -> MessageTooLargeError:
    return MessageTooLargeError(
        f"sending to {topic}: {size} bytes are more than {limit}",
        hint="Raise the topic's max.message.bytes and our max_message_bytes, or send smaller messages.",
    )


class MemoryPlainProducer(_Sender):
    """`stream.broker.contract.PlainProducer` in memory."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self._error: BrokerError | None = None

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
        self._error = self._error or self._append(topic, key, value, headers, partition, timestamp_ms, None)

    def flush(self, timeout_s: float) -> None:  # noqa: ARG002  (nothing here takes time)
        """See the contract."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self, timeout_s: float) -> None:
        """See the contract."""
        self.flush(timeout_s)


class MemoryProducer(_Sender):
    """`stream.broker.contract.Producer` in memory."""

    def __init__(self, broker: MemoryBroker, transactional_id: str) -> None:
        super().__init__(broker)
        self._id = transactional_id
        self._epoch = broker.epochs[transactional_id]
        self._transaction: Transaction | None = None
        self._error: BrokerError | None = None
        self._over: BrokerError | None = None

    def begin(self) -> None:
        """See the contract."""
        if self._over is not None:
            raise self._over
        if self._transaction is not None:
            raise BrokerError("a transaction is open", hint="Commit or abort it first.")
        with self._broker.session():
            self._check_epoch()
            self._transaction = self._broker.begin(self._id)
        self._error = None

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
        transaction = self._open()
        with self._broker.session():
            if transaction.state is State.OPEN:  # else its commit will say that we are fenced
                refused = self._append(topic, key, value, headers, partition, timestamp_ms, transaction)
                self._error = self._error or refused

    def commit(self, offsets: Mapping[TopicPartition, int], group: Any) -> None:
        """See the contract."""
        transaction = self._open()
        self._transaction = None
        with self._broker.session():
            self._check_epoch()
            fault = self._broker.commit_fault()
            try:
                if self._error is not None:
                    raise self._error
                if offsets:
                    if group.generation < 0:
                        raise StaleGroupError(f"{self._id}: not in the group", hint="Poll again to join it anew.")
                    self._broker.group(group.group).check(group)
                    transaction.offsets.setdefault(group.group, {}).update(offsets)
                if fault is not None and not fault[1]:
                    raise fault[0]
            except BrokerError as error:
                transaction.offsets.clear()
                self._broker.end(self._id, State.ABORTED)
                self._end_after(error)
                raise
            self._broker.end(self._id, State.COMMITTED)
            if fault is not None:
                self._end_after(fault[0])
                raise fault[0]

    def abort(self) -> None:
        """See the contract."""
        if self._transaction is None:
            return
        self._transaction = None
        with self._broker.session():
            self._check_epoch()
            self._broker.end(self._id, State.ABORTED)

    def close(self, timeout_s: float) -> None:  # noqa: ARG002  (nothing here takes time)
        """See the contract."""
        if self._over is None:
            with contextlib.suppress(FencedError):
                self.abort()
            self._over = BrokerError("this producer is closed", hint="Open a new one.")

    def _open(self) -> Transaction:
        if self._over is not None:
            raise self._over
        if self._transaction is None:
            raise BrokerError("no transaction is open", hint="Call begin() first.")
        return self._transaction

    def _check_epoch(self) -> None:
        if self._epoch != self._broker.epochs[self._id]:
            self._over = FencedError(
                f"{self._id}: another producer took over, or the transaction timed out",
                hint="Another process runs with the same id, or a transaction was open longer than its timeout. "
                "Stop this one.",
            )
            raise self._over

    def _end_after(self, error: BrokerError) -> None:
        if isinstance(error, FencedError | ConnectionError):
            self._over = error


class MemoryReader:
    """`stream.broker.contract.Reader` in memory."""

    def __init__(self, broker: MemoryBroker, *, committed: bool) -> None:
        self._broker = broker
        self._committed = committed

    def read(self, partition: TopicPartition, start: int | None, stop: int) -> Iterator[Record]:
        """See the contract."""
        position = self.beginning_offset(partition) if start is None else start
        until_s = time.monotonic() + self._broker.settings.loss_timeout_s
        while position < stop:
            with self._broker.session():
                records, now = self._broker.log(partition).read(position, READ_RECORDS, committed=self._committed)
                if now == position and not self._broker.wait(until_s):
                    raise BrokerError(
                        f"reading {partition} stands still at {position}, before {stop}",
                        hint="A transaction is open there longer than its timeout.",
                    )
            position = now
            yield from (record for record in records if record.offset < stop)

    def beginning_offset(self, partition: TopicPartition) -> int:
        """See the contract."""
        with self._broker.session():
            return self._broker.log(partition).beginning

    def end_offset(self, partition: TopicPartition) -> int:
        """See the contract."""
        with self._broker.session():
            return self._broker.log(partition).end

    def offset_for_time(self, partition: TopicPartition, timestamp_ms: int) -> int | None:
        """See the contract."""
        with self._broker.session():
            return self._broker.log(partition).offset_for_time(timestamp_ms)

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """See the contract."""
        with self._broker.session():
            return {topic: one for topic in topics if (one := self._broker.topic_id(topic)) is not None}

    def close(self) -> None:
        """See the contract."""
