"""The worker on a broker in memory: every frame once, whoever dies; bad records cost nobody else anything."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from stream_media import segment
from tiny import write_tiny_bundle
from worker_world import ALERTS, LIVE, SETTINGS, World, assert_same

from difffake.bundle import Bundle
from stream.batcher import BatchSettings
from stream.broker.contract import TopicPartition
from stream.broker.errors import BrokerError, BrokerUnavailableError, StaleGroupError
from stream.broker.memory import MemoryBroker
from stream.decode import DecodeSettings
from stream.live import LiveModels
from stream.live.models import Look
from stream.live.stream import LiveStream
from stream.messages import (
    FIRST_LOST_INDEX,
    AlertEnd,
    AlertState,
    Command,
    CommandRecord,
    PartitionRecord,
    ScoreRecord,
    Source,
    Status,
    decode,
    decode_state,
    encode,
)
from stream.messages.codec import MessageError
from stream.operate import mute_alerts, set_batch
from stream.pipeline import PipelineSettings
from stream.publish import Form
from stream.worker import Worker


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveModels]:
    path = write_tiny_bundle(tmp_path_factory.mktemp("worker") / "tiny", identity=True).path
    with LiveModels.load(path, LIVE) as loaded:
        yield loaded


@pytest.fixture
def world(models: LiveModels, clips: dict[str, Path]) -> World:
    return World(models, clips)


@pytest.fixture(scope="module", params=list(Form))
def form(request: pytest.FixtureRequest) -> Form:
    return Form(request.param)


@pytest.fixture(scope="module")
def undisturbed(models: LiveModels, clips: dict[str, Path], form: Form) -> World:
    """Where one worker has said everything, and nothing happened."""
    world = World(models, clips)
    world.publish(form)
    world.drain(world.worker())
    return world


def test_every_stream_is_scored_frame_by_frame(undisturbed: World, form: Form) -> None:
    for stream in ("a", "b", "c"):
        scores = [s for s in undisturbed.scores() if s.stream == stream]
        assert len(scores) >= (11 if form is not Form.UNITS else 10)
        assert all(s.faces and s.faces[0].evidence for s in scores)
        assert [s.pts_ns for s in scores] == sorted({s.pts_ns for s in scores})
        assert {s.status.value for s in scores} <= {"WARMING_UP", "SCORED"}


def test_every_stream_has_alerts_that_rest_on_its_scores(undisturbed: World) -> None:
    alerts, sources = undisturbed.alerts(), [(s.stream, s.source) for s in undisturbed.scores()]
    assert {a.stream for a in alerts} == {"a", "b", "c"}
    assert {AlertState.OPENED, AlertState.UPDATED} <= {a.state for a in alerts}
    assert all((a.stream, a.first) in sources and (a.stream, a.last) in sources for a in alerts)
    opened = [a.id for a in alerts if a.state is AlertState.OPENED]
    assert len(opened) == len(set(opened))
    assert {a.id for a in alerts} == set(opened)


@pytest.mark.parametrize("every", [1, 2, 5, 9])
def test_killed_workers_lose_and_double_nothing(world: World, form: Form, undisturbed: World, every: int) -> None:
    world.publish(form)
    for _ in range(6):
        worker = world.worker()
        world.work(worker, every)
        world.kill(worker)
    world.drain(world.worker())
    assert_same(world, undisturbed)
    assert world.letters() == []


def test_failed_commits_are_done_again(world: World, form: Form, undisturbed: World) -> None:
    world.publish(form)
    worker = world.worker()
    for error in (StaleGroupError, BrokerError, BrokerError):
        world.broker.fail_next_commit(error("made up", hint="none"))
        world.work(worker, 4)
    world.drain(worker)
    assert worker.counts["rewinds"] >= 1
    assert_same(world, undisturbed)


def test_a_second_worker_takes_its_share_and_gives_it_back(world: World, form: Form, undisturbed: World) -> None:
    world.publish(form)
    first, second = world.worker(), world.worker()
    for _ in range(4):
        world.work(first, 1)
        world.work(second, 1)
    second.run(lambda: True)
    world.drain(first)
    assert first.counts["records"]
    assert_same(world, undisturbed)


def test_no_two_scores_have_one_source_however_many_pictures_of_a_record_are_lost(world: World) -> None:
    for pts_ns in (0, 500_000_000):  # half of the second segment is in the past
        world.send(b"a", segment("mp4", 25), ("pts-ns", str(pts_ns).encode()))
    world.drain(world.worker())
    scores = world.scores()
    stale = [s.source for s in scores if s.status is Status.STALE]
    assert len(stale) > 1
    assert all(source.index >= FIRST_LOST_INDEX for source in stale)
    assert any(s.source.offset == stale[0].offset and s.source.index < FIRST_LOST_INDEX for s in scores)
    assert len({s.source for s in scores}) == len(scores)
    told = [decode(record.value or b"", ScoreRecord) for record in world.records("difffake.scores")]
    assert told == sorted(told, key=lambda s: (s.source.offset, s.pts_ns)), "lost ones among the others, in their time"


def test_an_alert_whose_stream_has_ended_is_closed_once_by_whoever_has_the_partition(world: World) -> None:
    world.publish(streams=("a", "b"))
    world.drain(world.worker())
    told = world.alerts()
    still_open = {a.id for a in told} - {a.id for a in told if a.state is AlertState.CLOSED}
    assert {a.stream for a in told if a.id in still_open} == {"a", "b"}
    soon = msgspec.structs.replace(ALERTS, ended_s=0.05)
    second = world.worker(soon)
    until = time.monotonic() + 10
    while not second.counts["alerts:closed"]:
        second.step()
        assert time.monotonic() < until
    world.kill(second)  # before it has committed that
    assert world.alerts() == told
    third = world.worker(soon)
    third.run(lambda: third.counts["alerts:closed"] == len(still_open) or time.monotonic() > until + 10)
    closed = [a for a in world.alerts() if a not in told]
    assert sorted(a.id for a in closed) == sorted(still_open)
    assert {a.end_reason for a in closed} == {AlertEnd.STREAM_ENDED}
    world.drain(world.worker(soon))
    assert len(world.alerts()) == len(told) + len(closed)


def test_state_says_where_to_go_on(world: World) -> None:
    world.publish()
    world.drain(world.worker())
    done = {}
    for record in world.records("difffake.state"):
        state = decode_state(record.key, record.value or b"")
        if isinstance(state, PartitionRecord):
            done[TopicPartition(state.topic, state.partition)] = state.next_offset
    reader = world.broker.reader()
    assert done == {p: reader.end_offset(p) for p in done}
    assert set(world.states()) == {"a", "b", "c"}


def test_a_broker_that_is_gone_ends_the_worker_with_nothing_half_written(world: World) -> None:
    world.publish()
    worker = world.worker()
    world.work(worker, 4)
    world.broker.disconnect()
    with pytest.raises(BrokerUnavailableError):
        worker.run()
    world.broker.reconnect()
    world.kill(worker)
    seen = [(s.stream, s.pts_ns) for s in world.scores()]
    committed = {s.stream: s.last_pts_ns for s in world.states().values()}
    assert {stream: max(pts for name, pts in seen if name == stream) for stream in committed} == committed
    world.drain(world.worker())
    seen = [(s.stream, s.pts_ns) for s in world.scores()]
    assert len(seen) == len(set(seen)) >= 33


BAD = {
    "no key": (None, b"\xff\xd8\xff"),
    "a key that is no text": (b"\xff\xfe", b"\xff\xd8\xff"),
    "no value": (b"a", None),
    "nobody knows what": (b"a", b"what is this?"),
    "a broken JPEG": (b"a", b"\xff\xd8\xff\xe0" + bytes(200)),
    "a lying header": (b"a", b"\x89PNG\r\n\x1a\n" + bytes(50)),
}


def test_bad_records_are_buried_whole_and_cost_nobody_else_anything(world: World) -> None:
    for key, value in BAD.values():
        world.send(key, value, ("content-type", b"image/jpeg"), ("x", b"y"))
    world.publish()
    worker = world.worker()
    world.drain(worker)
    letters = sorted(world.letters(), key=lambda letter: letter.error.offset)
    assert [(letter.key, letter.value) for letter in letters] == list(BAD.values())
    assert all(letter.original == (("content-type", b"image/jpeg"), ("x", b"y")) for letter in letters)
    assert [letter.error.offset for letter in letters] == list(range(len(BAD)))
    assert all(letter.error.hint and letter.error.message for letter in letters)
    assert {s.stream for s in world.scores()} == {"a", "b", "c"}
    assert sum(n for name, n in worker.counts.items() if name.startswith("deadletters:")) == len(BAD)


def test_large_dead_letters_do_not_gather(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred of sixteen megabytes would be one transaction."""
    monkeypatch.setattr("stream.checkpoint.MAX_WAITING_BYTES", 30_000)
    for _ in range(12):
        world.send(b"hostile", bytes(10_000))
    patient = msgspec.structs.replace(SETTINGS, commit_interval_s=3600.0, commit_records=200)
    worker = world.worker(settings=patient)
    world.drain(worker)
    assert len(world.letters()) == 12
    assert worker.counts["commits"] >= 4


