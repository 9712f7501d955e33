"""The time of one stream, in nanoseconds, strictly increasing; and which of its pictures are analysed."""

from __future__ import annotations

import dataclasses

from stream.decode.contract import TimelineState

MS, S = 1_000_000, 1_000_000_000
#: The time of a picture that nothing gives a time to, after the one before.
NOMINAL_NS = 40 * MS
#: Segments whose record timestamps say that they begin this much after the end of the one before follow at once:
#: timestamps are taken when a segment is sent, and jitter.
_SEAM_NS = 1 * S
#: Beyond this (the year 2096 if counted from 1970) a time is not believed; it leaves room for sums in 64 bits.
MAX_NS = 4_000_000_000 * S
#: The year 2011, in which Kafka was first released: no record's timestamp before it is believed, s since the epoch.
BELIEVED_S = 1_293_840_000.0
#: No picture is placed later, whatever its producer's clock does: times and their sums must fit 64 bits.
_LATEST_NS = 2 * MAX_NS


def period_ns(fps: float | None) -> int | None:
    """The sampling period; None: every picture."""
    return None if fps is None else max(round(S / fps), 1)


@dataclasses.dataclass(slots=True)
class Timeline:
    """Everything here follows from the records alone, so that a replay makes the same choices.

    Args:
        period_ns: the sampling grid, which changes with the gear; None: every picture is analysed.
        restart_ns: a time that falls back by more than this is a producer's clock that started again.
        leap_ns: one that leaps ahead by more than this, while records say that no such time passed, is one that was
            set, or is broken.
        last_ns: time of the last picture, analysed or not.
        shift_ns: what is added to the producer's times, since its clock started again.
        home_ns: what was added before; None where it never did.
        sampled_ns: time of the last picture that was analysed.
        segment_end_ns: where the last segment ended, in the producer's time.
        timestamp_ms: of the record of the last picture.
    """

    period_ns: int | None
    restart_ns: int
    leap_ns: int = 3600 * S
    last_ns: int | None = None
    shift_ns: int = 0
    home_ns: int | None = None
    sampled_ns: int | None = None
    segment_end_ns: int | None = None
    timestamp_ms: int = -1
    restarts: int = 0

    @classmethod
    def make(cls, fps: float | None, restart_s: float, leap_s: float = 3600.0) -> Timeline:
        """At the beginning of a stream."""
        return cls(period_ns(fps), round(restart_s * S), round(leap_s * S))

    def state(self) -> TimelineState:
        """What `set_state` takes."""
        return TimelineState(
            self.last_ns, self.shift_ns, self.sampled_ns, self.segment_end_ns, self.timestamp_ms, self.home_ns
        )

    def set_state(self, state: TimelineState) -> None:
        """Go on from there."""
        self.last_ns, self.shift_ns, self.sampled_ns = state.last_ns, state.shift_ns, state.sampled_ns
        self.segment_end_ns, self.timestamp_ms, self.home_ns = state.segment_end_ns, state.timestamp_ms, state.home_ns

    def place(self, raw_ns: int | None, timestamp_ms: int) -> int | None:
        """The time of the next picture in display order, from its producer's; None if it is stale.

        A time that is far before the last one is a clock that started again; so is one that is far after it where the
        records' timestamps say that no such time has passed. It goes on after the last picture, later by what these lie
        apart. Where it was a single record, or a few, and the clock is back where it was, nothing has happened.
        """
        last = self.last_ns
        following = last + NOMINAL_NS if last is not None else 0
        now = following if raw_ns is None else raw_ns + self.shift_ns
        if now > _LATEST_NS:
            now = following
        if last is not None:
            if 0 <= last - now <= self.restart_ns:
                return None
            then = now
            if raw_ns is not None and self.home_ns is not None and abs(now - last) > self.restart_ns:
                at_home = raw_ns + self.home_ns
                if 0 <= last - at_home <= self.restart_ns:
                    return None
                if 0 < at_home - last <= self.restart_ns + self._apart_ns(timestamp_ms):
                    then = at_home
            if then == now and (now < last or self._leaps(now, timestamp_ms)):
                then = last + max(self._apart_ns(timestamp_ms), NOMINAL_NS)
                if then > _LATEST_NS:
                    then = last + NOMINAL_NS
            if then != now:
                self.home_ns, self.shift_ns = self.shift_ns, self.shift_ns + then - now
                self.restarts += 1
                now = then
        self.last_ns, self.timestamp_ms = now, timestamp_ms
        return now

    def shifted(self, raw_ns: int, timestamp_ms: int = -1) -> int | None:
        """A producer's time in the stream's own, for a picture that is not placed; None where it is not believed."""
        now = raw_ns + self.shift_ns
        is_far_back = self.last_ns is not None and self.last_ns - now > self.restart_ns
        return None if abs(now) > _LATEST_NS or is_far_back or self._leaps(now, timestamp_ms) else now

    def _apart_ns(self, timestamp_ms: int) -> int:
        """What the record lies after that of the last picture, by their timestamps; 0 where nobody knows."""
        if timestamp_ms < 0 or self.timestamp_ms < 0:
            return 0
        return max(timestamp_ms - self.timestamp_ms, 0) * MS

    def _leaps(self, now: int, timestamp_ms: int) -> bool:
        """Whether a time is far ahead, and the records' timestamps say that no such time has passed."""
        if self.last_ns is None or min(timestamp_ms, self.timestamp_ms) / 1e3 < BELIEVED_S:
            return False
        return now - self.last_ns > self.leap_ns + self._apart_ns(timestamp_ms)

    def is_due(self, pts_ns: int) -> bool:
        """Whether no picture has been analysed yet in this cell of the sampling grid; changes nothing."""
        if self.period_ns is None or self.sampled_ns is None:
            return True
        return self.cell(pts_ns) > self.cell(self.sampled_ns)

    def cell(self, pts_ns: int) -> int:
        """Which cell of the grid a time lies in (without a grid: the time itself)."""
        if self.period_ns is None:
            return pts_ns
        # The small amount forgives times that a coarse time base has rounded down.
        return (pts_ns + self.period_ns // 50) // self.period_ns

    def segment_base_ns(self, timestamp_ms: int) -> int:
        """Where a segment that brings no time of its own begins: laid end to end, a gap only where there was one."""
        end = self.segment_end_ns
        if end is None:
            end = self.last_ns + NOMINAL_NS - self.shift_ns if self.last_ns is not None else None
        if not 0 <= timestamp_ms * MS < MAX_NS:
            return end if end is not None else 0
        start = timestamp_ms * MS
        return start if end is None or start > end + _SEAM_NS else end
