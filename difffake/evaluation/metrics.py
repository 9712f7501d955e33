"""How well a score separates fakes from real videos: AUC, EER, TPR at a fixed FPR.

Labels are 0 (real) and 1 (fake); scores rise with suspicion. Everything is computed from the same operating
characteristic: the points at all distinct thresholds, tied scores taken together. ``roc`` takes many
weightings of the rows at once, which is what a bootstrap is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.errors import DataError

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Roc:
    """How many real (``false_alarms``) and fake rows (``hits``) lie at or above each of T distinct thresholds.

    (B, T + 1) float64 each, for B weightings, from the highest threshold down; the first column is 0, the last the
    whole class. A weighting that leaves a class empty gives NaN rates.
    """

    false_alarms: F64
    hits: F64

    @property
    def fpr(self) -> F64:
        """(B, T + 1) false-positive rates, 0 to 1."""
        return _rates(self.false_alarms)

    @property
    def tpr(self) -> F64:
        """(B, T + 1) true-positive rates, 0 to 1."""
        return _rates(self.hits)

    def auc(self) -> F64:
        """(B,) area by trapezoids: the Mann-Whitney statistic with ties counted one half.

        Counted in whole rows and divided once, so that a perfect score gives 1, not nearly 1.
        """
        mean_hits: F64 = self.hits[:, 1:] + self.hits[:, :-1]
        area: F64 = np.einsum("bt,bt->b", np.diff(self.false_alarms, axis=1), mean_hits)
        with np.errstate(invalid="ignore"):
            share: F64 = area / (2.0 * self.false_alarms[:, -1] * self.hits[:, -1])
        return share

    def eer(self) -> F64:
        """(B,) rate where false positives equal false negatives, linear between neighbouring points."""
        fpr = self.fpr
        excess = fpr - (1.0 - self.tpr)  # rises from -1 to 1
        right = np.argmax(excess >= 0.0, axis=1)
        rows = np.arange(len(excess))
        low, high = excess[rows, right - 1], excess[rows, right]
        share = low / (low - high)
        left_fpr = fpr[rows, right - 1]
        rate: F64 = left_fpr + share * (fpr[rows, right] - left_fpr)
        return rate

    def tpr_at(self, fpr: float) -> F64:
        """(B,) highest TPR of a threshold whose FPR does not exceed ``fpr``; no threshold is invented between
        two.

        With fewer than 1 / ``fpr`` real rows this is the TPR without a single false alarm.
        """
        # A hair of slack: 5 of 100 must count as 5 %, whatever the division rounds to.
        column = np.count_nonzero(self.fpr <= fpr + 1e-12, axis=1) - 1
        rate: F64 = np.where(column < 0, np.nan, self.tpr[np.arange(len(column)), column])
        return rate


def roc(labels: ArrayLike, scores: ArrayLike, weights: NDArray[Any] | None = None) -> Roc:
    """Operating characteristic of (N,) scores against (N,) labels in {0, 1}, under (B, N) row weights
    (default: ones).

    O(N log N + B N).

    Raises:
        DataError: shapes differ, a label is neither 0 nor 1, a score is NaN, or there is no row at all.
    """
    truth, value = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != value.shape or not len(truth):
        raise DataError(
            f"labels {truth.shape} and scores {value.shape} do not fit",
            hint="pass two arrays (N,), N at least 1",
        )
    if not np.isin(truth, (0, 1)).all() or np.isnan(value).any():
        raise DataError("labels must be 0 or 1 and no score may be NaN", hint="leave unscored rows out")
    order = np.argsort(-value, kind="stable")
    last_of_tie = np.flatnonzero(np.append(value[order][1:] != value[order][:-1], True))
    ones = np.ones((1, len(truth))) if weights is None else np.asarray(weights, dtype=np.float64)
    ordered = ones[:, order]
    fake = truth[order] == 1
    return Roc(_counts(ordered * ~fake, last_of_tie), _counts(ordered * fake, last_of_tie))


def _counts(weights: F64, columns: NDArray[np.intp]) -> F64:
    counts = np.cumsum(weights, axis=1)[:, columns]
    return np.concatenate([np.zeros((len(counts), 1)), counts], axis=1)


def _rates(counts: F64) -> F64:
    with np.errstate(invalid="ignore"):  # an empty class is 0 / 0 and stays NaN
        rates: F64 = counts / counts[:, -1:]
    return rates


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC: the chance that a fake scores above a real one, ties one half. NaN if one class."""
    return float(roc(labels, scores).auc()[0])


def eer(labels: ArrayLike, scores: ArrayLike) -> float:
    """Equal error rate, interpolated. NaN where one class is missing."""
    return float(roc(labels, scores).eer()[0])


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float:
    """Share of fakes found by the best threshold flagging at most ``fpr`` of the real rows. NaN if one class."""
    return float(roc(labels, scores).tpr_at(fpr)[0])
