"""A member of a consumer group on Apache Kafka, with the guarantees that exactly-once needs.

kafka-python 3.0.12 read and tested, and what is done about it here:

- Its rebalance listeners run on its own I/O thread and block heartbeats. Ours run on the caller's thread: after every
  step of its poll loop the assignment is compared with what was told before. New partitions are paused
  until their listener has run; revoked ones stay nobody's until the next step, which is when it joins again (KIP-429).
- A member that was thrown out claims its old partitions when it joins again, because its assignor forgets to forget
  (and its subscriptions carry no generation by which the leader could tell). `Assignor` forgets.
- Thrown out in the middle of a rebalance, it does not tell its listener that the partitions are lost. `Assignor`
  sees every join, and so that one.
- It asks for stable offsets when it reads committed records (KIP-447), so offsets of open transactions are waited for.
- It keeps silent when the brokers are gone. `poll` watches its connections.
- A join that is answered between two polls is thrown away, and the next poll joins again: with short polls a group can
  rebalance for ever. And a leader that joined because topics changed forgets that it did: the answer is never taken,
  its heartbeats stay off. `keep_join` keeps the answer and the reason.
- A step of its poll loop raises what its connections meet (refused, timed out), although it would try again by itself.
  `poll` lets it, for as long as the settings allow a loss.
- After `resume` it never reads a partition again whose records it had already unpacked, as long as the place of the
  record batch in work is taken by an empty one. `unstick` clears that place.
- A poll hands up to three tasks to its I/O thread and waits for each, which takes long beside threads that decode:
  whether the coordinator is known (`trust_known_coordinator`), the questions to the brokers, and an answer to them. A
  `poll` without a wait waits for none (`_fetch_in_haste`), and takes a step only where an answer has come (`_is_idle`).
- While the brokers hold back the answer for partitions without records, a partition whose records were still buffered
  when they were asked is not asked for. So brokers may wait long only where nothing was buffered (`_ask_patiently`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import kafka
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState
from kafka.util import Timer

from stream.broker.contract import Listener, Record, TopicPartition
from stream.broker.errors import BrokerError, BrokerUnavailableError
from stream.broker.kafka_client import KafkaSettings, connect, retried, translated

#: A consumer that never waits for records looks after its group and its connections this often, s.
_STEP_S = 0.2
#: How long brokers may hold back an answer that has no records, ms: where another question waits, and where none does.
_SHORT_MS, _LONG_MS = 100, 500


class Assignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """Tells the consumer of every attempt to join, and claims no partition that was lost."""

    def __init__(self, joining: Callable[[], bool]) -> None:
        super().__init__()
        self._joining = joining

    def metadata(self, topics: set[str]) -> Any:
        """What a join says of us (KIP-429): topics and owned partitions."""
        if self._joining():
            self.member_assignment = None
        return super().metadata(topics)


class KafkaConsumer:
    """`stream.broker.contract.Consumer` on Apache Kafka."""

    def __init__(
        self, settings: KafkaSettings, group: str, instance_id: str | None, partitions: Callable[[str], int]
    ) -> None:
        self._settings = settings
        self._partitions_of = partitions
        self._listener: Listener | None = None
        self._held: set[TopicPartition] = set()  # ours, and the listener knows
        self._paused: set[TopicPartition] = set()  # by the caller
        self._thrown_out = False  # set on kafka-python's thread, read and cleared on ours
        self._doubtful: set[TopicPartition] = set()  # lost, but kafka-python still has a position for it
        self._alone_since: float | None = None
        self._failing_since: float | None = None
        self._stepped_s = float("-inf")  # of the last step, by the monotonic clock
        self._asked: set[Any] = set()  # nodes that owed an answer then; set on kafka-python's thread, too
        self._asking: Any = None  # kafka-python's future of the questions that were handed over
        self._closed = False
        self._kafka: Any = connect(
            kafka.KafkaConsumer,
            settings,
            **reading(settings, committed=True),
            group_id=group,
            group_instance_id=instance_id,
            partition_assignment_strategy=[Assignor(self._joining)],
            session_timeout_ms=int(settings.session_timeout_s * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_s * 1000),
            max_poll_interval_ms=int(settings.max_poll_interval_s * 1000),
        )
        trust_known_coordinator(self._kafka._coordinator)
        self._fetch = self._kafka._fetcher.fetch_records

    def subscribe(self, topics: Sequence[str] | re.Pattern[str], listener: Listener) -> None:
        """See the contract. Raises `TopicNotFoundError` for a name that does not exist."""
        self._listener = listener
        told = _Told(self._pause_on_their_thread, self._lost_on_their_thread)
        with translated("subscribing"):
            if isinstance(topics, re.Pattern):
                self._kafka.subscribe(pattern=topics.pattern, listener=told)
            else:
                for topic in topics:
                    self._partitions_of(topic)
                self._kafka.subscribe(topics=list(topics), listener=told)

    def poll(self, timeout_s: float, max_records: int) -> list[Record]:
        """See the contract."""
        if not timeout_s and self._is_idle():
            return []
        timer, fetcher = Timer(timeout_s * 1000), self._kafka._fetcher
        while True:
            # Where asking fails, it is waited for, so that it is seen to go on failing.
            is_hasty = not timeout_s and self._failing_since is None
            fetcher.fetch_records = self._fetch_in_haste if is_hasty else self._fetch
            batches = self._step(timer, max_records)
            self._stepped_s = time.monotonic()
            if not is_hasty:
                self._asked = set(fetcher._nodes_with_pending_fetch_requests)
            kept = self._settle()
            records = [record(found) for part, batch in batches.items() if part in kept for found in batch]
            if records or not timer.timeout_ms:
                break
        self._watch_connections()
        return records

    def _step(self, timer: Timer, max_records: int) -> dict[Any, list[Any]]:
        """One step: it joins or rejoins at most once. Its public poll would run two joins in a row, and the partitions
        would be somebody else's before we could commit."""
        try:
            with translated("reading from the group"):
                unstick(self._kafka)
                self._ask_patiently()
                batches: dict[Any, list[Any]] = self._kafka._poll_once(timer, max_records)
                keep_join(self._kafka)
        except BrokerUnavailableError:
            now = time.monotonic()
            self._failing_since = now if self._failing_since is None else self._failing_since
            if now - self._failing_since > self._settings.loss_timeout_s:
                raise
            time.sleep(_STEP_S)
            return {}
        self._failing_since = None
        return batches

    def _fetch_in_haste(self, max_records: int, update_offsets: bool, **_: float) -> tuple[dict[Any, Any], bool]:
        """The fetcher's `fetch_records` for a step without a wait: what is there. To send the questions is left to the
        I/O thread."""
        fetcher = self._kafka._fetcher
        if self._asking is not None and self._asking.is_done:
            asking, self._asking = self._asking, None
            if asking.failed():
                raise asking.exception
        records, is_more = fetcher.fetched_records(max_records, update_offsets=update_offsets)
        if not is_more and self._asking is None:
            self._asked = set()
            self._asking = fetcher._manager.call_soon(self._ask)
        return records, False

    async def _ask(self) -> None:
        """On kafka-python's thread: send its questions."""
        fetcher = self._kafka._fetcher
        await fetcher._send_fetches_async()
        self._asked = set(fetcher._nodes_with_pending_fetch_requests)

    def _ask_patiently(self) -> None:
        """Before a step: the questions of one that has nothing to hand over may be answered late."""
        fetcher = self._kafka._fetcher
        is_buffered = fetcher._completed_fetches or fetcher._next_partition_records
        fetcher.config["fetch_max_wait_ms"] = _SHORT_MS if is_buffered else _LONG_MS

    def _is_idle(self) -> bool:
        """Whether a step could find nothing: no answer has come since the last one, and nothing else was asked for."""
        fetcher = self._kafka._fetcher
        if self._thrown_out or fetcher._completed_fetches or fetcher._next_partition_records:
            return False
        is_answered = not self._asked <= fetcher._nodes_with_pending_fetch_requests
        return not is_answered and time.monotonic() - self._stepped_s < _STEP_S

    def assignment(self) -> set[TopicPartition]:
        """See the contract. What kafka-python has given up already is not ours, though the listener hears it next."""
        return self._held & {ours(partition) for partition in self._kafka.assignment()}

    def committed(self, partition: TopicPartition) -> int | None:
        """See the contract."""
        with translated(f"reading the committed offset of {name(partition)}"):
            offset: int | None = self._kafka.committed(
                theirs(partition), timeout_ms=self._settings.loss_timeout_s * 1000
            )
        return offset

    def position(self, partition: TopicPartition) -> int:
        """See the contract."""
        self._must_hold(partition)
        with translated(f"reading the position in {name(partition)}"):
            limit_s = self._settings.loss_timeout_s
            there = theirs(partition)
            offset: int | None = retried(
                lambda: self._kafka.position(there, timeout_ms=limit_s * 1000), within_s=limit_s
            )
        if offset is None:
            raise self._unavailable(f"no position in {name(partition)}")
        return offset

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """See the contract."""
        if self._is_here(partition):
            self._kafka.seek(theirs(partition), offset)
        self._stepped_s = float("-inf")

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """See the contract."""
        for partition in partitions:
            self._paused.add(partition)
            if self._is_here(partition):
                self._kafka.pause(theirs(partition))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """See the contract."""
        for partition in partitions:
            self._paused.discard(partition)
            if self._is_here(partition):
                self._kafka.resume(theirs(partition))
        self._stepped_s = float("-inf")

    def group(self) -> Any:
        """See the contract. Without a generation it is refused by our producer (the broker would take it)."""
        return self._kafka.group_metadata()

    def close(self, timeout_s: float) -> None:
        """See the contract."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._held and self._listener is not None:
                if self._thrown_out or self._kafka.group_metadata().generation_id < 0:
                    self._listener.lost(sorted(self._held))
                else:
                    self._listener.revoked(sorted(self._held))
        finally:
            self._held = set()
            with translated("leaving the group"):
                self._kafka.close(autocommit=False, timeout_ms=int(timeout_s * 1000))

    def _joining(self) -> bool:
        """On kafka-python's thread, before every join: are we out of the group?"""
        out: bool = self._kafka.group_metadata().generation_id < 0
        if out:
            held = self._kafka.assignment()
            self._kafka.pause(*held)
            self._thrown_out = self._thrown_out or bool(held)
        return out

    def _pause_on_their_thread(self, partitions: set[Any]) -> None:
        self._kafka.pause(*partitions)

    def _lost_on_their_thread(self, _partitions: set[Any]) -> None:
        self._thrown_out = True

    def _settle(self) -> set[TopicPartition]:
        """Tells the listener what has changed. Returns the partitions whose records of this step count."""
        if self._listener is None:
            raise BrokerError("nothing is subscribed", hint="Call subscribe() before poll().")
        if self._thrown_out:
            self._thrown_out = False
            gone = self._forget(self._held)
            self._doubtful |= gone
            if gone:
                self._listener.lost(sorted(gone))
        if self._kafka.group_metadata().state != MemberState.STABLE:
            return set(self._held)
        now = {ours(partition) for partition in self._kafka.assignment()}
        revoked, added = self._held - now, now - self._held
        if revoked:
            try:
                self._listener.revoked(sorted(revoked))
            finally:
                self._forget(revoked)
        if added:
            self._to_committed(added & self._doubtful)
            self._held |= added
            self._listener.assigned(sorted(added))
            self._kafka.resume(*[theirs(partition) for partition in added - self._paused])
        return self._held - added

    def _forget(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        gone = set(partitions)
        self._held -= gone
        self._paused -= gone
        return gone

    def _to_committed(self, partitions: set[TopicPartition]) -> None:
        for partition in partitions:
            offset = self.committed(partition)
            if offset is None:
                self._kafka.seek_to_beginning(theirs(partition))
            else:
                self._kafka.seek(theirs(partition), offset)
        self._doubtful -= partitions

    def _watch_connections(self) -> None:
        brokers = self._kafka._cluster.brokers()
        if any(self._kafka._client.connected(broker.node_id) for broker in brokers):
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = now if self._alone_since is None else self._alone_since
        if now - self._alone_since > self._settings.loss_timeout_s:
            raise self._unavailable(f"no broker can be reached for {self._settings.loss_timeout_s:.0f} s")

    def _unavailable(self, what: str) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"{what} ({self._settings.bootstrap_servers})",
            hint="Nothing was lost: start again when the brokers are back; work goes on at the last commit.",
        )

    def _is_here(self, partition: TopicPartition) -> bool:
        """Whether kafka-python has it, too; of what it has given up already the listener hears next."""
        self._must_hold(partition)
        return theirs(partition) in self._kafka.assignment()

    def _must_hold(self, partition: TopicPartition) -> None:
        if partition not in self._held:
            raise BrokerError(f"{name(partition)} is not ours", hint="Only partitions of `assignment()` can be moved.")


