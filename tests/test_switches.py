"""Runs of frames that show somebody else."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.switches import MIN_FRAMES, Run, find_runs

TRUE = np.ones(50, bool)
TIME_S = np.arange(50) / 5
ONE_TRACK = np.zeros(50, np.int64)


def mask(*spans: tuple[int, int]) -> np.ndarray:
    """Frames ``first`` to ``last``, both included, show somebody else."""
    other = np.zeros(50, bool)
    for first, last in spans:
        other[first : last + 1] = True
    return other


def runs(other: np.ndarray, known: np.ndarray = TRUE, track: np.ndarray = ONE_TRACK, **options: float) -> list[Run]:
    return find_runs(TIME_S, track, other, known, min_s=0.6, **options)


def test_a_run_is_told_from_its_first_to_its_last_frame() -> None:
    assert runs(mask((20, 40))) == [Run(20, 40)]
    assert runs(mask((5, 12), (30, 49))) == [Run(5, 12), Run(30, 49)]
    assert runs(mask()) == []


def test_a_moment_is_no_run() -> None:
    assert runs(mask((20, 21))) == []
    assert runs(mask((20, 22))) == []  # 0.4 s
    assert runs(mask((20, 23))) == [Run(20, 23)]


def test_one_good_match_by_chance_does_not_split_a_run() -> None:
    other = mask((20, 40))
    other[[25, 31, 32]] = False
    assert runs(other) == [Run(20, 40)]
    other[31:35] = False  # 0.8 s of the right person
    assert runs(other) == [Run(20, 30), Run(35, 40)]


def test_flickering_is_no_run() -> None:
    other = np.arange(50) % 3 == 0
    assert runs(other) == []


def test_frames_that_say_nothing_neither_make_nor_end_a_run() -> None:
    other, known = mask((20, 40)), TRUE.copy()
    known[24:28] = False
    assert runs(other, known) == [Run(20, 40)]
    assert runs(other, ~mask((20, 40))) == []


def test_a_run_stays_in_its_track() -> None:
    track = np.repeat([0, 1], 25)
    assert runs(mask((20, 30)), track=track) == [Run(20, 24), Run(25, 30)]


def test_at_low_frame_rates_one_match_is_bridged_too() -> None:
    time_s = np.arange(12.0)
    other = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0], bool)
    assert find_runs(time_s, ONE_TRACK[:12], other, TRUE[:12], min_s=0.6) == [Run(3, 10)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), max_size=50),
    st.floats(0.1, 2),
)
def test_runs_hold_for_any_input(frames: list[tuple[bool, bool, int]], min_s: float) -> None:
    other = np.array([f[0] for f in frames], bool)
    known = np.array([f[1] for f in frames], bool)
    track = np.array([f[2] for f in frames], np.int64)
    time_s = TIME_S[: len(frames)]
    taken = np.zeros(len(frames), bool)
    for run in find_runs(time_s, track, other, known, min_s=min_s):
        inside = np.arange(run.first, run.last + 1)
        inside = inside[track[inside] == track[run.first]]
        assert track[run.last] == track[run.first]
        assert other[run.first]
        assert known[run.first]
        assert other[run.last]
        assert known[run.last]
        assert time_s[run.last] - time_s[run.first] >= min_s - 1e-5
        assert (other & known)[inside].sum() >= MIN_FRAMES
        assert not taken[inside].any()
        taken[inside] = True
