"""AUC, EER and TPR against scikit-learn on arbitrary scores, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from difffake.errors import DataError
from difffake.evaluation import auc, eer, roc, tpr_at_fpr

Labelled = tuple[NDArray[np.int64], NDArray[np.float64]]


@st.composite
def labelled(draw: st.DrawFn) -> Labelled:
    count = draw(st.integers(2, 60))
    labels = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 1)))
    # Few distinct values, so that ties are common; and sometimes any float.
    values = st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=False, allow_infinity=False, width=32))
    scores = draw(hnp.arrays(np.float64, count, elements=values))
    assume(0 < labels.sum() < count)
    return labels, scores


@given(labelled())
def test_auc_equals_scikit_learn(data: Labelled) -> None:
    labels, scores = data
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(labelled())
def test_auc_is_the_chance_that_a_fake_scores_above_a_real_one(data: Labelled) -> None:
    labels, scores = data
    fake, real = scores[labels == 1][:, None], scores[labels == 0][None]
    assert auc(labels, scores) == pytest.approx(np.mean((fake > real) + 0.5 * (fake == real)), abs=1e-12)


@given(labelled())
def test_eer_lies_on_the_curve_where_both_errors_are_equal(data: Labelled) -> None:
    labels, scores = data
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    rate = eer(labels, scores)
    # Walk along the curve finely: the smallest gap between the two errors is where the EER must be.
    along = np.linspace(0, len(fpr) - 1, 20_001)
    walked_fpr, walked_fnr = np.interp(along, np.arange(len(fpr)), fpr), 1 - np.interp(along, np.arange(len(fpr)), tpr)
    nearest = np.argmin(np.abs(walked_fpr - walked_fnr))
    assert rate == pytest.approx(walked_fpr[nearest], abs=0.01)


@given(labelled(), st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]))
def test_tpr_at_fpr_is_the_best_allowed_threshold(data: Labelled, limit: float) -> None:
    labels, scores = data
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert tpr_at_fpr(labels, scores, limit) == pytest.approx(tpr[fpr <= limit + 1e-12].max(), abs=1e-12)


@given(labelled(), st.integers(0, 2**32 - 1))
def test_weights_count_rows_as_scikit_learn_does(data: Labelled, seed: int) -> None:
    labels, scores = data
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(labels)))
    curves = roc(labels, scores, weights)
    for row, area in zip(weights, curves.auc(), strict=True):
        if (row * labels).sum() == 0 or (row * (1 - labels)).sum() == 0:
            assert np.isnan(area)
        else:
            assert area == pytest.approx(roc_auc_score(labels, scores, sample_weight=row), abs=1e-12)


@given(labelled())
def test_reversed_scores_give_the_complement(data: Labelled) -> None:
    labels, scores = data
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-12)


def test_known_values() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert auc(labels, labels) == 1.0
    assert eer(labels, labels) == 0.0
    assert tpr_at_fpr(labels, labels, 0.01) == 1.0
    assert auc(labels, np.zeros(8)) == 0.5
    assert eer(labels, np.zeros(8)) == 0.5
    assert tpr_at_fpr(labels, np.zeros(8), 0.05) == 0.0
    assert eer(labels, -labels) == 1.0


def test_five_of_a_hundred_is_five_percent() -> None:
    # 5 / 100 and 0.05 must meet, whatever floating point makes of them.
    labels = np.repeat([0, 1], 100)
    scores = np.concatenate([np.where(np.arange(100) < 5, 3.0, 0.0), np.full(100, 2.0)])
    assert tpr_at_fpr(labels, scores, 0.05) == 1.0
    assert tpr_at_fpr(labels, scores, 0.04) == 0.0


def test_one_class_alone_has_no_figures() -> None:
    for labels in ([0, 0], [1, 1]):
        assert np.isnan(auc(labels, [0.1, 0.2]))
        assert np.isnan(eer(labels, [0.1, 0.2]))
        assert np.isnan(tpr_at_fpr(labels, [0.1, 0.2], 0.05))


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, np.nan]), ([], []), ([[0, 1]], [[0.1, 0.2]])],
)
def test_what_cannot_be_judged_is_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(DataError):
        roc(labels, scores)
