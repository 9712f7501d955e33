"""Scores to p-values: how often does real footage look at least this suspicious?

The unit is the person, not the frame: frames of one clip repeat each other, so every group weighs the same
however long its footage, and the smallest p-value that is handed out depends on the number of groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.density import stored_arrays
from difffake.errors import DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_GRID_POINTS = 512
TAIL_SHARE = 0.1
_MIN_EXCEEDANCES = 10
# A heavier tail than this has no variance, and so few exceedances cannot tell it from a gross outlier.
_MAX_SHAPE = 0.5


@dataclass(frozen=True, eq=False)
class Calibration:
    """Survival function of a score (higher is more suspicious) under real footage.

    ``scores (M,)`` strictly rising and ``p (M,)`` falling describe it over the range of the fitted scores;
    beyond the last one a generalised Pareto tail (``tail_shape``, ``tail_scale``) goes on down to ``floor``.
    ``people`` is the number of groups it was fitted on. Raises `DataError` when they do not fit together.

    What the tail claims: up to the highest fitted score, p is supported by observations. Beyond it, that
    scores of real people go on falling off as their top tenth does, and no faster than an exponential. That
    is believed down to ``extrapolation`` (see `fit`) times less than one in ``people + 1``, never further. It is an
    estimate, not a bound: on synthetic normal, exponential and Student-t (4) people, averaged over 200
    calibrations on 10 to 200 of them, fresh people reached ``floor`` at most 1.5 times as often as it says.
    """

    scores: F64
    p: F64
    tail_shape: float
    tail_scale: float
    floor: float
    people: int
    #: A worker asks for a p-value several times a frame.
    _log_p: F64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("scores", "p"):
            array = np.array(getattr(self, name), np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        scores, p = self.scores, self.p
        if scores.ndim != 1 or scores.shape != p.shape or not 2 <= scores.size <= MAX_GRID_POINTS:
            raise _bad_calibration(f"scores {scores.shape} and p {p.shape}")
        if not np.isfinite(scores).all() or not (np.diff(scores) > 0).all():
            raise _bad_calibration("scores do not rise")
        if not ((p > 0) & (p <= 1)).all() or not (np.diff(p) <= 0).all():
            raise _bad_calibration("p does not fall from 1 towards 0")
        if not (0 <= self.tail_shape <= _MAX_SHAPE and 0 < self.tail_scale < np.inf):
            raise _bad_calibration(f"tail shape {self.tail_shape}, scale {self.tail_scale}")
        if not 0 < self.floor < 1 or self.people < 1:
            raise _bad_calibration(f"floor {self.floor}, people {self.people}")
        object.__setattr__(self, "_log_p", np.log(p))

    @classmethod
    def fit(cls, scores: ArrayLike, groups: ArrayLike, *, extrapolation: float = 10.0) -> Calibration:
        """Fit on held-out real footage: ``scores (N,)``, ``groups (N,)`` the person (or clip) of each.

        The body is the weighted empirical survival function with one more, most suspicious, person added:
        ``(G * survival + 1) / (G + 1)`` for G groups. The top tenth follows a generalised Pareto distribution
        (probability-weighted moments, Hosking & Wallis 1987; shape held within 0 and 0.5) that joins the body
        continuously and is never below the observed share. ``floor`` is
        ``1 / (extrapolation * (G + 1))``. Raises `DataError` for fewer than two groups, for non-finite scores
        and for scores that are all equal.
        """
        values, people = np.asarray(scores, np.float64), np.asarray(groups)
        if values.ndim != 1 or values.shape != people.shape:
            raise DataError(
                f"scores {values.shape} and groups {people.shape} do not match", hint="give a group per score"
            )
        if not np.isfinite(values).all():
            raise DataError("scores hold NaN or infinity", hint="drop frames that could not be scored")
        if not 1.0 <= extrapolation < np.inf:
            raise DataError(f"extrapolation is {extrapolation}", hint="use 1 (none) or more; 10 is a decade")
        _, member, sizes = np.unique(people, return_inverse=True, return_counts=True)
        count = len(sizes)
        distinct, place = np.unique(values, return_inverse=True)
        if count < 2 or len(distinct) < 2:
            raise DataError(
                f"{count} people with {len(distinct)} different scores cannot be calibrated",
                hint="calibrate on held-out real footage of many people",
            )
        mass = np.bincount(place, weights=1.0 / (count * sizes[member])).astype(np.float64)
        observed = np.minimum(np.cumsum(mass[::-1])[::-1], 1.0)  # share of scores >= each distinct one
        body = (count * observed + 1.0) / (count + 1.0)
        joint = int(np.searchsorted(-observed, -TAIL_SHARE))
        if len(distinct) - joint > _MIN_EXCEEDANCES:
            shape, scale = _fit_tail(distinct[joint:] - distinct[joint], mass[joint:])
        else:
            # Too few to show a shape (or a plateau at the top): exponential with the spread of all scores.
            shape, scale = 0.0, _spread(distinct, mass)
            joint = len(distinct) - 1
        excess = distinct[joint:] - distinct[joint]
        tail = body[joint] * np.exp(_log_survival(excess, shape, scale))
        p = np.concatenate([body[:joint], np.maximum(tail, observed[joint:])])
        p[0] = 1.0  # rounding of the masses' sum
        kept = _thin(p)
        # A generalised Pareto tail seen from further out keeps its shape; its scale grows.
        scale += shape * float(excess[-1])
        return cls(distinct[kept], p[kept], shape, scale, 1.0 / (extrapolation * (count + 1.0)), count)

    def p_value(self, scores: ArrayLike) -> F64:
        """Share of real footage at least this suspicious, ``(N,) -> (N,) float64``, in [``floor``, 1].

        Falls with the score; +inf gives ``floor``, -inf gives 1. Raises `DataError` for NaN.
        """
        values = np.asarray(scores, np.float64)
        last, highest = self.scores[-1], values.max(initial=-np.inf)
        if np.isnan(highest):
            raise DataError("scores hold NaN", hint="drop frames that could not be scored")
        log_p = np.interp(values, self.scores, self._log_p)
        if highest > last:  # few scores are beyond all that were fitted
            log_p += _log_survival(np.maximum(values - last, 0.0), self.tail_shape, self.tail_scale)
        return np.minimum(np.maximum(np.exp(log_p), self.floor), 1.0)

    def score_at(self, p: ArrayLike) -> F64:
        """The score whose p-value is ``p``, ``(N,) -> (N,) float64``; the inverse of `p_value`.

        A ``p`` below ``floor`` is reached by no score: +inf. Raises `DataError` outside (0, 1].
        """
        wanted = np.asarray(p, np.float64)
        if not ((wanted > 0) & (wanted <= 1)).all():
            raise DataError("a p-value lies outside (0, 1]", hint="ask for a share, such as 0.01")
        log_p = np.log(wanted)
        log_grid = self._log_p
        scores = np.interp(-log_p, -log_grid, self.scores)
        missing = np.minimum(log_p - log_grid[-1], 0.0)  # log survival still to be lost beyond the grid
        if self.tail_shape > 0:
            scores += self.tail_scale * np.expm1(-self.tail_shape * missing) / self.tail_shape
        else:
            scores -= self.tail_scale * missing
        return np.where(wanted < self.floor, np.inf, scores)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for ``np.savez``; `from_arrays` gives the same calibration back, bit for bit."""
        return {
            "scores": self.scores,
            "p": self.p,
            "tail": np.array([self.tail_shape, self.tail_scale, self.floor]),
            "people": np.array(self.people, np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
        """A calibration from `to_arrays`' mapping; other keys are ignored. Raises `DataError` for none."""
        scores, p, tail, people = stored_arrays(arrays, "scores", "p", "tail", "people")
        if tail.shape != (3,) or people.shape != () or people.dtype.kind not in "iu":
            raise _bad_calibration(f"tail {tail.shape}, people {people.dtype} {people.shape}")
        if any(array.dtype.kind != "f" for array in (scores, p, tail)):
            raise _bad_calibration("its arrays are not numbers")
        shape, scale, floor = tail.tolist()
        return cls(scores, p, shape, scale, floor, int(people))


def combine_windows(times_s: ArrayLike, values: ArrayLike, window_s: float) -> tuple[F64, F64, I64]:
    """Means of ``values (N,)`` over windows of ``window_s`` seconds, counted from time 0.

    Returns the starts (s), the means and the numbers of values of the W windows that hold any, in order of
    time: ``(W,) float64, (W,) float64, (W,) int64``. Raises `DataError` for NaN or times that are not finite.
    """
    times, measured = np.asarray(times_s, np.float64), np.asarray(values, np.float64)
    if times.ndim != 1 or times.shape != measured.shape or not np.isfinite(times).all():
        raise DataError(
            f"times {times.shape} and values {measured.shape} do not match, or a time is not finite",
            hint="give one finite time per value",
        )
    if np.isnan(measured).any():
        raise DataError("values hold NaN", hint="drop frames that could not be scored")
    if not 0 < window_s < np.inf:
        raise DataError(f"a window of {window_s} s", hint="use a positive window, such as 5 s")
    # The nudge keeps 0.3 s in the fourth window of 0.1 s although 0.3 / 0.1 is below 3.
    number = np.floor(times / window_s + 1e-9)
    windows, place, counts = np.unique(number, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=measured, minlength=len(windows)) / counts
    return windows * window_s, means, counts.astype(np.int64)


def _fit_tail(excess: F64, mass: F64) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution, by weighted probability-weighted moments.

    ``excess (n,)`` rising from 0, ``mass (n,)`` their weights. With a0 = E[X] and a1 = E[X (1 - F(X))] the
    shape is 2 - a0 / (a0 - 2 a1); the scale follows from a0 = scale / (1 - shape), also after clipping.
    """
    share = mass / mass.sum()
    survival = 1.0 - np.cumsum(share) + 0.5 * share
    a0, a1 = float(share @ excess), float((share * survival) @ excess)
    spread = a0 - 2.0 * a1  # above 0: larger excesses have smaller survival
    shape = 2.0 - a0 / spread if spread > 1e-9 * a0 else 0.0
    shape = float(np.clip(shape, 0.0, _MAX_SHAPE))
    return shape, a0 * (1.0 - shape)


def _spread(values: F64, mass: F64) -> float:
    """Weighted standard deviation; squares are taken of shares of the range, so that none is lost."""
    width = float(values[-1] - values[0])
    shares = (values - values[0]) / width
    mean = np.average(shares, weights=mass)
    return width * float(np.sqrt(np.average(np.square(shares - mean), weights=mass)))


def _log_survival(excess: F64, shape: float, scale: float) -> F64:
    if shape > 0:
        heavy: F64 = -np.log1p(shape * excess / scale) / shape
        return heavy
    return -excess / scale


def _thin(p: F64) -> I64:
    """At most `MAX_GRID_POINTS` indices of falling ``p``: its ends, half even in p, half even in log p."""
    if len(p) <= MAX_GRID_POINTS:
        return np.arange(len(p))
    half = (MAX_GRID_POINTS - 2) // 2
    even = np.linspace(p[0], p[-1], half)
    levels = np.concatenate([even, np.geomspace(p[0], p[-1], half)])
    at = np.clip(np.searchsorted(-p, -levels), 0, len(p) - 1)
    return np.unique(np.concatenate([[0, len(p) - 1], at]))


def _bad_calibration(reason: str) -> DataError:
    return DataError(f"not a calibration: {reason}", hint="calibrate again, or reload the bundle")
