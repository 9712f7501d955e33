"""How much of a stream's time was really looked at: what tells "clean" from "not looking".

Every due frame stands for the stream time since the due frame before it. That time is covered where the frame was
scored with a usable face, or has no face at all; it is not where an anchor is still missing, no face is fit for
scoring, or nobody looked. A frame stands for `GAP_S` at the most: before that, nothing came that could be looked at.
"""

from __future__ import annotations

import math
from bisect import bisect_left

from stream.messages import Status

#: The longest time that one frame stands for, s.
GAP_S = 5.0
#: The longest gap that is counted, s. A longer one is a night, or a producer's clock that leaps: years of it, told of
#: one stream, would leave nothing of the coverage of all others.
MAX_GAP_S = 3600.0
#: The same after a record of which nothing could be used: its frames would have been due.
_AFTER_BURIED_S = 1.0
#: Memory of the ratio, s of stream time.
_MEMORY_S = 60.0
#: Due frames that are remembered: one that was lost may be told when so many others were.
_RECENT = 32
#: A stream that no frame came of for so long is not looked at, whatever it was before, s.
QUIET_S = 10.0

COVERED = frozenset({Status.SCORED, Status.NO_FACE})
_REASONS = {
    Status.WARMING_UP: "warming_up",
    Status.LOW_QUALITY: "low_quality",
    Status.DECODE_ERROR: "decode_error",
    Status.SHED: "shed",
}

#: Nobody has looked at these.
_LOST = frozenset({Status.DECODE_ERROR, Status.SHED})


class Coverage:
    """Of one stream, frame after frame.

    Args:
        last_ns: PTS of the last frame, where another worker stopped; None before the first.
    """

    __slots__ = ("_covered", "_is_buried", "_last_ns", "_owed_s", "_recent", "_weight")

    def __init__(self, last_ns: int | None = None) -> None:
        self._last_ns, self._is_buried = last_ns, False
        #: The last due frames in order of time, and since when the time before each counts as covered.
        self._recent: list[tuple[int, int]] = []
        #: Time that was called covered and was not, by why: so much of what comes next is not.
        self._owed_s: dict[str, float] = {}
        self._covered = self._weight = 0.0

    def bury(self) -> None:
        """Frames were lost whose time is not known: a record that could not be used, or not whole."""
        self._is_buried = True

    def add(self, pts_ns: int, status: Status) -> list[tuple[str, float]]:
        """The next due frame, in order of time: the stream time that passed, s, by why it is not covered; empty where
        it is. Frames that come too late stand for no time. One that was lost and is told after later ones takes the
        time back that it stands for: as much of what comes next is not covered."""
        if status is Status.STALE:
            return []
        last_ns = pts_ns if self._last_ns is None else self._last_ns
        self._last_ns = max(last_ns, pts_ns)
        passed_s = (pts_ns - last_ns) / 1e9
        if passed_s <= 0:
            if passed_s < 0 and status in _LOST:
                self._take_back(pts_ns, _REASONS[status])
            elif not self._recent:
                self._recent.append((pts_ns, pts_ns))
            return []
        passed_s = min(passed_s, MAX_GAP_S)
        stands_s = min(passed_s, _AFTER_BURIED_S if self._is_buried else GAP_S)
        found = []
        if passed_s > stands_s:
            found.append(self._count("dead_letter" if self._is_buried else "gap", passed_s - stands_s))
        self._is_buried = False
        is_covered = status in COVERED
        self._recent.append((pts_ns, pts_ns - round(stands_s * 1e9) if is_covered else pts_ns))
        del self._recent[:-_RECENT]
        while is_covered and self._owed_s and stands_s > 0:
            reason, owed_s = self._owed_s.popitem()
            found.append(self._count(reason, min(owed_s, stands_s)))
            if owed_s > stands_s:
                self._owed_s[reason] = owed_s - stands_s
            stands_s -= min(owed_s, stands_s)
        if stands_s > 0:
            found.append(self._count("" if is_covered else _REASONS[status], stands_s))
        return found

    def _take_back(self, pts_ns: int, reason: str) -> None:
        """A frame was lost at a time that lies among those that were told already."""
        at = bisect_left(self._recent, (pts_ns,))
        if not 0 < at < len(self._recent) or self._recent[at][0] == pts_ns:
            return
        (before_ns, _), (after_ns, since_ns) = self._recent[at - 1], self._recent[at]
        since_ns = max(before_ns, since_ns)
        if pts_ns > since_ns:
            self._owed_s[reason] = self._owed_s.get(reason, 0.0) + (pts_ns - since_ns) / 1e9
            self._recent[at] = (after_ns, pts_ns)
        self._recent.insert(at, (pts_ns, pts_ns))

    def _count(self, reason: str, seconds: float) -> tuple[str, float]:
        kept = math.exp(-seconds / _MEMORY_S)
        self._weight = self._weight * kept + (1 - kept)
        self._covered = self._covered * kept + (0.0 if reason else 1 - kept)
        return reason, seconds

    @property
    def ratio(self) -> float | None:
        """Covered share of about the last minute; None before any time has passed."""
        return self._covered / self._weight if self._weight else None


def ratio_now(ratio: float | None, silent_s: float) -> float | None:
    """What is told of a stream's ratio when its last due frame came so long ago."""
    return 0.0 if ratio is not None and silent_s > QUIET_S else ratio
