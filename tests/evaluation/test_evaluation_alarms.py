"""Runs of suspicious windows are alarms; clips and unjudged windows are kept apart."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difffake.errors import DataError
from difffake.evaluation.alarms import count_alarms

NAN = float("nan")


def test_a_run_is_one_alarm_and_ends_with_its_clip() -> None:
    p = [0.01, 0.02, 0.9, 0.01, 0.01, 0.01, 0.9, 0.5]
    clip = [4, 4, 4, 4, 7, 7, 7, 9]
    found = count_alarms(p, clip, 0.05)
    assert (found.windows, found.below, found.alarms, found.clips) == (8, 5, 3, 3)
    assert found.concerned == (4, 7)
    assert found.share == 5 / 8
    assert found.per_hour(1800.0) == 6.0


def test_the_threshold_itself_is_no_alarm() -> None:
    assert count_alarms([0.05, 0.05], [0, 0], 0.05).below == 0


def test_a_window_that_was_not_judged_neither_raises_nor_ends_an_alarm() -> None:
    found = count_alarms([0.01, NAN, 0.01, NAN], [0, 0, 0, 1], 0.05)
    assert (found.windows, found.below, found.alarms, found.clips) == (2, 2, 1, 1)


def test_nothing_judged() -> None:
    found = count_alarms([], [], 0.05)
    assert (found.windows, found.alarms, found.clips, found.concerned) == (0, 0, 0, ())
    assert np.isnan(found.share)
    assert np.isnan(found.per_hour(0.0))


@pytest.mark.parametrize(("p", "clip"), [([0.1], [0, 1]), ([[0.1]], [[0]]), ([0.1] * 3, [0, 1, 0])])
def test_what_does_not_fit(p: list[float], clip: list[int]) -> None:
    with pytest.raises(DataError):
        count_alarms(p, clip, 0.05)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.001, 0.04, 0.5, NAN])), max_size=40))
def test_as_counted_one_by_one(rows: list[tuple[int, float]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    found = count_alarms([p for _, p in rows], [c for c, _ in rows], 0.05)
    judged = [(c, p < 0.05) for c, p in rows if not np.isnan(p)]
    assert found.alarms == sum(low for (_, low), _ in groupby(judged))
    assert found.below == sum(low for _, low in judged)
    assert set(found.concerned) == {c for c, low in judged if low}


@pytest.mark.parametrize(("alarms", "at_most"), [(0, 2.9957), (1, 4.7439), (3, 7.7537), (50, 63.287)])
def test_no_alarm_is_not_no_rate(alarms: int, at_most: float) -> None:
    p = np.tile([0.01, 0.9], alarms)
    found = count_alarms(p, np.zeros(len(p), int), 0.05)
    assert (found.alarms, found.per_hour(3600.0)) == (alarms, alarms)
    # Garwood's bound, from tables of chi-squared.
    assert found.per_hour_at_most(3600.0) == pytest.approx(at_most, rel=1e-3)
    assert np.isnan(found.per_hour_at_most(0.0))
