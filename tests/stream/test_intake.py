"""Whose record is next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.broker.contract import Record, TopicPartition
from stream.intake import Intake, StreamKey

SOURCE = TopicPartition("video.in", 0)


def record(offset: int, stream: str, size: int = 10) -> Record:
    return Record(*SOURCE, offset, stream.encode(), bytes(size), (), 0)


def key(stream: str) -> StreamKey:
    return SOURCE, stream


def pick(intake: Intake, *busy: str) -> int | None:
    found = intake.pick({key(stream) for stream in busy})
    return None if found is None else found[1].offset


def test_records_of_a_stream_keep_their_order() -> None:
    intake = Intake()
    for offset in range(3):
        intake.put("a", record(offset, "a"))
    assert [pick(intake) for _ in range(4)] == [0, 1, 2, None]


def test_a_busy_stream_is_passed_over() -> None:
    intake = Intake()
    intake.put("a", record(0, "a"))
    intake.put("b", record(1, "b"))
    assert pick(intake, "a") == 1
    assert pick(intake, "a") is None
    assert pick(intake) == 0


def test_a_flood_waits_for_itself() -> None:
    """A hundred records of one stream are before the one of another: the other is next but one."""
    intake = Intake()
    for offset in range(100):
        intake.put("flood", record(offset, "flood"))
    intake.put("quiet", record(100, "quiet"))
    order = []
    for _ in range(3):
        found = intake.pick(())
        assert found is not None
        order.append(found[0][1])
        intake.serve(found[0], 1.0, urgent=False)
    assert "quiet" in order[:2]


def test_an_idle_stream_does_not_save_up() -> None:
    intake = Intake()
    offset = 0
    for _ in range(50):
        intake.put("steady", record(offset, "steady"))
        found = intake.pick(())
        assert found is not None
        intake.serve(found[0], 1.0, urgent=False)
        offset += 1
    for _ in range(4):
        for stream in ("late", "steady"):
            intake.put(stream, record(offset, stream))
            offset += 1
    order = []
    for _ in range(8):
        found = intake.pick(())
        assert found is not None
        order.append(found[0][1])
        intake.serve(found[0], 1.0, urgent=False)
    assert set(order[:4]) == {"late", "steady"}


def test_suspicion_goes_first() -> None:
    intake = Intake()
    for offset in range(4):
        intake.put("ab"[offset % 2], record(offset, "ab"[offset % 2]))
    intake.serve(key("b"), 100.0, urgent=True)
    assert pick(intake) == 1


def test_suspicion_goes_first_also_where_nothing_of_the_stream_was_waiting() -> None:
    """A live stream's records come one by one: none waits while the one before is worked on."""
    intake = Intake()
    intake.put("b", record(0, "b"))
    assert pick(intake) == 0
    intake.serve(key("b"), 100.0, urgent=True)
    intake.put("a", record(1, "a"))
    intake.put("b", record(2, "b"))
    assert intake.pick_late((), lambda one, is_urgent: one.offset == 2 and not is_urgent) is None
    assert pick(intake) == 2
    intake.serve(key("b"), 1.0, urgent=False)
    intake.put("b", record(3, "b"))
    assert pick(intake) == 1


def test_streams_that_never_come_again_are_not_under_suspicion_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.intake._MOST_SERVED", 100)
    intake = Intake()
    for number in range(1_000):
        intake.serve(key(f"id-{number}"), 1.0, urgent=True)
    assert len(intake._urgent) <= 101
    intake.drop(SOURCE)
    assert not intake._urgent


def test_what_is_too_late_does_not_wait_for_its_streams_turn() -> None:
    intake = Intake()
    for offset, stream in enumerate("aab"):
        intake.put(stream, record(offset, stream))
    late = {1, 2}

    def is_late(record: Record, _: bool) -> bool:
        return record.offset in late

    found = intake.pick_late((), is_late)
    assert found is not None
    assert found[1].offset == 2, "that of stream a comes after one that is not late"
    assert pick(intake) == 0
    assert intake.pick_late({key("a")}, is_late) is None
    found = intake.pick_late((), is_late)
    assert found is not None
    assert found[1].offset == 1
    assert len(intake) == intake.waiting_bytes[SOURCE] == 0


def test_bytes_are_counted_until_they_are_picked_or_dropped() -> None:
    intake = Intake()
    intake.put("a", record(0, "a", 100))
    intake.put("b", record(1, "b", 50))
    assert (intake.waiting_bytes[SOURCE], intake.waiting[SOURCE], len(intake)) == (150, 2, 2)
    found = intake.pick(())
    assert found is not None
    intake.put_back(*found)
    assert intake.waiting_bytes[SOURCE] == 150
    assert pick(intake) == 0
    intake.drop(SOURCE)
    assert (intake.waiting_bytes[SOURCE], len(intake), pick(intake)) == (0, 0, None)


