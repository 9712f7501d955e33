"""Percentile intervals by resampling *people*, not frames.

Frames of one video, and videos of one person, go up and down together; resampling them singly would claim a
certainty that the data does not have. Each draw takes as many people as there are, with replacement, with all
of their rows (cluster bootstrap: Davison and Hinkley 1997, section 3.8). People are drawn from a seed, so two
scores over the same people see the same draws, and their difference can be judged on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.evaluation.metrics import F64, Roc, roc

Interval = tuple[float, float]
FPRS = (0.001, 0.01, 0.05)
LEVEL = 0.95
# Elements of one block of (draws, rows); some six arrays of this size live at once (100 MB).
BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class Resampling:
    """How many draws, and the seed they start from."""

    draws: int = 1000
    seed: int = 0


DEFAULT_RESAMPLING = Resampling()


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; NaN and None where the rows do not allow one."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Performance:
    """One score at one level; the counts are rows (frames, windows or videos) and people."""

    auc: Estimate
    eer: Estimate
    tpr_at_fpr: dict[float, Estimate]
    real: int
    fake: int
    people: int


@dataclass(frozen=True, slots=True)
class Difference:
    """AUC of one score minus the AUC of another, over the rows that both have; ``people`` were resampled."""

    auc_a: float
    auc_b: float
    difference: Estimate
    people: int


def performance(
    labels: ArrayLike, scores: ArrayLike, people: ArrayLike, resampling: Resampling = DEFAULT_RESAMPLING
) -> Performance:
    """AUC, EER and TPR at 0.1 %, 1 % and 5 % FPR of (N,) scores with intervals over (N,) people (any hashable ids).

    Rows whose score is NaN (not scored) are left out.
    """
    truth, value, groups = _scored(labels, people, np.asarray(scores, dtype=np.float64))
    real, fake = int(np.sum(truth == 0)), int(np.sum(truth == 1))
    count = int(groups.max()) + 1 if len(groups) else 0
    if not real or not fake:
        nothing = Estimate(float("nan"), None)
        return Performance(nothing, nothing, dict.fromkeys(FPRS, nothing), real, fake, count)
    point = _figures(roc(truth, value[0]))
    drawn = [_figures(roc(truth, value[0], weights)) for weights in _draws(truth, groups, resampling)]
    intervals = _intervals(np.concatenate(drawn, axis=1)) if drawn else [None] * len(point)
    area, rate, *found = (Estimate(float(p[0]), interval) for p, interval in zip(point, intervals, strict=True))
    return Performance(area, rate, dict(zip(FPRS, found, strict=True)), real, fake, count)


def paired_difference(
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    people: ArrayLike,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Difference:
    """AUC of ``scores_a`` minus that of ``scores_b`` over the rows that have both, on the same draws."""
    both = np.stack([np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)])
    truth, (a, b), groups = _scored(labels, people, *both)
    count = int(groups.max()) + 1 if len(groups) else 0
    if len(np.unique(truth)) < 2:
        nan = float("nan")
        return Difference(nan, nan, Estimate(nan, None), count)
    area_a, area_b = float(roc(truth, a).auc()[0]), float(roc(truth, b).auc()[0])
    drawn = [
        roc(truth, a, weights).auc() - roc(truth, b, weights).auc() for weights in _draws(truth, groups, resampling)
    ]
    interval = _intervals(np.concatenate(drawn)[None])[0] if drawn else None
    return Difference(area_a, area_b, Estimate(area_a - area_b, interval), count)


def _scored(labels: ArrayLike, people: ArrayLike, *scores: F64) -> tuple[NDArray[np.int64], F64, NDArray[np.intp]]:
    values = np.stack(scores)
    keep = ~np.isnan(values).any(axis=0)
    groups = np.unique(np.asarray(people)[keep], return_inverse=True)[1]
    return np.asarray(labels, dtype=np.int64)[keep], values[:, keep], groups


def _draws(truth: NDArray[np.int64], groups: NDArray[np.intp], resampling: Resampling) -> Iterator[F64]:
    """Row weights (b, N), block by block. One person alone cannot be resampled, and no more can a class of one
    person: all draws that hold the class hold the same, and would be sure of it. Then nothing is drawn."""
    if min(len(np.unique(groups[truth == label])) for label in (0, 1)) < 2:
        return
    count = int(groups.max()) + 1
    rng = np.random.default_rng(resampling.seed)
    times = rng.multinomial(count, np.full(count, 1.0 / count), size=resampling.draws)
    step = max(1, BLOCK // len(groups))
    for start in range(0, resampling.draws, step):
        yield times[start : start + step][:, groups].astype(np.float64)


def _figures(curve: Roc) -> F64:
    """(2 + FPRs, B)."""
    return np.stack([curve.auc(), curve.eer(), *(curve.tpr_at(fpr) for fpr in FPRS)])


def _intervals(drawn: F64) -> list[Interval | None]:
    """Percentiles of each row of (F, B); draws in which a class was missing are left out."""
    tail = (1.0 - LEVEL) / 2.0
    usable = drawn[:, ~np.isnan(drawn).any(axis=0)]
    if not usable.shape[1]:
        return [None] * len(drawn)
    low, high = np.quantile(usable, (tail, 1.0 - tail), axis=1)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
