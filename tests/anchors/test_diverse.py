"""A diverse choice of anchors: spread in pose, light and time, of one identity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.anchors import agreeing, choose_diverse
from difffake.errors import DataError


def test_rare_poses_and_lights_are_chosen() -> None:
    times = np.arange(60) * 0.5
    yaw, pitch, luma = np.zeros(60), np.zeros(60), np.full(60, 120.0)
    yaw[7], yaw[11], pitch[33], luma[50] = 40, -40, 30, 200
    chosen = choose_diverse(times, k=8, yaw_deg=yaw, pitch_deg=pitch, luma=luma)
    assert {7, 11, 33, 50} <= set(chosen.tolist())
    assert len(chosen) == 8


def test_without_pose_and_light_the_choice_is_spread_in_time() -> None:
    chosen = choose_diverse(np.arange(100) * 0.5, k=5)
    assert np.diff(chosen).min() >= 12


def test_other_faces_are_left_out() -> None:
    rng = np.random.default_rng(0)
    identity = rng.normal(0, 0.01, (40, 128))
    identity[5:15, 0] += 0.7
    chosen = choose_diverse(np.arange(40.0), k=20, identity=identity)
    assert not set(chosen.tolist()) & set(range(5, 15))
    assert agreeing(identity, 0.5).sum() == 30


def test_rows_without_identity_do_not_agree() -> None:
    identity = np.zeros((4, 3))
    identity[1, 2] = np.nan
    assert agreeing(identity, 0.5).tolist() == [True, False, True, True]
    assert agreeing(np.zeros((0, 3)), 0.5).tolist() == []


@settings(max_examples=100, deadline=None)
@given(
    times=st.lists(st.integers(0, 200), min_size=1, max_size=40, unique=True),
    k=st.integers(1, 12),
    gap=st.sampled_from([0.0, 0.25, 2.0]),
    seed=st.integers(0, 99),
)
def test_promises_hold_and_order_does_not_matter(times: list[int], k: int, gap: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, yaw = np.array(times) / 10, rng.normal(0, 20, len(times))
    yaw[rng.random(len(times)) < 0.2] = np.nan
    identity = rng.normal(0, 0.1, (len(times), 8))
    chosen = choose_diverse(at, k=k, min_gap_s=gap, identity=identity, yaw_deg=yaw)
    assert len(chosen) <= k
    assert (np.diff(at[chosen]) > max(gap - 1e-9, 0)).all()
    in_time = np.argsort(at)
    assert set(chosen.tolist()) <= set(in_time[agreeing(identity[in_time], 0.5)].tolist())
    order = rng.permutation(len(times))
    again = choose_diverse(at[order], k=k, min_gap_s=gap, identity=identity[order], yaw_deg=yaw[order])
    assert at[order][again].tolist() == at[chosen].tolist()


@pytest.mark.parametrize("options", [{"k": 0}, {"min_gap_s": -1.0}, {"radius": 0.0}, {"yaw_deg": np.zeros(3)}])
def test_what_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(DataError) as caught:
        choose_diverse(np.arange(5.0), **options)  # type: ignore[arg-type]
    assert caught.value.hint
