"""The worker: poll, decode, analyse, emit, commit. Every analysed frame appears once, whatever is killed.

One thread. What is in memory of a stream is a copy of what the state topic says plus the work of the open
transaction; whenever a transaction fails, the copy is thrown away and read again. So there is one way to recover, and
it is the way that a new owner begins.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import structlog

from difffake import __version__
from stream.broker.contract import Broker, Record, TopicPartition, TopicSpec
from stream.broker.errors import BrokerError, BrokerUnavailableError, FencedError, StaleGroupError
from stream.checkpoint import Checkpoint, restore
from stream.commands_log import CommandsLog
from stream.decode import Decoded, DecodedFrame, DecodeSettings, InputError, LossReason, Lost, Payload
from stream.ended import EndedStreams
from stream.live import LiveModels, LiveSettings
from stream.messages import FIRST_LOST_INDEX, AlertRecord, ScoreRecord, Source, Status, bounded, encode
from stream.partition import Partition, StreamIdError, StreamState, stream_id
from stream.settings import WorkerSettings
from stream.verdicts import AlertSettings

log = structlog.get_logger()

Batch = list[DecodedFrame]


class _RewoundError(Exception):
    """The partition was read back from what is committed while one of its records was being worked on."""


class Worker:
    """A member of the group that scores streams.

    Args:
        broker: where everything comes from and goes to.
        models: the networks; the caller closes them.
        settings: of the worker.
        decode, live, alerts: of the rooms that it works with.
        name: stands in the transactional id; unique among the workers of the group.
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
    ) -> None:
        self._broker, self._models, self.settings = broker, models, settings
        self._decode, self._live = decode or DecodeSettings(), live or LiveSettings()
        self._alerts = alerts or AlertSettings()
        self._stopping = False
        self._partitions: dict[TopicPartition, Partition] = {}
        #: Where each partition stood when it became ours.
        self._starts: dict[TopicPartition, int] = {}
        #: Records that made the analysis fail, and how: next time they are buried instead.
        self._poison: dict[tuple[TopicPartition, int], Exception] = {}
        self._failures = 0
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
        self._consumer.subscribe(settings.inputs, self)

    # -- the loop ----------------------------------------------------------------------------------------------------
    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Work until `stop`, or until ``until`` says so between two polls; then flush and leave the group.

        Raises:
            BrokerError: the broker is gone for too long, or refuses; nothing is half-written.
            MessageError: state or enrolments of a newer version.
        """
        try:
            while not self._stopping and not (until is not None and until()):
                self.step()
            self._flush()
        finally:
            # Whatever ended the loop is told, not what a broken connection says to a farewell.
            with contextlib.suppress(BrokerError):
                self._checkpoint.abort()
            with contextlib.suppress(BrokerError):
                self._consumer.close(self.settings.close_s)
            self._reader.close()

    def idle_for(self, seconds: float) -> Callable[[], bool]:
        """A condition for `run`: no record for so long."""
        last = [self.counts["polled"], time.monotonic()]

        def is_idle() -> bool:
            if self.counts["polled"] != last[0]:
                last[:] = [self.counts["polled"], time.monotonic()]
            return time.monotonic() - last[1] > seconds

        return is_idle

    def stop(self) -> None:
        """End `run` after the record at hand; safe in a signal handler."""
        self._stopping = True

    def step(self) -> None:
        """One turn: poll, work, commit if it is time."""
        self._commands.refresh()
        records = self._consumer.poll(self.settings.poll_timeout_s, self.settings.poll_records)
        self.counts["polled"] += len(records)
        rewinds = self.counts["rewinds"]
        for record in records:
            part = self._partitions.get(record.source)
            if part is not None and record.offset >= part.position:
                self._record(part, record)
            if self._checkpoint.is_due:
                self._flush()
            # After a rewind every partition reads on from another place: what is left of the batch comes again.
            if self._stopping or self.counts["rewinds"] > rewinds:
                break
        if not self._stopping:  # else records of this batch may be left
            self._close_ended()
        if self._checkpoint.is_due:
            self._flush()

    # -- one record --------------------------------------------------------------------------------------------------
    def _record(self, part: Partition, record: Record) -> None:
        part.position = record.offset + 1
        # What was done before and is read again for a decoder's sake must leave no second trace.
        is_new = record.offset >= part.next_offset
        poison = self._poison.pop((record.source, record.offset), None)
        try:
            if poison is not None:
                if is_new:
                    self._bury(record, poison, "analyse")
            else:
                self._analyse(part, record, is_new)
        except BrokerError:
            raise
        except _RewoundError:
            return
        except (InputError, StreamIdError) as error:
            if is_new:
                self._bury(record, error, "decode")
        except Exception as error:
            # Half of this record may be in the stream's state: go back to what is committed, and bury it then.
            log.exception("record failed", topic=record.topic, partition=record.partition, offset=record.offset)
            self._poison[record.source, record.offset] = error
            self._rewind()
            return
        if is_new:
            part.next_offset = record.offset + 1
            part.moved = True
            self.counts["records"] += 1
            self._checkpoint.finished()

    def _analyse(self, part: Partition, record: Record, is_new: bool) -> None:
        stream = part.stream(stream_id(record))
        self._apply_commands(part, stream)
        payload = Payload(record.value or b"", record.headers, record.timestamp_ms, record.offset)
        decoded = stream.decoder.decode(payload)
        scored = 0
        for frames in _batches(decoded.frames, self.settings.frames_at_once):
            for score in stream.live.process(frames, lambda f: self._source(record, f)):
                self._emit(stream, score)
            scored += len(frames)
            stream.dirty = True
        if not is_new:
            return
        stream.dirty = True
        stream.seen_s = time.monotonic()
        if not decoded.replayed:
            self._tell_lost(stream, record, decoded)
        if not (scored or decoded.lost or decoded.damage):
            # Every record can be accounted for: nothing in it was due, or its decoder has given nothing out yet.
            self.counts["records:nothing_due" if decoded.pictures else "records:no_picture_yet"] += 1
        for warning in decoded.warnings:
            self.counts[f"warning:{warning.partition(':')[0]}"] += 1

    def _tell_lost(self, stream: StreamState, record: Record, decoded: Decoded) -> None:
        for number, lost in enumerate(decoded.lost):
            if lost.pts_ns is None:
                self.counts[f"lost:{lost.reason.value}"] += 1
                continue
            self._emit(stream, self._lost(stream, record, lost, number))
        if decoded.damage is not None:
            self._bury(record, decoded.damage, "decode")

    def _lost(self, stream: StreamState, record: Record, lost: Lost, number: int) -> ScoreRecord:
        status = Status.STALE if lost.reason is LossReason.STALE else Status.DECODE_ERROR
        return ScoreRecord(
            stream=stream.name,
            pts_ns=lost.pts_ns or 0,
            # Their number in the record is not known: a number of their own keeps them apart from pictures.
            source=Source(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                index=FIRST_LOST_INDEX + number,
            ),
            status=status,
            reason=bounded(lost.reason.value.replace("_", " ")),
            faces=(),
            model_id=self._models.model_id,
            difffake=__version__,
        )

    @staticmethod
    def _source(record: Record, frame: DecodedFrame) -> Source:
        return Source(topic=record.topic, partition=record.partition, offset=frame.offset, index=frame.index)

    def _emit(self, stream: StreamState, score: ScoreRecord) -> None:
        self._checkpoint.send(self.settings.topics.scores, score.key, encode(score))
        self.counts[f"frames:{score.status.value}"] += 1
        for alert in stream.alerts.observe(score):
            self._tell(alert)

    def _close_ended(self) -> None:
        """Close alerts of streams that send nothing any more."""
        before_s = time.monotonic() - self._alerts.ended_s
        for part in self._partitions.values():
            silent = part.silent(before_s)
            for name in self._ended.among(part.source, self._consumer.position(part.source), silent):
                stream = part.stream(name)
                for alert in stream.alerts.end(name, self._models.model_id):
                    self._tell(alert)
                stream.dirty = True

    def _tell(self, alert: AlertRecord) -> None:
        self._checkpoint.send(self.settings.topics.alerts, alert.key, encode(alert))
        self.counts[f"alerts:{alert.state.value}"] += 1

    def _bury(self, record: Record, error: Exception, stage: str) -> None:
        self._checkpoint.bury(record, error, stage)
        self.counts[f"deadletters:{type(error).__name__}"] += 1

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
        for command in pending:
            for warning in command.apply(stream.live):
                log.warning("enrolment", stream=stream.name, warning=warning)
                self.counts["enrolment_warnings"] += 1
            stream.commands_offset = command.offset + 1
            self.counts["commands"] += 1
        stream.dirty = True

    # -- commit, and what follows when it fails ----------------------------------------------------------------------
    def _flush(self) -> None:
        if not self._checkpoint.is_open:
            return
        parts = [p for p in self._partitions.values() if p.moved or p.has_dirty]
        now = time.monotonic()
        for part in parts:
            part.let_go_of_idle(now - self.settings.idle_s)
        try:
            self._checkpoint.commit(
                (state for part in parts for state in part.dirty_states()),
                {part.source: part.next_offset for part in parts},
                {part.source: part.resume_offset for part in parts},
            )
        except (FencedError, BrokerUnavailableError):
            raise
        except BrokerError as error:
            self._failures += 1
            self.counts[f"aborts:{type(error).__name__}"] += 1
            log.warning("commit failed", error=str(error), failures=self._failures)
            if self._failures >= self.settings.retries and not isinstance(error, StaleGroupError):
                raise
            self._rewind()
            return
        self._failures = 0
        self.counts["commits"] += 1
        for part in parts:
            part.committed()
        live = sum(part.live_count for part in self._partitions.values())
        for part in self._partitions.values():
            live -= part.put_away(live - self.settings.live_streams)

    def _rewind(self) -> None:
        """Back to what is committed, in every partition that is ours."""
        self._checkpoint.abort()
        self.counts["rewinds"] += 1
        ours = self._consumer.assignment()
        for source in list(self._partitions):
            if source in ours:
                self._open(source)
            else:
                del self._partitions[source]

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
        self._partitions[source] = Partition(
            source, position, restored, self._models, decode=self._decode, live=self._live, alerts=self._alerts
        )
        self.counts["restored_streams"] += len(restored.streams)
        log.info("partition", source=tuple(source), position=position, streams=len(restored.streams),
                 seconds=round(time.monotonic() - began, 3))  # fmt: skip

    # -- what the group does to us (called inside poll and close) ------------------------------------------------------
    def assigned(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        for source in partitions:
            self._starts[source] = self._consumer.position(source)
            self._open(source)

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        self._flush()
        for source in partitions:
            self._partitions.pop(source, None)

    def lost(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""
        for source in partitions:
            self._partitions.pop(source, None)
        if self._checkpoint.is_open:
            self._rewind()


def _batches(frames: Iterator[DecodedFrame], size: int) -> Iterator[Batch]:
    while batch := list(islice(frames, size)):
        yield batch