@pytest.mark.parametrize("late", ["none", "all", "all but one"])
def test_where_all_scores_come_late_commits_are_fewer(world: World, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    """One stream that floods is late for itself alone: nobody waits longer for its sake."""
    an_hour_later = SimpleNamespace(**vars(time) | {"time": lambda: time.time() + 3600})
    monkeypatch.setattr("stream.checkpoint.time", time if late == "none" else an_hour_later)
    world.publish(streams=("a", "b"))
    often = msgspec.structs.replace(SETTINGS, commit_interval_s=1e-6, commit_records=200, commit_late_s=3600.0)
    worker = world.worker(settings=often)
    if late == "all but one":
        finished, younger_s = worker._checkpoint.finished, itertools.cycle([0, 3600])
        monkeypatch.setattr(worker._checkpoint, "finished", lambda stamp_s: finished(stamp_s + next(younger_s)))
    world.drain(worker)
    assert len(world.scores()) > 10
    if late == "all":
        assert worker.counts["commits"] == 1
    else:
        assert worker.counts["commits"] > 3


def test_late_scores_wait_for_no_others_when_nothing_more_is_to_be_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_hour_later = SimpleNamespace(**vars(time) | {"time": lambda: time.time() + 3600})
    monkeypatch.setattr("stream.checkpoint.time", an_hour_later)
    world.publish(streams=("a", "b"))
    worker = world.worker(
        settings=msgspec.structs.replace(SETTINGS, commit_interval_s=1e-6, commit_records=200, commit_late_s=3600.0)
    )
    is_idle, until_s = worker.idle_for(1.0), time.monotonic() + 60
    while not is_idle() and time.monotonic() < until_s:
        worker.step()
    assert worker.counts["records"] > 10
    assert len(world.scores()) > 10
    worker.run(lambda: True)


@pytest.mark.parametrize("largest", ["one header", "many headers", "wide names", "key"])
def test_a_record_whose_headers_or_key_leave_no_room_for_a_reason_is_buried_without_them(
    world: World, largest: str
) -> None:
    """Its dead letter was larger than a message may be: no commit went through, and all workers ended in turn."""
    most = world.broker.settings.max_message_bytes - 200
    headers = {
        "one header": [("h", bytes(most))],
        "wide names": [("\ufffd" * 20_000, b"")],
        "many headers": [(f"h{i}", bytes(most // 5_100)) for i in range(5_000)],
    }
    key = bytes(most) if largest == "key" else b"hostile"
    world.send(key, b"no picture", *headers.get(largest, ()))
    world.publish(streams=("a",))
    worker = world.worker()
    world.drain(worker)
    (letter,) = world.letters()
    assert (letter.key, letter.value, letter.original) == (None, b"no picture", ())
    assert (letter.error.topic, letter.error.offset) == ("video.in", 0)
    assert "left out" in letter.error.message
    assert worker.counts["rewinds"] == 0
    seen = {(score.stream, score.status is Status.DECODE_ERROR) for score in world.scores()}
    # Without its key nobody knows whose it was.
    assert seen == {("a", False)} | (set() if largest == "key" else {("hostile", True)})


def test_a_record_that_breaks_the_analysis_is_buried_and_the_rest_is_as_if_it_had_not_been(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish(streams=("a",))
    real, broken = LiveStream.take, []

    def take(self: LiveStream, pts_ns: list[int], looks: list[Look], sources: list[Source]) -> list[ScoreRecord]:
        found = real(self, pts_ns, looks, sources)
        if sources and sources[0].offset == 4:
            broken.append(4)
            raise ZeroDivisionError("made up")
        return found

    monkeypatch.setattr(LiveStream, "take", take)
    worker = world.worker()
    world.drain(worker)
    (letter,) = world.letters()
    assert (letter.error.offset, letter.error.class_name) == (4, "ZeroDivisionError")
    assert broken == [4]
    assert 4 not in {s.source.offset for s in world.scores()}
    assert len(world.scores()) == len({s.pts_ns for s in world.scores()}) >= 10


def test_a_worker_whose_every_record_fails_stops_instead_of_burying_them_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[ScoreRecord]:
        raise ZeroDivisionError("made up")

    world.publish()
    monkeypatch.setattr(LiveStream, "take", broken)
    with pytest.raises(ZeroDivisionError):
        world.drain(world.worker())
    assert len(world.letters()) < SETTINGS.broken_records
    assert world.scores() == []


def test_an_operators_freeze_holds_through_a_kill_and_anchors_move_byte_by_byte(world: World) -> None:
    world.publish(streams=("a",))
    first = world.worker()
    world.work(first, 100)
    command = CommandRecord(stream="a", command=Command.FREEZE, person=None, issued_ns=1, by="op", id="1")
    producer = world.broker.plain_producer()
    producer.send("difffake.enrolments", key=command.key, value=encode(command))
    producer.flush(1.0)
    world.publish(streams=("a",), start_pts_ns=10_000_000_000)
    world.work(first, 4)
    first._flush()
    before = world.states()["a"]
    assert before.anchors
    world.kill(first)
    world.publish(streams=("a",), start_pts_ns=20_000_000_000)
    second = world.worker()
    world.drain(second)
    after = world.states()["a"]
    assert second.counts["restored_streams"] == 1
    assert after.commands_offset == before.commands_offset == 1
    frozen = [face.anchor.frozen for s in world.scores() for face in s.faces if face.anchor and s.pts_ns > 10**10]
    assert frozen
    assert all(frozen)


def test_batches_change_while_a_worker_runs_and_who_starts_later_begins_with_them(world: World) -> None:
    settings = msgspec.structs.replace(SETTINGS, pipeline=PipelineSettings(threads=1, batch=BatchSettings(size=4)))
    world.publish()
    first = world.worker(settings=settings)
    world.work(first, 100)
    before = first.batches
    assert before.room > before.batches
    set_batch(world.broker, "difffake.enrolments", size=1, deadline_s=None, by="op")
    first.step()
    world.publish(start_pts_ns=10_000_000_000)
    world.work(first, 100)
    after = first.batches
    assert after.room - before.room == after.batches - before.batches > 0
    world.kill(first)
    world.publish(start_pts_ns=20_000_000_000)
    second = world.worker(settings=settings)
    world.drain(second)
    assert second.batches.room == second.batches.batches > 0
    assert {sample.name: sample.value for family in second._metrics.registry.collect() for sample in family.samples}[
        "difffake_batch_limit_frames"
    ] == 1


def test_a_mute_closes_alerts_live_holds_through_a_kill_and_alerts_carry_the_face(world: World) -> None:
    world.publish(streams=("a", "b"))
    first = world.worker()
    world.work(first, 100)
    first._flush()
    opened = {a.stream for a in world.alerts() if a.state is AlertState.OPENED}
    assert opened == {"a", "b"}
    assert all(a.thumbnail_jpeg and a.thumbnail_jpeg[:2] == b"\xff\xd8" for a in world.alerts())
    mute_alerts(world.broker, "difffake.enrolments", stream="a", by="op")
    world.publish(streams=("a", "b"), start_pts_ns=100_000_000_000)
    world.work(first, 4)
    world.kill(first)
    world.drain(world.worker())
    muted = [a for a in world.alerts() if a.stream == "a" and a.end_reason is AlertEnd.MUTED]
    assert {a.id for a in muted} >= {a.id for a in world.alerts() if a.stream == "a" and a.state is AlertState.OPENED}
    opened_late = [a for a in world.alerts() if a.state is AlertState.OPENED and a.start_ns >= 10**11]
    assert "a" not in {a.stream for a in opened_late}
    assert "b" not in {a.stream for a in world.alerts() if a.end_reason is AlertEnd.MUTED}
    assert any(s.stream == "a" and s.pts_ns >= 10**11 for s in world.scores()), "scores go on"


def test_state_of_a_newer_version_stops_the_worker_with_a_hint(world: World) -> None:
    world.publish(streams=("a",))
    world.drain(world.worker())
    newer = [r for r in world.records("difffake.state") if (r.key or b"").endswith(b"/a")][-1]
    value = msgspec.msgpack.decode(newer.value or b"")
    producer = world.broker.plain_producer()
    producer.send(
        "difffake.state",
        key=newer.key,
        value=msgspec.msgpack.encode(value | {"version": 99}),
        partition=newer.partition,
    )
    producer.flush(1.0)
    with pytest.raises(MessageError, match="newer") as stopped:
        world.drain(world.worker())
    assert "upgrade" in stopped.value.hint


def test_damaged_state_costs_its_stream_the_state_and_nobody_else(world: World) -> None:
    world.publish(streams=("a", "b"))
    world.drain(world.worker())
    for stream in ("a",):
        record = [r for r in world.records("difffake.state") if (r.key or b"").endswith(f"/{stream}".encode())][-1]
        producer = world.broker.plain_producer()
        producer.send("difffake.state", key=record.key, value=b"\x00damaged", partition=record.partition)
        producer.flush(1.0)
    world.publish(streams=("a", "b"), start_pts_ns=10_000_000_000)
    worker = world.worker()
    world.drain(worker)
    assert worker.counts["state_lost"] == 1
    late = {s.stream for s in world.scores() if s.pts_ns > 10**10}
    assert late == {"a", "b"}


def test_many_streams_are_put_away_and_come_back_unchanged(models: LiveModels, clips: dict[str, Path]) -> None:
    def scores(live_streams: int) -> list[ScoreRecord]:
        world = World(models, clips)
        world.publish(streams=tuple("abcdef"))
        world.started += 1
        settings = msgspec.structs.replace(SETTINGS, live_streams=live_streams)
        worker = Worker(world.broker, models, settings, name="w", decode=DecodeSettings(fps=5.0), live=LIVE)
        world.drain(worker)
        return world.scores()

    assert scores(1) == scores(100)


def test_a_topic_that_does_not_exist_is_named(models: LiveModels) -> None:
    with pytest.raises(BrokerError, match=r"video\.in"):
        Worker(MemoryBroker(), models, SETTINGS, name="w")


def test_bundle_fixture_is_the_tiny_one(models: LiveModels) -> None:
    assert isinstance(models.bundle, Bundle)
    assert models.model_id.startswith("tiny-")
