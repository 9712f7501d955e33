"""How often real footage would raise an alarm: windows below a p-value, and alarms an hour."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.errors import DataError


@dataclass(frozen=True, slots=True)
class Alarms:
    """What a p-value threshold does to real footage.

    ``windows`` were judged, ``below`` of them lie below the threshold; ``alarms`` counts runs of such windows, since an
    operator is told once, not every second. ``concerned`` are the clips (as given) with at least one alarm, out of
    ``clips``.
    """

    windows: int
    below: int
    alarms: int
    clips: int
    concerned: tuple[int, ...]

    @property
    def share(self) -> float:
        """Windows below the threshold, 0 to 1; NaN without windows."""
        return self.below / self.windows if self.windows else float("nan")

    def per_hour(self, footage_s: float) -> float:
        """Alarms in an hour of such footage; NaN without footage."""
        return 3600.0 * self.alarms / footage_s if footage_s > 0 else float("nan")

    def per_hour_at_most(self, footage_s: float) -> float:
        """The rate that would bring so few alarms, or fewer, one time in twenty (Garwood 1936); NaN without footage.

        It takes alarms for independent, which those of one clip are not.
        """
        return 3600.0 * _poisson_at_most(self.alarms) / footage_s if footage_s > 0 else float("nan")


def _poisson_at_most(count: int, probability: float = 0.05) -> float:
    """The mean of which ``count`` events or fewer are seen with this probability, by bisection."""
    low, high = float(count), 3.0 * count + 10.0
    for _ in range(80):
        middle = (low + high) / 2
        terms = (i * math.log(middle) - middle - math.lgamma(i + 1) for i in range(count + 1))
        low, high = (middle, high) if sum(map(math.exp, terms)) > probability else (low, middle)
    return (low + high) / 2


def count_alarms(p_values: ArrayLike, clip: ArrayLike, threshold: float) -> Alarms:
    """Count the windows of real clips whose p-value lies below ``threshold``.

    Args:
        p_values: ``(M,)``, windows in order of time within each clip; NaN where a window was not judged, which neither
            raises an alarm nor ends one.
        clip: ``(M,)`` integers, the clip of each window; the windows of a clip follow each other.
        threshold: as in `difffake.settings.ScanSettings`.

    Raises:
        DataError: shapes that differ, or the windows of a clip are scattered.
    """
    p = np.asarray(p_values, np.float64)
    of: NDArray[np.int64] = np.asarray(clip, np.int64)
    if p.ndim != 1 or p.shape != of.shape:
        raise DataError(f"p-values {p.shape} and clips {of.shape} do not fit", hint="give a clip per window")
    known = ~np.isnan(p)
    p, of = p[known], of[known]
    starts = np.append(True, of[1:] != of[:-1])[: len(of)]
    if np.count_nonzero(starts) != len(np.unique(of)):
        raise DataError("the windows of a clip are scattered", hint="sort the windows by clip, then by time")
    below = p < threshold
    before = np.append(False, below[:-1])[: len(below)]
    begins = below & (starts | ~before)
    return Alarms(
        windows=len(p),
        below=int(np.count_nonzero(below)),
        alarms=int(np.count_nonzero(begins)),
        clips=len(np.unique(of)),
        concerned=tuple(np.unique(of[below]).tolist()),
    )
