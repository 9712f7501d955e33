"""The other one-class models of the paper's comparison, behind one small protocol.

Stamnas & Sanchez 2025 compare ways to model natural changes. These exist to repeat that comparison; a bundle
carries a `difffake.density.GaussianMixture` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from difffake.density import (
    Covariance,
    Floats,
    GaussianMixture,
    as_rows,
    fit_density,
    require_finite,
    sklearn_module,
)
from difffake.errors import DataError

# A kernel machine takes memory and time with the square of its rows.
MAX_SVM_ROWS = 5000
_MIN_ROWS = 10


class AnomalyModel(Protocol):
    """Fitted on natural changes alone; scores how unlike them a change is."""

    def fit(self, x: ArrayLike) -> Self:
        """Fit on ``x (N, D)``. Raises `DataError` for too few or non-finite rows."""

    def score(self, x: ArrayLike) -> Floats:
        """Score ``(N, D) -> (N,)``, higher is more anomalous. Raises `DataError` before a fit."""


class Mixture:
    """Minus the log density under a Gaussian mixture."""

    def __init__(self, components: int, covariance: Covariance, shrinkage: float, seed: int) -> None:
        self._settings: dict[str, Any] = {
            "components": components,
            "covariance": covariance,
            "shrinkage": shrinkage,
            "seed": seed,
        }
        self._mixture: GaussianMixture | None = None

    def fit(self, x: ArrayLike) -> Self:
        """Learn what is normal from rows ``(N, D)``; raises `DataError` as `difffake.density.fit_density` does."""
        self._mixture = fit_density(x, **self._settings)
        return self

    def score(self, x: ArrayLike) -> Floats:
        """``(N, D) -> (N,)``, in nats; higher is more anomalous. Raises `DataError` before `fit`."""
        if self._mixture is None:
            raise _not_fitted()
        return -self._mixture.log_density(x)


class Estimator:
    """A scikit-learn estimator; ``sign`` turns its score into higher is more anomalous."""

    def __init__(
        self,
        make: Callable[[], Any],
        score_method: str,
        sign: float,
        max_rows: int | None = None,
        seed: int = 0,
    ) -> None:
        self._make, self._score_method, self._sign = make, score_method, sign
        self._max_rows, self._seed = max_rows, seed
        self._fitted: Any = None

    def fit(self, x: ArrayLike) -> Self:
        """Learn what is normal from rows ``(N, D)``, or from ``max_rows`` of them drawn by ``seed``.

        Raises:
            DataError: too few rows, or NaN or infinity in them.
        """
        rows = as_rows(x)
        require_finite(rows, "x")
        if len(rows) < _MIN_ROWS:
            raise DataError(f"{len(rows)} rows are too few to fit on", hint=f"give at least {_MIN_ROWS}")
        if self._max_rows is not None and len(rows) > self._max_rows:
            rng = np.random.default_rng(self._seed)
            rows = rows[rng.choice(len(rows), self._max_rows, replace=False)]
        self._fitted = self._make().fit(rows)
        return self

    def score(self, x: ArrayLike) -> Floats:
        """``(N, D) -> (N,)`` in the estimator's own unit; higher is more anomalous. Raises `DataError` before
        `fit`, for NaN and for infinity."""
        if self._fitted is None:
            raise _not_fitted()
        rows = as_rows(x)
        require_finite(rows, "x")
        scores: Floats = self._sign * np.asarray(getattr(self._fitted, self._score_method)(rows))
        return scores


def _one_class_svm(seed: int) -> AnomalyModel:
    def make() -> Any:
        # The kernel's width is one number for all dimensions: they must share a scale.
        scaler = sklearn_module("sklearn.preprocessing").StandardScaler()
        machine = sklearn_module("sklearn.svm").OneClassSVM(kernel="rbf", gamma="scale", nu=0.05)
        return sklearn_module("sklearn.pipeline").make_pipeline(scaler, machine)

    return Estimator(make, "score_samples", -1.0, max_rows=MAX_SVM_ROWS, seed=seed)


def _isolation_forest(seed: int) -> AnomalyModel:
    def make() -> Any:
        return sklearn_module("sklearn.ensemble").IsolationForest(n_estimators=200, random_state=seed)

    return Estimator(make, "score_samples", -1.0)


def _mahalanobis(seed: int) -> AnomalyModel:  # noqa: ARG001 - nothing in it is random
    return Estimator(lambda: sklearn_module("sklearn.covariance").LedoitWolf(), "mahalanobis", 1.0)


ANOMALY_MODELS: dict[str, Callable[[int], AnomalyModel]] = {
    "gmm_diag": lambda seed: Mixture(3, Covariance.DIAG, 0.0, seed),
    "gmm_full": lambda seed: Mixture(3, Covariance.FULL, 0.1, seed),
    "gmm_single_diag": lambda seed: Mixture(1, Covariance.DIAG, 0.0, seed),
    "gmm_single_full": lambda seed: Mixture(1, Covariance.FULL, 0.1, seed),
    "one_class_svm": _one_class_svm,
    "isolation_forest": _isolation_forest,
    "mahalanobis": _mahalanobis,
}
"""Models by the name that reports use; each takes a seed. Full covariances are shrunk by 0.1."""


def _not_fitted() -> DataError:
    return DataError("the anomaly model is not fitted", hint="call fit() on natural changes first")
