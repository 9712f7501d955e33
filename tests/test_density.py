"""The mixture's log density against scikit-learn and against plain float64 arithmetic."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture as Reference

from difffake.density import Covariance, GaussianMixture, fit_density, log_sum_exp
from difffake.differential import differential_log_density
from difffake.errors import DataError, MissingExtraError


def random_mixture(
    rng: np.random.Generator, components: int, dim: int, covariance: str, spread: float = 1.0
) -> GaussianMixture:
    weights = rng.dirichlet(np.full(components, 2.0))
    means = rng.normal(0.0, spread, (components, dim)) + rng.normal(0.0, 3.0, dim)
    factors = 1.0 / rng.uniform(0.2, 2.0, (components, dim))
    if covariance == "full":
        upper = np.triu(rng.normal(0.0, 0.5 / np.sqrt(dim), (components, dim, dim)), 1)
        factors = upper + factors[:, :, None] * np.eye(dim)
    return GaussianMixture(weights, means, factors)


def reference(mixture: GaussianMixture) -> Reference:
    model = Reference(mixture.components, covariance_type=mixture.covariance.value)
    model.weights_, model.means_ = mixture.weights, mixture.means
    model.precisions_cholesky_ = mixture.precisions_cholesky
    return model


def rows_of(mixture: GaussianMixture, rng: np.random.Generator, count: int) -> np.ndarray:
    return mixture.means[rng.integers(mixture.components, size=count)] + rng.normal(0.0, 1.5, (count, mixture.dim))


@pytest.mark.parametrize("covariance", ["diag", "full"])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    components=st.integers(1, 8),
    dim=st.integers(1, 48),
    count=st.integers(1, 40),
    spread=st.floats(0.0, 20.0),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_float64_equals_scikit_learn(
    covariance: str, seed: int, components: int, dim: int, count: int, spread: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    unit = random_mixture(rng, components, dim, covariance, spread)
    mixture = GaussianMixture(unit.weights, unit.means * scale, unit.precisions_cholesky / scale)
    rows = rows_of(unit, rng, count) * scale

    ours = mixture.log_density(rows)

    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, reference(mixture).score_samples(rows), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("covariance", "dim"), [("diag", 64), ("diag", 1280), ("full", 128)])
def test_float32_stays_within_the_stated_error(covariance: str, dim: int) -> None:
    rng = np.random.default_rng(5)
    mixture = random_mixture(rng, 3, dim, covariance)
    rows = rows_of(mixture, rng, 700).astype(np.float32)

    ours = mixture.log_density(rows)

    exact = mixture.log_density(rows.astype(np.float64))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-6 * dim)


def test_far_from_the_origin_float64_loses_nothing() -> None:
    """Expanding the square around the origin, not the centre, would cancel all digits here."""
    rng = np.random.default_rng(1)
    means = np.array([[1e6, -1e6], [1e6 + 1.0, -1e6]])
    mixture = GaussianMixture(np.array([0.3, 0.7]), means, np.full((2, 2), 10.0))
    rows = means[rng.integers(2, size=50)] + rng.normal(0.0, 0.1, (50, 2))

    terms = (
        np.log([0.3, 0.7])
        - 0.5 * np.square((rows[:, None, :] - means) * 10.0).sum(axis=2)
        + 2.0 * np.log(10.0)
        - np.log(2.0 * np.pi)
    )

    np.testing.assert_allclose(mixture.log_density(rows), log_sum_exp(terms), rtol=1e-6)


def test_far_from_the_origin_float32_keeps_what_its_rows_hold() -> None:
    """The centre rounds to float32; the means must move with the rounded one."""
    rng = np.random.default_rng(1)
    means = 1e4 + rng.normal(0.0, 0.1, (2, 8))
    mixture = GaussianMixture(np.array([0.5, 0.5]), means, np.full((2, 8), 10.0))
    rows = (means[rng.integers(2, size=50)] + rng.normal(0.0, 0.1, (50, 8))).astype(np.float32)
    exact = mixture.log_density(rows.astype(np.float64))
    np.testing.assert_allclose(mixture.log_density(rows), exact, atol=1e-4)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_chunks_and_single_rows_agree(covariance: str) -> None:
    rng = np.random.default_rng(2)
    mixture = random_mixture(rng, 3, 96, covariance)
    rows = rows_of(mixture, rng, 12_000 if covariance == "full" else 3000)

    whole = mixture.log_density(rows)

    assert whole.shape == (len(rows),)
    some = np.r_[0:5, 1000:1005, len(rows) - 5 : len(rows)]
    alone = np.concatenate([mixture.log_density(rows[index : index + 1]) for index in some])
    np.testing.assert_allclose(whole[some], alone, rtol=1e-12)
    assert mixture.log_density(rows[:0]).shape == (0,)


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_rows_are_impossible_without_warnings(covariance: str, dtype: type[np.floating]) -> None:
    mixture = random_mixture(np.random.default_rng(3), 3, 4, covariance)
    huge = float(np.finfo(dtype).max)
    rows = np.array([[huge] * 4, [huge, -huge, huge, -huge], [0.0] * 4, [1e15, 0, 0, 0]], dtype)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = mixture.log_density(rows)

    assert np.isneginf(values[:2]).all()
    assert np.isfinite(values[2:]).all()
    assert values[3] < values[2]


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_absurd_but_finite_mixture_is_harmless(shape: tuple[int, ...], dtype: type[np.floating]) -> None:
    factors = np.full(shape, 1e200) * (np.eye(2) if len(shape) == 3 else 1.0)
    mixture = GaussianMixture(np.ones(1), np.full((1, 2), 1e300), factors)
    assert np.isneginf(mixture.log_density(np.ones((2, 2), dtype))).all()
    assert np.isneginf(
        differential_log_density(mixture, np.ones((2, 2), dtype), np.zeros((1, 2), dtype), "signed")
    ).all()


@pytest.mark.parametrize("covariance", ["diag", "full"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused(covariance: str, bad: float) -> None:
    mixture = random_mixture(np.random.default_rng(3), 2, 6, covariance)
    rows = np.zeros((5, 6))
    rows[3, 2] = bad

    with pytest.raises(DataError, match="row 3") as caught:
        mixture.log_density(rows)
    assert caught.value.hint


def test_a_wrong_width_is_refused() -> None:
    mixture = random_mixture(np.random.default_rng(3), 2, 6, "diag")
    with pytest.raises(DataError, match=r"\(4, 5\)"):
        mixture.log_density(np.zeros((4, 5)))
    with pytest.raises(DataError):
        mixture.log_density(np.zeros(6))


def test_log_sum_exp_of_impossible_terms() -> None:
    terms = np.array([[-np.inf, -np.inf], [-np.inf, 2.0], [1000.0, 1000.0], [-1000.0, -1000.0]])
    expected = [-np.inf, 2.0, 1000.0 + np.log(2.0), -1000.0 + np.log(2.0)]
    np.testing.assert_allclose(log_sum_exp(terms), expected)


@pytest.mark.parametrize("covariance", list(Covariance))
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_fit_finds_the_clusters_at_any_scale(covariance: Covariance, scale: float) -> None:
    rng = np.random.default_rng(4)
    centres = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 1.0], [0.0, 8.0, 2.0]])
    rows = (centres[rng.integers(3, size=600)] + rng.normal(0.0, 0.5, (600, 3))) * scale

    mixture = fit_density(rows, components=3, covariance=covariance, seed=1)

    assert mixture.covariance is covariance
    order = np.argsort(mixture.means[:, 0] + 2 * mixture.means[:, 1])
    np.testing.assert_allclose(mixture.means[order] / scale, centres, atol=0.15)
    np.testing.assert_allclose(mixture.weights, 1 / 3, atol=0.06)
    held_out = (centres[rng.integers(3, size=100)] + rng.normal(0.0, 0.5, (100, 3))) * scale
    far = held_out + 5.0 * scale
    assert mixture.log_density(held_out).min() > mixture.log_density(far).max()


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_fit_equals_scikit_learn_without_shrinkage(covariance: str) -> None:
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(400, 5)) * [1, 2, 3, 4, 5] + np.repeat([[0.0], [9.0]], 200, axis=0)

    ours = fit_density(rows, components=2, covariance=covariance, seed=0, reg=1e-9)
    theirs = Reference(2, covariance_type=covariance, random_state=0, max_iter=200).fit(rows)

    np.testing.assert_allclose(np.sort(ours.log_density(rows)), np.sort(theirs.score_samples(rows)), rtol=1e-2)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_full_shrinkage_leaves_round_components(covariance: str) -> None:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(300, 4)) * [0.1, 1.0, 2.0, 5.0]

    mixture = fit_density(rows, components=1, covariance=covariance, shrinkage=1.0)

    factors = mixture.precisions_cholesky[0]
    diagonal = factors if factors.ndim == 1 else np.diagonal(factors)
    np.testing.assert_allclose(diagonal, (np.var(rows, axis=0).mean()) ** -0.5, rtol=1e-4)
    if factors.ndim == 2:
        np.testing.assert_allclose(factors - np.diag(diagonal), 0.0, atol=1e-12)


def test_shrinkage_lets_a_full_covariance_stand_on_few_rows() -> None:
    rows = np.random.default_rng(8).normal(size=(40, 60))
    with pytest.raises(DataError, match="too few") as caught:
        fit_density(rows, components=1, covariance="full")
    assert "shrinkage" in caught.value.hint

    held_out = np.random.default_rng(9).normal(size=(40, 60))
    mild, strong = (
        fit_density(rows, components=1, covariance="full", shrinkage=share).log_density(held_out).mean()
        for share in (0.01, 0.5)
    )
    assert strong > mild


def test_fit_is_repeatable() -> None:
    rows = np.random.default_rng(10).normal(size=(200, 8))
    first, second = (fit_density(rows, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.means, second.means)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (np.zeros((4, 3)), {}),
        (np.zeros((0, 3)), {}),
        (np.full((100, 3), 7.0), {}),
        (np.where(np.eye(50) > 0, np.nan, 1.0), {}),
        (np.where(np.eye(50) > 0, np.inf, 1.0), {}),
        (np.zeros(50), {}),
        (np.eye(50), {"components": 0}),
        (np.eye(50), {"components": 10_000}),
        (np.eye(50), {"shrinkage": 1.5}),
        (np.eye(50), {"reg": -1.0}),
    ],
)
def test_fit_refuses_bad_data(rows: np.ndarray, options: dict[str, float]) -> None:
    with pytest.raises(DataError) as caught:
        fit_density(rows, **options)  # type: ignore[arg-type]
    assert caught.value.hint


def test_fit_without_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(MissingExtraError) as caught:
        fit_density(np.random.default_rng(0).normal(size=(100, 3)))
    assert "train" in caught.value.hint


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_a_stored_mixture_scores_bit_for_bit_the_same(covariance: str) -> None:
    rng = np.random.default_rng(11)
    mixture = random_mixture(rng, 3, 10, covariance)
    file = io.BytesIO()
    np.savez(file, **mixture.to_arrays())
    file.seek(0)

    with np.load(file, allow_pickle=False) as arrays:
        again = GaussianMixture.from_arrays(arrays)

    rows = rows_of(mixture, rng, 20)
    np.testing.assert_array_equal(again.log_density(rows), mixture.log_density(rows))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.array([0.5, 0.6])},
        {"weights": np.array([1.5, -0.5])},
        {"weights": np.array([1.0])},
        {"weights": np.array(["a", "b"])},
        {"weights": np.array([None, None], dtype=object)},
        {"means": np.array([[0.0, np.nan, 0.0], [0.0, 0.0, 0.0]])},
        {"means": np.zeros(3)},
        {"means": np.zeros((2, 0))},
        {"means": np.zeros((2, 4))},
        {"precisions_cholesky": np.zeros((2, 3))},
        {"precisions_cholesky": -np.ones((2, 3))},
        {"precisions_cholesky": np.ones((2, 3, 3))},
        {"precisions_cholesky": np.ones((3, 2))},
        {"precisions_cholesky": np.broadcast_to(1.0, (2, 40_000, 40_000))},
        {"means": np.broadcast_to(0.0, (2, 100_000))},
    ],
)
def test_hostile_arrays_are_refused(change: dict[str, np.ndarray]) -> None:
    good = {
        "weights": np.array([0.5, 0.5]),
        "means": np.zeros((2, 3)),
        "precisions_cholesky": np.ones((2, 3)),
    }
    GaussianMixture.from_arrays(good)

    with pytest.raises(DataError, match="not a Gaussian mixture"):
        GaussianMixture.from_arrays(good | change)


def test_a_missing_or_pickled_array_is_refused() -> None:
    with pytest.raises(DataError, match="'weights'"):
        GaussianMixture.from_arrays({})
    file = io.BytesIO()
    np.savez(file, weights=np.array([{}], dtype=object))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays, pytest.raises(DataError, match="'weights'"):
        GaussianMixture.from_arrays(arrays)


def test_a_mixture_cannot_be_changed_from_outside() -> None:
    means = np.zeros((1, 2))
    mixture = GaussianMixture(np.ones(1), means, np.ones((1, 2)))
    means += 100.0
    assert mixture.log_density(np.zeros((1, 2)))[0] == pytest.approx(-np.log(2 * np.pi))
    with pytest.raises(ValueError, match="read-only"):
        mixture.means[0, 0] = 1.0


def test_evaluation_never_imports_scikit_learn() -> None:
    code = (
        "import sys, numpy as np\n"
        "from difffake import anchors, anomaly, calibration, density, differential\n"
        "m = density.GaussianMixture(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)))\n"
        "m.log_density(np.zeros((3, 2)))\n"
        "assert not {'sklearn', 'scipy', 'torch'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
