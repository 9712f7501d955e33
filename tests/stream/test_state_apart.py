"""The arrays of a stream's anchors have a record of their own in the state topic, written where they changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tiny import write_tiny_bundle
from worker_world import LIVE, SETTINGS, World, assert_same

from difffake.anchors import AnchorKeeper
from stream.broker.contract import TopicPartition
from stream.broker.errors import BrokerError
from stream.checkpoint import Restored, restore
from stream.live import LiveModels
from stream.messages import AnchorsRecord, StateKey, StateRecord, decode_state, encode
from stream.publish import Form
from stream.topics import Topics


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveModels]:
    path = write_tiny_bundle(tmp_path_factory.mktemp("apart") / "tiny", identity=True).path
    with LiveModels.load(path, LIVE) as loaded:
        yield loaded


@pytest.fixture
def world(models: LiveModels, clips: dict[str, Path]) -> World:
    """One stream, long enough for its anchor to stand."""
    world = World(models, clips)
    world.publish(streams=("a",), loops=4)
    return world


def told(world: World) -> list[StateRecord | AnchorsRecord]:
    """What was written of the stream, one after the other."""
    found = [decode_state(r.key, r.value) for r in world.records("difffake.state") if r.value]
    return [state for state in found if isinstance(state, StateRecord | AnchorsRecord)]


def restored(world: World) -> Restored:
    topics = Topics()
    parts = [TopicPartition("video.in", number) for number in range(2)]
    found = [restore(world.broker.reader(), topics, world.broker.partitions(topics.state), one) for one in parts]
    return next(one for one in found if one.streams or one.damaged)


def put(world: World, key: StateKey, value: bytes | None) -> None:
    topics, producer = Topics(), world.broker.plain_producer()
    partition = key.partition % world.broker.partitions(topics.state)
    producer.send(topics.state, key=key.encode(), value=value, partition=partition)
    producer.close(1.0)


def test_arrays_are_written_before_the_first_state_that_names_them_and_only_when_they_changed(world: World) -> None:
    world.drain(world.worker())
    written = told(world)
    digest, seldom = b"", 0
    for record in written:
        if isinstance(record, AnchorsRecord):
            assert record.digest != digest
            digest, seldom = record.digest, seldom + 1
        else:
            assert record.arrays_digest == digest
            assert not record.arrays
    states = [record for record in written if isinstance(record, StateRecord)]
    assert 0 < seldom < len(states)
    assert states[-1].arrays_digest == states[-2].arrays_digest, "the anchor stands"
    whole = restored(world).streams["a"]
    assert set(whole.arrays) == set(whole.anchors)


def test_a_commit_that_failed_with_the_arrays_is_done_again_with_them(
    models: LiveModels, clips: dict[str, Path]
) -> None:
    calm, storm = World(models, clips), World(models, clips)
    for world in (calm, storm):
        world.publish(Form.SEGMENTS, streams=("a", "b"))
    calm.drain(calm.worker())
    worker = storm.worker(settings=msgspec.structs.replace(SETTINGS, commit_records=1))
    for _ in range(4):  # the anchor is found between these
        storm.broker.fail_next_commit(BrokerError("made up", hint="none"))
        storm.work(worker, 2)
    storm.drain(worker)
    assert worker.counts["rewinds"]
    assert_same(storm, calm)
    assert restored(storm).streams.keys() == restored(calm).streams.keys()


@pytest.mark.parametrize("value", [None, b"nonsense", b"another"])
def test_a_state_without_its_arrays_is_damaged_and_its_stream_begins_anew(world: World, value: bytes | None) -> None:
    world.drain(world.worker())
    last = [record for record in told(world) if isinstance(record, AnchorsRecord)][-1]
    other = encode(msgspec.structs.replace(last, digest=b"of others")) if value == b"another" else value
    put(world, StateKey(last.topic, last.partition, "a", is_anchors=True), other)
    found = restored(world)
    assert not found.streams
    assert set(found.damaged) == {"a"}
    world.publish(streams=("a",), start_pts_ns=10**11)
    worker = world.worker()
    world.drain(worker)
    assert worker.counts["state_lost"] == 1
    assert restored(world).streams["a"].arrays, "written anew"


@pytest.mark.parametrize(
    "change", [{"content_type": "text"}, {"offset": "text"}, {"timeline": {"last_ns": (1 << 63) - 1}}]
)
def test_a_damaged_section_costs_its_stream_its_memory_is_told_and_ends_nobody(
    world: World, change: dict[str, object]
) -> None:
    world.drain(world.worker())
    last = restored(world).streams["a"]
    fields = msgspec.msgpack.decode(last.decoder)
    data = msgspec.msgpack.encode(fields | change).replace(b"text", b"\xff\xfe\xfd\xfc")
    damaged = msgspec.structs.replace(last, decoder=data).apart()[0]
    put(world, StateKey(last.topic, last.partition, "a"), encode(damaged))
    world.publish(streams=("a",), start_pts_ns=10**11)
    worker = world.worker()
    world.drain(worker)
    assert worker.counts["state_lost"] == 1


def test_streams_that_begin_anew_for_other_networks_are_told_of_and_are_no_damage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.drain(world.worker())
    world.publish(streams=("a",), start_pts_ns=10**11)
    monkeypatch.setattr(LiveModels, "networks", property(lambda _: "others"))
    worker = world.worker()
    world.drain(worker)
    assert (worker.counts["state_of_other_networks"], worker.counts["state_lost"]) == (1, 0)


def test_a_topic_of_the_version_before_is_taken_over(world: World) -> None:
    world.drain(world.worker())
    streams = restored(world).streams
    live = msgspec.structs.replace(streams["a"], version=2, arrays={}, arrays_digest=b"")
    key = StateKey(live.topic, live.partition, "a")
    whole = {p: _in_one_piece(head, streams["a"].arrays[p]) for p, head in live.anchors.items()}
    put(world, key.anchors, None)
    put(world, key, encode(msgspec.structs.replace(live, anchors=whole)))
    world.publish(streams=("a",), start_pts_ns=10**11)
    worker = world.worker()
    world.drain(worker)
    assert worker.counts["state_lost"] == 0
    after = restored(world).streams["a"]
    assert (after.version, after.arrays) == (3, streams["a"].arrays)


def _in_one_piece(head: bytes, arrays: bytes) -> bytes:
    return AnchorKeeper.from_parts(head, arrays).to_state()
