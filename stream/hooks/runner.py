"""The loop: alerts are read, sent one after the other, tried again, given up, and committed when they are done with.

It is a consumer of its own on the topic of alerts: workers know nothing of it, and a dead receiver costs nobody
anything but memory for `HookSettings.waiting` alerts. Attempts are made on a thread of their own, since one may last
much longer than what is done may wait for its commit; all else runs on the caller's thread.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import structlog

import difffake
from stream.broker.contract import Broker, Record, TopicPartition
from stream.broker.errors import BrokerError, BrokerUnavailableError, FencedError, StaleGroupError
from stream.health import Health
from stream.hooks.delivery import Answer
from stream.hooks.payload import idempotency_key, payload
from stream.hooks.settings import HookSettings
from stream.hooks.signature import SIGNATURE_HEADER, sign
from stream.messages import AlertRecord, MessageError, decode

log = structlog.get_logger()

_COMMIT_S, _CLOSE_S, _COMPLAIN_S = 1.0, 10.0, 60.0
#: Commits in a row that may fail.
_RETRIES = 5
_FAILURES = ("retries", "refused", "given_up", "expired", "unreadable")
_CHANCE = secrets.SystemRandom()


class Poster(Protocol):
    """Sends: a `stream.hooks.Receiver`."""

    def post(self, body: bytes, headers: dict[str, str]) -> Answer:
        """One attempt, on another thread than the loop's."""


@dataclass(slots=True)
class _Event:
    """An alert on its way.

    Args:
        key: the same in every attempt.
        body: what is sent.
        attempts: so far.
        begun_s, due_s: of the first attempt and the next, by the monotonic clock.
        written_s: when Kafka got it, seconds since the epoch; None where nobody knows.
    """

    source: TopicPartition
    offset: int
    key: str
    body: bytes
    written_s: float | None
    attempts: int = 0
    begun_s: float | None = None
    due_s: float = 0.0


