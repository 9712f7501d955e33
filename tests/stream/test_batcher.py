"""Batches across streams: size, deadline, a fair share."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.batcher import Batcher, BatchSettings


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def batcher(size: int = 4, deadline_s: float = 0.02, coming: int = 1) -> tuple[Batcher[str], Clock]:
    clock = Clock()
    return Batcher(BatchSettings(size=size, deadline_s=deadline_s), coming=lambda: coming, clock=clock), clock


def test_a_full_batch_goes_at_once() -> None:
    batches, _ = batcher(size=2)
    batches.put("a", "a1")
    batches.put("b", "b1")
    assert sorted(batches.take()) == ["a1", "b1"]


def test_the_oldest_frame_waits_no_longer_than_the_deadline() -> None:
    batches, clock = batcher()
    batches.put("a", "a1")
    clock.now = 0.021
    assert batches.take() == ["a1"]
    assert batches.counts.waited_s == pytest.approx(0.021)


def test_nobody_waits_for_company_that_cannot_come() -> None:
    batches, _ = batcher(coming=0, deadline_s=1e6)
    batches.put("a", "a1")
    assert batches.take() == ["a1"]


def test_take_waits_for_a_frame_from_another_thread() -> None:
    batches: Batcher[str] = Batcher(BatchSettings(size=1))
    threading.Timer(0.05, batches.put, ("a", "a1")).start()
    assert batches.take() == ["a1"]


def test_a_stream_has_one_frame_here() -> None:
    batches, _ = batcher()
    batches.put("a", "a1")
    with pytest.raises(ValueError, match="waits already"):
        batches.put("a", "a2")


def test_streams_under_suspicion_go_first_but_starve_nobody() -> None:
    batches, clock = batcher(size=1, deadline_s=0.02)
    batches.put("calm", "calm")
    for turn in range(5):
        clock.now += 0.001
        batches.put(f"suspect{turn}", "suspect", urgent=True)
        assert batches.take() == ["suspect"]
    clock.now += 0.3
    batches.put("suspect", "suspect", urgent=True)
    assert batches.take() == ["calm"]


def test_closing_wakes_who_waits() -> None:
    batches: Batcher[str] = Batcher()
    taken: list[list[str]] = []
    thread = threading.Thread(target=lambda: taken.append(batches.take()))
    thread.start()
    batches.close()
    thread.join(10)
    assert taken == [[]]
    batches.put("a", "late")
    assert batches.take() == []


def test_settings_change_while_frames_wait() -> None:
    batches, _ = batcher(size=8, deadline_s=1e6)
    batches.put("a", "a1")
    batches.change(BatchSettings(size=1, deadline_s=1e6))
    assert batches.take() == ["a1"]


def test_who_takes_leaves_a_share_to_the_others() -> None:
    batches: Batcher[str] = Batcher(BatchSettings(size=8, deadline_s=1e6), share=lambda: 2)
    for stream in "abcd":
        batches.put(stream, stream)
    assert [batches.take(), batches.take()] == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(("share", "taken"), [(0, 1), (100, 3)])
def test_a_share_is_at_least_one_frame_and_no_more_than_the_size(share: int, taken: int) -> None:
    batches: Batcher[str] = Batcher(BatchSettings(size=3), share=lambda: share)
    for stream in "abcd":
        batches.put(stream, stream)
    assert len(batches.take()) == taken


def test_who_has_other_work_takes_a_full_batch_or_one_that_has_waited_long() -> None:
    batches, clock = batcher(size=2, deadline_s=0.02)
    assert batches.poll(is_busy=True) == []
    batches.put("a", "a1")
    clock.now = 0.09
    assert batches.poll(is_busy=True) == [], "company may come while other work is done"
    clock.now = 0.101
    assert batches.poll(is_busy=True) == ["a1"]
    batches.put("a", "a2")
    batches.put("b", "b1")
    assert batches.poll(is_busy=True) == ["a2", "b1"]


def test_who_has_no_other_work_takes_what_there_is() -> None:
    batches, _ = batcher(deadline_s=1e6)
    batches.put("a", "a1")
    assert batches.poll(is_busy=False) == ["a1"]
    assert batches.poll(is_busy=False) == []


def test_a_stream_under_suspicion_waits_for_one_deadline_beside_other_work() -> None:
    batches, clock = batcher(deadline_s=0.02)
    batches.put("calm", "calm")
    batches.put("suspect", "suspect", urgent=True)
    clock.now = 0.019
    assert batches.poll(is_busy=True) == []
    clock.now = 0.021
    assert batches.poll(is_busy=True) == ["suspect", "calm"]


def test_a_closed_batcher_gives_out_nothing() -> None:
    batches, _ = batcher()
    batches.put("a", "a1")
    batches.close()
    batches.put("b", "b1")
    assert batches.poll(is_busy=False) == []


def test_settings_are_bounded() -> None:
    with pytest.raises(ValueError, match="size"):
        BatchSettings(size=0)
    with pytest.raises(ValueError, match="deadline_s"):
        BatchSettings(deadline_s=float("nan"))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4))
def test_every_frame_comes_out_once_in_its_streams_order(lengths: list[int], size: int) -> None:
    batches, clock = batcher(size=size, coming=0)
    todo = {f"s{n}": list(range(length)) for n, length in enumerate(lengths)}
    seen: dict[str, list[int]] = {stream: [] for stream in todo}
    tokens: Batcher[str] = batches
    for stream in todo:
        tokens.put(stream, stream)
    while any(todo.values()):
        clock.now += 1.0
        for stream in tokens.take():
            seen[stream].append(todo[stream].pop(0))
            if todo[stream]:
                tokens.put(stream, stream)
    assert seen == {f"s{n}": list(range(length)) for n, length in enumerate(lengths)}
    counts = tokens.counts
    assert counts.frames == sum(lengths)
    assert 0 < counts.fill <= 1


@given(st.integers(2, 8), st.integers(1, 3))
def test_a_flood_gets_no_more_than_its_share(others: int, size: int) -> None:
    """The flooding stream always has the next frame ready, the others too: all are served alike."""
    batches, clock = batcher(size=size, coming=0)
    served = dict.fromkeys([f"quiet{n}" for n in range(others)] + ["flood"], 0)
    for stream in served:
        batches.put(stream, stream)
    for _ in range(20 * len(served)):
        clock.now += 0.001
        for stream in batches.take():
            served[stream] += 1
            batches.put(stream, stream)
    assert max(served.values()) - min(served.values()) <= 1
