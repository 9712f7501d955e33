"""Everything the wall knows, as revisions: a page asks for what has changed since the one it has.

There is no queue for a page. A slow one asks seldom and gets the newest state then; one that never reads costs
nothing but its connection.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from difffake.results import Level
from difffake.settings import ScanSettings
from stream.broker.contract import TopicPartition
from stream.console import printable
from stream.messages import AlertRecord, CommandRecord, Face, ScoreRecord, Source, Status
from stream.wall.alerts import AlertBook, AlertView
from stream.wall.distinct import DistinctCount
from stream.wall.looking import Input, Place, State, StreamView
from stream.wall.mutes import Mutes
from stream.wall.settings import WallSettings
from stream.wall.wire import alert, tile

_GONE = 4096
#: Names are counted afresh so often: "how many streams are there" means lately.
_COUNT_S = 60.0
_MAX_PARTITIONS = 4096
_NO_ROOM_S = 1.0
#: Scores and alerts are read from different topics, and one may come a little later.
_SETTLED_MS = 5_000
#: Where pages draw the line of strong evidence: the default of every command.
_STRONG_P = ScanSettings().strong_p


@dataclass(slots=True)
class PartitionView:
    """An input partition, by the scores that name it; monotonic seconds."""

    heard_s: float
    silence: Input | None = None


class _Claim(Enum):
    """What a new stream claims a tile with: nothing of it could be read; it is calm; it is suspicious. Names that are
    made up, with bytes that nobody can read, push none out."""

    UNREAD = auto()
    CALM = auto()
    SUSPICIOUS = auto()


@dataclass(frozen=True, slots=True)
class Changes:
    """What a page has to be told. ``whole``: it must forget all it had."""

    revision: int
    whole: bool
    body: dict[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """The wall in numbers: ``scores`` and ``alerts`` that were taken in, ``unread`` ones that could not be,
    ``skipped`` ones, ``behind_s``: how old the last score was when it was read."""

    is_connected: bool
    scores: int
    alerts: int
    unread: int
    skipped: int
    behind_s: float
    streams: int
    open_alerts: int


class Wall:
    """Thread-safe: one thread feeds it, others ask.

    Args:
        settings: see there.
        clock: since the epoch, seconds.
        monotonic: seconds.
    """

    def __init__(
        self,
        settings: WallSettings | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or WallSettings()
        #: Another one after a restart: revisions of the one before mean nothing.
        self.epoch = secrets.token_hex(4)
        #: Whether pages may ask for pictures; and what a replay command begins with.
        self.has_pictures, self.replay = False, "difffake replay"
        self._clock, self._monotonic = clock, monotonic
        self._lock = threading.Lock()
        self._revision = 0
        # A page that outlives a wall must not take a stream of the next one for one of before.
        self._keys = secrets.randbelow(1 << 48)
        self._streams: dict[str, StreamView] = {}
        self._gone: deque[tuple[int, int, int]] = deque(maxlen=_GONE)
        self._alerts = AlertBook(self.settings.max_alerts)
        self._mutes = Mutes()
        self._partitions: dict[TopicPartition, PartitionView] = {}
        self._counts = (DistinctCount(), DistinctCount())
        self._counted_s = monotonic()
        self._disconnected_ms: int | None = self._now_ms()
        self._no_room_s = dict.fromkeys(_Claim, 0.0)
        self._behind_ms = self._unread = self._skipped = self._scores_read = self._alerts_read = 0
        self._problem = ""

    # -- fed by the reader --------------------------------------------------------------------------------------------
    def take_score(self, record: ScoreRecord, place: Place, written_ms: int) -> None:
        """Take in a score record, written at ``written_ms`` since the epoch, that lies at ``place``."""
        with self._lock:
            self._revision += 1
            self._scores_read += 1
            now_s = self._monotonic()
            self._behind_ms = max(0, self._now_ms() - written_ms)
            self._counts[0].add(record.stream)
            source = TopicPartition(record.source.topic, record.source.partition)
            if source in self._partitions or len(self._partitions) < _MAX_PARTITIONS:
                self._partitions[source] = PartitionView(now_s)
            view = self._streams.get(record.stream) or self._admit(record, now_s)
            if view is not None:
                view.take(record, place, written_ms, now_s, self._revision)
                self._judge(view, self._revision)

    def take_alert(self, record: AlertRecord, written_ms: int) -> None:
        """Take in an alert record."""
        with self._lock:
            self._revision += 1
            self._alerts_read += 1
            for stream in self._alerts.take(record, written_ms, self._revision):
                view = self._streams.get(stream)
                if view is not None:
                    view.open_alerts = self._alerts.open_of(stream)
                    view.revision = self._revision
                    self._judge(view, self._revision)

    def take_command(self, record: CommandRecord) -> None:
        """Take in an operator's command."""
        with self._lock:
            view = self._streams.get(record.stream)
            if self._mutes.take(record) and view is not None:
                self._revision += 1
                view.revision = self._revision

    def next_unplaced(self) -> tuple[AlertRecord, int] | None:
        """An alert whose first score this wall has not read, and when its first record was written; each but once."""
        with self._lock:
            settled_ms = self._now_ms() - _SETTLED_MS
            for view in self._alerts.views():
                if not (view.replay or view.is_sought) and view.opened_ms < settled_ms:
                    view.is_sought = True
                    return view.record, view.opened_ms
            return None

    def place_alert(self, alert_id: str, address: str) -> None:
        """Say where the score of an alert's first frame lies; empty where it was not found."""
        with self._lock:
            view = self._alerts.get(alert_id)
            if view is not None and address and not view.replay:
                self._revision += 1
                view.replay, view.revision = address, self._revision

    def caught_up(self) -> None:
        """Say that nothing waits to be read."""
        self._behind_ms = 0

    def refuse(self, problem: str) -> None:
        """Count a record that could not be read."""
        with self._lock:
            self._unread += 1
            self._problem = problem

    def skip(self, records: int) -> None:
        """Count records that were left out, because the wall cannot keep up."""
        with self._lock:
            self._skipped += records

    def connected(self, is_connected: bool, problem: str = "") -> None:
        """Say whether Kafka answers; ``problem``: why not."""
        with self._lock:
            if is_connected == (self._disconnected_ms is None) and (is_connected or problem == self._problem):
                return
            self._revision += 1
            self._problem = problem
            if is_connected:
                self._disconnected_ms = None
            elif self._disconnected_ms is None:
                self._disconnected_ms = self._now_ms()
            self._judge_all(self._revision)

    def silent_partitions(self, for_s: float) -> list[TopicPartition]:
        """Input partitions from which no score has come for so long."""
        with self._lock:
            now_s = self._monotonic()
            return [source for source, view in self._partitions.items() if now_s - view.heard_s > for_s]

    def explain(self, source: TopicPartition, silence: Input) -> None:
        """Say why no scores come from an input partition."""
        with self._lock:
            if source in self._partitions:
                self._partitions[source].silence = silence

    def turn(self) -> None:
        """Let time pass: what was clean is no longer, unless somebody goes on looking. Call it about every second."""
        with self._lock:
            now_s, revision = self._monotonic(), self._revision + 1
            changed = self._alerts.expire(self._now_ms(), self.settings.closed_s, revision)
            for view in self._alerts.views():
                changed |= self._find_replay(view, revision)
            if now_s - self._counted_s > _COUNT_S:
                self._counted_s, self._counts = now_s, (DistinctCount(), self._counts[0])
            if self._judge_all(revision) or changed:
                self._revision = revision

    # -- asked by pages -----------------------------------------------------------------------------------------------
    @property
    def revision(self) -> int:
        """Higher when anything has changed."""
        return self._revision

    @property
    def is_connected(self) -> bool:
        """Whether Kafka answers."""
        return self._disconnected_ms is None

    def figures(self) -> Figures:
        """How it goes."""
        with self._lock:
            return Figures(
                is_connected=self._disconnected_ms is None,
                scores=self._scores_read,
                alerts=self._alerts_read,
                unread=self._unread,
                skipped=self._skipped,
                behind_s=self._behind_ms / 1e3,
                streams=len(self._streams),
                open_alerts=self._alerts.open_count,
            )

    def changes(self, since: int | None) -> Changes:
        """What changed after a revision; all there is where that is None, unknown, or too long ago."""
        with self._lock:
            gone_alerts = None if since is None or since > self._revision else self._alerts.gone_since(since)
            if since is None or gone_alerts is None or (len(self._gone) == _GONE and self._gone[0][0] > since):
                since, whole, gone, gone_alerts = -1, True, list[int](), list[str]()
            else:
                whole = False
                gone = [key for at, made, key in self._gone if at > since >= made]
            body = {
                "wall": self._summary(),
                "streams": [self._tile(v, since) for v in self._streams.values() if v.revision > since],
                "alerts": [alert(v) for v in self._alerts.views() if v.revision > since],
                "gone": gone,
                "gone_alerts": gone_alerts,
                "whole": whole,
            }
            return Changes(self._revision, whole, body)

    def thumbnail(self, alert_id: str) -> bytes:
        """The JPEG of an alert; empty where there is none."""
        with self._lock:
            view = self._alerts.get(alert_id)
            return view.thumbnail if view is not None else b""

    def alert_of(self, alert_id: str) -> AlertRecord | None:
        """The newest record of an alert."""
        with self._lock:
            view = self._alerts.get(alert_id)
            return None if view is None else view.record

    def has(self, stream: str) -> bool:
        """Whether there is a tile or an alert of that stream."""
        with self._lock:
            return stream in self._streams or any(v.record.stream == stream for v in self._alerts.views())

    def scored(self, key: int) -> tuple[int, str, Source, tuple[Face, ...]] | None:
        """A stream by its number: that again, its id, and source and faces of its last scored frame."""
        with self._lock:
            view = next((v for v in self._streams.values() if v.key == key), None)
            if view is None or view.scored_place is None:
                return None
            return key, view.name, view.scored_place.source, view.scored_faces

    # -- inside the lock ----------------------------------------------------------------------------------------------
    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _admit(self, record: ScoreRecord, now_s: float) -> StreamView | None:
        """A tile for a new stream, if there is room or it matters more than another."""
        if len(self._streams) >= self.settings.max_streams:
            claim = self._claim(record)
            if now_s < self._no_room_s[claim]:
                return None
            least = self._least(claim, now_s)
            if least is None:
                # Not asked again for every record of the many streams that are left out.
                self._no_room_s[claim] = now_s + _NO_ROOM_S
                return None
            dropped = self._streams.pop(least)
            self._gone.append((self._revision, dropped.made, dropped.key))
        self._keys += 1
        view = self._streams[record.stream] = StreamView(self._keys, record.stream, self.settings.window_s)
        view.made = self._revision
        view.open_alerts = self._alerts.open_of(record.stream)
        return view

    def _claim(self, record: ScoreRecord) -> _Claim:
        if self._alerts.open_of(record.stream) or any(
            said.accumulated is not None and said.level is not Level.NOTHING
            for face in record.faces
            for said in face.evidence.values()
        ):
            return _Claim.SUSPICIOUS
        return _Claim.UNREAD if record.status is Status.DECODE_ERROR else _Claim.CALM

    def _least(self, claim: _Claim, now_s: float) -> str | None:
        """The stream that makes room for a new one: of those that are calm one of which nothing could ever be
        read, else the longest silent."""
        now_ms = self._now_ms()
        calm = {
            name: (not view.was_read, view.silent_s(now_ms, now_s))
            for name, view in self._streams.items()
            if view.judgement.state not in (State.ALERT, State.SUSPICIOUS)
        }
        least = max(calm, key=lambda name: calm[name], default=None)
        if least is None:
            return None
        is_unread, silent_s = calm[least]
        matters = claim is _Claim.SUSPICIOUS or (claim is _Claim.CALM and is_unread)
        return least if matters or silent_s >= self.settings.forget_s else None

    def _judge_all(self, revision: int) -> bool:
        return sum(self._judge(view, revision) for view in self._streams.values()) > 0

    def _judge(self, view: StreamView, revision: int) -> bool:
        """Whether anything else is to be said of it now."""
        source = None if view.last is None else TopicPartition(view.last.source.topic, view.last.source.partition)
        partition = None if source is None else self._partitions.get(source)
        silence, now_s = None, self._monotonic()
        if partition is not None and now_s - partition.heard_s > self.settings.looked_s:
            silence = partition.silence or Input.UNKNOWN
        found = view.judge(
            self._now_ms(),
            now_s,
            looked_s=self.settings.looked_s,
            behind_s=self.settings.behind_s,
            disconnected="" if self._disconnected_ms is None else "not connected to Kafka",
            silence=silence,
        )
        if found == view.judgement:
            return False
        view.judgement, view.revision = found, revision
        return True

    def _find_replay(self, view: AlertView, revision: int) -> bool:
        stream = self._streams.get(view.record.stream)
        if view.replay or stream is None:
            return False
        place = stream.place_of(view.record.first) or stream.place_of(view.record.last)
        if place is None:
            return False
        view.replay, view.revision = place.address, revision
        return True

    def _tile(self, view: StreamView, since: int) -> dict[str, Any]:
        muted = self._mutes.of(view.name, self._clock(), view.began_ns)
        return tile(view, since, self._now_ms(), self._monotonic(), muted)

    def _summary(self) -> dict[str, Any]:
        return {
            "now": self._now_ms(),
            "connected": self._disconnected_ms is None,
            "since": self._disconnected_ms,
            "problem": printable(self._problem),
            "shown": len(self._streams),
            "heard": max(len(self._streams), *(count.estimate for count in self._counts)),
            "behind": self._behind_ms,
            "unread": self._unread,
            "skipped": self._skipped,
            "alerts_left_out": self._alerts.left_out,
            "window": self.settings.window_s,
            "strong_p": _STRONG_P,
            "pictures": self.has_pictures,
            "replay": self.replay,
        }