class Hooks:
    """Sends the alerts of a topic to one receiver; use one group for each receiver.

    Args:
        broker: where alerts are.
        topic: of alerts.
        receiver: sends.
        settings: see there.
        secret: signs; None: nothing is signed.
        group: consumer group.
        name: unique among those of the group.
        clock, monotonic, jitter: time and chance, for tests.
        poll_s: longest wait for alerts.
        health: is told how the loop goes.

    Attributes:
        counts: what happened, by name: ``delivered``, ``attempts``, ``retries``, ``refused``, ``given_up``,
            ``expired``, ``skipped``, ``unreadable``.
        delivered_s: when the receiver last took an alert, seconds since the epoch; 0 before it.
        partitions: how many are ours.
    """

    def __init__(
        self,
        broker: Broker,
        topic: str,
        receiver: Poster,
        settings: HookSettings,
        *,
        secret: bytes | None = None,
        group: str = "difffake-hooks",
        name: str = "1",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = _CHANCE.random,
        poll_s: float = 0.5,
        health: Health | None = None,
    ) -> None:
        self._receiver, self._settings, self._secret = receiver, settings, secret
        self._clock, self._monotonic, self._jitter, self._poll_s = clock, monotonic, jitter, poll_s
        self.counts: Counter[str] = Counter()
        self.delivered_s, self.partitions = 0.0, 0
        #: When Kafka got the alert that waits longest; None where none waits.
        self._oldest_s: float | None = None
        self.health = health or Health()
        self._events: deque[_Event] = deque()
        #: Done with, not yet committed: the next offset of each partition.
        self._done: dict[TopicPartition, int] = {}
        self._committed_s, self._stopping, self._is_paused = monotonic(), False, False
        self._refused = 0
        #: What the receiver answered last.
        self._said = ""
        self._posts = ThreadPoolExecutor(1, thread_name_prefix="hooks-post")
        self._failed, self._complained_s, self._reason = 0, float("-inf"), ""
        self._producer = broker.producer(f"{group}.{name}")
        self._consumer = broker.consumer(group)
        self._consumer.subscribe([topic], self)

    # -- the loop ----------------------------------------------------------------------------------------------------
    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Send until `stop`, or until ``until`` says so; what was delivered is committed, the rest stays for the next
        one.

        Raises:
            BrokerError: and its leaves.
        """
        try:
            while not self._stopping and not (until is not None and until()):
                self.step()
            while self._done:
                self._commit()
            self.health.stopped()
        finally:
            with contextlib.suppress(BrokerError):
                self._consumer.close(_CLOSE_S)
            with contextlib.suppress(BrokerError):
                self._producer.close(_CLOSE_S)
            self._posts.shutdown(wait=False)

    def stop(self) -> None:
        """End `run` soon; safe in a signal handler."""
        self.health.draining()
        self._stopping = True

    @property
    def waiting(self) -> int:
        """Alerts in memory."""
        return len(self._events)

    @property
    def lag_s(self) -> float:
        """Age of the alert that waits longest, since Kafka got it; 0 where none waits. From any thread."""
        oldest_s = self._oldest_s
        return 0.0 if oldest_s is None else max(0.0, self._clock() - oldest_s)

    def step(self) -> None:
        """Read what there is room for, and make one attempt if it is time."""
        self._make_room()
        due_in_s = max(0.0, self._events[0].due_s - self._monotonic()) if self._events else self._poll_s
        room = max(1, self._settings.waiting - len(self._events))
        for record in self._consumer.poll(min(self._poll_s, due_in_s), room):
            self._take(record)
        self._tell()
        if self._events and self._events[0].due_s <= self._monotonic():
            self._attempt(self._events[0])
            self._tell()
        if self._done and self._monotonic() - self._committed_s >= _COMMIT_S:
            self._commit()
        self._complain()

    def _tell(self) -> None:
        """What others read of this moment."""
        self._oldest_s = self._events[0].written_s if self._events else None
        self.health.running(partitions=self.partitions)

    def _complain(self) -> None:
        """Where alerts did not arrive, say so now and then; not once for each of them."""
        failed = sum(self.counts[name] for name in _FAILURES)
        if failed > self._failed and self._monotonic() - self._complained_s >= _COMPLAIN_S:
            self._failed, self._complained_s = failed, self._monotonic()
            log.warning("alerts do not arrive", waiting=self.waiting, last=self._reason, **dict(self.counts))

    def _make_room(self) -> None:
        is_full = len(self._events) >= self._settings.waiting
        if is_full and not self._is_paused:
            self._consumer.pause(self._consumer.assignment())
        elif self._is_paused and not is_full:
            self._consumer.resume(self._consumer.assignment())
        self._is_paused = is_full

    # -- alerts ------------------------------------------------------------------------------------------------------
    def _take(self, record: Record) -> None:
        try:
            alert = decode(record.value or b"", AlertRecord)
        except MessageError as error:
            self.counts["unreadable"] += 1
            self._reason = f"offset {record.offset}: {error}. {error.hint}"
            return self._skip(record)
        if alert.state not in self._settings.states:
            self.counts["skipped"] += 1
            return self._skip(record)
        written_s = None if record.timestamp_ms < 0 else record.timestamp_ms / 1e3
        if self._expires(record.offset, written_s):
            return self._skip(record)
        body = payload(alert, self._settings.payload, thumbnails=self._settings.thumbnails)
        key = idempotency_key(alert, record.partition, record.offset)
        self._events.append(_Event(record.source, record.offset, key, body, written_s))
        return None

    def _skip(self, record: Record) -> None:
        # Only what nothing before it waits for may be committed now; else it is skipped again after a restart.
        if not any(event.source == record.source for event in self._events):
            self._done[record.source] = record.offset + 1

    def _expires(self, offset: int, written_s: float | None) -> bool:
        """Whether an alert is too old to be sent; counted then, with the reason."""
        age_s = 0.0 if written_s is None else self._clock() - written_s
        if age_s <= self._settings.max_age_s:
            return False
        self.counts["expired"] += 1
        said = f"the receiver's last answer: {self._said}" if self._said else "nothing was sent before it"
        self._reason = f"offset {offset}: {age_s:.0f} s old, over {self._settings.max_age_s:.0f} s; {said}"
        return True

    def _attempt(self, event: _Event) -> None:
        now_s = self._monotonic()
        if self._expires(event.offset, event.written_s):
            return self._finish(event)
        event.begun_s = now_s if event.begun_s is None else event.begun_s
        event.attempts += 1
        self.counts["attempts"] += 1
        answer = self._post(event)
        self._said = f"{answer.status} {answer.reason}"
        if answer.is_done:
            self.counts["delivered"] += 1
            self.delivered_s = self._clock()
            return self._finish(event)
        self._reason = self._said
        if answer.is_final:
            self.counts["refused"] += 1
            return self._finish(event)
        wait_s = self._wait_s(event.attempts, answer)
        if self._monotonic() + wait_s - event.begun_s > self._settings.give_up_s:
            self.counts["given_up"] += 1
            return self._finish(event)
        self.counts["retries"] += 1
        event.due_s = self._monotonic() + wait_s
        return None

    def _post(self, event: _Event) -> Answer:
        """One attempt. Nobody can tell before it how long it will last: what was done before it is committed while it
        lasts, when that is due.

        Raises:
            BrokerError: as `_commit`; what became of the attempt is not known then.
        """
        posting = self._posts.submit(self._receiver.post, event.body, self._headers(event))
        while self._done:
            due_in_s = max(0.0, self._committed_s + _COMMIT_S - self._monotonic())
            if posting in wait([posting], due_in_s).done:
                break
            self._commit()
        return posting.result()

    def _wait_s(self, attempts: int, answer: Answer) -> float:
        settings = self._settings
        longest = min(settings.longest_wait_s, settings.first_wait_s * 2.0 ** min(attempts - 1, 30))
        return max(longest * self._jitter(), answer.retry_after_s)

    def _headers(self, event: _Event) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"difffake/{difffake.__version__}",
            "Idempotency-Key": event.key,
        }
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = sign(self._secret, event.body, int(self._clock()))
        return headers

    def _finish(self, event: _Event) -> None:
        self._events.remove(event)
        self._done[event.source] = event.offset + 1

    # -- offsets -----------------------------------------------------------------------------------------------------
    def _commit(self) -> None:
        """Tell the group what is done with. Where that fails, alerts are sent again with the same key.

        Raises:
            BrokerError: the broker is gone, or refuses again and again.
        """
        self._committed_s = self._monotonic()
        ours = self._consumer.assignment()
        offsets = {source: offset for source, offset in self._done.items() if source in ours}
        self._done.clear()
        if not offsets:
            return
        try:
            self._producer.begin()
            self._producer.commit(offsets, self._consumer.group())
        except StaleGroupError:
            log.warning("the group went on without this one; alerts may be sent twice")
        except (FencedError, BrokerUnavailableError):
            raise
        except BrokerError as error:
            # A broker that was slow once, or has forgotten a producer that had nothing to commit for a week. To end of
            # it would send again what was delivered, and a chat knows nothing of keys.
            self._refused += 1
            if self._refused >= _RETRIES:
                raise
            log.warning("what was delivered cannot be committed yet", error=str(error), failures=self._refused)
            self._done = {**offsets, **self._done}
        else:
            self._refused = 0

    # -- what the group does (called inside poll and close) ------------------------------------------------------------
    def assigned(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        self.partitions += len(partitions)
        if self._is_paused:
            self._consumer.pause(partitions)

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        self._commit()
        self.lost(partitions)

    def lost(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        gone = set(partitions)
        self.partitions -= len(gone)
        self._events = deque(event for event in self._events if event.source not in gone)
        self._done = {source: offset for source, offset in self._done.items() if source not in gone}
