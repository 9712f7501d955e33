"""Density of real footage: a Gaussian mixture, fitted with scikit-learn, evaluated by our own NumPy.

A worker scores with NumPy alone. Diagonal components cost two thin matrix products for all of them together
(squares and values; joining both into one product costs a copy and measured slower), full ones a product with
their stacked Cholesky factors.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.errors import DataError, MissingExtraError

Floats = NDArray[np.floating[Any]]
F64 = NDArray[np.float64]

# What a file may hold: far above any backbone (D = 2048) and any mixture of ours.
MAX_COMPONENTS = 64
MAX_DIM = 8192
MAX_FACTOR_ELEMENTS = 1 << 26
# Work areas: a diagonal mixture is bound by memory and wants to stay in a core's cache, a full one is not.
_CHUNK_BYTES = 1 << 18
_CHUNK_BYTES_FULL = 1 << 25
_MIN_ROWS_PER_COMPONENT = 5
_LOWEST = -3e38  # about the lowest float32
_LOG_2PI = float(np.log(2.0 * np.pi))

log = logging.getLogger(__name__)


class Covariance(StrEnum):
    """Shape of a component: independent dimensions, or a whole covariance matrix."""

    DIAG = "diag"
    FULL = "full"


def as_rows(x: ArrayLike, *, name: str = "x", dim: int | None = None) -> Floats:
    """``x`` as ``(N, D)`` floats: float32 stays float32, everything else becomes float64.

    Raises `DataError` when it is not two-dimensional or D is not ``dim``.
    """
    rows = np.asarray(x)
    if rows.dtype != np.float32 and rows.dtype != np.float64:
        rows = rows.astype(np.float64)
    if rows.ndim != 2 or (dim is not None and rows.shape[1] != dim):
        wanted = f"(N, {dim if dim is not None else 'D'})"
        raise DataError(
            f"{name} has shape {rows.shape}, expected {wanted}",
            hint="pass one row per embedding, from the same extractor as the density",
        )
    return rows


def log_sum_exp(terms: Floats) -> Floats:
    """Log of the sum of exponentials over the last axis, ``(..., K) -> (...)``; all -inf gives -inf."""
    top: Floats = np.maximum.reduce(terms, axis=-1, keepdims=True)
    np.maximum(top, _LOWEST, out=top)  # -inf minus -inf would be NaN
    shares = np.subtract(terms, top)
    np.exp(shares, out=shares)
    total: Floats = np.add.reduce(shares, axis=-1)
    with np.errstate(divide="ignore"):  # log(0) is the -inf that is meant
        np.log(total, out=total)
    total += top[..., 0]
    return total


def squared_distances(expanded: Floats, inputs: Floats) -> Floats:
    """Clean expanded squared distances in place: overflow becomes +inf, rounding below zero becomes 0.

    A NaN or an infinity in ``inputs`` always reaches its distances, so the inputs themselves are looked at
    only after something went wrong. Raises `DataError` for non-finite ``inputs``.
    """
    if not np.isfinite(expanded).all():
        require_finite(inputs, "x")
        expanded[~np.isfinite(expanded)] = np.inf
    return np.maximum(expanded, 0.0, out=expanded)


def require_finite(values: Floats, name: str) -> None:
    """Raise `DataError` with the first bad row when ``values`` hold NaN or infinity."""
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise DataError(
            f"{name} holds NaN or infinity (first in row {row})",
            hint="drop the frames whose embedding is not finite, and check the extractor's precision",
        )


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """K Gaussian components over D dimensions; checked when made, read-only afterwards.

    ``weights (K,)`` sum to 1, ``means (K, D)``, ``precisions_cholesky`` is ``(K, D)`` inverse standard
    deviations for diagonal components or ``(K, D, D)`` upper-triangular U with U U^T = inverse covariance for
    full ones (scikit-learn's convention). All float64. Raises `DataError` when they do not fit together.

    >>> mixture = GaussianMixture(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))
    >>> mixture.log_density(np.zeros((1, 2))).round(4)
    array([-1.8379])
    """

    weights: F64
    means: F64
    precisions_cholesky: F64

    def __post_init__(self) -> None:
        for name in ("weights", "means", "precisions_cholesky"):
            given = np.asarray(getattr(self, name))
            if given.dtype.kind not in "fiu" or given.size > MAX_FACTOR_ELEMENTS:
                raise _bad_mixture(f"{name} is {given.dtype} {given.shape}")
            array = np.array(given, dtype=np.float64, order="C")
            if not np.isfinite(array).all():
                raise _bad_mixture(f"{name} is not finite")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        _check_mixture(self.weights, self.means, self.precisions_cholesky)

    @property
    def covariance(self) -> Covariance:
        """Whether the components are diagonal or full."""
        return Covariance.DIAG if self.precisions_cholesky.ndim == 2 else Covariance.FULL

    @property
    def components(self) -> int:
        """K, the number of components."""
        return int(self.means.shape[0])

    @property
    def dim(self) -> int:
        """D, the length of a row."""
        return int(self.means.shape[1])

    @property
    def centre(self) -> F64:
        """The mixture's mean ``(D,)``; distances are expanded around it, against cancellation."""
        mean: F64 = self.weights @ self.means
        return mean

    @cached_property
    def log_constants(self) -> F64:
        """Log weight plus log normaliser of each component ``(K,)``, without the distance."""
        factors = self.precisions_cholesky
        diagonals = factors if factors.ndim == 2 else np.diagonal(factors, axis1=1, axis2=2)
        with np.errstate(divide="ignore"):  # a component may carry weight 0
            log_weights = np.log(self.weights)
        constants: F64 = log_weights + np.log(diagonals).sum(axis=1) - 0.5 * self.dim * _LOG_2PI
        return constants

    def log_density(self, x: ArrayLike) -> Floats:
        """Natural log density of each row, ``(N, D) -> (N,)``, float32 for float32 rows, else float64.

        float64 equals scikit-learn's ``score_samples`` to 1e-6 relative. float32 stays within about
        ``1e-6 * D`` nats (or 1e-6 relative, whichever is larger) for rows within some standard deviations.
        Finite but huge rows give -inf. Raises `DataError` for a wrong shape, NaN or infinity.
        """
        rows = as_rows(x, dim=self.dim)
        operands = self._operands32 if rows.dtype == np.float32 else self._operands64
        with np.errstate(over="ignore", invalid="ignore"):
            if operands.squares is None:
                terms = _full_distances(rows, operands)
            else:
                terms = _diag_distances(rows, operands, operands.squares)
            squared_distances(terms, rows)
        terms *= -0.5
        terms += operands.log_constants
        return log_sum_exp(terms) if self.components > 1 else terms[:, 0]

    @cached_property
    def _operands64(self) -> _Operands:
        return _operands(self, np.dtype(np.float64))

    @cached_property
    def _operands32(self) -> _Operands:
        return _operands(self, np.dtype(np.float32))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays for ``np.savez``; `from_arrays` gives the same mixture back, bit for bit."""
        return {
            "weights": self.weights,
            "means": self.means,
            "precisions_cholesky": self.precisions_cholesky,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> GaussianMixture:
        """A mixture from `to_arrays`' mapping; other keys are ignored. Raises `DataError` for no mixture."""
        return cls(*stored_arrays(arrays, "weights", "means", "precisions_cholesky"))


