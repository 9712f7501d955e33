"""A score made again from the input that it names: the same, or what explains the difference."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from live_world import enrolment
from tiny import write_tiny_bundle

from stream.broker.contract import Record, TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.cli import main
from stream.decode import DecodeSettings
from stream.kafka_options import KafkaOptions
from stream.live import LiveModels, LiveSettings
from stream.messages import Command, HeldAgainst, ScoreRecord, Status, decode, encode
from stream.operate import send_command, send_enrolment
from stream.publish import Form, Publisher, PublishSettings
from stream.replay import Replay, ReplayError, differences, replay
from stream.settings import WorkerSettings
from stream.topics import Topics
from stream.worker import Worker

TOPIC, STREAM = "video.in", "studio"
DECODE, LIVE = DecodeSettings(fps=5.0), LiveSettings(threads=1, analysis_side_px=320)
WORK = WorkerSettings(commit_interval_s=1e6, commit_records=4, poll_records=4, poll_timeout_s=0.01, enrolments_s=1e-6)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("replay") / "tiny", identity=True).path


@pytest.fixture(scope="module")
def models(bundle: Path) -> Iterator[LiveModels]:
    with LiveModels.load(bundle, LIVE) as loaded:
        yield loaded


class World:
    """A stream that was published and scored, with an operator who meddled half-way."""

    def __init__(
        self,
        models: LiveModels,
        clip: Path,
        form: Form,
        *,
        command: Command | None = None,
        broker: MemoryBroker | None = None,
    ) -> None:
        self.models, self.broker = models, broker or MemoryBroker()
        self.broker.ensure_topics([TopicSpec(TOPIC, 1)])
        self.publish("other", clip, Form.FRAMES)
        self.publish(STREAM, clip, form)
        self.work()
        if command is not None:
            send_command(self.broker, Topics().enrolments, command, stream=STREAM, person=None, by="me")
        self.publish(STREAM, clip, form, start_pts_ns=10_000_000_000)
        self.work()
        self.scores = [decode(r.value or b"", ScoreRecord) for r in self.records(Topics().scores)]
        self.scores = [score for score in self.scores if score.stream == STREAM]

    def publish(self, stream: str, clip: Path, form: Form, start_pts_ns: int = 0) -> None:
        options = PublishSettings(form=form, fps=5.0, segment_s=0.5, start_pts_ns=start_pts_ns)
        with Publisher(self.broker, TOPIC, options) as publisher:
            assert sum(1 for _ in publisher.publish(stream, [clip])) > 0

    def work(self) -> None:
        worker = Worker(self.broker, self.models, WORK, name="w", decode=DECODE, live=LIVE)
        worker.run(worker.idle_for(0.2))

    def records(self, topic: str) -> list[Record]:
        partition, reader = TopicPartition(topic, 0), self.broker.reader()
        return list(reader.read(partition, None, reader.end_offset(partition)))

    def replay(self, score: ScoreRecord, **changes: Any) -> Replay:
        return replay(self.broker, self.models, score, **({"decode": DECODE, "live": LIVE} | changes))


@pytest.fixture(scope="module")
def quiet(models: LiveModels, clips: dict[str, Path]) -> World:
    """Pictures and no commands; tests only read it."""
    return World(models, clips["man"], Form.FRAMES)


@pytest.mark.parametrize("form", list(Form))
def test_every_score_comes_out_the_same(models: LiveModels, clips: dict[str, Path], form: Form) -> None:
    world = World(models, clips["man"], form, command=Command.RESET)
    assert len(world.scores) >= 20
    assert {score.status for score in world.scores} >= {Status.WARMING_UP}
    # In the second half the anchor was reset: replays that did not do the same would differ.
    for score in world.scores[::5]:
        again = world.replay(score)
        assert again.differences == []
        assert again.max_difference == 0
        assert encode(again.score) == encode(score)


def test_it_begins_at_the_last_state_before_the_frame(quiet: World) -> None:
    world = quiet
    last = world.replay(world.scores[-1])
    assert last.frames <= WORK.commit_records + 1
    assert last.began_at >= world.scores[-1].source.offset - WORK.commit_records
    assert last.notes == []
    first = world.replay(world.scores[0])
    assert (first.frames, first.began_at) == (1, 0)


def test_after_compaction_it_begins_with_the_earliest_input(models: LiveModels, clips: dict[str, Path]) -> None:
    world = World(models, clips["man"], Form.FRAMES)
    world.broker.compact(Topics().state)
    again = world.replay(world.scores[-2])
    assert again.max_difference == 0
    assert again.began_at == 0
    assert again.frames == len(world.scores) - 1
    assert again.notes == ["state: none from before the frame is left; the replay begins with the earliest input"]


def test_a_command_is_applied_where_the_worker_applied_it(models: LiveModels, clips: dict[str, Path]) -> None:
    world = World(models, clips["man"], Form.FRAMES, command=Command.FREEZE)
    half = next(i for i, score in enumerate(world.scores) if score.pts_ns >= 10_000_000_000)
    before, after = world.replay(world.scores[half - 1]), world.replay(world.scores[half])
    assert before.max_difference == after.max_difference == 0
    assert before.notes == []
    assert after.notes == ["command: 1 enrolments and commands applied where the replay begins"]
    anchors = [face.anchor for score in (before.score, after.score) for face in score.faces]
    assert [anchor.frozen for anchor in anchors if anchor is not None] == [False, True]


def test_a_number_of_a_life_before_names_nobody_in_a_stream_that_begins_anew(
    models: LiveModels, clips: dict[str, Path]
) -> None:
    broker = MemoryBroker()
    given = enrolment(models.bundle, "Ada", 0, stream=STREAM)
    send_enrolment(broker, Topics().enrolments, stream=STREAM, person="Ada", anchors=given.anchors, by="me")
    # Ada gets the number 0 in a stream that begins with her enrolment; who had it before is not there any more.
    send_command(broker, Topics().enrolments, Command.FORGET, stream=STREAM, person=0, by="me")
    time.sleep(0.002)  # timestamps are of milliseconds
    world = World(models, clips["man"], Form.FRAMES, broker=broker)
    against = {e.against for score in world.scores for face in score.faces for e in face.evidence.values()}
    assert against & {HeldAgainst.ENROLLED, HeldAgainst.OTHERS}, "Ada is enrolled"
    world.broker.compact(Topics().state)
    for score in world.scores[:6:5]:
        assert world.replay(score).max_difference == 0


def test_another_model_is_told_and_compared(quiet: World, tmp_path: Path) -> None:
    world = quiet
    path = write_tiny_bundle(tmp_path / "tiny", identity=True, seed=9).path
    with LiveModels.load(path, LIVE) as others:
        again = replay(world.broker, others, world.scores[-1], decode=DECODE, live=LIVE)
    assert again.frames == len(world.scores)
    assert any("another model" in note for note in again.notes)
    assert max(d.size for d in again.differences if d.what.endswith(".score")) > 0


def test_what_cannot_be_made_again_says_why(quiet: World) -> None:
    world, score = quiet, quiet.scores[3]
    with pytest.raises(ReplayError, match="not analysed") as caught:
        world.replay(msgspec.structs.replace(score, status=Status.SHED))
    assert caught.value.hint
    with pytest.raises(ReplayError, match="no frame of studio") as caught:
        world.replay(score, decode=replace(DECODE, fps=0.5))
    assert "--fps" in caught.value.hint
    with pytest.raises(ReplayError, match="no frame of studio"):
        world.replay(msgspec.structs.replace(score, pts_ns=score.pts_ns + 1))


def test_differences_are_named_by_their_path(quiet: World) -> None:
    score = quiet.scores[5]
    other = msgspec.structs.replace(score, model_id="other", pts_ns=score.pts_ns + 3, reason="why", faces=())
    found = {d.what: d for d in differences(score, other)}
    assert found["pts_ns"].size == 3
    assert (found["reason"].before, found["reason"].after, found["reason"].size) == (score.reason, "why", math.inf)
    assert (found["faces[0].person"].before, found["faces[0].person"].after) == (0, None)
    assert "model_id" not in found
    assert differences(score, score) == []


def test_on_the_command_line(
    models: LiveModels,
    bundle: Path,
    clips: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = World(models, clips["man"], Form.SEGMENTS)
    monkeypatch.setenv("DIFFFAKE_BOOTSTRAP_SERVERS", "memory:1")
    monkeypatch.setenv("COLUMNS", "200")

    def connected(_options: KafkaOptions, **_more: Any) -> MemoryBroker:
        return world.broker

    monkeypatch.setattr(KafkaOptions, "broker", connected)
    flags = ["--bundle", str(bundle), "--fps", "5", "--analysis-side", "320", "--threads", "1", "--tolerance", "0"]

    def run(place: object, *more: str) -> int:
        with pytest.raises(SystemExit) as left:
            main(["replay", "--from-score", str(place), *flags, *more])
        assert isinstance(left.value.code, int)
        return left.value.code

    file = tmp_path / "scores.jsonl"
    changed = json.loads(encode(world.scores[7]))
    changed["faces"][0]["evidence"]["artifact"]["score"] += 0.25
    file.write_bytes(encode(world.scores[6]) + b"\n" + json.dumps(changed).encode() + b"\n")
    assert run(file) == 0
    assert "max difference 0\n" in capsys.readouterr().out
    assert run(file, "--line", "2") == 3
    said = capsys.readouterr().out
    assert "faces[0].evidence.artifact.score" in said
    assert "max difference 0.25\n" in said
    assert run(f"{Topics().scores}:0:{world.records(Topics().scores)[-1].offset}") == 0
    assert run(file, "--line", "3") == 42
    assert run(tmp_path / "gone") == 42
    assert run(f"{Topics().scores}:0:999999") == 42
    file.write_text("{}")
    assert run(file) == 40
    assert "tail --json" in capsys.readouterr().err


def test_what_is_no_place_of_a_score_costs_no_wait_for_kafka(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(_options: KafkaOptions, **_more: Any) -> NoReturn:
        raise AssertionError("Kafka was looked for")

    monkeypatch.setattr(KafkaOptions, "broker", nobody)
    with pytest.raises(SystemExit) as left:
        main(["replay", "--from-score", "nonsense", "--bootstrap-servers", "memory:1"])
    assert left.value.code == 42
    assert "Give a file, - for stdin, or TOPIC:PARTITION:OFFSET" in capsys.readouterr().err
