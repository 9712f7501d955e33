"""Every instrument of a worker, in one container. The worker says what happens, a scrape reads what has happened.

What depends on records (frames, faces, alerts, coverage) is counted when their transaction is committed, and never for
work that is thrown away and done again: the counts are those of a reader of the output topics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from difffake import __version__, hardware
from difffake.networks import EngineUse
from difffake.results import EVIDENCES
from stream.batcher import BatchSettings
from stream.broker.contract import Record, TopicPartition
from stream.broker.errors import BrokerUnavailableError, FencedError, StaleGroupError
from stream.decode import (
    CorruptInputError,
    EncryptedInputError,
    Gear,
    LossReason,
    TooLargeError,
    UnknownTypeError,
)
from stream.health import Health, Phase
from stream.messages import AlertKind, AlertRecord, AlertState, Face, ScoreRecord, Status
from stream.metrics import catalogue as names
from stream.metrics.coverage import COVERED, Coverage
from stream.metrics.settings import MetricsSettings
from stream.metrics.store import Store, Tally
from stream.metrics.streams import StreamSeries, StreamTally
from stream.stages import Stage

_GEARS = {Gear.SHED: 0.0, Gear.WATCH: 1.0, Gear.ANALYSE: 2.0, Gear.SCRUTINISE: 3.0}
#: How a record can end; see the catalogue.
OUTCOMES = ("analysed", "shed", "lost", "dead_letter", "nothing_due", "no_picture_yet")
_INPUT_ERRORS = (CorruptInputError, EncryptedInputError, TooLargeError, UnknownTypeError)
_MAX_REASONS = 50
#: Kafka is asked every few seconds; without an answer for so long it is not there, s.
_ANSWER_S = 20.0
_COMMIT_ERRORS = (FencedError, StaleGroupError, BrokerUnavailableError)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not done of an input partition. ``next_offset``: the first record that is not; ``oldest_s``: timestamp of
    the oldest one in memory, seconds since the epoch, None where all are done."""

    next_offset: int
    oldest_s: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker at one moment; replaced whole, never changed."""

    backlogs: Mapping[TopicPartition, Backlog] = field(default_factory=dict)
    waiting_records: int = 0
    waiting_bytes: int = 0
    in_progress: int = 0
    paused: int = 0
    commands_refused: int = 0


@dataclass(slots=True)
class _Pending:
    """What will have happened once the transaction at hand is committed."""

    tally: Tally = field(default_factory=Tally)
    streams: dict[tuple[TopicPartition, str], StreamTally] = field(default_factory=dict)
    timestamps_ms: list[int] = field(default_factory=list)
    records: int = 0


class Metrics(Collector):
    """The instruments of one worker. `stage`, `batch`, `http`, `answered`, `collect`: for any thread; the rest: for the
    worker's.

    Args:
        settings: see there.
        health: of the worker, told beside the rest.

    Attributes:
        registry: what a scrape reads.
        snapshot: set by the worker, a few times a second.
        ends: partition -> its end, as far as it is known.
    """

    def __init__(self, settings: MetricsSettings | None = None, health: Health | None = None) -> None:
        settings, self.health = settings or MetricsSettings(), health or Health()
        self._store = Store()
        self._streams = StreamSeries(settings.max_stream_series, settings.series_idle_s, EVIDENCES)
        self._pending = _Pending()
        self.snapshot = Snapshot()
        self.ends: Mapping[TopicPartition, int] = {}
        #: When Kafka last answered, by the monotonic clock.
        self._answered_s = float("-inf")
        #: When the last commit succeeded, by the same.
        self._committed_s: float | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        self._begin()

    def _begin(self) -> None:
        """Series whose first event must not go unseen begin at 0."""
        tally = Tally()
        for outcome in OUTCOMES:
            tally.add(names.RECORDS, 0, outcome)
        for status in Status:
            tally.add(names.FRAMES, 0, status.value)
        for reason in LossReason:
            tally.add(names.LOST, 0, reason.value)
        for why in ("too_old", "too_old_urgent"):
            tally.add(names.SHED, 0, why)
        for kind in AlertKind:
            for evidence in EVIDENCES:
                for state in AlertState:
                    tally.add(names.ALERTS, 0, kind.value, evidence, state.value)
        for wrong in _INPUT_ERRORS:
            tally.add(names.DEAD_LETTERS, 0, "decode", wrong.__name__)
        for failure in _COMMIT_ERRORS:
            tally.add(names.COMMIT_FAILURES, 0, failure.__name__)
        for event in ("assigned", "revoked", "lost"):
            tally.add(names.REBALANCES, 0, event)
        self._store.merge(tally)
        self._store.set(names.LAST_COMMIT, 0.0)

    # -- from any thread ---------------------------------------------------------------------------------------------
    def stage(self, stage: Stage, seconds: float, items: int) -> None:
        """See `stream.stages.Timed`."""
        self._store.timed(names.STAGE, seconds, names.STAGE_ITEMS, items, stage.value)

    def batch(self, room: int, waits_s: Sequence[float]) -> None:
        """A batch was put together: how many frames it had room for, and how long each of them waited."""
        tally = Tally()
        tally.add(names.BATCHES, 1)
        tally.add(names.BATCH_FRAMES, len(waits_s))
        tally.add(names.BATCH_ROOM, room)
        for wait_s in waits_s:
            tally.observe(names.BATCH_WAIT, wait_s)
        self._store.merge(tally)

    def http(self, path: str, code: int) -> None:
        """A request was answered."""
        self._store.add(names.HTTP_REQUESTS, 1, path, str(code))

    def answered(self) -> None:
        """Kafka answered, whatever it said."""
        self._answered_s = time.monotonic()

    # -- what waits for a commit -------------------------------------------------------------------------------------
    def record(self, record: Record, outcome: str, pictures: int = 0) -> None:
        """An input record is done, in one of `OUTCOMES`."""
        pending = self._pending
        pending.tally.add(names.RECORDS, 1, outcome)
        pending.tally.add(names.RECORD_BYTES, len(record.value or b""))
        pending.tally.add(names.PICTURES, pictures)
        pending.timestamps_ms.append(record.timestamp_ms)
        pending.records += 1

    def dead_letter(self, error: Exception, stage: str) -> None:
        """A record becomes a dead letter, whatever else comes of it."""
        self._pending.tally.add(names.DEAD_LETTERS, 1, stage, type(error).__name__)

    def buried(self, key: tuple[TopicPartition, str], *, is_alert_open: bool) -> None:
        """A record of a known stream gave nothing."""
        self._pending.streams.setdefault(key, StreamTally()).is_alert_open = is_alert_open

    def stranger(self, key: tuple[TopicPartition, str]) -> None:
        """A record of no known stream gave nothing, and a score says so."""
        self._pending.tally.add(names.FRAMES, 1, Status.DECODE_ERROR.value)
        stream = self._pending.streams.setdefault(key, StreamTally(is_stranger=True))
        stream.frames, stream.ratio = stream.frames + 1, 0.0

    def lost(self, reason: LossReason) -> None:
        """A due frame was not analysed."""
        self._pending.tally.add(names.LOST, 1, reason.value)

    def warning(self, warning: str) -> None:
        """A decoder found something odd: ``"code: what happened"``."""
        self._pending.tally.add(names.WARNINGS, 1, warning.partition(":")[0])

    def alert(self, source: TopicPartition, alert: AlertRecord) -> None:
        """An alert record is told, of a stream that comes through this partition."""
        pending = self._pending
        pending.tally.add(names.ALERTS, 1, alert.kind.value, alert.evidence, alert.state.value)
        if alert.state is AlertState.OPENED:
            pending.streams.setdefault((source, alert.stream), StreamTally()).opened[alert.evidence] += 1

    def frames(
        self,
        key: tuple[TopicPartition, str],
        scores: Sequence[ScoreRecord],
        coverage: Coverage,
        gear: Gear,
        *,
        is_alert_open: bool,
    ) -> None:
        """All frames of a stream's record that were due, in any order.

        Args:
            key: the stream and where it comes through.
            scores: of these frames.
            coverage: the stream's; it moves on.
            gear: of the record.
            is_alert_open: any alert of the stream is, after this record.
        """
        if not scores:
            return
        pending = self._pending
        stream = pending.streams.setdefault(key, StreamTally())
        for score in sorted(scores, key=lambda s: s.pts_ns):
            pending.tally.add(names.FRAMES, 1, score.status.value)
            for reason, seconds in coverage.add(score.pts_ns, score.status):
                stream.seconds[reason] = stream.seconds.get(reason, 0.0) + seconds
                pending.tally.add(names.OBSERVED, seconds)
                if not reason:
                    pending.tally.add(names.COVERED, seconds)
            stream.is_covered |= score.status in COVERED
            self._faces(stream, score)
        stream.frames, stream.is_stranger = stream.frames + len(scores), False
        stream.ratio, stream.gear, stream.is_alert_open = coverage.ratio, _GEARS[gear], is_alert_open

    def _faces(self, stream: StreamTally, score: ScoreRecord) -> None:
        p_values: dict[str, float] = {}
        ages_s: dict[str, float] = {}
        for face in score.faces:
            self._face(face, p_values, ages_s)
        if p_values:
            stream.p_values = p_values
        if ages_s:
            stream.anchor_ages_s = ages_s

    def _face(self, face: Face, p_values: dict[str, float], ages_s: dict[str, float]) -> None:
        tally = self._pending.tally
        tally.add(names.FACES, 1, face.quality.value)
        for evidence, said in face.evidence.items():
            tally.observe(names.P_VALUE, said.p_value, evidence)
            p_value = said.p_value if said.accumulated is None else said.accumulated
            p_values[evidence] = min(p_value, p_values.get(evidence, 1.0))
        anchor = face.anchor
        if anchor is not None:
            origin = "none" if anchor.origin is None else anchor.origin.value
            tally.add(names.FACE_ANCHORS, 1, anchor.state.value, origin)
            if anchor.age_s is not None:
                ages_s[origin] = max(anchor.age_s, ages_s.get(origin, 0.0))

    def closed(self, key: tuple[TopicPartition, str]) -> None:
        """The alerts of a stream that sends nothing any more are closed."""
        self._pending.streams.setdefault(key, StreamTally()).is_alert_open = False

    # -- commits -----------------------------------------------------------------------------------------------------
    def committed(self, seconds: float) -> None:
        """A transaction is through, in so much time: what it held has happened."""
        pending, self._pending = self._pending, _Pending()
        now_s, tally = time.time(), pending.tally
        tally.add(names.COMMITS, 1)
        for timestamp_ms in pending.timestamps_ms:
            if timestamp_ms >= 0:
                tally.observe(names.LATENCY, max(0.0, now_s - timestamp_ms / 1e3))
        self._store.merge(tally)
        self._committed_s = time.monotonic()
        self.answered()
        self.stage(Stage.COMMIT, seconds, pending.records)
        self._streams.merge(pending.streams)

    def failed(self, error: Exception) -> None:
        """A transaction failed: what it held will be done again."""
        self._store.add(names.COMMIT_FAILURES, 1, type(error).__name__)

    def rewound(self) -> None:
        """Everything was read back from what is committed."""
        self._pending = _Pending()
        self._store.add(names.REWINDS)

    # -- what else happens -------------------------------------------------------------------------------------------
    def shed(self, *, is_urgent: bool) -> None:
        """Nobody has time for a record."""
        self._store.add(names.SHED, 1, "too_old_urgent" if is_urgent else "too_old")

    def gone_unread(self, records: int) -> None:
        """Input was deleted before anybody came to it."""
        self._store.add(names.GONE_UNREAD, records)

    def input_remade(self) -> None:
        """A partition belongs to another topic of the same name than before."""
        self._store.add(names.INPUT_REMADE)

    def rebalanced(self, event: str, partitions: Sequence[TopicPartition]) -> None:
        """Partitions were ``assigned``, ``revoked`` or ``lost``."""
        self._store.add(names.REBALANCES, 1, event)
        if event != "assigned":
            self._streams.drop(partitions)

    def restored(self, seconds: float, streams: int) -> None:
        """The state of a partition was read."""
        self._store.observe(names.RESTORE, seconds)
        self._store.add(names.RESTORED, streams)

    def state_lost(self, count: int) -> None:
        """Streams whose state cannot be read, or partitions that it is gone of: they begin anew."""
        self._store.add(names.STATE_LOST, count)

    def commands(self, applied: int, warnings: int) -> None:
        """Commands were applied to a stream."""
        self._store.add(names.COMMANDS, applied)
        self._store.add(names.COMMAND_WARNINGS, warnings)

    def identify(self, *, group: str, worker: str, model_id: str, budget_per_stream_hour: float) -> None:
        """Say who this is, and how many false alerts are allowed."""
        self._store.replace(names.WORKER, {(group, worker): 1.0})
        self._store.replace(names.BUILD, {(__version__, model_id): 1.0})
        self._store.set(names.ALERT_BUDGET, budget_per_stream_hour)

    def engines(self, engines: Sequence[EngineUse]) -> None:
        """Say what runs the networks."""
        self._store.replace(names.ENGINE, {(e.network, e.engine, e.asked, e.fallback): 1.0 for e in engines})
        self._store.replace(names.ENGINE_FALLBACK, {(e.network,): float(bool(e.fallback)) for e in engines})

    def batches(self, batch: BatchSettings) -> None:
        """Say how batches are put together."""
        self._store.set(names.BATCH_LIMIT, batch.size)
        self._store.set(names.BATCH_DEADLINE, batch.deadline_s)

    # -- a scrape ----------------------------------------------------------------------------------------------------
    def collect(self) -> Iterator[Family]:
        """For the client library."""
        self._look()
        yield from self._store.families()
        yield from self._streams.families()

    def _look(self) -> None:
        """Gauges of this moment, from the last snapshot."""
        now_s, seen, ends = time.time(), self.snapshot, self.ends
        store, backlogs = self._store, seen.backlogs
        ages = {p: 0.0 if b.oldest_s is None else max(0.0, now_s - b.oldest_s) for p, b in backlogs.items()}
        store.replace(names.LAG_SECONDS, {(p.topic, str(p.partition)): age_s for p, age_s in ages.items()})
        store.replace(
            names.LAG_RECORDS,
            {(p.topic, str(p.partition)): max(0.0, ends[p] - b.next_offset) for p, b in backlogs.items() if p in ends},
        )
        if self._committed_s is not None:  # by the machine's clock as it is now, which may have been set since
            store.set(names.LAST_COMMIT, now_s - (time.monotonic() - self._committed_s))
        store.set(names.PARTITIONS, len(backlogs))
        store.set(names.WAITING_RECORDS, seen.waiting_records)
        store.set(names.WAITING_BYTES, seen.waiting_bytes)
        store.set(names.IN_PROGRESS, seen.in_progress)
        store.set(names.PAUSED, seen.paused)
        store.set(names.COMMANDS_REFUSED, seen.commands_refused)
        store.set(names.KAFKA, time.monotonic() - self._answered_s < _ANSWER_S)
        store.set(names.READY, self.health.ready().ok)
        store.set(names.DRAINING, self.health.phase is Phase.DRAINING)
        store.set(names.LOOP, now_s - self.health.silence_s)
        decoders = hardware.COUNTS.status()
        store.set(names.DECODE_HARDWARE, decoders.hardware)
        software = sorted(decoders.software.items())[:_MAX_REASONS]
        store.replace(names.DECODE_FALLBACK, {(why[:80],): float(count) for why, count in software})