def stored_arrays(arrays: Mapping[str, NDArray[Any]], *names: str) -> list[NDArray[Any]]:
    """The named arrays of a mapping, such as an open ``.npz``. Raises `DataError` for one that is not there.

    ``np.load`` decodes an array only when it is asked for, and refuses pickled objects by ValueError.
    """
    found = []
    for name in names:
        try:
            found.append(np.asarray(arrays[name]))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"the array {name!r} is missing or unreadable", hint="fit it again, or reload its bundle"
            ) from error
    return found


def fit_density(
    x: ArrayLike,
    *,
    components: int = 3,
    covariance: Covariance | str = Covariance.DIAG,
    shrinkage: float = 0.0,
    reg: float = 1e-6,
    seed: int = 0,
    max_iter: int = 200,
) -> GaussianMixture:
    """Fit a mixture to ``x (N, D)`` by expectation-maximisation (scikit-learn, extra ``train``).

    ``reg`` is added to every variance, in units of the mean variance of the data, so the fit does not depend
    on the scale of the embedding. ``shrinkage`` (0..1) then moves each covariance towards its mean variance
    times the identity (the target of Ledoit & Wolf 2004), for both kinds. Raises `DataError` for too few
    rows, non-finite or constant ones, and `MissingExtraError` without scikit-learn.
    """
    kind = Covariance(covariance)
    if not 1 <= components <= MAX_COMPONENTS or not 0.0 <= shrinkage <= 1.0 or not reg >= 0.0:
        raise DataError(
            f"no mixture with components={components}, shrinkage={shrinkage}, reg={reg}",
            hint=f"use 1..{MAX_COMPONENTS} components, a shrinkage of 0..1 and a reg of 0 or more",
        )
    rows = as_rows(x).astype(np.float64)
    require_finite(rows, "x")
    _require_enough(rows, components, kind, shrinkage)
    offset = rows.mean(axis=0)
    rows -= offset
    scale = float(np.sqrt(np.square(rows).mean()))
    if not np.isfinite(scale) or scale <= 1e-12 * float(np.abs(offset).max(initial=0.0)):
        raise DataError("the rows do not vary", hint="fit on embeddings of many different faces")
    rows /= scale
    model = sklearn_module("sklearn.mixture").GaussianMixture(
        n_components=components,
        covariance_type=kind.value,
        reg_covar=reg,
        random_state=seed,
        max_iter=max_iter,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-convergence is reported below
        try:
            model.fit(rows)
        except ValueError as error:
            raise DataError(
                f"the mixture could not be fitted: {error}",
                hint="raise reg, use fewer components, or diagonal covariances",
            ) from error
    if not model.converged_:
        log.warning("mixture of %d components stopped after %d iterations", components, max_iter)
    factors = _shrunk_factors(np.asarray(model.covariances_), shrinkage) / scale
    weights = np.asarray(model.weights_, np.float64)
    return GaussianMixture(weights / weights.sum(), np.asarray(model.means_) * scale + offset, factors)


def sklearn_module(name: str) -> Any:
    """A scikit-learn module by name, imported when something is fitted; `MissingExtraError` without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is needed to fit a model and cannot be imported ({error})",
            hint='install the extra: pip install "difffake[train]"',
        ) from error


@dataclass(frozen=True, slots=True)
class _Operands:
    """What the products need, in one dtype; ``squares`` is None for full components."""

    centre: Floats  # (D,)
    squares: Floats | None  # (D, K)
    linear: Floats  # (D, K) for diagonal, (D, K * D) for full components
    offsets: Floats  # (K,) for diagonal, (K * D,) for full components
    log_constants: Floats  # (K,)


def _operands(mixture: GaussianMixture, dtype: np.dtype[Any]) -> _Operands:
    factors = mixture.precisions_cholesky
    squares = None
    # A mixture from a file may be finite and still overflow here; its densities are -inf then.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        centre = mixture.centre.astype(dtype)
        # The means move by the rounded centre, so that rounding it costs nothing.
        means = mixture.means - centre.astype(np.float64)
        if factors.ndim == 2:
            precisions = np.square(factors)
            squares = np.ascontiguousarray(precisions.T, dtype)
            linear = -2.0 * (means * precisions).T
            offsets = (precisions * np.square(means)).sum(axis=1)
        else:
            linear = factors.transpose(1, 0, 2).reshape(mixture.dim, -1)
            offsets = np.einsum("kd,kde->ke", means, factors).ravel()
        return _Operands(
            centre,
            squares,
            np.ascontiguousarray(linear, dtype),
            offsets.astype(dtype),
            mixture.log_constants.astype(dtype),
        )


def _diag_distances(rows: Floats, operands: _Operands, squares: Floats) -> Floats:
    """Squared Mahalanobis distances ``(N, K)``, as expanded squares around the centre."""
    count, dim = rows.shape
    step = min(count, max(16, _CHUNK_BYTES // (dim * rows.itemsize)))
    distances = np.empty((count, len(operands.offsets)), rows.dtype)
    work = np.empty((step, dim), rows.dtype)
    for start in range(0, count, step or 1):
        chunk, out = rows[start : start + step], distances[start : start + step]
        centred = np.subtract(chunk, operands.centre, out=work[: len(chunk)])
        np.matmul(centred, operands.linear, out=out)
        np.multiply(centred, centred, out=centred)
        out += centred @ squares
    distances += operands.offsets
    return distances


def _full_distances(rows: Floats, operands: _Operands) -> Floats:
    """Squared Mahalanobis distances ``(N, K)``, from rows whitened by every component at once."""
    count, dim = rows.shape
    components = len(operands.log_constants)
    step = max(16, _CHUNK_BYTES_FULL // ((components + 1) * dim * rows.itemsize))
    distances = np.empty((count, components), rows.dtype)
    for start in range(0, count, step):
        whitened = (rows[start : start + step] - operands.centre) @ operands.linear
        whitened -= operands.offsets
        parts = whitened.reshape(-1, components, dim)
        np.einsum("nkd,nkd->nk", parts, parts, out=distances[start : start + step])
    return distances


def _shrunk_factors(covariances: F64, shrinkage: float) -> F64:
    """Cholesky factors of the precisions of shrunk covariances, in scikit-learn's convention."""
    dim = covariances.shape[1]
    if covariances.ndim == 2:
        mean_variance = covariances.mean(axis=1, keepdims=True)
        diagonal: F64 = 1.0 / np.sqrt((1.0 - shrinkage) * covariances + shrinkage * mean_variance)
        return diagonal
    mean_variance = np.trace(covariances, axis1=1, axis2=2)[:, None, None] / dim
    shrunk = (1.0 - shrinkage) * covariances + shrinkage * mean_variance * np.eye(dim)
    try:
        lower = np.linalg.cholesky(shrunk)
    except np.linalg.LinAlgError as error:
        raise DataError("a covariance is singular", hint="raise shrinkage or reg") from error
    full: F64 = np.linalg.solve(lower, np.broadcast_to(np.eye(dim), lower.shape)).transpose(0, 2, 1)
    return np.triu(full)


def _require_enough(rows: Floats, components: int, kind: Covariance, shrinkage: float) -> None:
    count, dim = rows.shape
    needed = _MIN_ROWS_PER_COMPONENT * components
    if kind is Covariance.FULL and shrinkage == 0.0:
        needed = max(needed, dim + 1)
    if count < needed or dim == 0:
        raise DataError(
            f"{count} rows of {dim} numbers are too few for {components} {kind} components (need {needed})",
            hint="add footage, use fewer components, or (full covariances) give a shrinkage above 0",
        )


def _check_mixture(weights: F64, means: F64, factors: F64) -> None:
    if means.ndim != 2 or not 1 <= means.shape[0] <= MAX_COMPONENTS or not 1 <= means.shape[1] <= MAX_DIM:
        raise _bad_mixture(f"means have shape {means.shape}")
    components, dim = means.shape
    if weights.shape != (components,) or (weights < 0).any() or abs(float(weights.sum()) - 1.0) > 1e-6:
        raise _bad_mixture(f"weights {weights.shape} are not {components} shares of 1")
    if factors.shape == (components, dim):
        positive = bool((factors > 0).all())
    elif factors.shape == (components, dim, dim):
        diagonals = np.diagonal(factors, axis1=1, axis2=2)
        positive = bool((diagonals > 0).all() and not np.tril(factors, -1).any())
    else:
        raise _bad_mixture(f"precisions_cholesky has shape {factors.shape} beside means {means.shape}")
    if not positive:
        raise _bad_mixture("precisions_cholesky is not positive and upper triangular")


def _bad_mixture(reason: str) -> DataError:
    return DataError(f"not a Gaussian mixture: {reason}", hint="fit it again, or reload its bundle")
