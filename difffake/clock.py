"""Time within a video: seconds from its start out of raw timestamps, and which frames are due for analysis."""

from __future__ import annotations

from dataclasses import dataclass

#: Timestamps that fall back by more than this belong to a restarted clock, not to reordered frames.
_CLOCK_RESTART_S = 1.0


@dataclass(slots=True)
class SampleClock:
    """Seconds from the start, whatever the timestamps do; and which frames are due at the sampling rate."""

    fps: float | None
    frame_s: float
    start_s: float | None
    last_s: float = -1.0
    restarts: int = 0
    _offset_s: float = 0.0
    _next_slot: int = 0
    _lost_slot: int = -1

    def read(self, raw_s: float | None) -> float:
        """Turn the timestamp of the next frame in display order into seconds from the start."""
        if raw_s is None:
            now = self.last_s + self.frame_s if self.last_s >= 0 else 0.0
        else:
            # A first frame before, or an hour after, the container's start: the container is wrong.
            if self.last_s < 0 and (self.start_s is None or not 0 <= raw_s - self.start_s < 3600):
                self.start_s = raw_s
            now = raw_s - (self.start_s or 0.0) + self._offset_s
            if now < self.last_s - _CLOCK_RESTART_S:
                self.restarts += 1
                self._offset_s += self.last_s + self.frame_s - now
                now = self.last_s + self.frame_s
        self.last_s = max(now, self.last_s)
        return self.last_s

    def is_due(self, now_s: float) -> bool:
        """Whether the frame at ``now_s`` is the first one in its slot of ``1 / fps`` seconds."""
        if self.fps is None:
            return True
        # The small amount forgives timestamps that a coarse time base has rounded down.
        slot = int(now_s * self.fps + 0.02)
        due = slot >= self._next_slot
        if due:
            self._next_slot = slot + 1
        return due

    def is_lost_due(self, now_s: float) -> bool:
        """The same for a frame that could not be decoded."""
        slot = int(now_s * (self.fps or 1 / self.frame_s) + 0.02)
        due = slot > self._lost_slot
        self._lost_slot = max(slot, self._lost_slot)
        return due
