"""Records in which nothing can be read, of streams that nobody knows: seen, buried once, and bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from stream_media import segment
from tiny import write_tiny_bundle
from worker_world import LIVE, SETTINGS, World

from stream.decode import Decoded, Gear, Payload, StreamDecoder
from stream.live import LiveModels
from stream.messages import Status


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveModels]:
    path = write_tiny_bundle(tmp_path_factory.mktemp("garbage") / "tiny", identity=True).path
    with LiveModels.load(path, LIVE) as loaded:
        yield loaded


@pytest.fixture
def world(models: LiveModels, clips: dict[str, Path]) -> World:
    return World(models, clips)


@pytest.mark.parametrize("every", [2, 5])
def test_a_stream_of_nothing_but_garbage_is_seen_once_a_record_whoever_is_killed(world: World, every: int) -> None:
    """It showed nowhere but in the dead letters: nobody could tell it from one that is not there."""
    for number in range(6):
        world.send(b"noise", b"what is this?", ("pts-ns", str(number * 10**9).encode()))
        world.send(b"late", b"nor is this" if number < 3 else b"")
    world.publish(streams=("a", "late"))
    worker = world.worker()
    for _ in range(30):
        world.work(worker, every)
        world.kill(worker)
        worker = world.worker()
    world.drain(worker)
    assert len(world.letters()) == 12
    noise = [score for score in world.scores() if score.stream == "noise"]
    assert [score.pts_ns for score in noise] == [number * 10**9 for number in range(6)]
    assert {(score.status, score.reason, score.faces) for score in noise} == {
        (Status.DECODE_ERROR, "dead letter: UnknownTypeError", ())
    }
    places = [(s.source.partition, s.source.offset, s.source.index) for s in world.scores()]
    assert len(places) == len(set(places))
    assert sum(s.status is Status.DECODE_ERROR for s in world.scores() if s.stream == "late") == 6
    assert "noise" not in world.states(), "who can be read takes memory and state, nobody else"
    assert {"a", "late"} <= set(world.states())


@pytest.mark.parametrize("key", [b"noise", None])
def test_garbage_does_not_gather_behind_a_record_that_takes_long(
    world: World, monkeypatch: pytest.MonkeyPatch, key: bytes | None
) -> None:
    """It is buried when all before it is done; until then all that came was kept in memory, however much."""
    world.send(b"slow", segment("mp4", 25))
    for number in range(200):
        world.send(key and key + str(number).encode(), bytes(1000))
    release, decode_ = threading.Event(), StreamDecoder.decode

    def slowly(self: StreamDecoder, payload: Payload, *rest: Gear) -> Decoded:
        if payload.offset == 0:
            release.wait(60)
        return decode_(self, payload, *rest)

    monkeypatch.setattr(StreamDecoder, "decode", slowly)
    small = msgspec.structs.replace(SETTINGS, waiting_bytes=2 * 30_000, turn_s=0.001)
    worker = world.worker(settings=small)
    try:
        for _ in range(300):
            worker.step()
        assert 30 <= worker.counts["polled"] <= 60
    finally:
        release.set()
    world.drain(worker)
    assert len(world.letters()) == 200
    assert worker.counts["records"] == 201
    assert worker.counts["rewinds"] == 0
