"""The worker: poll, decode, analyse, emit, commit. Every analysed frame appears once, whatever is killed.

State belongs to one thread, the one that calls `run`; decoders and networks work beside it (`stream.pipeline`). What
is in memory of a stream is a copy of what the state topic says plus the work since the last commit; whenever a commit
fails, the copy is thrown away and read again. So there is one way to recover: the way that a new owner begins.

Records of different streams finish in any order. A commit holds each stream up to its last whole record, and the offset
below which all is done; what lies between is read again after a restart, and each stream knows what it has.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from difffake.errors import DeviceLostError
from stream.alerts import AlertSettings
from stream.batcher import BatchCounts
from stream.broker.contract import Broker, Record, TopicPartition, TopicSpec
from stream.broker.errors import BrokerError, BrokerUnavailableError, FencedError, StaleGroupError
from stream.checkpoint import Checkpoint, restore
from stream.commands_log import CommandsLog
from stream.decode import DecodeSettings, Gear, InputError, Payload
from stream.ended import EndedStreams
from stream.gears import GearSettings
from stream.health import Phase
from stream.intake import Intake, StreamKey
from stream.live import LiveModels, LiveSettings
from stream.metrics.instruments import Backlog, Metrics, Snapshot
from stream.outcome import Outcome, Teller
from stream.partition import Partition, StreamIdError, StreamSettings, StreamState, stream_id
from stream.pipeline import Job, Pipeline
from stream.settings import Overload, WorkerSettings
from stream.stages import Stage
from stream.tracing import NO_TRACE, NoTracing, Trace, Tracing

log = structlog.get_logger()

#: Of `drain_timeout_s`, what the last commit and leaving the group may take.
_LEAVE_SHARE, _LEAVE_S = 0.3, 5.0
#: How often the figures of a moment are renewed, and silent streams looked for, s.
_SNAPSHOT_S = 0.25
#: Weight of the last record in how long one takes.
_RECENT = 0.1


class _RewoundError(Exception):
    """Everything was read back from what is committed while a record was about to begin."""


@dataclass(slots=True)
class _InProgress:
    """A run of records of a stream. ``outcomes``: of them all; ``settled``: how many of them are done."""

    job: Job
    part: Partition
    stream: StreamState
    outcomes: list[Outcome]
    began_s: float
    settled: int = 0

    @property
    def outcome(self) -> Outcome:
        """Of the record at hand."""
        return self.outcomes[self.settled]


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """A record that leaves no state behind: it is buried when all before it are done, so that it is buried once.

    ``key``: the stream that waits for it.
    """

    record: Record
    error: Exception
    key: StreamKey | None


class Worker:
    """A member of the group that scores streams.

    Args:
        broker: where everything comes from and goes to.
        models: the networks; the caller closes them.
        settings: of the worker.
        decode, live, alerts, gears: of the rooms that it works with.
        name: stands in the transactional id; unique among the workers of the group.
        metrics: takes what happens, and the worker's health; of this worker alone.
        tracing: follows records; nobody does by default.
    """

    def __init__(
        self,
        broker: Broker,
        models: LiveModels,
        settings: WorkerSettings,
        *,
        name: str,
        decode: DecodeSettings | None = None,
        live: LiveSettings | None = None,
        alerts: AlertSettings | None = None,
        gears: GearSettings | None = None,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._broker, self._models, self.settings = broker, models, settings
        self._streams = StreamSettings(
            decode or DecodeSettings(), live or LiveSettings(), alerts or AlertSettings(), gears or GearSettings()
        )
        self._stopping = False
        #: When everything must be over, by the monotonic clock; None until `stop`.
        self._deadline_s: float | None = None
        self._tracing: Tracing = tracing or NoTracing()
        #: Of the records since the last commit.
        self._traces: list[Trace] = []
        self._metrics = metrics or Metrics(settings.metrics)
        self._health = self._metrics.health
        self._metrics.identify(
            group=settings.group,
            worker=name,
            model_id=models.model_id,
            budget_per_stream_hour=self._streams.alerts.budget_per_day / 24,
        )
        self._metrics.engines(models.engines)
        models.timed = self._metrics.stage
        self._snapshot_s = self._looked_s = float("-inf")
        #: When input is looked at again, while there is something to do.
        self._poll_s = float("-inf")
        self._partitions: dict[TopicPartition, Partition] = {}
        #: Where each partition stood when it became ours.
        self._starts: dict[TopicPartition, int] = {}
        self._unsettled: dict[TopicPartition, dict[int, _Unsettled]] = {}
        #: Records that made the analysis fail, and how: next time they are buried instead.
        self._poison: dict[tuple[TopicPartition, int], Exception] = {}
        self._paused: set[TopicPartition] = set()
        self._intake = Intake()
        self._jobs: dict[StreamKey, _InProgress] = {}
        #: Streams whose next record must wait: one is in progress, or has to be settled first.
        self._busy: set[StreamKey] = set()
        self._failures = 0
        #: How long a record is in progress; of the last ones that were worked on.
        self._takes_s = 0.0
        #: Records in a row that made the analysis fail.
        self._broken = 0
        #: What happened, by name: for logs, metrics and tests.
        self.counts: Counter[str] = Counter()
        topics = settings.topics
        inputs = [broker.partitions(topic) for topic in settings.inputs]
        broker.ensure_topics(
            [
                TopicSpec(topics.scores, max(inputs)),
                TopicSpec(topics.alerts, max(inputs)),
                TopicSpec(topics.state, max(inputs), compacted=True),
                TopicSpec(topics.enrolments, 1, compacted=True),
                TopicSpec(topics.deadletters, max(inputs)),
            ]
        )
        self._state_partitions = broker.partitions(topics.state)
        self._reader = broker.reader()
        self._ended = EndedStreams(self._reader)
        self._commands = CommandsLog(self._reader, topics.enrolments, settings.enrolments_s)
        self._consumer = broker.consumer(settings.group, instance_id=settings.instance_id)
        self._checkpoint = Checkpoint(
            broker.producer(f"{settings.group}.{name}"),
            self._consumer,
            topics,
            self._state_partitions,
            interval_s=settings.commit_interval_s,
            max_records=settings.commit_records,
        )
        self._teller = Teller(self._checkpoint, topics, models.model_id, self.counts, self._metrics)
        self._pipeline = Pipeline(models, settings.pipeline, timed=self._metrics.stage, batched=self._metrics.batch)
        self._consumer.subscribe(settings.inputs, self)

    # -- the loop ----------------------------------------------------------------------------------------------------
    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Work until `stop`, or until ``until`` says so between two polls; then flush and leave the group.

        After `stop` what is in progress is finished or given back, and all is over within ``drain_timeout_s``; else all
        that was read is finished.

        Raises:
            BrokerError: the broker is gone for too long, or refuses; nothing is half-written.
            MessageError: state or enrolments of a newer version.
            DeviceLostError: the GPU is gone or full; start again.
        """
        is_over = False
        try:
            while not is_over:
                while not self._stopping and not (until is not None and until()):
                    self.step()
                is_over = self._finish() or self._stopping
                if not is_over:  # the last commit failed, and all that it held is to be done again
                    self.step()
        finally:
            # Whatever ended the loop is told, not what a broken connection says to a farewell.
            with contextlib.suppress(BrokerError):
                self._checkpoint.abort()
            with contextlib.suppress(BrokerError):
                self._consumer.close(self._left_s(self.settings.close_s))
            self._reader.close()
            if is_over:
                self._health.stopped()
            self._pipeline.close()

    def idle_for(self, seconds: float) -> Callable[[], bool]:
        """A condition for `run`: no record for so long, and all that came is done."""
        last = (-1, time.monotonic())

        def is_idle() -> bool:
            nonlocal last
            happened = self.counts["polled"] + self.counts["rewinds"]
            if happened != last[0] or self.is_busy:
                last = happened, time.monotonic()
            return time.monotonic() - last[1] > seconds

        return is_idle

    @property
    def is_busy(self) -> bool:
        """Whether records that were read are not done yet."""
        return bool(self._jobs or len(self._intake))

    @property
    def batches(self) -> BatchCounts:
        """How the batches of the networks were filled."""
        return self._pipeline.batches

    def stop(self) -> None:
        """End `run` after the records in progress, see `WorkerSettings.drain_timeout_s`; safe in a signal handler."""
        if not self._stopping:
            self._deadline_s = time.monotonic() + self.settings.drain_timeout_s
            self._health.draining()
        self._stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping

    @property
    def has_left(self) -> bool:
        """Whether its last work is committed and the group is left: nothing that is left can be lost."""
        return self._health.phase is Phase.STOPPED

    def _left_s(self, otherwise_s: float) -> float:
        """How long leaving may take yet; a moment at least, so that nothing is left undone that costs none."""
        return otherwise_s if self._deadline_s is None else max(1.0, self._deadline_s - time.monotonic())

    def step(self) -> None:
        """One turn: poll, begin what can begin, take what is done, commit if it is time."""
        self._commands.refresh()
        self._read()
        self._begin()
        self._take(self.settings.turn_s if self._jobs else 0.0)
        self._close_ended()
        if self._checkpoint.is_due:
            self._flush()
        self._tell_state()

    def _tell_state(self) -> None:
        """Renew what metrics and probes say of this moment."""
        self._health.running(partitions=len(self._partitions))
        now_s = time.monotonic()
        if now_s - self._snapshot_s < _SNAPSHOT_S:
            return
        self._snapshot_s = now_s
        self._metrics.snapshot = Snapshot(
            backlogs={p: Backlog(part.next_offset, part.oldest_s) for p, part in self._partitions.items()},
            waiting_records=len(self._intake),
            waiting_bytes=sum(self._intake.waiting_bytes.values()),
            in_progress=sum(len(progress.outcomes) - progress.settled for progress in self._jobs.values()),
            paused=len(self._paused),
            commands_refused=self._commands.refused,
        )

    def _finish(self) -> bool:
        """Do what was read, or after `stop` what is in progress, and commit it; False where that failed."""
        rewinds = self.counts["rewinds"]
        while self._jobs or (len(self._intake) and not self._stopping):
            if not self._stopping:
                self._begin()
            elif self._deadline_s is not None and self._deadline_s - time.monotonic() < self._leave_s:
                log.warning("given back unfinished", streams=len(self._jobs))
                break
            self._take(self.settings.turn_s)
            if self._checkpoint.is_due:
                self._flush()
            self._health.turn()
        for key in list(self._jobs):
            self._give_up(key)
        self._flush()
        return self.counts["rewinds"] == rewinds

    @property
    def _leave_s(self) -> float:
        return min(_LEAVE_S, _LEAVE_SHARE * self.settings.drain_timeout_s)

    # -- records come in ---------------------------------------------------------------------------------------------
    def _read(self) -> None:
        if self.is_busy and time.monotonic() < self._poll_s:
            return
        self._hold_back()
        timeout_s, most = 0.0 if self.is_busy else self.settings.poll_timeout_s, self.settings.poll_records
        records = self._consumer.poll(timeout_s, most)
        # To ask costs more than most access units do.
        self._poll_s = time.monotonic() + (self.settings.turn_s if len(records) < most else 0.0)
        for record in records:
            self.counts["polled"] += 1
            part = self._partitions.get(record.source)
            if part is None or record.offset < part.position:
                continue
            part.begin(record.offset, record.timestamp_ms)
            try:
                self._intake.put(stream_id(record), record)
            except StreamIdError as error:
                self._settle_in_turn(part, record, error, None)

    def _hold_back(self) -> None:
        """Partitions with their share of memory in use are not read on."""
        share = self.settings.waiting_bytes / max(1, len(self._partitions))
        most = self.settings.waiting_records
        waiting, size = self._intake.waiting, self._intake.waiting_bytes
        full = {p for p in self._partitions if size[p] >= share or waiting[p] >= most}
        freed = {p for p in self._paused if size[p] < share / 2 and waiting[p] < most / 2}
        if new := full - self._paused:
            self._consumer.pause(new)
            self.counts["pauses"] += len(new)
        if old := (self._paused & self._partitions.keys()) & freed:
            self._consumer.resume(old)
        self._paused = (self._paused | new) - freed

    def _begin(self) -> None:
        while (picked := self._pick()) is not None:
            key, record = picked
            part = self._partitions[record.source]
            try:
                stream = part.stream(key[1])
                self._apply_commands(part, stream)
            except _RewoundError:
                return
            outcome = self._taken_up(part, stream, record)
            poison = self._poison.pop((record.source, record.offset), None)
            if poison is not None:
                self._unusable(key, part, stream, outcome, poison, "analyse")
                continue
            gear = self._gear(stream, record, is_new=outcome.is_new)
            outcomes = [outcome, *self._follow(key, part, stream, outcome, gear)]
            job = Job(
                key,
                stream.decoder,
                [_payload(one.record) for one in outcomes],
                gear,
                stream.live.finder,
                stream.gears.is_urgent,
            )
            self._jobs[key] = _InProgress(job, part, stream, outcomes, time.monotonic())
            self._busy.add(key)
            self._pipeline.start(job)

    def _taken_up(self, part: Partition, stream: StreamState, record: Record) -> Outcome:
        outcome = Outcome(record, part.is_new(stream, record.offset))
        if outcome.is_new:
            outcome.trace = self._tracing.begin(record)
        return outcome

    def _follow(
        self, key: StreamKey, part: Partition, stream: StreamState, first: Outcome, gear: Gear
    ) -> list[Outcome]:
        """Records of a stream that wait behind one, and may be worked on in one go with it."""

        def goes_with(record: Record) -> bool:
            if (part.source, record.offset) in self._poison:
                return False
            return self._gear(stream, record, is_new=part.is_new(stream, record.offset)) is gear

        pipeline = self.settings.pipeline
        room = pipeline.run_bytes - len(first.record.value or b"")
        records = self._intake.follow(key, min(pipeline.run, stream.run) - 1, room, goes_with)
        return [self._taken_up(part, stream, record) for record in records]

    def _pick(self) -> tuple[StreamKey, Record] | None:
        """Whose record is next, where there is room for one."""
        most = self.settings.pipeline.in_progress
        # What is to be shed would grow older yet if it waited for its stream's turn. It has room of its own, so that
        # nobody waits for a flood of it.
        if self.settings.overload is Overload.SHED and len(self._jobs) < 2 * most:
            late = self._intake.pick_late(self._busy, self._is_late)
            if late is not None:
                return late
        worked_on = sum(progress.job.gear is not Gear.SHED for progress in self._jobs.values())
        return self._intake.pick(self._busy) if worked_on < most else None

    def _is_late(self, record: Record, is_urgent: bool) -> bool:
        """Whether a record is too old, or would be when it is done."""
        most_s = self.settings.max_age_s
        patience_s = most_s * (2 if is_urgent else 1) - min(self._takes_s, most_s / 2)
        return record.timestamp_ms >= 0 and time.time() - record.timestamp_ms / 1e3 > patience_s

    def _gear(self, stream: StreamState, record: Record, *, is_new: bool) -> Gear:
        if self.settings.overload is Overload.SHED and is_new and self._is_late(record, stream.gears.is_urgent):
            return Gear.SHED
        return stream.gears.gear

    def _apply_commands(self, part: Partition, stream: StreamState) -> None:
        """Enrolments and operator commands, before the first record after they came; at a commit's boundary, so that
        the state topic holds the offset at which they were applied."""
        pending = self._commands.since(stream.name, stream.commands_offset)
        if not pending:
            return
        if self._checkpoint.is_open:
            self._flush()
            if self._partitions.get(part.source) is not part:
                raise _RewoundError
        warnings = self.counts["enrolment_warnings"]
        for command in pending:
            for warning in command.apply(stream.live, stream.gears, stream.alerts):
                log.warning("enrolment", stream=stream.name, warning=warning)
                self.counts["enrolment_warnings"] += 1
            stream.commands_offset = command.offset + 1
            self.counts["commands"] += 1
        self._metrics.commands(len(pending), self.counts["enrolment_warnings"] - warnings)
        stream.dirty = True

    # -- records are done --------------------------------------------------------------------------------------------
    def _take(self, timeout_s: float) -> None:
        for job in self._pipeline.ready(timeout_s):
            progress = self._jobs.get(job.stream)
            if progress is None or progress.job is not job:
                continue  # forgotten meanwhile
            if not self._took(progress):
                return
        self._settle()

    def _took(self, progress: _InProgress) -> bool:
        """Take what a job has seen; False where everything was read back because of it."""
        job, part, stream = progress.job, progress.part, progress.stream
        if isinstance(job.error, DeviceLostError):
            raise job.error
        try:
            # All but the last of its records are whole, and gave nothing to look at.
            while progress.settled < len(job.decodings) - 1:
                self._settle_record(progress)
            outcome = progress.outcome
            if job.error is not None and not isinstance(job.error, InputError):
                raise job.error
            sights = job.take()
            if sights and not job.done:
                part.take_part(stream)
            began_s = time.perf_counter()
            outcome.trace.scoring()
            self._teller.take(stream, outcome, sights)
            outcome.trace.scored()
            self._metrics.stage(Stage.SCORE, time.perf_counter() - began_s, len(sights))
            if not job.done:
                self._pipeline.go_on(job)
                return True
            if job.error is None:
                self._settle_record(progress)
        except Exception as error:
            # Half of this record may be in the stream's state: go back to what is committed, and bury it then.
            outcome, record = progress.outcome, progress.outcome.record
            where = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
            log.error("record failed", **where, traceback="".join(traceback.format_exception(error))[-4000:])
            self._poison[record.source, record.offset] = error
            outcome.trace.end("failed", outcome.frames, error)
            self._broken += 1
            if self._broken >= self.settings.broken_records:
                raise  # it is not the records: better to stop than to bury whatever comes
            self._rewind()
            return False
        if job.error is not None:
            self._end(progress)
            self._unusable(job.stream, part, stream, outcome, job.error, "decode")
            return True
        if job.gear is not Gear.SHED:
            self._takes_s += _RECENT * (time.monotonic() - progress.began_s - self._takes_s)
        self._end(progress)
        return True

    def _settle_record(self, progress: _InProgress) -> None:
        """The record at hand is whole, and all that was seen in it is taken."""
        job, part, stream, outcome = progress.job, progress.part, progress.stream, progress.outcome
        decoding = job.decodings[progress.settled]
        if job.gear is Gear.SHED and outcome.is_new:
            self.counts["records:shed"] += 1
            self._metrics.shed(is_urgent=stream.gears.is_urgent)
        if decoding.decoded is not None:
            self._teller.finish(stream, outcome, decoding.decoded, job.gear)
        if decoding.after is not None:
            stream.decoder_state = decoding.after
        self._done(part, stream, outcome)
        outcome.trace.decoded(decoding.decode_s)
        self._traced(outcome, "done")
        progress.settled += 1

    def _traced(self, outcome: Outcome, what: str, error: Exception | None = None) -> None:
        if outcome.trace is not NO_TRACE:
            outcome.trace.end(what, outcome.frames, error)
            self._traces.append(outcome.trace)

    def _end(self, progress: _InProgress) -> None:
        """A job is over, well or ill; its stream is free. What it did not come to waits again."""
        job, stream = progress.job, progress.stream
        key = job.stream
        del self._jobs[key]
        self._busy.discard(key)
        stream.decoder_state = stream.decoder.state()
        stream.in_parts = False
        taken, begun = len(progress.outcomes), len(job.decodings)
        for outcome in reversed(progress.outcomes[begun:]):
            self._intake.put_back(key, outcome.record)
        frames = sum(outcome.frames for outcome in progress.outcomes)
        # What is taken beyond the next frame was taken for nothing: where each record gives one, all but the first.
        if not frames and begun >= stream.run:
            stream.run = min(2 * stream.run, self.settings.pipeline.run)
        elif begun < taken / 4:
            stream.run //= 2
        self._intake.serve(key, float(begun + frames), urgent=stream.gears.is_urgent)

    def _done(self, part: Partition, stream: StreamState, outcome: Outcome) -> None:
        if outcome.is_new:
            stream.next_offset = outcome.record.offset + 1
            stream.seen_s = time.monotonic()
            self.counts["records"] += 1
            self._checkpoint.finished()
        if outcome.is_new or outcome.frames:
            stream.dirty = True
        if outcome.frames:
            self._broken = 0
        part.finish(outcome.record.offset)

    def _unusable(
        self, key: StreamKey, part: Partition, stream: StreamState, outcome: Outcome, error: Exception, stage: str
    ) -> None:
        """A record of which nothing can be used becomes a dead letter."""
        self._traced(outcome, "dead_letter", error)
        if not outcome.is_new:
            part.finish(outcome.record.offset)
        elif part.knows(stream.name):
            self._teller.bury(outcome.record, error, stage)
            stream.coverage.bury()
            self._metrics.buried((part.source, stream.name), is_alert_open=stream.alerts.is_open)
            self._done(part, stream, outcome)
        else:
            # It does not found a stream.
            self._busy.add(key)
            self._settle_in_turn(part, outcome.record, error, key)

    def _settle_in_turn(self, part: Partition, record: Record, error: Exception, key: StreamKey | None) -> None:
        self._unsettled.setdefault(part.source, {})[record.offset] = _Unsettled(record, error, key)

    def _settle(self) -> None:
        for source, waiting in self._unsettled.items():
            part = self._partitions[source]
            while (lowest := part.lowest) is not None and (last := waiting.pop(lowest, None)) is not None:
                if lowest >= part.first_offset:
                    self._teller.bury(last.record, last.error, "decode")
                    self.counts["records"] += 1
                    self._checkpoint.finished()
                part.finish(lowest)
                if last.key is not None:
                    self._busy.discard(last.key)

    def _give_up(self, key: StreamKey) -> None:
        self._pipeline.cancel(self._jobs.pop(key).job)

    def _close_ended(self) -> None:
        """Close alerts of streams that send nothing any more."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _SNAPSHOT_S:
            return
        self._looked_s, before_s = now_s, now_s - self._streams.alerts.ended_s
        for part in self._partitions.values():
            position = part.next_offset if part.lowest is not None else self._consumer.position(part.source)
            for name in self._ended.among(part.source, position, part.silent(before_s, self._busy_in(part))):
                stream = part.stream(name)
                self._teller.end(part.source, stream)
                stream.dirty = True

    # -- commit, and what follows when it fails ----------------------------------------------------------------------
    def _flush(self) -> None:
        if not self._checkpoint.is_open:
            return
        parts = [p for p in self._partitions.values() if p.moved or p.has_dirty]
        now, began_s = time.monotonic(), time.perf_counter()
        for part in parts:
            part.let_go_of_idle(now - self.settings.idle_s, self._busy_in(part))
        try:
            with self._tracing.commit(self._traces):
                self._checkpoint.commit(
                    (state for part in parts for state in part.dirty_states()),
                    {part.source: part.next_offset for part in parts},
                    {part.source: part.resume_offset for part in parts},
                )
        except (FencedError, BrokerUnavailableError) as error:
            self._metrics.failed(error)
            raise
        except BrokerError as error:
            self._failures += 1
            self._metrics.failed(error)
            self.counts[f"aborts:{type(error).__name__}"] += 1
            log.warning("commit failed", error=str(error), failures=self._failures)
            if self._failures >= self.settings.retries and not isinstance(error, StaleGroupError):
                raise
            self._rewind()
            return
        self._failures = 0
        self._traces.clear()
        self.counts["commits"] += 1
        self._metrics.committed(time.perf_counter() - began_s)
        for part in parts:
            part.committed()
        live = sum(part.live_count for part in self._partitions.values())
        for part in self._partitions.values():
            live -= part.put_away(live - self.settings.live_streams, self._busy_in(part))

    def _busy_in(self, part: Partition) -> set[str]:
        return {name for source, name in self._busy if source == part.source}

    def _rewind(self) -> None:
        """Back to what is committed, in every partition that is ours."""
        self._checkpoint.abort()
        self._traces.clear()
        self.counts["rewinds"] += 1
        self._metrics.rewound()
        ours = self._consumer.assignment()
        for source in list(self._partitions):
            self._drop(source)
            if source in ours:
                self._open(source)

    def _drop(self, source: TopicPartition) -> None:
        """Forget a partition and all that is in progress of it."""
        for key in [key for key in self._jobs if key[0] == source]:
            self._give_up(key)
        self._busy = {key for key in self._busy if key[0] != source}
        self._intake.drop(source)
        self._partitions.pop(source, None)
        self._unsettled.pop(source, None)

    def _open(self, source: TopicPartition) -> None:
        began = time.monotonic()
        restored = restore(self._reader, self.settings.topics, self._state_partitions, source)
        for stream, error in restored.damaged.items():
            log.warning("state lost", stream=stream, error=str(error), hint=error.hint)
            self.counts["state_lost"] += 1
        position = restored.resume_offset
        if position is None:
            # Nothing was ever committed for it: back to where the group began to read.
            position = self._starts[source]
        self._consumer.seek(source, position)
        self._partitions[source] = Partition(source, position, restored, self._models, self._streams)
        self.counts["restored_streams"] += len(restored.streams)
        self._metrics.restored(time.monotonic() - began, len(restored.streams), len(restored.damaged))
        self._health.turn()
        log.info("partition", source=tuple(source), position=position, streams=len(restored.streams),
                 seconds=round(time.monotonic() - began, 3))  # fmt: skip

    # -- what the group does to us (called inside poll and close) ------------------------------------------------------
    def assigned(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        self._metrics.rebalanced("assigned", partitions)
        for source in partitions:
            self._paused.discard(source)
            self._starts[source] = self._consumer.position(source)
            self._open(source)

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        self._flush()
        self._metrics.rebalanced("revoked", partitions)
        for source in partitions:
            self._drop(source)

    def lost(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        self._metrics.rebalanced("lost", partitions)
        for source in partitions:
            self._drop(source)
        if self._checkpoint.is_open:
            self._rewind()


def _payload(record: Record) -> Payload:
    return Payload(record.value or b"", record.headers, record.timestamp_ms, record.offset)
