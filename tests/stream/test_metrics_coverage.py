"""What counts as looked at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.messages import Status
from stream.metrics.coverage import COVERED, GAP_S, MAX_GAP_S, Coverage

S = 1_000_000_000


def told(coverage: Coverage, *frames: tuple[float, Status]) -> dict[str, float]:
    """Seconds by reason, of frames at these times."""
    found: dict[str, float] = {}
    for time_s, status in frames:
        for reason, seconds in coverage.add(round(time_s * S), status):
            found[reason] = found.get(reason, 0.0) + seconds
    return {reason: pytest.approx(seconds) for reason, seconds in found.items()}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.SCORED, ""),
        (Status.NO_FACE, ""),
        (Status.WARMING_UP, "warming_up"),
        (Status.LOW_QUALITY, "low_quality"),
        (Status.DECODE_ERROR, "decode_error"),
        (Status.SHED, "shed"),
    ],
)
def test_a_frame_stands_for_the_time_since_the_one_before_it(status: Status, reason: str) -> None:
    assert told(Coverage(), (10, Status.SCORED), (10.5, status), (11, Status.SCORED)) == (
        {reason: 0.5, "": 0.5} if reason else {"": 1.0}
    )


def test_a_stale_frame_stands_for_no_time_and_does_not_hide_the_next() -> None:
    assert told(Coverage(), (1, Status.SCORED), (0.5, Status.STALE), (2, Status.SCORED)) == {"": 1.0}


def test_time_for_which_nothing_came_is_a_gap() -> None:
    assert told(Coverage(), (0, Status.SCORED), (60, Status.SCORED)) == {"gap": 60 - GAP_S, "": GAP_S}


def test_a_clock_that_leaps_by_years_counts_as_an_hour() -> None:
    """Two producers under one id, one of them with times that begin at 0: years of a gap at every turn."""
    leap = told(Coverage(), (0, Status.SCORED), (1.7e9, Status.SCORED), (3.4e9, Status.SCORED))
    assert leap == {"gap": 2 * (MAX_GAP_S - GAP_S), "": 2 * GAP_S}


@pytest.mark.parametrize(("status", "reason"), [(Status.DECODE_ERROR, "decode_error"), (Status.SHED, "shed")])
def test_a_lost_frame_that_is_told_late_takes_its_time_back(status: Status, reason: str) -> None:
    """The time before the frame after it counted as looked at."""
    coverage = Coverage()
    assert told(coverage, *((t, Status.SCORED) for t in (0, 1, 3, 4))) == {"": 4.0}
    assert told(coverage, (2, status), (2.5, status), (2.5, status), (3, status), (-9, status)) == {}
    assert told(coverage, (5, Status.SCORED), (6, Status.SCORED)) == {reason: 1.5, "": 0.5}
    assert coverage.ratio is not None
    assert coverage.ratio < 0.8


def test_a_lost_frame_in_time_that_was_not_called_covered_takes_nothing_back() -> None:
    coverage = Coverage()
    told(coverage, (0, Status.SCORED), (1, Status.LOW_QUALITY), (61, Status.SCORED), (62, Status.SCORED))
    told(coverage, (0.5, Status.SHED), (40, Status.SHED))
    assert told(coverage, (63, Status.SCORED)) == {"": 1.0}
    told(coverage, (58, Status.DECODE_ERROR))
    assert told(coverage, (65, Status.SCORED)) == {"decode_error": 2.0}, "and the gap's last seconds"


def test_a_record_of_which_nothing_could_be_used_leaves_a_hole() -> None:
    coverage = Coverage()
    told(coverage, (0, Status.SCORED))
    coverage.bury()
    assert told(coverage, (4, Status.SCORED)) == {"dead_letter": 3.0, "": 1.0}
    assert told(coverage, (8, Status.SCORED)) == {"": 4.0}


def test_goes_on_where_another_worker_stopped() -> None:
    assert told(Coverage(7 * S), (9, Status.NO_FACE)) == {"": 2.0}


def test_the_ratio_is_of_about_the_last_minute() -> None:
    coverage = Coverage()
    assert coverage.ratio is None
    told(coverage, *((t, Status.SCORED) for t in range(300)))
    assert coverage.ratio == pytest.approx(1.0)
    told(coverage, *((t, Status.SHED) for t in range(300, 360)))
    assert 0.3 < (coverage.ratio or 0) < 0.45
    told(coverage, *((t, Status.SHED) for t in range(360, 900)))
    assert (coverage.ratio or 0) < 0.01
    told(coverage, (5000, Status.SCORED), *((t, Status.SCORED) for t in range(5001, 5181)))
    assert (coverage.ratio or 0) > 0.94, "an hour's gap is forgotten as soon as a minute's"


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(Status), st.booleans()), min_size=1, max_size=60),
)
def test_all_time_is_told_once(frames: list[tuple[int, Status, bool]]) -> None:
    coverage, seen = Coverage(), []
    seconds = covered = 0.0
    for ms, status, buried in frames:
        if buried:
            coverage.bury()
        for reason, some in coverage.add(ms * 10**6, status):
            assert some > 0
            seconds += some
            covered += 0.0 if reason else some
            assert reason or status in COVERED
        if status is not Status.STALE:
            seen.append(ms)
    # Times never fall within a stream; those that do here stand for nothing.
    rises = sum(max(0, ms - max(seen[:i])) for i, ms in enumerate(seen) if i)
    assert seconds == pytest.approx(rises / 1e3)
    assert covered <= seconds + 1e-9
    assert coverage.ratio is None or -1e-9 <= coverage.ratio <= 1 + 1e-9
