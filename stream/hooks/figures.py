"""What a scrape is told of hooks."""

from __future__ import annotations

from stream.hooks.runner import Hooks
from stream.metrics import processes as names
from stream.metrics.processes import ProcessMetrics, Values, by_label, single

OUTCOMES = ("delivered", "refused", "given_up", "expired", "skipped", "unreadable")


def hook_metrics(hooks: Hooks) -> ProcessMetrics:
    """The metrics and the health of hooks, for `stream.probes.Door`."""
    return ProcessMetrics(lambda: _values(hooks), hooks.health, names.HOOK_REQUESTS)


def _values(hooks: Hooks) -> Values:
    counts = hooks.counts
    return {
        names.HOOK_ALERTS: by_label({outcome: counts[outcome] for outcome in OUTCOMES}),
        names.HOOK_ATTEMPTS: single(counts["attempts"]),
        names.HOOK_RETRIES: single(counts["retries"]),
        names.HOOK_WAITING: single(hooks.waiting),
        names.HOOK_LAG: single(hooks.lag_s),
        names.HOOK_DELIVERED: single(hooks.delivered_s),
        names.HOOK_PARTITIONS: single(hooks.partitions),
    }
