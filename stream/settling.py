"""Records that are done with: each is settled once, in the order of its stream, with what became of it alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

from stream.broker.contract import Record, TopicPartition
from stream.checkpoint import Checkpoint
from stream.decode import Gear
from stream.decode.timeline import BELIEVED_S
from stream.intake import Intake, StreamKey
from stream.metrics.instruments import Metrics
from stream.outcome import Outcome, Teller
from stream.partition import Partition, StreamState
from stream.pipeline import Job
from stream.tracing import NO_TRACE, Trace


@dataclass(slots=True)
class Progress:
    """A run of records of a stream on its way.

    Args:
        outcomes: of all its records.
        began_s: monotonic clock.
        settled: how many of them are done with.
    """

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
class _Waiting:
    """A record that leaves no state behind: it is buried when all before it are done, so that it is buried once.

    ``key``: the stream that waits for it.
    """

    record: Record
    error: Exception
    key: StreamKey | None


class Settling:
    """Settles records: tells what became of them, counts them, and moves their stream and partition on.

    Args:
        teller: says what became of them.
        checkpoint: what is settled waits there for its commit.
        counts, metrics: what happened.

    Attributes:
        busy: streams whose next record must wait: one is in progress, or has to be settled first.
        traces: of the records since the last commit.
    """

    def __init__(self, teller: Teller, checkpoint: Checkpoint, counts: Counter[str], metrics: Metrics) -> None:
        self.teller, self._checkpoint, self._counts, self._metrics = teller, checkpoint, counts, metrics
        self.busy: set[StreamKey] = set()
        self.traces: list[Trace] = []
        self._waiting: dict[TopicPartition, dict[int, _Waiting]] = {}
        self._held: Counter[TopicPartition] = Counter()
        self._held_bytes: Counter[TopicPartition] = Counter()

    def settle(self, progress: Progress) -> None:
        """The record at hand is whole, and all that was seen in it is taken."""
        job, part, stream, outcome = progress.job, progress.part, progress.stream, progress.outcome
        decoding = job.decodings[progress.settled]
        if job.gear is Gear.SHED and outcome.is_new:
            self._counts["records:shed"] += 1
            self._metrics.shed(is_urgent=stream.gears.is_urgent)
        if decoding.decoded is not None:
            self.teller.finish(stream, outcome, decoding.decoded, job.gear)
        if decoding.after is not None:
            stream.decoder_state = decoding.after
        self._done(part, stream, outcome)
        outcome.trace.decoded(decoding.decode_s)
        self._traced(outcome, "done")
        progress.settled += 1

    def bury(
        self, key: StreamKey, part: Partition, stream: StreamState, outcome: Outcome, error: Exception, stage: str
    ) -> None:
        """A record of which nothing can be used becomes a dead letter."""
        self._traced(outcome, "dead_letter", error)
        if not outcome.is_new:
            part.finish(outcome.record.offset)
        elif part.knows(stream.name):
            self.teller.bury(outcome.record, error, stage)
            stream.coverage.bury()
            self._metrics.buried((part.source, stream.name), is_alert_open=stream.alerts.is_open)
            self._done(part, stream, outcome)
        else:
            # It does not found a stream.
            self.busy.add(key)
            self.bury_in_turn(part, outcome.record, error, key)

    def bury_in_turn(self, part: Partition, record: Record, error: Exception, key: StreamKey | None) -> None:
        """Bury a record when all before it are done; ``key``: the stream that waits for it."""
        self._waiting.setdefault(part.source, {})[record.offset] = _Waiting(record, error, key)
        self._held[part.source] += 1
        self._held_bytes[part.source] += len(record.value or b"")

    def bury_waiting(self, partitions: Mapping[TopicPartition, Partition]) -> None:
        """Bury those whose turn has come."""
        for source, waiting in self._waiting.items():
            part = partitions[source]
            while (lowest := part.lowest) is not None and (last := waiting.pop(lowest, None)) is not None:
                if lowest >= part.first_offset:
                    self.teller.bury(last.record, last.error, "decode")
                    if last.key is not None:
                        self.teller.unread(last.key[1], last.record, last.error)
                    self._counts["records"] += 1
                    self._checkpoint.finished(_published_s(last.record))
                part.finish(lowest)
                self._held[source] -= 1
                self._held_bytes[source] -= len(last.record.value or b"")
                if last.key is not None:
                    self.busy.discard(last.key)

    def held(self, intake: Intake) -> tuple[Counter[TopicPartition], Counter[TopicPartition]]:
        """By partition: records that wait, to be worked on or to be buried when all before them are done; and their
        bytes. One record that takes long must not let garbage behind it fill memory."""
        return intake.waiting + self._held, intake.waiting_bytes + self._held_bytes

    def busy_in(self, part: Partition) -> set[str]:
        """Busy streams of a partition."""
        return {name for source, name in self.busy if source == part.source}

    def drop(self, source: TopicPartition) -> None:
        """Forget what is to be settled of a partition."""
        self.busy = {key for key in self.busy if key[0] != source}
        self._waiting.pop(source, None)
        del self._held[source], self._held_bytes[source]

    def _done(self, part: Partition, stream: StreamState, outcome: Outcome) -> None:
        if outcome.is_new:
            stream.next_offset = outcome.record.offset + 1
            stream.seen_s = monotonic()
            self._counts["records"] += 1
            self._checkpoint.finished(_published_s(outcome.record))
        if outcome.is_new or outcome.frames:
            stream.dirty = True
        part.finish(outcome.record.offset)

    def _traced(self, outcome: Outcome, what: str, error: Exception | None = None) -> None:
        if outcome.trace is not NO_TRACE:
            outcome.trace.end(what, outcome.frames, error)
            self.traces.append(outcome.trace)


def _published_s(record: Record) -> float:
    """When a record was published, s since the epoch; for ever in the future where its producer has no clock."""
    stamp_s = record.timestamp_ms / 1e3
    return stamp_s if stamp_s > BELIEVED_S else math.inf
