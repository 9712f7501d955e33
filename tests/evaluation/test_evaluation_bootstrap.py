"""Intervals: they cover, they respect people, and two scores share their draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from difffake.evaluation import Resampling, auc, paired_difference, performance

Rows = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]
FEW = Resampling(draws=300)


def people_with_offsets(rng: np.random.Generator, people: int, frames: int, shift: float, spread: float) -> Rows:
    """Each person has one real and one fake clip; each clip its own offset (``spread``); fakes are up by ``shift``."""
    labels = np.tile(np.repeat([0, 1], frames), people)
    person = np.repeat(np.arange(people), 2 * frames)
    offset = np.repeat(rng.normal(0, spread, 2 * people), frames)
    return labels, shift * labels + offset + rng.normal(0, 0.5, len(labels)), person


def test_a_perfect_score_is_certain() -> None:
    labels, _, person = people_with_offsets(np.random.default_rng(0), 10, 5, 0, 1)
    found = performance(labels, labels.astype(float), person, FEW)
    assert (found.auc.value, found.auc.interval) == (1.0, (1.0, 1.0))
    assert (found.eer.value, found.eer.interval) == (0.0, (0.0, 0.0))
    assert all(e.value == 1.0 for e in found.tpr_at_fpr.values())
    assert (found.real, found.fake, found.people) == (50, 50, 10)


def test_a_random_score_is_about_one_half() -> None:
    rng = np.random.default_rng(1)
    labels, _, person = people_with_offsets(rng, 40, 20, 0, 1)
    found = performance(labels, rng.normal(size=len(labels)), person, FEW)
    assert found.auc.value == pytest.approx(0.5, abs=0.05)
    assert found.auc.interval is not None
    assert found.auc.interval[0] < 0.5 < found.auc.interval[1]


def test_grouping_by_person_keeps_intervals_wide() -> None:
    labels, scores, person = people_with_offsets(np.random.default_rng(2), 20, 40, 0.5, 1.0)
    grouped = performance(labels, scores, person, FEW).auc.interval
    single = performance(labels, scores, np.arange(len(labels)), FEW).auc.interval
    assert grouped is not None
    assert single is not None
    assert grouped[1] - grouped[0] > 2.5 * (single[1] - single[0])


def test_grouped_intervals_cover_the_truth_and_ungrouped_ones_do_not() -> None:
    # AUC of N(shift, 1 + 0.25) against N(0, 1.25), offsets and frame noise taken together.
    truth = 0.5 + 0.5 * math.erf(0.8 / np.sqrt(2 * 1.25) / np.sqrt(2))
    rng, trials = np.random.default_rng(3), 80
    covered = {"grouped": 0, "single": 0}
    for trial in range(trials):
        labels, scores, person = people_with_offsets(rng, 25, 10, 0.8, 1.0)
        for name, groups in (("grouped", person), ("single", np.arange(len(labels)))):
            interval = performance(labels, scores, groups, Resampling(200, trial)).auc.interval
            assert interval is not None
            covered[name] += interval[0] <= truth <= interval[1]
    assert covered["grouped"] / trials > 0.85
    assert covered["single"] / trials < 0.75


def test_frames_without_a_score_do_not_count() -> None:
    labels = np.array([0, 0, 1, 1, 0, 1])
    scores = np.array([0.0, np.nan, 1.0, np.nan, 0.2, 0.1])
    found = performance(labels, scores, ["a", "a", "a", "b", "c", "c"], FEW)
    assert (found.real, found.fake, found.people) == (2, 2, 2)
    assert found.auc.value == auc([0, 1, 0, 1], [0.0, 1.0, 0.2, 0.1])


def test_one_person_or_one_class_has_no_interval() -> None:
    alone = performance([0, 1], [0.0, 1.0], ["a", "a"], FEW)
    assert (alone.auc.value, alone.auc.interval) == (1.0, None)
    real_only = performance([0, 0], [0.0, 1.0], ["a", "b"], FEW)
    assert np.isnan(real_only.auc.value)
    assert real_only.auc.interval is None
    nothing = performance([0, 1], [np.nan, np.nan], ["a", "b"], FEW)
    assert (nothing.real, nothing.fake, nothing.people) == (0, 0, 0)


def test_a_class_of_one_person_has_no_interval() -> None:
    labels, scores = [0, 0, 0, 1, 1, 1], [0.1, 0.5, 0.2, 0.3, 0.6, 0.4]
    found = performance(labels, scores, ["a", "b", "c", "d", "d", "d"], FEW)
    assert found.auc.value == auc(labels, scores)
    assert found.auc.interval is None
    assert (
        paired_difference(labels, scores, scores[::-1], ["a", "b", "c", "d", "d", "d"], FEW).difference.interval is None
    )
    assert performance(labels, scores, ["a", "b", "c", "d", "d", "e"], FEW).auc.interval is not None


def test_no_draws_give_no_interval() -> None:
    assert performance([0, 1, 0, 1], [0, 1, 0, 1], ["a", "a", "b", "b"], Resampling(0)).auc.interval is None


def test_the_seed_settles_the_interval() -> None:
    labels, scores, person = people_with_offsets(np.random.default_rng(4), 12, 5, 0.5, 1)
    first = performance(labels, scores, person, Resampling(200, 1))
    assert performance(labels, scores, person, Resampling(200, 1)) == first
    assert performance(labels, scores, person, Resampling(200, 2)).auc.interval != first.auc.interval


def test_more_rows_than_a_block_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores, person = people_with_offsets(np.random.default_rng(5), 12, 5, 0.5, 1)
    whole = performance(labels, scores, person, FEW)
    monkeypatch.setattr("difffake.evaluation.bootstrap.BLOCK", 7 * len(labels))
    assert performance(labels, scores, person, FEW) == whole


def test_paired_difference_of_a_score_with_itself_is_nothing() -> None:
    labels, scores, person = people_with_offsets(np.random.default_rng(6), 12, 5, 0.5, 1)
    same = paired_difference(labels, scores, 3 * scores + 1, person, FEW)
    assert same.difference.value == pytest.approx(0, abs=1e-12)
    assert same.difference.interval == pytest.approx((0, 0), abs=1e-12)


def test_pairing_sees_a_small_gain_that_separate_intervals_hide() -> None:
    rng = np.random.default_rng(7)
    labels, scores, person = people_with_offsets(rng, 30, 10, 0.6, 1)
    better = scores + 0.25 * labels
    gain = paired_difference(labels, better, scores, person, FEW)
    assert gain.difference.interval is not None
    assert 0 < gain.difference.interval[0] < gain.difference.value < gain.difference.interval[1]
    a = performance(labels, better, person, FEW).auc.interval
    b = performance(labels, scores, person, FEW).auc.interval
    assert a is not None
    assert b is not None
    assert a[0] < b[1]  # taken alone the two overlap


def test_paired_difference_uses_the_rows_that_both_have() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1])
    a = np.array([0.0, 1.0, 0.0, 1.0, np.nan, 0.0])
    b = np.array([1.0, 0.0, 1.0, 0.0, 1.0, np.nan])
    found = paired_difference(labels, a, b, ["a", "a", "b", "b", "c", "c"], FEW)
    assert (found.auc_a, found.auc_b, found.people) == (1.0, 0.0, 2)
    assert found.difference.value == 1.0
    empty = paired_difference([0, 0], [0.0, 1.0], [0.0, 1.0], ["a", "b"], FEW)
    assert np.isnan(empty.difference.value)
