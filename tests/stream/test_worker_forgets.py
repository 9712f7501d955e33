"""States of streams that send nothing any more are deleted: ids that are made anew for every broadcast fill nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tiny import write_tiny_bundle
from worker_world import ALERTS, LIVE, SETTINGS, World

from stream.alerts.watch import Mute, read_state
from stream.broker.contract import TopicPartition
from stream.checkpoint import restore
from stream.live import LiveModels
from stream.messages import AlertState, Command, CommandRecord, StateKey, Status, encode
from stream.partition import _EVIDENCE
from stream.topics import Topics

#: Every state is old at once; never is one.
AT_ONCE = msgspec.structs.replace(SETTINGS, forget_s=1e-6)
NEVER = msgspec.structs.replace(SETTINGS, forget_s=3600.0)
QUIET = msgspec.structs.replace(ALERTS, budget_per_day=1e-9)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveModels]:
    path = write_tiny_bundle(tmp_path_factory.mktemp("forgets") / "tiny", identity=True).path
    with LiveModels.load(path, LIVE) as loaded:
        yield loaded


@pytest.fixture
def world(models: LiveModels, clips: dict[str, Path]) -> World:
    """Two streams are worked on by a worker that forgets nothing."""
    world = World(models, clips)
    world.publish(streams=("a", "b"))
    world.drain(world.worker(QUIET, NEVER))
    return world


def kept(world: World) -> dict[StateKey, bytes | None]:
    """The last that the state topic says of each stream and of its anchors."""
    keys = [(StateKey.parse(record.key), record.value) for record in world.records("difffake.state")]
    return {key: value for key, value in keys if key.stream is not None}


def restored(world: World) -> set[str]:
    topics, reader = Topics(), world.broker.reader()
    partitions = [TopicPartition("video.in", number) for number in range(2)]
    states = world.broker.partitions(topics.state)
    return {name for one in partitions for name in restore(reader, topics, states, one).streams}


def test_a_stream_that_is_silent_for_long_enough_is_forgotten(world: World) -> None:
    assert restored(world) == {"a", "b"}
    world.publish(streams=("c",))
    worker = world.worker(QUIET, AT_ONCE)
    world.drain(worker)
    gone = {str(key.stream) for key, value in kept(world).items() if value is None}
    assert {key for key in kept(world) if key.stream in gone and kept(world)[key] is not None} == set()
    assert {key.stream for key in kept(world) if key.is_anchors} >= gone
    # Those of the partition that something was committed for; the others when there is something to commit.
    assert gone
    assert worker.counts["forgotten"] >= len(gone)
    assert restored(world) == {"a", "b", "c"} - gone


def test_a_stream_is_kept_while_its_time_has_not_come(world: World) -> None:
    world.publish(streams=("c",))
    worker = world.worker(QUIET, NEVER)
    world.drain(worker)
    assert worker.counts["forgotten"] == 0
    assert restored(world) == {"a", "b", "c"}


def test_who_comes_back_begins_anew_and_is_scored_once(world: World) -> None:
    before = len([s for s in world.scores() if s.stream == "a"])
    for stream in ("c", "d", "e", "f"):  # something to commit in either partition
        world.publish(streams=(stream,))
    world.drain(world.worker(QUIET, AT_ONCE))
    assert "a" not in restored(world)
    world.publish(streams=("a",))
    world.drain(world.worker(QUIET, NEVER))
    again = [s for s in world.scores() if s.stream == "a"][before:]
    assert len(again) == before
    assert again[0].status is Status.WARMING_UP
    assert "a" in restored(world)


def tell(world: World, what: Command, ago_s: float, **said: object) -> CommandRecord:
    """An operator's command about the stream `a`, of so long ago."""
    given = {"person": None, "issued_ns": time.time_ns() - round(ago_s * 1e9), "by": "op", "id": "x"} | said
    record = CommandRecord(stream="a", command=what, **given)  # type: ignore[arg-type]
    producer = world.broker.plain_producer()
    producer.send("difffake.enrolments", key=record.key, value=encode(record))
    producer.close(1.0)
    return record


def mutes(world: World) -> list[Mute]:
    """Those of the stream `a`, as its last state says."""
    return read_state(_EVIDENCE.decode(world.states()["a"].evidence).alerts).mutes


def forget(world: World) -> None:
    for stream in ("c", "d", "e", "f"):  # something to commit in either partition
        world.publish(streams=(stream,))
    world.drain(world.worker(QUIET, AT_ONCE))
    assert "a" not in restored(world)


