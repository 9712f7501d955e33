"""Values of metrics: counted by any thread, and by what waits for a commit."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

from stream.metrics.catalogue import CATALOGUE, OTHER_STREAMS, Metric, Type

Labels = tuple[str, ...]

#: Series of one metric that has no stream: what comes from outside cannot make more of them.
MAX_SERIES = 200
_MAX_LABEL = 200
_OTHER = OTHER_STREAMS


class Tally:
    """Counts and observations. For one thread; a `Store` takes them in whole.

    A histogram is a list: how many fell into each of its buckets, how many above, and the sum of all.
    """

    __slots__ = ("counts", "histograms")

    def __init__(self) -> None:
        self.counts: dict[Metric, dict[Labels, float]] = {}
        self.histograms: dict[Metric, dict[Labels, list[float]]] = {}

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        """Count."""
        series = self.counts.get(metric)
        if series is None:
            series = self.counts[metric] = {}
        if labels not in series:
            labels = _bounded(series, labels)
        series[labels] = series.get(labels, 0.0) + amount

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Take a value into a histogram."""
        histogram = self._histogram(metric, labels)
        histogram[bisect_left(metric.buckets, value)] += 1
        histogram[-1] += value

    def merge(self, other: Tally) -> None:
        """Take all of another one in."""
        for metric, counts in other.counts.items():
            for labels, amount in counts.items():
                self.add(metric, amount, *labels)
        for metric, histograms in other.histograms.items():
            for labels, values in histograms.items():
                histogram = self._histogram(metric, labels)
                for i, value in enumerate(values):
                    histogram[i] += value

    def _histogram(self, metric: Metric, labels: Labels) -> list[float]:
        series = self.histograms.get(metric)
        if series is None:
            series = self.histograms[metric] = {}
        found = series.get(labels)
        if found is None:
            labels = _bounded(series, labels)
            found = series.setdefault(labels, [0.0] * (len(metric.buckets) + 2))
        return found


class Store:
    """What is told: counters and histograms from `Tally`, gauges as they were last set. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tally = Tally()
        self._gauges: dict[Metric, dict[Labels, float]] = {}
        for metric in CATALOGUE.values():
            # A series that begins with its first event hides that event from `rate` and `increase`.
            if metric.type is Type.COUNTER and not metric.labels and metric.name.startswith("difffake_"):
                self._tally.add(metric, 0.0)

    def add(self, metric: Metric, amount: float = 1.0, *labels: str) -> None:
        """Count."""
        with self._lock:
            self._tally.add(metric, amount, *labels)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Take a value into a histogram."""
        with self._lock:
            self._tally.observe(metric, value, *labels)

    def timed(self, time: Metric, seconds: float, count: Metric, amount: float, *labels: str) -> None:
        """Take a time into a histogram and count what it was spent on, at once: one lock for both."""
        with self._lock:
            self._tally.observe(time, seconds, *labels)
            self._tally.add(count, amount, *labels)

    def merge(self, tally: Tally) -> None:
        """Take all of a tally in, at once."""
        with self._lock:
            self._tally.merge(tally)

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        """Set a gauge, or name what an info says."""
        self.replace(metric, {labels: value}, keep=True)

    def replace(self, metric: Metric, values: Mapping[Labels, float], *, keep: bool = False) -> None:
        """Set all series of a gauge, or of a counter that somebody else keeps; others of it are forgotten, unless they
        are to be kept. Not bounded: for what does not come from outside."""
        with self._lock:
            series = self._gauges.setdefault(metric, {}) if keep else {}
            series.update(values)
            self._gauges[metric] = series

    def families(self) -> Iterator[Family]:
        """Everything, in the order of the catalogue; what has no series yet is left out."""
        with self._lock:
            counts = {metric: dict(series) for metric, series in self._tally.counts.items()}
            counts |= {metric: dict(series) for metric, series in self._gauges.items()}
            histograms = {m: {k: list(v) for k, v in s.items()} for m, s in self._tally.histograms.items()}
        for metric in CATALOGUE.values():
            if series := counts.get(metric):
                yield family(metric, series)
            elif distributions := histograms.get(metric):
                yield _histogram_family(metric, distributions)


def family(metric: Metric, series: Mapping[Labels, float]) -> Family:
    """A counter, gauge or info as the client library takes it."""
    names = tuple(metric.labels)
    if metric.type is Type.COUNTER:
        counter = CounterMetricFamily(metric.name, metric.help, labels=names)
        for labels, value in series.items():
            counter.add_metric(labels, value)
        return counter
    if metric.type is Type.GAUGE:
        gauge = GaugeMetricFamily(metric.name, metric.help, labels=names)
        for labels, value in series.items():
            gauge.add_metric(labels, value)
        return gauge
    info = InfoMetricFamily(metric.name.removesuffix("_info"), metric.help)
    for labels in series:
        info.add_metric((), dict(zip(names, labels, strict=True)))
    return info


def _histogram_family(metric: Metric, series: Mapping[Labels, list[float]]) -> Family:
    found = HistogramMetricFamily(metric.name, metric.help, labels=tuple(metric.labels))
    bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
    for labels, values in series.items():
        total, buckets = 0.0, []
        for bound, count in zip(bounds, values, strict=False):
            total += count
            buckets.append((bound, total))
        found.add_metric(labels, buckets, values[-1])
    return found


def _bounded(series: Mapping[Labels, object], labels: Labels) -> Labels:
    """The labels of a series that is not there yet, or of the one for all that are too many."""
    short = tuple(value[:_MAX_LABEL] for value in labels)
    return short if short in series or len(series) < MAX_SERIES else (_OTHER,) * len(labels)
