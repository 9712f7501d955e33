"""What becomes of a record: scores, alerts, dead letters, counts. Every record and every frame ends here once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from difffake import __version__
from stream.alerts import portraits
from stream.broker.contract import Headers, Record, TopicPartition
from stream.checkpoint import Checkpoint
from stream.decode import Decoded, Gear, InputError, LossReason, Lost, Payload
from stream.decode.records import time_ns
from stream.late_frames import LateFrames
from stream.live import Look
from stream.messages import FIRST_LOST_INDEX, AlertRecord, Face, ScoreRecord, Source, Status, bounded, encode
from stream.metrics.instruments import Metrics
from stream.partition import StreamState
from stream.pipeline import Sight
from stream.topics import Topics
from stream.tracing import NO_TRACE, Trace

_STATUS = {LossReason.STALE: Status.STALE, LossReason.SHED: Status.SHED}


@dataclass(slots=True)
class Outcome:
    """What a record in progress has to say so far; it goes out when the record is done."""

    record: Record
    is_new: bool
    frames: int = 0
    outputs: list[ScoreRecord | AlertRecord] = field(default_factory=list)
    trace: Trace = NO_TRACE


class Teller:
    """Turns what was seen into records.

    Args:
        checkpoint: where they wait for the commit.
        topics: where they go.
        model_id: who made the scores.
        counts: what happened, by name.
        metrics: what happened, for a scrape.
    """

    def __init__(
        self, checkpoint: Checkpoint, topics: Topics, model_id: str, counts: Counter[str], metrics: Metrics
    ) -> None:
        self._checkpoint, self._topics, self._model_id, self._counts = checkpoint, topics, model_id, counts
        self._metrics = metrics
        self._late = LateFrames()

    def take(self, stream: StreamState, outcome: Outcome, sights: Sequence[Sight]) -> None:
        """Let a stream take what was seen in frames of a record: this changes its state."""
        record = outcome.record
        outcome.frames += len(sights)
        scores = stream.live.take(
            [sight.pts_ns for sight in sights],
            [sight.look for sight in sights],
            [
                Source(topic=record.topic, partition=record.partition, offset=sight.offset, index=sight.index)
                for sight in sights
            ],
        )
        for score, sight in zip(scores, sights, strict=True):
            self._add(stream, outcome, score, sight.look)

    def finish(self, stream: StreamState, outcome: Outcome, decoded: Decoded, gear: Gear) -> None:
        """Tell all of a record that is done; ``gear``: in which it was decoded."""
        record = outcome.record
        if outcome.is_new and not decoded.replayed:
            for number, lost in enumerate(decoded.lost):
                self._metrics.lost(lost.reason)
                if lost.pts_ns is None:
                    self._counts[f"lost:{lost.reason.value}"] += 1
                    stream.coverage.bury()
                else:
                    self._add(stream, outcome, self._lost(stream, record, lost, number))
            if late := sum(lost.reason is LossReason.STALE for lost in decoded.lost):
                self._late.add(stream.name, late)
            if decoded.damage is not None:
                self.bury(record, decoded.damage, "decode", is_whole=False)
        if outcome.is_new:
            if not (outcome.frames or decoded.lost or decoded.damage):
                # Every record can be accounted for: nothing in it was due, or its decoder has given nothing out yet.
                self._counts["records:nothing_due" if decoded.pictures else "records:no_picture_yet"] += 1
            for warning in decoded.warnings:
                self._counts[f"warning:{warning.partition(':')[0]}"] += 1
                self._metrics.warning(warning)
            self._metrics.record(record, _outcome(outcome, decoded, gear), decoded.pictures)
        # Lost ones were known last; who reads scores is to see time pass as it did.
        scores = sorted((one for one in outcome.outputs if isinstance(one, ScoreRecord)), key=lambda one: one.pts_ns)
        for score in scores:
            self._checkpoint.send(self._topics.scores, score.key, encode(score), outcome.trace.headers)
            self._counts[f"frames:{score.status.value}"] += 1
        for output in outcome.outputs:
            if isinstance(output, AlertRecord):
                self._tell(record.source, output, outcome.trace.headers)
        self._metrics.frames(
            (record.source, stream.name),
            scores,
            stream.coverage,
            gear,
            is_alert_open=stream.alerts.is_open,
        )

    def end(self, source: TopicPartition, stream: StreamState) -> None:
        """Close the alerts of a stream that sends nothing any more; ``source``: where it came through."""
        for alert in stream.alerts.end(stream.name, self._model_id):
            self._tell(source, alert)
        self._metrics.closed((source, stream.name))

    def bury(self, record: Record, error: Exception, stage: str, *, is_whole: bool = True) -> None:
        """Make a record a dead letter; ``is_whole``: nothing else becomes of it."""
        self._checkpoint.bury(record, error, stage)
        self._metrics.dead_letter(error, stage)
        if is_whole:
            self._metrics.record(record, "dead_letter")
        self._counts[f"deadletters:{type(error).__name__}"] += 1

    def unread(self, name: str, record: Record, error: Exception) -> None:
        """Say by a score that nothing could be read in a buried record of a stream that is not known: one that sends
        nothing else would be seen nowhere, and nobody knew that nobody looks."""
        if not isinstance(error, InputError):
            return  # it could be read: the fault is ours, and logged
        pts_ns = time_ns(Payload(record.value or b"", record.headers, record.timestamp_ms, record.offset))
        score = ScoreRecord(
            stream=name,
            pts_ns=pts_ns or 0,
            source=Source(topic=record.topic, partition=record.partition, offset=record.offset, index=FIRST_LOST_INDEX),
            status=Status.DECODE_ERROR,
            reason=f"dead letter: {type(error).__name__}",
            faces=(),
            model_id=self._model_id,
            difffake=__version__,
        )
        self._checkpoint.send(self._topics.scores, score.key, encode(score))
        self._counts[f"frames:{score.status.value}"] += 1
        self._metrics.stranger((record.source, name))

    def _tell(self, source: TopicPartition, alert: AlertRecord, headers: Headers = ()) -> None:
        self._metrics.alert(source, alert)
        self._checkpoint.send(self._topics.alerts, alert.key, encode(alert), headers)
        self._counts[f"alerts:{alert.state.value}"] += 1

    @staticmethod
    def _add(stream: StreamState, outcome: Outcome, score: ScoreRecord, look: Look | None = None) -> None:
        def portray(face: Face) -> bytes | None:
            return None if look is None else portraits.find(look.portraits, look.faces.boxes_px, face.box_px)

        outcome.outputs.append(score)
        outcome.outputs.extend(stream.alerts.observe(score, portray))
        stream.gears.observe(score)

    def _lost(self, stream: StreamState, record: Record, lost: Lost, number: int) -> ScoreRecord:
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
            status=_STATUS.get(lost.reason, Status.DECODE_ERROR),
            reason=bounded(lost.reason.value.replace("_", " ")),
            faces=(),
            model_id=self._model_id,
            difffake=__version__,
        )


def _outcome(outcome: Outcome, decoded: Decoded, gear: Gear) -> str:
    """How a record ended, as metrics have it."""
    if decoded.damage is not None:
        return "dead_letter"
    if gear is Gear.SHED:
        return "shed"
    if outcome.frames:
        return "analysed"
    if decoded.lost:
        return "lost"
    return "nothing_due" if decoded.pictures else "no_picture_yet"
