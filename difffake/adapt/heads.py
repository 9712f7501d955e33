"""Fitting a linear head on few clips: standardised, strongly regularised, scaled by the real faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from difffake.adapt.clips import Rows
from difffake.head import LinearHead

F64 = NDArray[np.float64]

_NEWTON_STEPS = 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to fit a head.

    ``lda``: linear discriminant; ``strength`` in (0, 1] draws the covariance within the classes towards equal variances
    (Friedman 1989). ``logistic``: on the first ``components`` principal components; half of the squared weights, times
    ``strength``, is added to the mean loss.
    """

    method: Literal["lda", "logistic"]
    strength: float
    components: int = 0

    def __str__(self) -> str:
        of = f" on {self.components} components" if self.components else ""
        return f"{self.method} {self.strength:g}{of}"


#: From the most regularised to the least: among equals the first is taken.
CANDIDATES = (
    Candidate("lda", 0.95),
    Candidate("lda", 0.8),
    Candidate("lda", 0.5),
    Candidate("lda", 0.2),
    Candidate("logistic", 1.0, 128),
    Candidate("logistic", 0.1, 128),
    Candidate("logistic", 0.1, 32),
    Candidate("logistic", 0.01, 32),
)


def fit_heads(rows: Rows, candidates: Sequence[Candidate]) -> list[LinearHead]:
    """A head by each candidate, all from one pass over the rows."""
    x = rows.x.astype(np.float64)
    mean = rows.weight @ x
    spread = np.sqrt(np.maximum(rows.weight @ (x - mean) ** 2, 0.0))
    # A dimension that hardly moves would be blown up to the size of the others.
    spread = np.maximum(spread, 0.1 * np.median(spread) + 1e-12)
    z = (x - mean) / spread
    makers: dict[str, type[_Lda | _Logistic]] = {"lda": _Lda, "logistic": _Logistic}
    made = {method: makers[method](z, rows) for method in dict.fromkeys(c.method for c in candidates)}
    return [_scaled(made[c.method].weights(c) / spread, rows, x) for c in candidates]


class _Lda:
    def __init__(self, z: F64, rows: Rows) -> None:
        real, fake = (2 * (rows.weight * mask) @ z for mask in (~rows.fake, rows.fake))
        self._apart = fake - real
        within = z - np.where(rows.fake[:, None], fake, real)
        self._covariance = (within * rows.weight[:, None]).T @ within

    def weights(self, candidate: Candidate) -> F64:
        """The direction ``(D,)``."""
        a, covariance = candidate.strength, self._covariance
        level = a * np.trace(covariance) / len(covariance)
        direction: F64 = np.linalg.solve((1 - a) * covariance + level * np.eye(len(covariance)), self._apart)
        return direction


class _Logistic:
    def __init__(self, z: F64, rows: Rows) -> None:
        self._z, self._rows = z, rows
        _, vectors = np.linalg.eigh((z * rows.weight[:, None]).T @ z)
        self._vectors = vectors[:, ::-1]

    def weights(self, candidate: Candidate) -> F64:
        """The direction ``(D,)``, by Newton's method."""
        basis = self._vectors[:, : candidate.components]
        design = np.concatenate([self._z @ basis, np.ones((len(self._z), 1))], axis=1)
        target, weight = self._rows.fake.astype(np.float64), self._rows.weight
        penalty = np.append(np.full(basis.shape[1], candidate.strength), 1e-9)
        found = np.zeros(design.shape[1])
        for _ in range(_NEWTON_STEPS):
            p = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
            gradient = design.T @ (weight * (p - target)) + penalty * found
            curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(penalty)
            step = np.linalg.solve(curvature, gradient)
            found -= step
            if np.abs(step).max() < 1e-8:
                break
        direction: F64 = basis @ found[:-1]
        return direction


def _scaled(weights: F64, rows: Rows, x: F64) -> LinearHead:
    """Real faces get mean 0 and standard deviation 1: heads of different folds speak of one scale."""
    score = x @ weights
    real = 2 * rows.weight * ~rows.fake
    mean = real @ score
    deviation = np.sqrt(real @ (score - mean) ** 2) + 1e-12
    return LinearHead(weights / deviation, float(-mean / deviation))
