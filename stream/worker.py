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

import cv2
import structlog

from difffake.errors import DeviceLostError
from stream.alerts import AlertSettings
from stream.assignment import Assignment
from stream.batcher import BatchCounts
from stream.broker.contract import Broker, Record, TopicPartition
from stream.broker.errors import BrokerError
from stream.checkpoint import Checkpoint
from stream.commands_log import CommandsLog
from stream.commits import Commits
from stream.decode import DecodeSettings, InputError, Payload
from stream.ended import EndedStreams
from stream.gears import GearSettings
from stream.health import Phase
from stream.intake import Intake, StreamKey
from stream.live import LiveModels, LiveSettings
from stream.metrics.instruments import Backlog, Metrics, Snapshot
from stream.outcome import Outcome, Teller
from stream.partition import Partition, StreamIdError, StreamSettings, StreamState, believed_ns, stream_id
from stream.pipeline import Job, Pipeline
from stream.settings import WorkerSettings
from stream.settling import Progress, Settling
from stream.stages import Stage
from stream.tracing import NoTracing, Tracing
from stream.turns import Turns

log = structlog.get_logger()

#: Of `drain_timeout_s`, what the last commit and leaving the group may take.
_LEAVE_SHARE, _LEAVE_S = 0.3, 5.0
#: So many turns pass before input is looked at while enough of it waits.
_FULL_TURNS = 3
#: How often the figures of a moment are renewed, and silent streams looked for, s.
_SNAPSHOT_S = 0.25


