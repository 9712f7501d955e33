"""Scores and alerts as they come: followed on their topics, and summed up per stream for people to look at."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from difffake.results import Level
from stream.broker.contract import Broker, Record, TopicPartition
from stream.messages import UNKNOWN, AlertRecord, Face, FaceEvidence, ScoreRecord, Status
from stream.messages.alerts import AlertState
from stream.metrics.coverage import Coverage, ratio_now

_S = 1_000_000_000
_CLOSE_S = 5.0
#: PTS that lie so near the clock are taken for times of day, and the difference for lag.
_WALL_CLOCK_S = 7 * 86_400.0
_MAX_PEOPLE = 32


@dataclass(frozen=True, slots=True)
class Worst:
    """The most suspicious that was said about one evidence; ``p_value`` accumulated where there was that."""

    level: Level
    p_value: float

    def is_worse_than(self, other: Worst | None) -> bool:
        """By level first."""
        return other is None or (self.level.rank, -self.p_value) > (other.level.rank, -other.p_value)


@dataclass(frozen=True, slots=True)
class Row:
    """One stream at a moment; what happened "lately" is within the board's window of stream time.

    Args:
        stream: its id.
        pts_ns: of its last frame.
        status, reason: of its last frame.
        people: names, or ``person N``, seen lately, the latest first.
        worst: by evidence, lately.
        coverage: share of about the last minute that was really looked at, as in `stream.metrics.coverage`; None before
            any time has passed.
        frames: analysed lately.
        lag_s: how far the last frame's PTS is behind the clock; None where PTS are no times of day.
        silent_s: since its last record was written.
    """

    stream: str
    pts_ns: int
    status: Status
    reason: str
    people: tuple[str, ...]
    worst: dict[str, Worst]
    coverage: float | None
    frames: int
    lag_s: float | None
    silent_s: float

    @property
    def rank(self) -> int:
        """0, 1, 2: the worst level of any evidence."""
        return max((w.level.rank for w in self.worst.values()), default=0)


@dataclass(slots=True)
class _Second:
    """What one second of stream time held."""

    frames: int = 0
    worst: dict[str, Worst] = field(default_factory=dict)


@dataclass(slots=True)
class _Stream:
    last: ScoreRecord
    timestamp_ms: int
    coverage: Coverage = field(default_factory=Coverage)
    seconds: OrderedDict[int, _Second] = field(default_factory=OrderedDict)
    people: OrderedDict[str, int] = field(default_factory=OrderedDict)


class Board:
    """Rows for a table, out of score records and alerts in the order of their topics. Memory is bounded.

    Args:
        window_s: what "lately" means, seconds of stream time.
        max_streams: the least recently heard of are dropped beyond.
        max_alerts: kept, the newest.
    """

    def __init__(self, *, window_s: int = 60, max_streams: int = 1000, max_alerts: int = 20) -> None:
        self._window_s, self._max_streams, self._max_alerts = window_s, max_streams, max_alerts
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._alerts: OrderedDict[str, AlertRecord] = OrderedDict()

    def feed(self, record: ScoreRecord, timestamp_ms: int) -> None:
        """Take in a score record; ``timestamp_ms``: when it was written, since the epoch."""
        stream = self._streams.get(record.stream)
        if stream is None:
            stream = self._streams[record.stream] = _Stream(record, timestamp_ms)
        stream.last, stream.timestamp_ms = record, timestamp_ms
        self._streams.move_to_end(record.stream)
        if len(self._streams) > self._max_streams:
            self._streams.popitem(last=False)
        now_s = record.pts_ns // _S
        second = stream.seconds.setdefault(now_s, _Second())
        second.frames += 1
        stream.coverage.add(record.pts_ns, record.status)
        for face in record.faces:
            for name, evidence in face.evidence.items():
                worst = _worst(evidence)
                if worst.is_worse_than(second.worst.get(name)):
                    second.worst[name] = worst
            self._see(stream, face, now_s)
        begin_s = now_s - self._window_s
        while (oldest := next(iter(stream.seconds))) <= begin_s or len(stream.seconds) > self._window_s + 1:
            del stream.seconds[oldest]
        while stream.people and next(iter(stream.people.values())) <= begin_s:
            stream.people.popitem(last=False)

    def feed_alert(self, alert: AlertRecord) -> None:
        """Take in an alert; a later record of it takes the place of the one before."""
        self._alerts[alert.id] = alert
        self._alerts.move_to_end(alert.id)
        if len(self._alerts) > self._max_alerts:
            closed = (key for key, other in self._alerts.items() if other.state is AlertState.CLOSED)
            del self._alerts[next(closed, next(iter(self._alerts)))]

    def rows(self, now_ms: int) -> list[Row]:
        """A row per stream, the most suspicious first, then by id; ``now_ms``: the clock, since the epoch."""
        rows = [self._row(stream, now_ms) for stream in self._streams.values()]
        return sorted(rows, key=lambda row: (-row.rank, row.stream))

    def alerts(self) -> list[AlertRecord]:
        """Open ones first, the newest first."""
        newest = list(reversed(self._alerts.values()))
        return [a for a in newest if a.state is not AlertState.CLOSED] + [
            a for a in newest if a.state is AlertState.CLOSED
        ]

    def _see(self, stream: _Stream, face: Face, now_s: int) -> None:
        if face.name is None and face.person == UNKNOWN:
            return
        who = face.name if face.name is not None else f"person {face.person}"
        stream.people[who] = now_s
        stream.people.move_to_end(who)
        if len(stream.people) > _MAX_PEOPLE:
            stream.people.popitem(last=False)

    def _row(self, stream: _Stream, now_ms: int) -> Row:
        last, worst = stream.last, dict[str, Worst]()
        for second in stream.seconds.values():
            for name, found in second.worst.items():
                if found.is_worse_than(worst.get(name)):
                    worst[name] = found
        silent_s = max(0.0, (now_ms - stream.timestamp_ms) / 1000)
        return Row(
            stream=last.stream,
            pts_ns=last.pts_ns,
            status=last.status,
            reason=last.reason,
            people=tuple(reversed(stream.people)),
            worst=worst,
            coverage=ratio_now(stream.coverage.ratio, silent_s),
            frames=sum(second.frames for second in stream.seconds.values()),
            lag_s=lag_s(last, now_ms),
            silent_s=silent_s,
        )


class Follower:
    """Committed records of topics as they come, from now on or from the beginning; use as a context manager.

    It reads in a group of its own, commits nothing, and never waits for an open transaction longer than it is asked
    to.

    Raises:
        TopicNotFoundError: a topic that does not exist; from `poll` too, once it is deleted.
        BrokerError: and its leaves, from `poll` too.
    """

    def __init__(
        self, broker: Broker, topics: Sequence[str], *, from_beginning: bool = False, group: str | None = None
    ) -> None:
        self._from_beginning = from_beginning
        self._reader = broker.reader()
        self._seen: set[TopicPartition] = set()
        self._consumer = broker.consumer(group or f"difffake-tail-{uuid.uuid4().hex[:12]}")
        self._consumer.subscribe(list(topics), self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the group."""
        self._consumer.close(_CLOSE_S)
        self._reader.close()

    def poll(self, timeout_s: float, max_records: int = 500) -> list[Record]:
        """Records that have come; empty after ``timeout_s``."""
        return self._consumer.poll(timeout_s, max_records)

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """Skip what was there before; see `stream.broker.contract.Listener`."""
        for partition in partitions:
            if not self._from_beginning and partition not in self._seen:
                self._consumer.seek(partition, self._reader.end_offset(partition))
            self._seen.add(partition)

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """Nothing to flush."""

    def lost(self, partitions: list[TopicPartition]) -> None:
        """Nothing to drop."""


def lag_s(last: ScoreRecord, now_ms: int) -> float | None:
    """How far a stream's last frame is behind the clock; None where PTS are no times of day."""
    behind_s = now_ms / 1000 - last.pts_ns / _S
    return behind_s if abs(behind_s) < _WALL_CLOCK_S else None


def _worst(evidence: FaceEvidence) -> Worst:
    p_value = evidence.accumulated if evidence.accumulated is not None else evidence.p_value
    return Worst(evidence.level, p_value)