@pytest.mark.parametrize("killed", [False, True])
def test_a_mute_that_is_over_is_not_given_again_to_a_stream_that_begins_anew(world: World, killed: bool) -> None:
    tell(world, Command.ALERT_MUTE, 60.0, value=20.0)
    rest = tell(world, Command.ALERT_MUTE, 60.0, value=3600.0, evidence="anchor")
    tell(world, Command.ALERT_MUTE, 60.0, person=0)
    tell(world, Command.ALERT_MUTE, 60.0, person="Ada")
    world.publish(streams=("a",), start_pts_ns=10_000_000_000)
    world.drain(world.worker(QUIET, NEVER))
    assert {(m.person, m.evidence) for m in mutes(world)} == {(None, None), (None, "anchor"), (0, None), ("Ada", None)}
    ends = {m.until_ns for m in mutes(world) if m.evidence is None and m.person is None}
    assert min(ends) >= 20_000_000_000, "while a stream runs, a mute lasts for its time of the stream's"  # type: ignore[type-var]
    forget(world)

    world.publish(streams=("a",))
    scored = len(world.scores())
    first = world.worker(QUIET, NEVER)
    if killed:
        world.work(first, 2)
        world.kill(first)
        first = world.worker(QUIET, NEVER)
    world.drain(first)
    assert len(world.scores()) > scored
    of_a = [r for r in world.records("video.in") if r.key == b"a"]
    began_ms = of_a[2 * len(of_a) // 3].timestamp_ms
    left_ns = round((rest.value - (began_ms * 1_000_000 - rest.issued_ns) / 1e9) * 1e9)  # type: ignore[operator]
    assert mutes(world) == [Mute(None, "anchor", until_ns=left_ns), Mute("Ada", None)]


def test_a_stream_whose_records_have_no_time_gets_its_mutes_whole(world: World) -> None:
    forget(world)
    tell(world, Command.ALERT_MUTE, 60.0, value=20.0)
    picture = next(r for r in world.records("video.in") if r.key == b"a")
    world.send(b"a", picture.value, ("pts-ns", b"5000000000"), partition=picture.partition)
    world.drain(world.worker(QUIET, NEVER))
    assert mutes(world) == [Mute(None, None, until_ns=25_000_000_000)]


def test_an_open_alert_keeps_its_stream(models: LiveModels, clips: dict[str, Path]) -> None:
    world = World(models, clips)
    world.publish(streams=("a",))
    world.drain(world.worker(ALERTS, NEVER))
    assert [alert for alert in world.alerts() if alert.stream == "a"]
    is_open = world.alerts()[-1].state is not AlertState.CLOSED
    for stream in ("c", "d", "e", "f"):
        world.publish(streams=(stream,))
    world.drain(world.worker(QUIET, AT_ONCE))
    assert ("a" in restored(world)) is is_open is True


@pytest.mark.parametrize("days", [30, -30])
def test_a_clock_that_is_set_right_deletes_nothing(
    models: LiveModels, clips: dict[str, Path], days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that starts with a clock of last month, and is told the time a minute later."""
    world = World(models, clips)
    worker = world.worker(QUIET, NEVER)
    world.publish(streams=("a", "b"))
    world.work(worker, 8)
    began = time.time()
    monkeypatch.setattr("stream.partition.time.time", lambda: began + days * 86400)
    for stream in ("c", "d", "e", "f"):  # something to commit in either partition
        world.publish(streams=(stream,))
    world.drain(worker)
    assert worker.counts["forgotten"] == 0
    assert restored(world) == {"a", "b", "c", "d", "e", "f"}


def test_more_streams_than_may_be_kept_cost_those_that_are_silent_the_longest(world: World) -> None:
    """Ids that somebody makes up by the thousand: seven days of them would fill memory and topic."""
    few = msgspec.structs.replace(NEVER, kept_streams=4)
    worker = world.worker(QUIET, few)
    for number in range(12):
        world.publish(streams=(f"made-up-{number}",))
        world.work(worker, 4)
        world.publish(streams=("a",))  # goes on all the time
        world.work(worker, 4)
    world.drain(worker)
    left = restored(world)
    assert "a" in left
    assert "b" not in left
    assert len(left) <= 8, "4, and those of the last commit of each partition"
    assert worker.counts["forgotten"] >= 6
