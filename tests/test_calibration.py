"""p-values under held-out real footage, and window means."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from difffake.calibration import MAX_GRID_POINTS, Calibration, combine_windows
from difffake.errors import DataError

people_scores = st.lists(
    st.tuples(st.integers(0, 6), st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 2.0])),
    min_size=2,
    max_size=200,
)


def footage(rng: np.random.Generator, people: int, frames: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of people who differ from each other as much as their frames do."""
    noise = {
        "normal": lambda size: rng.normal(size=size),
        "heavy": lambda size: rng.standard_t(4, size=size),
        "skewed": lambda size: rng.exponential(size=size),
    }[kind]
    scores = noise((people, 1)) + noise((people, frames))
    return scores.ravel(), np.repeat(np.arange(people), frames)


@settings(max_examples=150, deadline=None)
@given(data=people_scores, seed=st.integers(0, 2**32 - 1))
def test_p_values_fall_with_the_score_and_never_reach_zero(data: list[tuple[int, float]], seed: int) -> None:
    groups, scores = (np.array(column) for column in zip(*data, strict=True))
    assume(len(set(groups.tolist())) > 1 and np.ptp(scores) > 1e-6)
    calibration = Calibration.fit(scores, groups)
    width = float(np.ptp(scores))
    rng = np.random.default_rng(seed)
    asked = np.sort(np.concatenate([scores, rng.uniform(scores.min() - width, scores.max() + 30 * width, 200)]))

    p = calibration.p_value(asked)

    assert ((p >= calibration.floor) & (p <= 1.0)).all()
    assert (np.diff(p) <= 1e-15).all()
    # Each alone, within what was fitted or beyond: the same bits.
    assert [float(calibration.p_value([one])[0]) for one in asked[::7]] == p[::7].tolist()
    # Never below the share of people-weighted footage that was seen at least this suspicious.
    weights = 1.0 / (np.bincount(groups)[groups] * len(set(groups.tolist())))
    observed = (weights * (scores >= asked[:, None])).sum(axis=1)
    assert (p >= observed - 1e-9).all()


# Between neighbouring floats p has a jump that no score lies in; the inverse is tested on scores that differ
# by at least a thousandth.
distinguishable_scores = st.lists(
    st.tuples(st.integers(0, 6), st.integers(-(10**6), 10**6).map(lambda n: n / 1000.0)),
    min_size=2,
    max_size=200,
)


