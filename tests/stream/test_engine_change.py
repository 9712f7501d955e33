"""A stream that moves to a worker with another engine: nothing is lost, and every score can be made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from compiled import compile_tiny, needs_int8
from tiny import write_tiny_bundle

from difffake.networks import EXTRACTOR, IDENTITY, EngineChoice, ModelName
from engines.choose import EngineKind
from stream.broker.contract import TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.cli import main
from stream.decode import DecodeSettings
from stream.kafka_options import KafkaOptions
from stream.live import LiveModels, LiveSettings
from stream.messages import ScoreRecord, decode, encode
from stream.publish import Form, Publisher, PublishSettings
from stream.settings import WorkerSettings
from stream.topics import Topics
from stream.worker import Worker

pytestmark = needs_int8
TOPIC, STREAM, PERSON = "video.in", "studio", "Jo"
DECODE, LIVE = DecodeSettings(fps=5.0), LiveSettings(threads=1, analysis_side_px=320)
WORK = WorkerSettings(commit_interval_s=1e6, commit_records=4, poll_records=4, poll_timeout_s=0.01, enrolments_s=1e-6)
#: The clip lasts 2.4 s: the stream goes on within the running window.
SECOND_S = 5.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an int8 engine of the extractor, and none of the identity network."""
    made = write_tiny_bundle(tmp_path_factory.mktemp("engines") / "tiny", identity=True)
    compile_tiny(made.engine_path, made.path / "engines" / EXTRACTOR, EngineKind.OPENVINO_INT8)
    return made.path


@pytest.fixture(scope="module")
def broker(bundle: Path, clips: dict[str, Path]) -> MemoryBroker:
    """Somebody enrolled by OpenVINO; their clip scored by ONNX Runtime; then the same clip, as the stream goes on, by
    OpenVINO."""
    broker = MemoryBroker()
    broker.ensure_topics([TopicSpec(TOPIC, 1), TopicSpec(Topics().enrolments, 1, compacted=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KafkaOptions, "broker", lambda *_, **__: broker)
        told = {"stream": STREAM, "person": PERSON, "bootstrap-servers": "memory:1", "by": "me", "bundle": bundle}
        told |= {"engine": EngineKind.OPENVINO_INT8, "threads": 1, "analysis-side": 320}
        flags = [text for name, value in told.items() for text in (f"--{name}", str(value))]
        with pytest.raises(SystemExit) as left:
            main(["enroll", str(clips["man"]), "--quiet", "--trust", *flags])
        assert left.value.code == 0
    for kind, start_s in ((EngineKind.ONNX, 0.0), (EngineKind.AUTO, SECOND_S)):
        options = PublishSettings(form=Form.FRAMES, fps=5.0, start_pts_ns=int(start_s * 1e9))
        with Publisher(broker, TOPIC, options) as publisher:
            assert sum(1 for _ in publisher.publish(STREAM, [clips["man"]])) > 0
        with LiveModels.load(bundle, LIVE, EngineChoice(kind)) as models:
            worker = Worker(broker, models, WORK, name="w", decode=DECODE, live=LIVE)
            worker.run(worker.idle_for(0.2))
            assert worker.counts["state_lost"] == worker.counts["enrolment_warnings"] == 0
    return broker


@pytest.fixture(scope="module")
def scores(broker: MemoryBroker) -> tuple[list[ScoreRecord], list[ScoreRecord]]:
    """Those of each worker."""
    partition, reader = TopicPartition(Topics().scores, 0), broker.reader()
    records = reader.read(partition, None, reader.end_offset(partition))
    found = [decode(r.value or b"", ScoreRecord) for r in records]
    return [s for s in found if s.pts_ns < SECOND_S * 1e9], [s for s in found if s.pts_ns >= SECOND_S * 1e9]


@pytest.fixture
def replay(broker: MemoryBroker, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`difffake replay` of a score; returns its exit code."""
    monkeypatch.setenv("DIFFFAKE_BOOTSTRAP_SERVERS", "memory:1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(KafkaOptions, "broker", lambda *_, **__: broker)

    def run(score: ScoreRecord, *more: Any, model: Path = bundle) -> int:
        file = tmp_path / "score.json"
        file.write_bytes(encode(score) + b"\n")
        flags = ["--bundle", model, "--fps", 5, "--analysis-side", 320, "--threads", 1, "--tolerance", 0, *more]
        with pytest.raises(SystemExit) as left:
            main(["replay", "--from-score", str(file), *map(str, flags)])
        assert isinstance(left.value.code, int)
        return left.value.code

    return run


def test_scores_name_the_engine_that_made_them(scores: tuple[list[ScoreRecord], list[ScoreRecord]]) -> None:
    exact, fast = ({score.model_id for score in half} for half in scores)
    assert len(exact) == len(fast) == 1
    name = ModelName.parse(fast.pop())
    assert (name.model, name.identity) == (exact.pop(), "onnx")
    assert name.extractor.startswith("openvino-int8-")


def test_anchors_and_windows_outlive_a_change_of_engine(scores: tuple[list[ScoreRecord], list[ScoreRecord]]) -> None:
    before, after = scores[0][-1], scores[1][0]
    assert [face.name for face in (*before.faces, *after.faces)] == [PERSON, PERSON]
    old, new = before.faces[0], after.faces[0]
    assert old.anchor is not None
    assert new.anchor is not None
    assert (new.person, new.anchor.origin, new.anchor.since_ns) == (old.person, old.anchor.origin, old.anchor.since_ns)
    assert new.anchor.origin == "enrolled"
    # The running window goes on too: a single frame alone would say nothing yet.
    assert new.evidence["artifact"].accumulated is not None
    for one, other in zip(*scores, strict=True):
        first, second = one.faces[0].evidence, other.faces[0].evidence
        assert set(first) == set(second)
        for name in ("anchor", "identity"):
            assert first[name].score == pytest.approx(second[name].score, rel=0.05)


def test_a_replay_takes_the_engine_of_its_score(
    scores: tuple[list[ScoreRecord], list[ScoreRecord]],
    replay: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for half in scores:
        assert replay(half[-1]) == 0
        said = capsys.readouterr().out
        assert "max difference 0\n" in said
        assert "model:" not in said


def test_a_replay_on_another_engine_says_so(
    scores: tuple[list[ScoreRecord], list[ScoreRecord]],
    replay: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert replay(scores[1][-1], "--engine", "onnx") == 3
    said = capsys.readouterr().out
    assert f"model: the score is by {scores[1][-1].model_id}, the replay by {scores[0][-1].model_id}" in said
    assert ".evidence.artifact.score" in said


def test_a_replay_without_the_engine_of_its_score_says_what_mends_it(
    scores: tuple[list[ScoreRecord], list[ScoreRecord]],
    replay: Callable[..., int],
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(bundle, bare, ignore=shutil.ignore_patterns("engines"))
    assert replay(scores[1][-1], model=bare) == 42
    said = capsys.readouterr().err
    assert f"python build_engine.py --bundle {bare} --network extractor --kind openvino-int8" in said
    assert "--engine onnx" in said
    assert replay(scores[0][-1], model=bare) == 0


def test_an_engine_of_another_network_in_a_score_is_named(
    scores: tuple[list[ScoreRecord], list[ScoreRecord]], replay: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    claimed = msgspec.structs.replace(scores[0][-1], model_id=f"x+{IDENTITY}-openvino-int8-01234567")
    assert replay(claimed) == 42
    assert "--network identity --kind openvino-int8" in capsys.readouterr().err
