"""When the face in one place becomes another person's: runs of frames that are not the anchor's person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Fewer frames than this are no run, however long they stand apart.
MIN_FRAMES = 3
_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Run:
    """Rows ``first`` to ``last`` (both included) of one track."""

    first: int
    last: int


def find_runs(time_s: F64, track: I64, other: Mask, known: Mask, *, min_s: float, bridge_s: float = 0.5) -> list[Run]:
    """Runs of frames of one track that show somebody else, in order of time.

    Args:
        time_s: ``(N,)`` ascending.
        track: ``(N,)``.
        other: ``(N,)``, whether the frame shows somebody else than the anchor's person.
        known: ``(N,)``, whether the frame says anything; the others are passed over.
        min_s: least time from the first to the last frame of a run, at least `MIN_FRAMES` frames.
        bridge_s: frames that look like the anchor's person for no longer than this do not end a run, nor does a
            single one: a good match by chance must not split an alarm in two.

    >>> time_s = np.arange(10) / 5
    >>> find_runs(time_s, np.zeros(10, np.int64), time_s >= 1, np.ones(10, bool), min_s=0.5)
    [Run(first=5, last=9)]
    """
    runs: list[Run] = []
    for one in np.unique(track):
        rows = np.flatnonzero((track == one) & known)
        hits = rows[other[rows]]
        if not len(hits):
            continue
        # Between two hits lie only frames that look like the anchor's person: how many, and for how long?
        place = np.searchsorted(rows, hits)
        matches = np.diff(place) - 1
        lasting = time_s[rows[place[1:] - 1]] - time_s[rows[place[:-1] + 1]] + _step(time_s[rows])
        for group in np.split(hits, np.flatnonzero((matches > 1) & (lasting > bridge_s)) + 1):
            inside = (rows >= group[0]) & (rows <= group[-1])
            mostly = len(group) * 2 > int(inside.sum())
            long_enough = time_s[group[-1]] - time_s[group[0]] >= min_s - _ROUNDING_S
            if len(group) >= MIN_FRAMES and long_enough and mostly:
                runs.append(Run(int(group[0]), int(group[-1])))
    return sorted(runs, key=lambda run: float(time_s[run.first]))


def _step(times: F64) -> float:
    """The usual time between two frames: a frame stands for that long."""
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0
