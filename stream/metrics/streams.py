"""Series of single streams: bounded in number, and gone with their streams.

The first `max_streams` get series of their own, all others share those of ``stream="_other"``. A place is free again
when its stream has sent nothing for long, or its partition is somebody else's: so a flood of made-up streams makes few
series at any time, and few over time. Streams of which nothing could ever be read make room for those that can be.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family

from stream.broker.contract import TopicPartition
from stream.metrics import catalogue as names
from stream.metrics.catalogue import CATALOGUE, OTHER_STREAMS, Metric
from stream.metrics.coverage import ratio_now
from stream.metrics.store import Labels, family

#: Streams beyond the bound that are told apart, to be counted.
_MAX_FOLDED = 10_000
_MAX_LABEL_BYTES = 200
_NEVER = float("-inf")


class _Now(NamedTuple):
    """This moment, by both clocks: what a stream's silence is must not change where somebody sets the machine's."""

    monotonic_s: float
    epoch_s: float

    def stamp(self, at_s: float) -> float:
        """A moment of the monotonic clock in seconds since the epoch, as the machine counts them now; 0 for never."""
        return 0.0 if at_s == _NEVER else self.epoch_s - (self.monotonic_s - at_s)


@dataclass(slots=True)
class StreamTally:
    """What a commit makes known of one stream.

    Args:
        seconds: stream time by why it is not covered; empty where it is.
        is_covered: any frame was really looked at.
        ratio: covered share of about the last minute; None where no time has passed.
        gear: as in the catalogue.
        is_alert_open: any alert is.
        opened: alerts by evidence.
        p_values: evidence -> smallest of the last scored frame; None: no frame was scored.
        anchor_ages_s: origin -> oldest of the last frame that was held against any; None: no such frame.
        frames: that were due; 0 where a record came and gave none.
        is_stranger: nothing of the stream could be read, and never before.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    is_covered: bool = False
    ratio: float | None = None
    gear: float | None = None
    is_alert_open: bool = False
    opened: Counter[str] = field(default_factory=Counter)
    p_values: dict[str, float] | None = None
    anchor_ages_s: dict[str, float] | None = None
    frames: int = 0
    is_stranger: bool = False


@dataclass(slots=True)
class _Series:
    """One stream as it is told.

    ``source``: the partition that it came through last; None for the sum of many. ``heard_s``, ``frame_s``,
    ``covered_at_s``: of its last record, due frame and covered frame, by the monotonic clock; `_NEVER` before it.
    """

    source: TopicPartition | None
    covered_s: float = 0.0
    uncovered_s: dict[str, float] = field(default_factory=dict)
    opened: dict[str, int] = field(default_factory=dict)
    ratio: float | None = None
    gear: float | None = None
    is_alert_open: bool = False
    p_values: dict[str, float] = field(default_factory=dict)
    anchor_ages_s: dict[str, float] = field(default_factory=dict)
    heard_s: float = _NEVER
    frame_s: float = _NEVER
    covered_at_s: float = _NEVER

    def copy(self) -> _Series:
        return _Series(
            self.source,
            self.covered_s,
            dict(self.uncovered_s),
            dict(self.opened),
            self.ratio,
            self.gear,
            self.is_alert_open,
            dict(self.p_values),
            dict(self.anchor_ages_s),
            self.heard_s,
            self.frame_s,
            self.covered_at_s,
        )


