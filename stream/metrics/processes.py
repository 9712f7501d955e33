"""What the processes beside workers expose, `difffake hooks` and `difffake wall`: declared once, as in `catalogue`.

They count for themselves; a scrape reads what they have counted. None of these metrics has a series for each stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from stream.health import Health
from stream.metrics.catalogue import Metric, Type
from stream.metrics.store import Labels, Tally, family

#: Values of one process at one moment.
Values = Mapping[Metric, Mapping[Labels, float]]

HOOKS_SECTION = "Hooks (`difffake hooks --http HOST:PORT`)"
WALL_SECTION = "The wall (`/metrics` where its page is)"


def _hooks(kind: Type, name: str, text: str, /, **labels: str) -> Metric:
    return Metric(f"difffake_hooks_{name}", kind, text, labels, section=HOOKS_SECTION)


def _wall(kind: Type, name: str, text: str, /, **labels: str) -> Metric:
    return Metric(f"difffake_wall_{name}", kind, text, labels, section=WALL_SECTION)


HOOK_ALERTS = _hooks(
    Type.COUNTER,
    "alerts_total",
    "Alert records by what became of them.",
    outcome="`delivered`; `refused`: the receiver does not want it; `given_up`: tried for `--give-up`; "
    "`expired`: older than `--max-age`; `skipped`: of a state that is not sent; `unreadable`",
)
HOOK_ATTEMPTS = _hooks(Type.COUNTER, "attempts_total", "Requests to the receiver, the first of an alert included.")
HOOK_RETRIES = _hooks(Type.COUNTER, "retries_total", "Attempts that failed and are made again.")
HOOK_WAITING = _hooks(Type.GAUGE, "waiting_alerts", "Alerts in memory that are not delivered.")
HOOK_LAG = _hooks(
    Type.GAUGE,
    "lag_seconds",
    "Age of the oldest of them, since Kafka got it; 0 where none waits. Alert on this.",
)
HOOK_DELIVERED = _hooks(
    Type.GAUGE,
    "last_delivery_timestamp_seconds",
    "When the receiver last took one; seconds since the epoch, 0 before it.",
)
HOOK_PARTITIONS = _hooks(Type.GAUGE, "partitions_assigned", "Partitions of the topic of alerts that are this one's.")
HOOK_REQUESTS = _hooks(
    Type.COUNTER,
    "http_requests_total",
    "Requests to its own HTTP door.",
    path="`/metrics`, `/startupz`, `/livez`, `/readyz` or `other`",
    code="status of the answer",
)

WALL_CONNECTED = _wall(Type.GAUGE, "connected", "1 while Kafka answers.")
WALL_READ = _wall(
    Type.COUNTER, "records_total", "Records that were taken in, again after Kafka was lost.", kind="`score` or `alert`"
)
WALL_REFUSED = _wall(Type.COUNTER, "unreadable_records_total", "Records that could not be read.")
WALL_SKIPPED = _wall(
    Type.COUNTER, "skipped_records_total", "Scores that were left out, because the wall could not keep up."
)
WALL_LAG = _wall(
    Type.GAUGE, "lag_seconds", "Age of the last score when it was read, since Kafka got it; 0 where nothing waits."
)
WALL_STREAMS = _wall(Type.GAUGE, "streams", "Streams that have a tile.")
WALL_ALERTS = _wall(Type.GAUGE, "open_alerts", "Alerts that are open.")
WALL_PAGES = _wall(Type.GAUGE, "pages", "Browsers that are connected.")
WALL_DROPPED = _wall(Type.COUNTER, "pages_dropped_total", "Pages that took nothing for too long and were let go.")
WALL_LOGINS_REFUSED = _wall(
    Type.COUNTER,
    "logins_refused_total",
    "Requests of operators that were refused.",
    reason="`no_token`: none, or nobody's; `too_many`: too many of them from one address",
)
WALL_ACTIONS = _wall(
    Type.COUNTER, "actions_total", "What operators did.", outcome="`sent`, or `failed`: Kafka did not take it"
)

#: Name -> metric, in the order of the documentation.
HOOKS = {m.name: m for m in (HOOK_ALERTS, HOOK_ATTEMPTS, HOOK_RETRIES, HOOK_WAITING, HOOK_LAG, HOOK_DELIVERED,
                             HOOK_PARTITIONS, HOOK_REQUESTS)}  # fmt: skip
WALL = {m.name: m for m in (WALL_CONNECTED, WALL_READ, WALL_REFUSED, WALL_SKIPPED, WALL_LAG, WALL_STREAMS, WALL_ALERTS,
                            WALL_PAGES, WALL_DROPPED, WALL_LOGINS_REFUSED, WALL_ACTIONS)}  # fmt: skip


class ProcessMetrics(Collector):
    """The metrics of one such process, with those that every process has.

    Args:
        read: its values of this moment; from any thread.
        health: told by the probes of an HTTP door.
        requests: counts that door's requests, if there is one.

    Attributes:
        registry: what a scrape reads.
    """

    def __init__(
        self, read: Callable[[], Values], health: Health | None = None, requests: Metric | None = None
    ) -> None:
        self.health, self._read, self._requests = health or Health(), read, requests
        self._lock, self._tally = threading.Lock(), Tally()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def http(self, path: str, code: int) -> None:
        """A request was answered; from any thread."""
        if self._requests is not None:
            with self._lock:
                self._tally.add(self._requests, 1, path, str(code))

    def collect(self) -> Iterator[Family]:
        """For the client library."""
        with self._lock:
            answered = {metric: dict(series) for metric, series in self._tally.counts.items()}
        for metric, series in {**self._read(), **answered}.items():
            yield family(metric, series)


def single(value: float) -> dict[Labels, float]:
    """The series of a metric that has no labels."""
    return {(): float(value)}


def by_label(values: Mapping[str, float]) -> dict[Labels, float]:
    """The series of a metric with one label."""
    return {(label,): float(value) for label, value in values.items()}