@settings(max_examples=100, deadline=None)
@given(data=distinguishable_scores)
def test_storage_is_exact_and_score_at_is_the_inverse(data: list[tuple[int, float]]) -> None:
    groups, scores = (np.array(column) for column in zip(*data, strict=True))
    assume(len(set(groups.tolist())) > 1 and np.ptp(scores) > 0)
    calibration = Calibration.fit(scores, groups)
    file = io.BytesIO()
    np.savez(file, **calibration.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        again = Calibration.from_arrays(arrays)

    asked = np.linspace(scores.min() - 1, scores.max() * 3 + 1, 100)
    np.testing.assert_array_equal(again.p_value(asked), calibration.p_value(asked))
    assert again.people == calibration.people
    levels = np.geomspace(calibration.floor * 1.0001, 1.0, 60)
    np.testing.assert_allclose(calibration.p_value(calibration.score_at(levels)), levels, rtol=1e-4)


@pytest.mark.parametrize("kind", ["normal", "heavy", "skewed"])
@pytest.mark.parametrize(("people", "frames"), [(20, 40), (60, 20)])
def test_fresh_people_are_not_called_suspicious_too_often(kind: str, people: int, frames: int) -> None:
    """Averaged over calibrations, P(p <= a) stays at a, with a quarter of it as tolerance in the tail."""
    rng = np.random.default_rng(12)
    levels = np.array([0.5, 0.2, 0.1, 0.05, 0.02])
    shares = [
        (Calibration.fit(*footage(rng, people, frames, kind)).p_value(fresh)[:, None] <= levels).mean(axis=0)
        for fresh in (footage(rng, 300, 10, kind)[0] for _ in range(120))
    ]
    assert (np.mean(shares, axis=0) <= levels * 1.25).all(), np.mean(shares, axis=0)
    # and not uselessly careful either
    assert (np.mean(shares, axis=0)[:3] >= levels[:3] * 0.6).all(), np.mean(shares, axis=0)


@pytest.mark.parametrize("kind", ["normal", "heavy", "skewed"])
def test_the_extrapolated_tail_holds_down_to_the_floor(kind: str) -> None:
    """Between the last observation and the floor too, fresh people do not exceed what is promised."""
    rng = np.random.default_rng(13)
    floor_shares, floors = [], []
    for _ in range(150):
        calibration = Calibration.fit(*footage(rng, 30, 30, kind))
        fresh, _ = footage(rng, 1500, 4, kind)
        floor_shares.append((calibration.p_value(fresh) <= calibration.floor).mean())
        floors.append(calibration.floor)
    assert np.mean(floor_shares) <= np.mean(floors) * 1.5


def test_the_tail_joins_the_body() -> None:
    scores, groups = footage(np.random.default_rng(14), 100, 50, "normal")
    calibration = Calibration.fit(scores, groups)
    asked = np.linspace(np.quantile(scores, 0.5), scores.max() * 1.5, 20_000)
    steps = np.diff(np.log(calibration.p_value(asked)))
    assert steps.min() > -0.02  # no jump: 20 000 steps over less than ten units of log p
    exact = (scores >= np.quantile(scores, 0.7)).mean()
    assert calibration.p_value(np.quantile(scores, 0.7)) == pytest.approx(exact, abs=0.012)


def test_a_heavy_tail_is_continued_as_heavy() -> None:
    """Pareto scores far beyond the last one seen: the right order of magnitude, not an exponential's."""
    rng = np.random.default_rng(19)
    errors = []
    for _ in range(30):
        calibration = Calibration.fit(rng.pareto(3.0, 3000), np.arange(3000), extrapolation=1000.0)
        assert calibration.tail_shape > 0
        far = 1e-5 ** (-1 / 3.0) - 1.0  # exceeded once in 100 000
        errors.append(np.log10(calibration.p_value(far)) + 5.0)
    assert abs(np.median(errors)) < 0.4


def test_every_person_weighs_the_same() -> None:
    """One person with a thousand suspicious frames is one suspicious person in ten."""
    rng = np.random.default_rng(15)
    scores = np.concatenate([rng.normal(10, 1, 1000), rng.normal(0, 1, 9 * 20)])
    groups = np.concatenate([np.zeros(1000), np.repeat(np.arange(1, 10), 20)])
    calibration = Calibration.fit(scores, groups)
    # one person in ten, and the one that is added
    assert calibration.p_value(5.0) == pytest.approx(2 / 11, rel=0.05)


def test_scores_that_saturate_keep_the_mass_of_the_top() -> None:
    scores = np.concatenate([np.linspace(0, 0.9, 80), np.ones(20)])
    calibration = Calibration.fit(scores, np.arange(100))
    assert calibration.p_value(1.0) == pytest.approx(21 / 101)
    assert calibration.p_value(1.01) < 21 / 101


def test_few_people_give_no_small_p_value() -> None:
    scores, groups = footage(np.random.default_rng(16), 3, 500, "normal")
    calibration = Calibration.fit(scores, groups)
    assert calibration.people == 3
    assert calibration.floor == pytest.approx(1 / 40)
    np.testing.assert_array_equal(calibration.p_value([1e9, np.inf, -np.inf]), [1 / 40, 1 / 40, 1.0])
    assert Calibration.fit(scores, groups, extrapolation=1.0).p_value(1e9) == pytest.approx(1 / 4)


def test_score_at_below_the_floor_is_out_of_reach() -> None:
    calibration = Calibration.fit(*footage(np.random.default_rng(17), 20, 20, "normal"))
    assert calibration.score_at(calibration.floor / 2) == np.inf
    assert np.isfinite(calibration.score_at(calibration.floor))
    for bad in (0.0, 1.5, np.nan):
        with pytest.raises(DataError):
            calibration.score_at(bad)


def test_the_stored_grid_is_bounded_and_true_to_the_data() -> None:
    scores, groups = footage(np.random.default_rng(18), 500, 100, "skewed")
    calibration = Calibration.fit(scores, groups)
    assert calibration.to_arrays()["scores"].size <= MAX_GRID_POINTS
    asked = np.quantile(scores, np.linspace(0, 0.9, 500))
    observed = (scores >= asked[:, None]).mean(axis=1)
    np.testing.assert_allclose(calibration.p_value(asked), observed, atol=0.005)


@pytest.mark.parametrize(
    ("scores", "groups"),
    [
        ([], []),
        ([1.0, 2.0], [0, 0]),
        ([1.0, 1.0], [0, 1]),
        ([1.0, np.nan], [0, 1]),
        ([1.0, np.inf], [0, 1]),
        ([1.0, 2.0], [0, 1, 2]),
    ],
)
def test_fit_refuses_bad_data(scores: list[float], groups: list[int]) -> None:
    with pytest.raises(DataError) as caught:
        Calibration.fit(scores, groups)
    assert caught.value.hint


def test_p_value_of_nan_is_refused() -> None:
    calibration = Calibration.fit([0.0, 1.0, 2.0], [0, 1, 2])
    with pytest.raises(DataError, match="NaN"):
        calibration.p_value([0.5, np.nan])
    assert calibration.p_value([]).shape == (0,)


@pytest.mark.parametrize(
    "change",
    [
        {"scores": np.array([0.0, 0.0, 1.0])},
        {"scores": np.array([0.0, np.nan, 1.0])},
        {"scores": np.zeros(3, object)},
        {"p": np.array([1.0, 0.2, 0.4])},
        {"p": np.array([1.0, 0.5, 0.0])},
        {"p": np.array([2.0, 0.5, 0.1])},
        {"p": np.array([1.0, np.nan, 0.1])},
        {"p": np.array([1.0, 0.5])},
        {"scores": np.arange(9999.0), "p": np.linspace(1, 0.1, 9999)},
        {"tail": np.array([0.1, 0.0, 0.01])},
        {"tail": np.array([9.0, 1.0, 0.01])},
        {"tail": np.array([np.nan, 1.0, 0.01])},
        {"tail": np.array([0.1, 1.0, 0.0])},
        {"tail": np.array([0.1, 1.0])},
        {"people": np.array(0)},
        {"people": np.array([3])},
    ],
)
def test_hostile_arrays_are_refused(change: dict[str, np.ndarray]) -> None:
    good = {
        "scores": np.array([0.0, 1.0, 2.0]),
        "p": np.array([1.0, 0.5, 0.1]),
        "tail": np.array([0.1, 1.0, 0.01]),
        "people": np.array(10),
    }
    Calibration.from_arrays(good)
    with pytest.raises(DataError, match="not a calibration"):
        Calibration.from_arrays(good | change)
    with pytest.raises(DataError, match="'people'"):
        Calibration.from_arrays({key: good[key] for key in ("scores", "p", "tail")})


def test_windows_by_hand() -> None:
    starts, means, counts = combine_windows([0.0, 0.5, 2.1, 2.9, 9.0], [1.0, 3.0, 10.0, 20.0, 7.0], 1.0)
    np.testing.assert_array_equal(starts, [0.0, 2.0, 9.0])
    np.testing.assert_array_equal(means, [2.0, 15.0, 7.0])
    np.testing.assert_array_equal(counts, [2, 2, 1])
    assert [part.size for part in combine_windows([], [], 1.0)] == [0, 0, 0]


@settings(max_examples=100, deadline=None)
@given(
    frames=st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e3, 1e3)), min_size=1, max_size=80),
    window_s=st.sampled_from([0.1, 1.0, 5.0, 10.0]),
)
def test_windows_lose_nothing(frames: list[tuple[float, float]], window_s: float) -> None:
    times, values = (np.array(column) for column in zip(*frames, strict=True))
    order = np.random.default_rng(0).permutation(len(times))
    starts, means, counts = combine_windows(times[order], values[order], window_s)
    assert counts.sum() == len(times)
    assert (means * counts).sum() == pytest.approx(values.sum(), abs=1e-6)
    assert (np.diff(starts) >= window_s * 0.999).all()
    for time, value in frames:
        inside = (starts <= time + 1e-6) & (time < starts + window_s)
        assert inside.any()
        if counts[inside].max() == 1 and inside.sum() == 1:
            assert means[inside][0] == pytest.approx(value)


def test_frames_on_the_border_open_the_next_window() -> None:
    starts, _, counts = combine_windows(np.round(np.arange(30) * 0.1, 1), np.zeros(30), 0.1)
    assert len(starts) == 30
    assert (counts == 1).all()


@pytest.mark.parametrize(
    ("times", "values", "window_s"),
    [([0.0], [1.0, 2.0], 1.0), ([np.nan], [1.0], 1.0), ([0.0], [np.nan], 1.0), ([0.0], [1.0], 0.0)],
)
def test_windows_refuse_bad_input(times: list[float], values: list[float], window_s: float) -> None:
    with pytest.raises(DataError):
        combine_windows(times, values, window_s)