class StreamSeries:
    """What is known of single streams. Safe from any thread.

    Args:
        max_streams: those with series of their own.
        idle_s: seconds without a record after which a stream's series go.
        evidences: each gets a count of alerts that begins at 0.
        clock: seconds since the epoch.
        monotonic: seconds.
    """

    def __init__(
        self,
        max_streams: int,
        idle_s: float,
        evidences: Iterable[str] = (),
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max, self._idle_s, self._evidences = max_streams, idle_s, tuple(evidences)
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._series: dict[str, _Series] = {}
        self._other: _Series | None = None
        #: Those of strangers, the newest last.
        self._strangers: dict[str, None] = {}
        #: Streams beyond the bound, by a hash: when a frame of theirs came last.
        self._folded: dict[int, float] = {}
        self._tidied_s = float("-inf")

    def __len__(self) -> int:
        """Streams with series of their own."""
        return len(self._series)

    def merge(self, tallies: Mapping[tuple[TopicPartition, str], StreamTally]) -> None:
        """Take in what a commit made known."""
        now_s = self._monotonic()
        with self._lock:
            if len(self._series) + len(tallies) > self._max and now_s - self._tidied_s >= 1.0:
                self._tidy(now_s)
            for (source, stream), tally in tallies.items():
                # A record that gives no frame does not found a series, but it keeps one.
                if tally.frames or label_of(stream) in self._series:
                    self._take(self._of(source, stream, now_s, is_stranger=tally.is_stranger), tally, now_s)

    def drop(self, sources: Iterable[TopicPartition]) -> None:
        """Forget the streams of partitions that are no longer ours."""
        gone = set(sources)
        with self._lock:
            self._keep(lambda one: one.source not in gone)

    def families(self) -> Iterator[Family]:
        """All series, in the order of the catalogue."""
        now = _Now(self._monotonic(), self._clock())
        with self._lock:
            self._tidy(now.monotonic_s)
            told = {label: one.copy() for label, one in self._series.items()}
            if self._other is not None:
                told[OTHER_STREAMS] = self._other.copy()
            folded = len(self._folded)
        yield family(names.STREAMS_SEEN, {(): float(len(told) + folded - (OTHER_STREAMS in told))})
        yield family(names.STREAMS_FOLDED, {(): float(folded)})
        for metric in CATALOGUE.values():
            if metric.is_per_stream and (series := _READ[metric](told, now)):
                yield family(metric, series)

    def _of(self, source: TopicPartition, stream: str, now_s: float, *, is_stranger: bool) -> _Series:
        label = label_of(stream)
        found = self._series.get(label)
        if not is_stranger:
            self._strangers.pop(label, None)
            if found is None and len(self._series) >= self._max and self._strangers and label != OTHER_STREAMS:
                del self._series[self._strangers.popitem()[0]]
        if found is None and (len(self._series) >= self._max or label == OTHER_STREAMS):
            key = hash(label)
            if key in self._folded or len(self._folded) < _MAX_FOLDED:
                self._folded[key] = now_s
            if self._other is None:
                self._other = self._new(None)
            return self._other
        if found is None:
            found = self._series[label] = self._new(source)
            if is_stranger:
                self._strangers[label] = None
        found.source = source
        return found

    def _new(self, source: TopicPartition | None) -> _Series:
        return _Series(source, opened=dict.fromkeys(self._evidences, 0))

    def _take(self, one: _Series, tally: StreamTally, now_s: float) -> None:
        for reason, seconds in tally.seconds.items():
            if reason:
                one.uncovered_s[reason] = one.uncovered_s.get(reason, 0.0) + seconds
            else:
                one.covered_s += seconds
        for evidence, count in tally.opened.items():
            one.opened[evidence] = one.opened.get(evidence, 0) + count
        one.heard_s = now_s
        if tally.frames:
            one.frame_s = now_s
        if tally.is_covered:
            one.covered_at_s = now_s
        if one is self._other:
            return  # what is left is of one stream, not of a sum
        one.gear = one.gear if tally.gear is None else tally.gear
        one.ratio = one.ratio if tally.ratio is None else tally.ratio
        one.is_alert_open = tally.is_alert_open
        one.p_values = one.p_values if tally.p_values is None else tally.p_values
        one.anchor_ages_s = one.anchor_ages_s if tally.anchor_ages_s is None else tally.anchor_ages_s

    def _keep(self, is_kept: Callable[[_Series], bool]) -> None:
        self._series = {label: one for label, one in self._series.items() if is_kept(one)}
        self._strangers = {label: None for label in self._strangers if label in self._series}

    def _tidy(self, now_s: float) -> None:
        """Forget who has sent nothing for long."""
        before_s, self._tidied_s = now_s - self._idle_s, now_s
        self._keep(lambda one: one.heard_s >= before_s)
        self._folded = {key: seen_s for key, seen_s in self._folded.items() if seen_s >= before_s}


def label_of(stream: str) -> str:
    """A stream's id as a label: a long one ends in a digest of the whole."""
    data = stream.encode()
    if len(data) <= _MAX_LABEL_BYTES:
        return stream
    return f"{data[: _MAX_LABEL_BYTES - 20].decode(errors='ignore')}~{hashlib.sha256(data).hexdigest()[:16]}"


_Told = Mapping[str, _Series]
_Values = dict[Labels, float]


def _ratios(told: _Told, now: _Now) -> _Values:
    return {
        (label,): ratio
        for label, one in told.items()
        if (ratio := ratio_now(one.ratio, now.monotonic_s - one.frame_s)) is not None
    }


def _single(told: _Told, value: Callable[[_Series], float | None]) -> _Values:
    found = {(label,): value(one) for label, one in told.items()}
    return {labels: number for labels, number in found.items() if number is not None}


def _spread(told: _Told, values: Callable[[_Series], Mapping[str, float]]) -> _Values:
    return {(label, key): float(value) for label, one in told.items() for key, value in values(one).items()}


def _own(one: _Series, value: float) -> float | None:
    """What is not told of a sum of streams."""
    return None if one.source is None else value


_READ: dict[Metric, Callable[[_Told, _Now], _Values]] = {
    names.STREAM_SECONDS: lambda told, _: _single(told, lambda one: one.covered_s + sum(one.uncovered_s.values())),
    names.STREAM_COVERED: lambda told, _: _single(told, lambda one: one.covered_s),
    names.STREAM_UNCOVERED: lambda told, _: _spread(told, lambda one: one.uncovered_s),
    names.STREAM_COVERAGE: _ratios,
    names.STREAM_LAST_FRAME: lambda told, now: _single(told, lambda one: now.stamp(one.frame_s)),
    names.STREAM_LAST_COVERED: lambda told, now: _single(told, lambda one: now.stamp(one.covered_at_s)),
    names.STREAM_GEAR: lambda told, _: _single(told, lambda one: one.gear),
    names.STREAM_ALERT_OPEN: lambda told, _: _single(told, lambda one: _own(one, float(one.is_alert_open))),
    names.STREAM_ALERTS: lambda told, _: _spread(told, lambda one: one.opened),
    names.STREAM_P_VALUE: lambda told, _: _spread(told, lambda one: one.p_values),
    names.STREAM_ANCHOR_AGE: lambda told, _: _spread(told, lambda one: one.anchor_ages_s),
}
