"""The alerts that the wall shows: the newest record of each, open ones first, bounded."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from stream.messages import AlertRecord, AlertState

#: Larger ones are not kept: what workers send is a few KiB.
_MAX_THUMBNAIL_BYTES = 64 << 10
_JPEG = b"\xff\xd8\xff"
_GONE = 1024
#: Open alerts whose streams are known; of far more than anybody lists or looks at, the first are forgotten.
_MAX_OPEN = 50_000


@dataclass(slots=True)
class AlertView:
    """One alert.

    Args:
        record: its newest.
        opened_ms, told_ms: when the first and the newest of its records were written, since the epoch.
        revision: the wall's when it last changed.
        thumbnail: JPEG; empty where there is none.
        replay: address of the score record of its first frame; empty while that is not known.
        is_sought: it was looked for where the wall had not read.
    """

    record: AlertRecord
    opened_ms: int
    told_ms: int
    revision: int
    thumbnail: bytes = b""
    replay: str = ""
    is_sought: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        return self.record.state is not AlertState.CLOSED


class AlertBook:
    """The alerts, in the order in which they were first heard of.

    Args:
        max_alerts: kept; closed ones make room first, then the oldest.
    """

    def __init__(self, max_alerts: int) -> None:
        self._max = max_alerts
        self._alerts: OrderedDict[str, AlertView] = OrderedDict()
        self._gone: deque[tuple[int, str]] = deque(maxlen=_GONE)
        #: Id -> stream of every alert that is open, kept or not, and how many each stream has: a tile must not look
        #: clean because there are too many alerts to list them.
        self._open: OrderedDict[str, str] = OrderedDict()
        self._open_of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._alerts)

    def get(self, alert_id: str) -> AlertView | None:
        """The alert of that id."""
        return self._alerts.get(alert_id)

    def take(self, record: AlertRecord, written_ms: int, revision: int) -> list[str]:
        """Take in a record; returns the streams whose alerts changed."""
        self._note(record)
        view = self._alerts.get(record.id)
        if view is None:
            is_full = len(self._alerts) >= self._max and all(other.is_open for other in self._alerts.values())
            if is_full and record.state is not AlertState.OPENED:
                return [record.stream]  # it was left out for a newer one, and is told of every few seconds
            view = self._alerts[record.id] = AlertView(record, written_ms, written_ms, revision)
        view.record, view.told_ms, view.revision = record, written_ms, revision
        jpeg = record.thumbnail_jpeg
        if jpeg is not None and jpeg.startswith(_JPEG) and len(jpeg) <= _MAX_THUMBNAIL_BYTES:
            view.thumbnail = bytes(jpeg)
        changed = [record.stream]
        if len(self._alerts) > self._max:
            closed = (key for key, other in self._alerts.items() if not other.is_open)
            key = next(closed, None)
            if key is None:
                key = next(iter(self._alerts))
            changed.append(self._alerts[key].record.stream)
            self._drop(key, revision)
        return changed

    def expire(self, now_ms: int, closed_s: float, revision: int) -> bool:
        """Let go of alerts that were closed long ago; whether there were any."""
        old = [
            key for key, view in self._alerts.items() if not view.is_open and now_ms - view.told_ms > closed_s * 1000
        ]
        for key in old:
            self._drop(key, revision)
        return bool(old)

    def open_of(self, stream: str) -> int:
        """How many open alerts a stream has."""
        return self._open_of[stream]

    @property
    def open_count(self) -> int:
        """How many alerts are open."""
        return len(self._open)

    @property
    def left_out(self) -> int:
        """How many of them are not among `views`: there are too many."""
        return len(self._open) - sum(view.is_open for view in self._alerts.values())

    def _note(self, record: AlertRecord) -> None:
        if record.state is AlertState.CLOSED:
            self._forget(record.id)
        elif record.id not in self._open:
            self._open[record.id] = record.stream
            self._open_of[record.stream] += 1
            if len(self._open) > _MAX_OPEN:
                self._forget(next(iter(self._open)))

    def _forget(self, alert_id: str) -> None:
        stream = self._open.pop(alert_id, None)
        if stream is not None:
            self._open_of[stream] -= 1
            if not self._open_of[stream]:
                del self._open_of[stream]

    def views(self) -> Iterable[AlertView]:
        """All, the first heard of first."""
        return self._alerts.values()

    def gone_since(self, revision: int) -> list[str] | None:
        """Ids of those that went after a revision; None where that is no longer known."""
        if len(self._gone) == self._gone.maxlen and self._gone[0][0] > revision:
            return None
        return [key for at, key in self._gone if at > revision]

    def _drop(self, key: str, revision: int) -> None:
        del self._alerts[key]
        self._gone.append((revision, key))