class _RewoundError(Exception):
    """Everything was read back from what is committed while a record was about to begin."""


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
        #: Records that made the analysis fail, and how: next time they are buried instead.
        self._poison: dict[tuple[TopicPartition, int], Exception] = {}
        self._intake = Intake()
        self._jobs: dict[StreamKey, Progress] = {}
        #: Records in a row that made the analysis fail.
        self._broken = 0
        #: What happened, by name: for logs, metrics and tests.
        self.counts: Counter[str] = Counter()
        topics = settings.topics
        broker.ensure_topics(topics.specs(max(broker.partitions(topic) for topic in settings.inputs)))
        state_partitions = broker.partitions(topics.state)
        self._reader = broker.reader()
        self._ended = EndedStreams(self._reader)
        self._commands = CommandsLog(self._reader, topics.enrolments, settings.enrolments_s)
        self._consumer = broker.consumer(settings.group, instance_id=settings.instance_id)
        self._assignment = Assignment(
            self._consumer, self._reader, state_partitions, settings, self._streams, models, self.counts, self._metrics
        )
        self._partitions = self._assignment.partitions
        self._checkpoint = Checkpoint(
            broker.producer(f"{settings.group}.{name}"),
            self._consumer,
            topics,
            state_partitions,
            interval_s=settings.commit_interval_s,
            max_records=settings.commit_records,
            late_s=settings.commit_late_s,
        )
        self._teller = Teller(self._checkpoint, topics, models.model_id, self.counts, self._metrics)
        self._settling = Settling(self._teller, self._checkpoint, self.counts, self._metrics)
        self._commits = Commits(
            self._checkpoint, self._partitions, self._settling, settings, self._tracing, self.counts, self._metrics
        )
        self._turns = Turns(self._intake, self._settling, settings, self._poison)
        self._batch = settings.pipeline.batch
        self._metrics.batches(self._batch)
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
        # Decoders and networks have a thread for each core: OpenCV's own would only stand in their way.
        cv2.setNumThreads(1)
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
    def has_left(self) -> bool:
        """Whether its last work is committed and the group is left: nothing that is left can be lost."""
        return self._health.phase is Phase.STOPPED

    def _left_s(self, otherwise_s: float) -> float:
        """How long leaving may take yet; a moment at least, so that nothing is left undone that costs none."""
        return otherwise_s if self._deadline_s is None else max(1.0, self._deadline_s - time.monotonic())

    def step(self) -> None:
        """One turn: poll, begin what can begin, take what is done, commit if it is time."""
        self._commands.refresh()
        self._put_together()
        self._read()
        self._begin()
        self._take(max(self.settings.turn_s, self._poll_s - time.monotonic()) if self._jobs else 0.0)
        self._close_ended()
        if self._checkpoint.is_due(is_busy=self.is_busy):
            self._flush()
        self._tell_state()

    def _put_together(self) -> None:
        """Batches, as operators want them."""
        batch = self._commands.batch(self.settings.pipeline.batch)
        if batch != self._batch:
            log.info("batches are put together otherwise", size=batch.size, deadline_s=batch.deadline_s)
            self._batch = batch
            self._pipeline.change(batch)
            self._metrics.batches(batch)

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
            paused=len(self._assignment.paused),
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
            if self._checkpoint.is_due(is_busy=self.is_busy):
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
        self._assignment.hold_back(*self._settling.held(self._intake))
        timeout_s, most = 0.0 if self.is_busy else self.settings.poll_timeout_s, self.settings.poll_records
        records = self._consumer.poll(timeout_s, most)
        # To ask costs more than most access units do; where enough waits, more of it would only wait, too.
        turns = 0 if len(records) == most else _FULL_TURNS if len(self._intake) >= most else 1
        self._poll_s = time.monotonic() + turns * self.settings.turn_s
        for record in records:
            self.counts["polled"] += 1
            part = self._partitions.get(record.source)
            if part is None:
                continue
            if record.offset < part.position:
                if self._assignment.is_remade([part]):
                    self._commits.commit()  # all of it is of the topic before
                    self._rewind()
                    return
                continue
            if record.offset > part.position + 1:  # a transaction's mark takes one offset
                self._assignment.passed_over(part, record.offset)
            part.begin(record.offset, record.timestamp_ms)
            try:
                self._intake.put(stream_id(record), record)
            except StreamIdError as error:
                self._settling.bury_in_turn(part, record, error, None)

    def _begin(self) -> None:
        while (picked := self._turns.pick(self._jobs.values())) is not None:
            key, record = picked
            part = self._partitions[record.source]
            try:
                stream = part.stream(key[1])
                self._apply_commands(part, stream, record)
            except _RewoundError:
                return
            outcome = self._taken_up(part, stream, record)
            poison = self._poison.pop((record.source, record.offset), None)
            if poison is not None:
                self._settling.bury(key, part, stream, outcome, poison, "analyse")
                continue
            gear = self._turns.gear(stream, record, is_new=outcome.is_new)
            following = self._turns.follow(key, part, stream, record, gear)
            outcomes = [outcome, *(self._taken_up(part, stream, one) for one in following)]
            job = Job(
                key,
                stream.decoder,
                [_payload(one.record) for one in outcomes],
                gear,
                stream.live.finder,
                stream.gears.is_urgent,
            )
            self._jobs[key] = Progress(job, part, stream, outcomes, time.monotonic())
            self._settling.busy.add(key)
            self._pipeline.start(job)

    def _taken_up(self, part: Partition, stream: StreamState, record: Record) -> Outcome:
        outcome = Outcome(record, part.is_new(stream, record.offset))
        if outcome.is_new:
            outcome.trace = self._tracing.begin(record)
        return outcome

    def _apply_commands(self, part: Partition, stream: StreamState, record: Record) -> None:
        """Enrolments and operator commands, before the first record after they came; at a commit's boundary, so that
        the state topic holds the offset at which they were applied."""
        pending = self._commands.since(stream.name, stream.commands_offset)
        if not pending:
            return
        if self._checkpoint.is_open:
            self._flush()
            if self._partitions.get(part.source) is not part:
                raise _RewoundError
        # By what is in the record, not by the clock of now: whoever begins with it comes to the same.
        warnings = stream.apply(pending, believed_ns(record.timestamp_ms))
        for warning in warnings:
            log.warning("enrolment", stream=stream.name, warning=warning)
        self.counts["commands"] += len(pending)
        self.counts["enrolment_warnings"] += len(warnings)
        self._metrics.commands(len(pending), len(warnings))

    # -- records are done --------------------------------------------------------------------------------------------
    def _take(self, timeout_s: float) -> None:
        for job in self._pipeline.ready(timeout_s):
            goes_on = True
            # Whatever goes wrong, its job is forgotten.
            while goes_on and (progress := self._jobs.get(job.stream)) is not None and progress.job is job:
                goes_on = self._took(progress)
                if self._checkpoint.is_due(is_busy=True):
                    self._flush()
            if not self._stopping:  # many are done at once, and some thread has nothing to do until another begins
                self._begin()
        self._settling.bury_waiting(self._partitions)

    def _took(self, progress: Progress) -> bool:
        """Take a record of a job; whether there is another one to be taken."""
        job, part, stream = progress.job, progress.part, progress.stream
        if isinstance(job.error, DeviceLostError):
            raise job.error
        try:
            if progress.settled < len(job.decodings) - 1:  # it is whole, and gave nothing to look at
                self._settling.settle(progress)
                return True
            outcome = progress.outcome
            if job.error is None:
                self._score(progress)
                if not job.done:
                    self._pipeline.go_on(job)
                    return False
                self._settling.settle(progress)
            elif not isinstance(job.error, InputError):
                raise job.error
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
        self._end(progress)
        if job.error is not None:
            self._settling.bury(job.stream, part, stream, outcome, job.error, "decode")
        elif outcome.frames:
            self._broken = 0
        return False

    def _score(self, progress: Progress) -> None:
        job, outcome, sights = progress.job, progress.outcome, progress.job.take()
        if sights and not job.done:
            progress.part.take_part(progress.stream)
        began_s = time.perf_counter()
        outcome.trace.scoring()
        self._teller.take(progress.stream, outcome, sights)
        outcome.trace.scored()
        self._metrics.stage(Stage.SCORE, time.perf_counter() - began_s, len(sights))

    def _end(self, progress: Progress) -> None:
        """A job is over, well or ill; its stream is free."""
        key, stream = progress.job.stream, progress.stream
        del self._jobs[key]
        self._settling.busy.discard(key)
        stream.decoder_state = stream.decoder.state()
        stream.in_parts = False
        self._turns.over(progress)

    def _give_up(self, key: StreamKey) -> None:
        self._pipeline.cancel(self._jobs.pop(key).job)

    def _close_ended(self) -> None:
        """Close alerts of streams that send nothing any more."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _SNAPSHOT_S:
            return
        self._looked_s, before_s = now_s, now_s - self._streams.alerts.ended_s
        for part in self._partitions.values():
            silent = part.silent(before_s, self._settling.busy_in(part))
            if not silent or part.source not in self._consumer.assignment():
                continue
            position = part.next_offset if part.lowest is not None else self._consumer.position(part.source)
            for name in self._ended.among(part.source, position, silent):
                stream = part.stream(name)
                self._teller.end(part.source, stream)
                stream.dirty = True

    # -- commit, and what follows when it fails ----------------------------------------------------------------------
    def _flush(self) -> None:
        # What was read since the last commit of an input that was made again since may be of either topic.
        is_remade = self._checkpoint.is_open and self._assignment.is_remade(self._partitions.values())
        if is_remade or not self._commits.commit():
            self._rewind()

    def _rewind(self) -> None:
        """Back to what is committed, in every partition that is ours."""
        self._checkpoint.abort()
        self._settling.traces.clear()
        self.counts["rewinds"] += 1
        self._metrics.rewound()
        ours = self._consumer.assignment()
        for source in list(self._partitions):
            self._drop(source)
            if source in ours:
                self._assignment.open(source)

    def _drop(self, source: TopicPartition) -> None:
        """Forget a partition and all that is in progress of it."""
        for key in [key for key in self._jobs if key[0] == source]:
            self._give_up(key)
        self._intake.drop(source)
        self._partitions.pop(source, None)
        self._settling.drop(source)

    # -- what the group does to us (called inside poll and close) ------------------------------------------------------
    def assigned(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        self._metrics.rebalanced("assigned", partitions)
        for source in partitions:
            self._assignment.begin(source)

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