class _Told(kafka.ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """What kafka-python tells on its own thread; nothing that blocks happens here."""

    def __init__(self, pause: Callable[[set[Any]], None], lost: Callable[[set[Any]], None]) -> None:
        self._pause = pause
        self._lost = lost

    def on_partitions_assigned(self, assigned: set[Any]) -> None:
        """No record of these before our listener has run."""
        self._pause(assigned)

    def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Seen by comparing assignments."""

    def on_partitions_lost(self, lost: set[Any]) -> None:
        """The group went on without us."""
        self._lost(lost)


def reading(settings: KafkaSettings, *, committed: bool) -> dict[str, Any]:
    """Configuration of everything that reads."""
    return {
        "isolation_level": "read_committed" if committed else "read_uncommitted",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "fetch_max_bytes": settings.fetch_bytes,
        "max_partition_fetch_bytes": settings.fetch_partition_bytes,
        "fetch_max_wait_ms": _SHORT_MS,
        "metrics_enabled": False,
    }


class _Join:
    """A join under way that never looks finished, so that its answer is taken and not asked for again."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self.add_callback = task.add_callback
        self.add_errback = task.add_errback


def trust_known_coordinator(coordinator: Any) -> None:
    """A coordinator that is known and connected need not be looked up on the I/O thread."""
    ensure_ready, client = coordinator.ensure_coordinator_ready, coordinator._client

    def is_ready(timeout_ms: float | None = None) -> bool:
        known = coordinator.coordinator_id
        return (known is not None and client.connected(known)) or bool(ensure_ready(timeout_ms=timeout_ms))

    coordinator.ensure_coordinator_ready = is_ready


def keep_join(consumer: Any) -> None:
    """After every step: the next one takes the answer to a join that this one began."""
    coordinator = consumer._coordinator
    if coordinator._join_task is not None:
        coordinator.request_rejoin()
        if not isinstance(coordinator._join_task, _Join):
            coordinator._join_task = _Join(coordinator._join_task)


def unstick(consumer: Any) -> None:
    """Before every read: frees the place that an exhausted batch holds against those of resumed partitions."""
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None


def record(found: Any) -> Record:
    """kafka-python's record as ours."""
    return Record(
        topic=found.topic,
        partition=found.partition,
        offset=found.offset,
        key=found.key,
        value=found.value,
        headers=tuple((key, value or b"") for key, value in found.headers),
        timestamp_ms=found.timestamp,
    )


def theirs(partition: TopicPartition) -> Any:
    """Our partition as kafka-python's."""
    return kafka.TopicPartition(partition.topic, partition.partition)


def ours(partition: Any) -> TopicPartition:
    """kafka-python's partition as ours."""
    return TopicPartition(partition.topic, partition.partition)


def name(partition: TopicPartition) -> str:
    """For messages: `topic[3]`."""
    return f"{partition.topic}[{partition.partition}]"
