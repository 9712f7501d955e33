"""Whose record is worked on next, which records of a stream in one go, and how closely each is looked at."""

from __future__ import annotations

import time
from collections.abc import Collection, Container

from stream.broker.contract import Record, TopicPartition
from stream.decode import Gear
from stream.decode.timeline import BELIEVED_S
from stream.intake import Intake, StreamKey
from stream.partition import Partition, StreamState
from stream.settings import Overload, WorkerSettings
from stream.settling import Progress, Settling

#: Weight of the last record in how long one takes.
_RECENT = 0.1


class Turns:
    """Gives streams their turns. Where too much is to be done and `Overload.SHED` holds, what is too late is not looked
    at at all.

    Args:
        intake: what waits.
        settling: knows which streams are busy.
        settings: of the worker.
        alone: partition and offset of records that are not to be worked on together with others.
    """

    def __init__(
        self,
        intake: Intake,
        settling: Settling,
        settings: WorkerSettings,
        alone: Container[tuple[TopicPartition, int]],
    ) -> None:
        self._intake, self._settling, self._settings, self._alone = intake, settling, settings, alone
        #: How long a record is in progress; of the last ones that were worked on.
        self._takes_s = 0.0
        #: When to look again for what is too late, by the monotonic clock.
        self._late_at_s = float("-inf")

    def pick(self, in_progress: Collection[Progress]) -> tuple[StreamKey, Record] | None:
        """Whose record is next, where there is room for one beside those in progress."""
        most = self._settings.pipeline.in_progress
        # What is to be shed would grow older yet if it waited for its stream's turn. It has room of its own, so that
        # nobody waits for a flood of it.
        began_s = time.monotonic()
        if self._settings.overload is Overload.SHED and len(in_progress) < 2 * most and began_s >= self._late_at_s:
            late = self._intake.pick_late(self._settling.busy, self._is_late)
            if late is not None:
                return late
            # All streams were looked through for nothing, and there may be thousands: a tenth of the time, not all.
            self._late_at_s = began_s + 10 * (time.monotonic() - began_s)
        worked_on = sum(progress.job.gear is not Gear.SHED for progress in in_progress)
        return self._intake.pick(self._settling.busy) if worked_on < most else None

    def gear(self, stream: StreamState, record: Record, *, is_new: bool) -> Gear:
        """How closely a record is to be looked at, as things are now."""
        if self._settings.overload is Overload.SHED and is_new and self._is_late(record, stream.gears.is_urgent):
            return Gear.SHED
        return stream.gears.gear

    def follow(self, key: StreamKey, part: Partition, stream: StreamState, first: Record, gear: Gear) -> list[Record]:
        """Records of a stream that wait behind one, and may be worked on in one go with it; ``gear``: the gear of that
        one."""

        def goes_with(record: Record) -> bool:
            if (part.source, record.offset) in self._alone:
                return False
            return self.gear(stream, record, is_new=part.is_new(stream, record.offset)) is gear

        pipeline = self._settings.pipeline
        room = pipeline.run_bytes - len(first.value or b"")
        return self._intake.follow(key, min(pipeline.run, stream.run) - 1, room, goes_with)

    def over(self, progress: Progress) -> None:
        """A job is over, well or ill: learn from it. What it did not come to waits again."""
        job, stream = progress.job, progress.stream
        if job.error is None and job.gear is not Gear.SHED:
            self._takes_s += _RECENT * (time.monotonic() - progress.began_s - self._takes_s)
        taken, begun = len(progress.outcomes), len(job.decodings)
        for outcome in reversed(progress.outcomes[begun:]):
            self._intake.put_back(job.stream, outcome.record)
        frames = sum(outcome.frames for outcome in progress.outcomes)
        # What is taken beyond the next frame was taken for nothing: where each record gives one, all but the first.
        if not frames and begun >= stream.run:
            stream.run = min(2 * stream.run, self._settings.pipeline.run)
        elif begun < taken / 4:
            stream.run //= 2
        self._intake.serve(job.stream, float(begun + frames), urgent=stream.gears.is_urgent)

    def _is_late(self, record: Record, is_urgent: bool) -> bool:
        """Whether a record is too old, or would be when it is done. One whose timestamp cannot be believed is not."""
        most_s = self._settings.max_age_s
        patience_s = most_s * (2 if is_urgent else 1) - min(self._takes_s, most_s / 2)
        stamp_s = record.timestamp_ms / 1e3
        return stamp_s > BELIEVED_S and time.time() - stamp_s > patience_s
