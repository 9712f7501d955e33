"""Fitting a linear head on few clips: standardised, strongly regularised, scaled by the real faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difffake.adapt.clips import Rows
from difffake.head import LinearHead

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A linear discriminant whose covariance within the classes is drawn towards equal variances (Friedman 1989).

    ``shrinkage`` in (0, 1]: at 1 only the difference of the means, in units of each dimension's spread, is left.
    """

    shrinkage: float

    def __str__(self) -> str:
        return f"shrinkage {self.shrinkage:g}"


#: From the most regularised to the least: among equals the first is taken.
CANDIDATES = (Candidate(0.95), Candidate(0.8), Candidate(0.5), Candidate(0.2))


def fit_heads(
    rows: Rows, candidates: Sequence[Candidate], towards_logit: float = 0.0, towards_length: float = 0.0
) -> list[LinearHead]:
    """A head by each candidate, all from one pass over the rows.

    ``towards_logit`` times the logit, in units of its spread over real faces, is added: few labels of one kind of fake
    should not make a head forget what the extractor knows of others. So is ``towards_length`` times the length of the
    row, for rows that are differences: a change may be large in a direction that no label has shown.
    """
    mean = rows.weight @ rows.x
    spread = np.sqrt(np.maximum(rows.weight @ (rows.x - mean.astype(np.float32)) ** 2, 0.0))
    # A dimension that hardly moves would be blown up to the size of the others.
    spread = np.maximum(spread, 0.1 * np.median(spread) + 1e-12)
    z = (rows.x - mean.astype(np.float32)) / spread.astype(np.float32)
    real, fake = (2 * (rows.weight * mask) @ z for mask in (~rows.fake, rows.fake))
    within = z - np.where(rows.fake[:, None], fake, real).astype(np.float32)
    # In float32: this product is all the time that fitting takes, and is shrunk anyway.
    covariance = ((within * rows.weight[:, None].astype(np.float32)).T @ within).astype(np.float64)
    level = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    heads = []
    for candidate in candidates:
        a = candidate.shrinkage
        direction = np.linalg.solve((1 - a) * covariance + a * level, fake - real)
        heads.append(_scaled(direction / spread, rows, towards_logit, towards_length))
    return heads


def _scaled(weights: F64, rows: Rows, towards_logit: float, towards_length: float) -> LinearHead:
    """Every part gives real faces mean 0, the head's own deviation 1: heads of all folds speak of one scale."""
    mean, deviation = _over_real(rows.x.astype(np.float64) @ weights, rows)
    logit_mean, logit_deviation = _over_real(rows.logit.astype(np.float64), rows)
    logit_weight = towards_logit / logit_deviation
    length_mean, length_deviation = _over_real(np.linalg.norm(rows.x.astype(np.float64), axis=1), rows)
    length_weight = towards_length / length_deviation
    bias = -mean / deviation - logit_weight * logit_mean - length_weight * length_mean
    return LinearHead(weights / deviation, bias, logit_weight, length_weight)


def _over_real(score: F64, rows: Rows) -> tuple[float, float]:
    real = 2 * rows.weight * ~rows.fake
    mean = float(real @ score)
    return mean, float(np.sqrt(real @ (score - mean) ** 2)) + 1e-12
