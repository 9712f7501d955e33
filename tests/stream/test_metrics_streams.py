"""Series of streams: bounded whatever comes, and gone with their streams."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from stream.broker.contract import TopicPartition
from stream.metrics.catalogue import OTHER_STREAMS
from stream.metrics.coverage import QUIET_S
from stream.metrics.streams import StreamSeries, StreamTally, label_of

P0, P1 = TopicPartition("video.in", 0), TopicPartition("video.in", 1)


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


def tally(covered_s: float = 1.0, uncovered_s: float = 0.0) -> StreamTally:
    return StreamTally(
        seconds={"": covered_s, "shed": uncovered_s},
        is_covered=covered_s > 0,
        ratio=covered_s / (covered_s + uncovered_s or 1),
        gear=2.0,
        p_values={"artifact": 0.5},
        anchor_ages_s={"self": 9.0},
        frames=1,
    )


def samples(series: StreamSeries) -> dict[str, dict[tuple[str, ...], float]]:
    """Name -> label values -> value."""
    return {
        sample.name: {tuple(s.labels.values()): s.value for f in families for s in f.samples if s.name == sample.name}
        for families in [list(series.families())]
        for family in families
        for sample in family.samples
    }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[[int], StreamSeries]:
    return lambda most: StreamSeries(most, 900.0, ("artifact", "anchor", "identity"), clock=clock, monotonic=clock)


def test_what_is_told_of_a_stream(make: Callable[[int], StreamSeries], clock: Clock) -> None:
    series = make(10)
    series.merge({(P0, "a"): tally(3.0, 1.0)})
    clock.now_s += 1
    series.merge({(P0, "a"): StreamTally(seconds={"gap": 2.0}, frames=1, ratio=0.5, is_alert_open=True)})
    found = samples(series)
    assert found["difffake_stream_seconds_total"] == {("a",): 6.0}
    assert found["difffake_stream_covered_seconds_total"] == {("a",): 3.0}
    assert found["difffake_stream_uncovered_seconds_total"] == {("a", "shed"): 1.0, ("a", "gap"): 2.0}
    assert found["difffake_stream_coverage_ratio"] == {("a",): 0.5}
    assert found["difffake_stream_last_frame_timestamp_seconds"] == {("a",): 1e9 + 1}
    assert found["difffake_stream_last_covered_timestamp_seconds"] == {("a",): 1e9}
    assert found["difffake_stream_gear"] == {("a",): 2.0}
    assert found["difffake_stream_alert_open"] == {("a",): 1.0}
    assert found["difffake_stream_evidence_p_value"] == {("a", "artifact"): 0.5}
    assert found["difffake_stream_anchor_age_seconds"] == {("a", "self"): 9.0}
    assert set(found["difffake_stream_alerts_opened_total"].values()) == {0}, (
        "the first alert must be seen by increase()"
    )
    assert found["difffake_streams"] == {(): 1.0}


def test_a_stream_that_goes_silent_is_not_looked_at(make: Callable[[int], StreamSeries], clock: Clock) -> None:
    series = make(10)
    series.merge({(P0, "a"): tally()})
    assert samples(series)["difffake_stream_coverage_ratio"] == {("a",): 1.0}
    clock.now_s += QUIET_S + 0.1
    assert samples(series)["difffake_stream_coverage_ratio"] == {("a",): 0.0}


def test_a_hundred_thousand_streams_make_no_more_series_than_there_may_be(
    make: Callable[[int], StreamSeries], clock: Clock
) -> None:
    series, one = make(100), tally()
    series.merge({(P0, f"stream-{number}"): one for number in range(20_000)})
    tracemalloc.start()
    before, size = tracemalloc.get_traced_memory()[0], sum(len(s) for s in samples(series).values())
    for start in range(20_000, 100_000, 10_000):
        clock.now_s += 1
        series.merge({(P0, f"stream-{n}"): one for n in range(start, start + 10_000)})
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    found = samples(series)
    assert len(series) == 100
    assert sum(len(s) for s in found.values()) == size
    assert grown < 2 << 20
    assert len(found["difffake_stream_seconds_total"]) == 101
    assert found["difffake_stream_seconds_total"][OTHER_STREAMS,] == pytest.approx(100_000 - 100)
    assert (OTHER_STREAMS,) not in found["difffake_stream_coverage_ratio"], "a ratio of many streams would hide one"
    assert found["difffake_streams_folded"][()] == 10_000, "counted up to a bound"


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_changes_nothing_about_who_is_silent(step_s: float) -> None:
    """Set back by an hour, a stream that ended stayed looked at for that hour; set forth, all were forgotten."""
    machine, monotonic = Clock(), Clock()
    monotonic.now_s = 50.0
    series = StreamSeries(10, 900.0, clock=machine, monotonic=monotonic)
    series.merge({(P0, "ended"): tally(), (P0, "goes on"): tally()})
    machine.now_s += step_s
    assert samples(series)["difffake_stream_coverage_ratio"] == {("ended",): 1.0, ("goes on",): 1.0}
    for clock in (machine, monotonic):
        clock.now_s += QUIET_S + 0.1
    series.merge({(P0, "goes on"): tally()})
    found = samples(series)
    assert found["difffake_stream_coverage_ratio"] == {("ended",): 0.0, ("goes on",): 1.0}
    assert found["difffake_stream_last_frame_timestamp_seconds"] == {
        ("ended",): pytest.approx(machine.now_s - QUIET_S - 0.1),
        ("goes on",): machine.now_s,
    }
    assert found["difffake_stream_last_covered_timestamp_seconds"]["goes on",] == machine.now_s


def test_a_place_is_free_when_its_stream_has_gone(make: Callable[[int], StreamSeries], clock: Clock) -> None:
    series = make(2)
    series.merge({(P0, "a"): tally(), (P1, "b"): tally(), (P0, "c"): tally()})
    assert set(samples(series)["difffake_stream_gear"]) == {("a",), ("b",)}
    series.drop([P0])
    assert set(samples(series)["difffake_stream_gear"]) == {("b",)}
    series.merge({(P1, "c"): tally()})
    assert set(samples(series)["difffake_stream_gear"]) == {("b",), ("c",)}
    clock.now_s += 800
    series.merge({(P1, "b"): StreamTally()})  # a record that gave nothing: somebody still sends
    clock.now_s += 200
    found = samples(series)
    assert set(found["difffake_stream_gear"]) == {("b",)}
    assert found["difffake_streams_folded"] == {(): 0.0}


def test_what_gives_no_frame_founds_no_series(make: Callable[[int], StreamSeries]) -> None:
    series = make(2)
    series.merge({(P0, "noise"): StreamTally()})
    assert not len(series)


def test_a_million_made_up_streams_of_garbage_keep_no_place_from_one_that_can_be_read(
    make: Callable[[int], StreamSeries],
) -> None:
    series = make(3)
    series.merge({(P0, "good"): tally()})
    for number in range(20_000):
        series.merge({(P0, f"noise-{number}"): StreamTally(ratio=0.0, frames=1, is_stranger=True)})
    assert len(series) == 3
    assert samples(series)["difffake_stream_coverage_ratio"]["noise-0",] == 0
    series.merge({(P0, "noise-1"): tally(), (P0, "new"): tally(), (P0, "newer"): tally()})
    assert set(samples(series)["difffake_stream_coverage_ratio"]) == {("good",), ("noise-1",), ("new",)}
    series.merge({(P0, "noise-1"): StreamTally(ratio=0.0, frames=1, is_stranger=True)})
    series.drop([P1])
    series.merge({(P0, "newest"): tally()})
    assert set(samples(series)["difffake_stream_coverage_ratio"]) == {("good",), ("noise-1",), ("new",)}


def test_streams_of_no_series_at_all(make: Callable[[int], StreamSeries]) -> None:
    series = make(0)
    series.merge({(P0, "a"): tally(), (P0, OTHER_STREAMS): tally()})
    assert samples(series)["difffake_stream_seconds_total"] == {(OTHER_STREAMS,): 2.0}


def test_a_long_id_becomes_a_short_label_of_its_own() -> None:
    assert label_of("studio/1") == "studio/1"
    long, other = "ü" * 500, "ü" * 499 + "x"
    assert len(label_of(long).encode()) <= 200
    assert label_of(long) != label_of(other)
    assert label_of(long) == label_of(long)