def test_records_that_go_with_one_follow_it_up_to_a_bound_and_may_be_put_back() -> None:
    intake = Intake()
    for offset in range(6):
        intake.put("a", record(offset, "a", 10))
    intake.put("b", record(9, "b", 10))
    assert pick(intake) == 0

    def follow(most: int, most_bytes: int, before: int = 99) -> list[int]:
        found = intake.follow(key("a"), most, most_bytes, lambda r: r.offset < before)
        for one in reversed(found):
            intake.put_back(key("a"), one)
        return [one.offset for one in found]

    assert follow(3, 1000) == [1, 2, 3]
    assert follow(9, 25) == [1, 2]
    assert follow(9, 1000, before=4) == [1, 2, 3]
    assert follow(9, 1000) == [1, 2, 3, 4, 5]
    assert (len(intake), intake.waiting_bytes[SOURCE]) == (6, 60)
    intake.serve(key("a"), 100.0, urgent=False)
    assert [pick(intake) for _ in range(3)] == [9, 1, 2]
    assert intake.follow(key("nobody"), 9, 1000, lambda _: True) == []


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.1, 5.0)), max_size=60))
def test_nothing_is_lost_and_order_is_kept(arrivals: list[tuple[str, float]]) -> None:
    intake = Intake()
    for offset, (stream, _) in enumerate(arrivals):
        intake.put(stream, record(offset, stream))
    seen: dict[str, list[int]] = {}
    while (found := intake.pick(())) is not None:
        seen.setdefault(found[0][1], []).append(found[1].offset)
        intake.serve(found[0], arrivals[found[1].offset][1], urgent=False)
    assert all(offsets == sorted(offsets) for offsets in seen.values())
    assert sorted(o for offsets in seen.values() for o in offsets) == list(range(len(arrivals)))


def test_ids_that_never_come_again_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were all looked through for every record: four thousand of them cost five milliseconds each time."""
    monkeypatch.setattr("stream.intake._MOST_SERVED", 2_000)
    intake = Intake()
    for number in range(20_000):
        intake.put(f"id-{number}", record(number, f"id-{number}"))
        picked = intake.pick(set())
        assert picked is not None
        intake.serve(picked[0], 1.0, urgent=False)
    assert len(intake._served) < 10_000


_STREAMS = st.sampled_from("abcd")
_ACTIONS = st.one_of(
    st.tuples(st.just("put"), _STREAMS),
    st.tuples(st.just("serve"), _STREAMS, st.floats(0.0, 3.0), st.booleans()),
    st.tuples(st.just("pick"), st.sets(_STREAMS)),
    st.tuples(st.just("put back")),
    st.tuples(st.just("late"), st.sets(_STREAMS)),
    st.tuples(st.just("drop")),
)


@given(st.lists(_ACTIONS, max_size=80))
def test_the_next_is_always_who_a_look_at_all_of_them_would_choose(actions: list[tuple[object, ...]]) -> None:
    intake, taken = Intake(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream.intake._FEW_OUTDATED", 2)
        for offset, (what, *more) in enumerate(actions):
            match what, *more:
                case "put", str(stream):
                    intake.put(stream, record(offset, stream))
                case "serve", str(stream), float(cost), bool(urgent):
                    intake.serve(key(stream), cost, urgent=urgent)
                case "pick", set(busy):
                    free = [
                        (not queue.urgent, queue.served, queue.records[0].offset, one)
                        for one, queue in intake._queues.items()
                        if one[1] not in busy
                    ]
                    found = intake.pick({key(stream) for stream in busy})
                    assert (found is None) == (not free)
                    if found is not None:
                        assert (found[0], found[1].offset) == (min(free)[3], min(free)[2])
                        taken.append(found)
                case ("put back",) if taken:
                    intake.put_back(*taken.pop())
                case "late", set(busy):
                    intake.pick_late({key(stream) for stream in busy}, lambda one, _urgent: one.offset % 2 == 0)
                case ("drop",):
                    intake.drop(SOURCE)
                    taken.clear()


def test_what_ranks_were_before_does_not_fill_memory() -> None:
    intake = Intake()
    intake.put("a", record(0, "a"))
    for _ in range(10_000):
        intake.serve(key("a"), 1.0, urgent=False)
    assert len(intake._ranks) < 100
    assert pick(intake) == 0
