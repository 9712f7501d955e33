"""Differences, their log density over an anchor, natural pairs, and per-stream offsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.density import GaussianMixture
from difffake.differential import (
    Combination,
    differences,
    differential_log_density,
    minus_anchor_mean,
    natural_pairs,
    pair_differences,
)
from difffake.errors import DataError


def mixture_of(rng: np.random.Generator, components: int, dim: int, full: bool = False) -> GaussianMixture:
    factors = 1.0 / rng.uniform(0.3, 2.0, (components, dim))
    if full:
        upper = np.triu(rng.normal(0.0, 0.2, (components, dim, dim)), 1)
        factors = upper + factors[:, :, None] * np.eye(dim)
    weights = rng.dirichlet(np.ones(components) * 3)
    return GaussianMixture(weights, rng.normal(0, 0.5, (components, dim)), factors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_combinations_by_hand(dtype: type[np.floating]) -> None:
    embeddings = np.array([[1.0, -2.0], [0.0, 0.0]], dtype)
    anchors = np.array([[3.0, -5.0]], dtype)
    expected = {
        Combination.SIGNED: [[[-2, 3]], [[-3, 5]]],
        Combination.ABS: [[[2, 3]], [[3, 5]]],
        Combination.SQUARE: [[[4, 9]], [[9, 25]]],
        Combination.CUBE: [[[-8, 27]], [[-27, 125]]],
    }
    for combination, values in expected.items():
        got = differences(embeddings, anchors, combination)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, values)
        lengths = np.linalg.norm(values, axis=2, keepdims=True)
        np.testing.assert_allclose(differences(embeddings, anchors, combination, l2=True), values / lengths, rtol=1e-6)


@pytest.mark.parametrize("combination", list(Combination))
def test_l2_of_tiny_and_zero_changes(combination: Combination) -> None:
    embeddings = np.array([[1e-20, 2e-20, 0.0], [0.0, 0.0, 0.0]], np.float32)
    unit = differences(embeddings, np.zeros((1, 3), np.float32), combination, l2=True)
    assert np.linalg.norm(unit[0, 0]) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_array_equal(unit[1, 0], 0.0)


@pytest.mark.parametrize("combination", list(Combination))
def test_huge_changes_keep_their_direction_or_are_refused_without_warnings(combination: Combination) -> None:
    mixture = mixture_of(np.random.default_rng(3), 2, 2)
    embeddings, anchors = np.full((1, 2), 1e20, np.float32), np.full((1, 2), -1e20, np.float32)
    unit = differences(embeddings, anchors, combination, l2=True)
    np.testing.assert_allclose(unit, np.sqrt(0.5), rtol=1e-6)
    if combination in (Combination.SQUARE, Combination.CUBE):
        with pytest.raises(DataError, match="infinity"):
            differential_log_density(mixture, embeddings, anchors, combination)
    else:
        assert np.isneginf(differential_log_density(mixture, embeddings, anchors, combination)).all()


def test_inputs_are_left_alone() -> None:
    embeddings, anchors = np.ones((2, 3)), np.zeros((1, 3))
    differences(embeddings, anchors, "cube", l2=True)
    np.testing.assert_array_equal(embeddings, 1.0)
    np.testing.assert_array_equal(anchors, 0.0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(0, 30), st.integers(1, 9), st.integers(1, 5), st.integers(1, 40)),
    offset=st.sampled_from([0.0, 10.0, 1e4]),
    combination=st.sampled_from(list(Combination)),
    l2=st.booleans(),
    full=st.booleans(),
)
def test_log_density_is_the_mean_over_the_anchors(
    seed: int,
    shape: tuple[int, int, int, int],
    offset: float,
    combination: Combination,
    l2: bool,
    full: bool,
) -> None:
    count, anchors, components, dim = shape
    rng = np.random.default_rng(seed)
    mixture = mixture_of(rng, components, dim, full)
    embeddings = rng.normal(size=(count, dim)) + offset
    pool = rng.normal(size=(anchors, dim)) + offset

    got = differential_log_density(mixture, embeddings, pool, combination, l2)

    plain = differences(embeddings, pool, combination, l2)
    expected = [mixture.log_density(rows).mean() for rows in plain]
    np.testing.assert_allclose(got, np.reshape(expected, count), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("combination", ["signed", "square"])
def test_many_rows_are_worked_off_in_chunks(combination: str) -> None:
    rng = np.random.default_rng(1)
    mixture = mixture_of(rng, 3, 256)
    embeddings, pool = rng.normal(size=(5000, 256)).astype(np.float32), rng.normal(size=(8, 256))

    whole = differential_log_density(mixture, embeddings, pool, combination)

    assert whole.dtype == np.float32
    parts = [differential_log_density(mixture, embeddings[i : i + 1], pool, combination) for i in (0, 2047, 4999)]
    np.testing.assert_allclose(whole[[0, 2047, 4999]], np.concatenate(parts), rtol=1e-5)


def test_float32_signed_stays_within_a_milli_nat() -> None:
    rng = np.random.default_rng(2)
    mixture = mixture_of(rng, 3, 1280)
    embeddings, pool = (rng.normal(size=(n, 1280)).astype(np.float32) for n in (50, 8))

    ours = differential_log_density(mixture, embeddings, pool, "signed")

    exact = differential_log_density(mixture, embeddings.astype(np.float64), pool.astype(np.float64), "signed")
    np.testing.assert_allclose(ours, exact, atol=1.3e-3, rtol=1e-6)


@pytest.mark.parametrize("combination", ["signed", "square"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(combination: str, bad: float) -> None:
    mixture = mixture_of(np.random.default_rng(3), 2, 4)
    good, broken = np.zeros((3, 4)), np.zeros((3, 4))
    broken[1, 1] = bad
    with pytest.raises(DataError):
        differential_log_density(mixture, broken, good, combination)
    with pytest.raises(DataError, match="anchors"):
        differential_log_density(mixture, good, broken, combination)


def test_shapes_that_do_not_fit_are_refused() -> None:
    mixture = mixture_of(np.random.default_rng(3), 2, 4)
    with pytest.raises(DataError, match="empty"):
        differences(np.zeros((2, 4)), np.zeros((0, 4)), "signed")
    with pytest.raises(DataError, match="anchors"):
        differences(np.zeros((2, 4)), np.zeros((2, 5)), "signed")
    with pytest.raises(DataError, match="5 dimensions"):
        differential_log_density(mixture, np.zeros((2, 5)), np.zeros((2, 5)), "signed")


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    gap=st.sampled_from([0.0, 0.5, 3.0]),
    limit=st.integers(1, 40),
    with_clips=st.booleans(),
)
def test_natural_pairs_keep_their_promises(seed: int, count: int, gap: float, limit: int, with_clips: bool) -> None:
    rng = np.random.default_rng(seed)
    times = np.round(rng.uniform(0, 10, count), 1)
    people, clips = rng.integers(0, 4, count), rng.integers(0, 3, count)

    pairs = natural_pairs(
        times,
        people,
        rng,
        min_gap_s=gap,
        max_pairs_per_group=limit,
        clips=clips if with_clips else None,
    )

    assert pairs.shape == (len(pairs), 2)
    first, second = pairs.T
    assert (first != second).all()
    assert (people[first] == people[second]).all()
    assert (np.abs(times[first] - times[second]) >= gap - 1e-9).all()
    assert not with_clips or (clips[first] == clips[second]).all()
    assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
    for person in range(4):
        allowed = sum(
            people[i] == people[j] == person
            and times[max(i, j, key=lambda n: (times[n], n))] >= times[min(i, j, key=lambda n: (times[n], n))] + gap
            and (not with_clips or clips[i] == clips[j])
            for i in range(count)
            for j in range(i)
        )
        assert (people[first] == person).sum() == min(limit, allowed)


def test_natural_pairs_have_no_direction_and_repeat_by_seed() -> None:
    times, people = np.arange(400) * 0.1, np.zeros(400)
    pairs = natural_pairs(times, people, np.random.default_rng(1), max_pairs_per_group=1000)
    forward = (times[pairs[:, 0]] < times[pairs[:, 1]]).mean()
    assert 0.4 < forward < 0.6
    again = natural_pairs(times, people, np.random.default_rng(1), max_pairs_per_group=1000)
    np.testing.assert_array_equal(pairs, again)


def test_pair_differences_match_differences() -> None:
    rng = np.random.default_rng(4)
    embeddings = rng.normal(size=(6, 5)).astype(np.float32)
    pairs = np.array([[0, 1], [5, 2]])
    got = pair_differences(embeddings, pairs, "square", l2=True)
    expected = [differences(embeddings[[i]], embeddings[[j]], "square", l2=True)[0, 0] for i, j in pairs]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_natural_pairs_refuse_bad_input() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="do not match"):
        natural_pairs(np.zeros(3), np.zeros(4), rng)
    with pytest.raises(DataError, match="times_s"):
        natural_pairs(np.array([0.0, np.nan]), np.zeros(2), rng)
    with pytest.raises(DataError, match="min_gap_s"):
        natural_pairs(np.zeros(3), np.zeros(3), rng, min_gap_s=-1.0)


def test_minus_anchor_mean_removes_the_streams_offset() -> None:
    values = np.array([1.0, 2.0, 3.0], np.float32)
    stream = minus_anchor_mean(values + 50, [51.0, 52.0, 53.0])
    assert stream.dtype == np.float32
    np.testing.assert_allclose(stream, [-1, 0, 1])
    # MAD of 51, 52, 53 is 1
    np.testing.assert_allclose(
        minus_anchor_mean(values + 50, [51, 52, 53], scale_floor=0.1),
        np.array([-1, 0, 1]) / 1.4826,
        rtol=1e-6,
    )
    np.testing.assert_allclose(minus_anchor_mean(values, [2.0, 2.0], scale_floor=0.5), [-2, 0, 2])


@pytest.mark.parametrize(("anchor", "floor"), [([], None), ([np.nan], None), ([1.0], 0.0), ([1.0], np.nan)])
def test_minus_anchor_mean_refuses_bad_input(anchor: list[float], floor: float | None) -> None:
    with pytest.raises(DataError):
        minus_anchor_mean([1.0], anchor, scale_floor=floor)
