"""What a scrape is told of the wall."""

from __future__ import annotations

from stream.metrics import processes as names
from stream.metrics.processes import ProcessMetrics, Values, by_label, single
from stream.wall.audit import Audit
from stream.wall.events import Hub


def wall_metrics(hub: Hub, audit: Audit) -> ProcessMetrics:
    """The metrics of a wall."""
    return ProcessMetrics(lambda: _values(hub, audit))


def _values(hub: Hub, audit: Audit) -> Values:
    told, did = hub.wall.figures(), audit.counts
    return {
        names.WALL_CONNECTED: single(told.is_connected),
        names.WALL_READ: by_label({"score": told.scores, "alert": told.alerts}),
        names.WALL_REFUSED: single(told.unread),
        names.WALL_SKIPPED: single(told.skipped),
        names.WALL_LAG: single(told.behind_s),
        names.WALL_STREAMS: single(told.streams),
        names.WALL_ALERTS: single(told.open_alerts),
        names.WALL_PAGES: single(hub.clients),
        names.WALL_DROPPED: single(hub.dropped),
        names.WALL_LOGINS_REFUSED: by_label({"no_token": did["refused"], "too_many": hub.too_many}),
        names.WALL_ACTIONS: by_label({"sent": did["sent"], "failed": did["failed"]}),
    }
