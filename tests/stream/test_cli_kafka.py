"""The commands around the worker, as a person types them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from media_files import write_audio, write_video
from records_made_up import evidence, face, score
from rich.console import Console
from test_tail import alert

from difffake.bundle import Bundle
from difffake.errors import AnchorError
from difffake.results import Level
from stream.broker.contract import Record, TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.broker.memory import MemoryBroker
from stream.kafka_options import KafkaOptions
from stream.messages import BatchRecord, CommandRecord, EnrolmentRecord, ScoreRecord, decode, decode_enrolment, encode
from stream.tail import Follower

S = 1_000_000_000
PICTURE = np.kron(np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("DIFFFAKE_BOOTSTRAP_SERVERS", "memory:1")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """The cluster that every command of the test reaches."""
    one = MemoryBroker()

    def connected(_options: KafkaOptions, **_more: Any) -> MemoryBroker:
        return one

    monkeypatch.setattr(KafkaOptions, "broker", connected)
    return one


def records(broker: Any, topic: str) -> list[Record]:
    reader, found = broker.reader(), []
    for number in range(broker.partitions(topic)):
        partition = TopicPartition(topic, number)
        found += list(reader.read(partition, None, reader.end_offset(partition)))
    return found


def clip(path: Path) -> Path:
    return write_video(path, frames=25, image=PICTURE, codec_options={"g": "10"})


class TestBatch:
    def test_what_is_told_reaches_the_topic(self, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]) -> None:
        broker.ensure_topics([TopicSpec("difffake.enrolments", 1, compacted=True)])
        assert run("batch", "--size", 16, "--by", "ada") == 0
        assert "size 16, deadline as started" in capsys.readouterr().out
        assert run("batch", "--deadline", 0.05, "--size", 2) == 0
        assert run("batch", "--default") == 0
        told = [decode_enrolment(record.value or b"") for record in records(broker, "difffake.enrolments")]
        assert [(t.size, t.deadline_s) for t in told if isinstance(t, BatchRecord)] == [
            (16, None),
            (2, 0.05),
            (None, None),
        ]
        assert told[0].by == "ada"

    @pytest.mark.parametrize(
        "flags", [[], ["--size", 0], ["--deadline", 11], ["--default", "--size", 2], ["--size", "big"]]
    )
    @pytest.mark.usefixtures("broker")
    def test_wrong_usage(self, flags: list[object]) -> None:
        assert run("batch", *flags) == 2

    @pytest.mark.usefixtures("broker")
    def test_where_no_worker_has_run_that_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("batch", "--size", 2) == 34
        assert "no worker has run here" in capsys.readouterr().err


class TestPublish:
    def test_a_folder_as_one_stream(
        self, broker: MemoryBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("b.mp4", "a.mp4", "deep/c.MP4", ".hidden/d.mp4"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            clip(tmp_path / name)
        (tmp_path / "notes.txt").write_text("x")
        flags = ["--stream", "news", "--topic", "t", "--fast", "--start-pts", "100", "--segment-seconds", 10]
        assert run("publish", tmp_path, *flags) == 34
        assert "--create-topic" in capsys.readouterr().err
        assert run("publish", tmp_path, *flags, "--create-topic", 3) == 0
        sent = records(broker, "t")
        assert broker.partitions("t") == 3
        assert [int(dict(r.headers)["pts-ns"]) for r in sent] == [100 * S, 101 * S, 102 * S]
        assert {r.key for r in sent} == {b"news"}
        said = capsys.readouterr().out
        assert "news: 3 records, 75 pictures" in said
        assert "up to PTS 103.00 s" in said

    def test_files_as_streams_of_their_names(self, broker: MemoryBroker, tmp_path: Path) -> None:
        files = [clip(tmp_path / f"{name}.mp4") for name in ("one", "two")]
        assert run("publish", *files, "--stream-from-name", "--fast", "--create-topic", 1, "-q", "--as", "units") == 0
        assert [r.key for r in records(broker, "video.in")[:4]] == [b"one", b"two", b"one", b"two"]
        (tmp_path / "more").mkdir()
        again = clip(tmp_path / "more" / "one.mp4")
        assert run("publish", *files, again, "--stream-from-name", "--fast") == 1

    def test_what_cannot_be_published_is_named_and_the_rest_is(
        self, broker: MemoryBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sound, good = write_audio(tmp_path / "a.m4a"), clip(tmp_path / "b.mp4")
        assert run("publish", sound, good, "--stream", "s", "--fast", "--create-topic", 1) == 14
        assert len(records(broker, "video.in")) == 1
        assert "a.m4a: no video in it" in capsys.readouterr().err

    @pytest.mark.usefixtures("broker")
    def test_what_lies_in_a_folder_and_cannot_be_read_is_not_passed_over(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clip(tmp_path / "a.mp4")
        (tmp_path / "b.mp4").symlink_to(tmp_path / "nowhere")
        assert run("publish", tmp_path, "--stream", "s", "--fast", "--create-topic", 1) == 10
        assert "b.mp4: no such file" in capsys.readouterr().err

    @pytest.mark.usefixtures("broker")
    def test_wrong_usage(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = clip(tmp_path / "a.mp4")
        for flags in (
            [],
            ["--stream", "s", "--stream-from-name"],
            ["--stream", "s", "--segment-seconds", "0"],
            ["--stream", "s", "--start-pts", "soon"],
            ["--stream", "s", "--start-pts", "inf"],
            ["--stream", "s", "--start-pts", "nan"],
            ["--stream", "s", "--as", "film"],
        ):
            assert run("publish", file, *flags) == 2, flags
        (tmp_path / "empty").mkdir()
        assert run("publish", tmp_path / "empty", "--stream", "s") == 10
        assert run("publish", tmp_path / "nowhere.mp4", "--stream", "s") == 10
        assert "no such file" in capsys.readouterr().err
        assert run("publish", file, "--stream", "\x1b[31m") == 24
        assert "\x1b" not in capsys.readouterr().err


class TestOperators:
    def test_commands_say_who_and_whom(
        self, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("freeze", "--stream", "s") == 34
        assert "no worker" in capsys.readouterr().err
        broker.ensure_topics([TopicSpec("difffake.enrolments", 1, compacted=True)])
        monkeypatch.setenv("DIFFFAKE_OPERATOR", "ada")
        assert run("freeze", "--stream", "s\x1b[31m", "--person", "3") == 0
        assert run("unfreeze", "--stream", "s", "--person", "Bob", "--by", "eve") == 0
        assert run("reset", "--stream", "s") == 0
        assert run("forget", "--stream", "s", "--person", "#4") == 0
        sent = [decode_enrolment(r.value or b"") for r in records(broker, "difffake.enrolments")]
        told = [(r.command.value, r.stream, r.person, r.by) for r in sent if isinstance(r, CommandRecord)]
        assert told == [
            ("freeze", "s\x1b[31m", 3, "ada"),
            ("unfreeze", "s", "Bob", "eve"),
            ("reset", "s", None, "ada"),
            ("forget", "s", 4, "ada"),
        ]
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert "unfreeze Bob on s: sent as " in said
        assert "reset everybody on s" in said

    def test_an_enrolment_is_withdrawn_by_name(self, broker: MemoryBroker) -> None:
        broker.ensure_topics([TopicSpec("difffake.enrolments", 1, compacted=True)])
        for wrong in ([], ["--person", "3"]):
            assert run("forget", "--stream", "s", "--enrolment", *wrong) == 2
        assert run("forget", "--stream", "s", "--enrolment", "--person", "Ada", "--by", "eve") == 0
        assert [(r.key, r.value) for r in records(broker, "difffake.enrolments")] == [(b"s/Ada", None)]

    @pytest.mark.usefixtures("broker")
    def test_names_out_of_bounds_are_wrong_usage(self) -> None:
        for flags in (["--stream", ""], ["--stream", "s" * 1025], ["--stream", "s", "--person", ""]):
            assert run("freeze", *flags) == 2
        for flags in (["--person", "9" * 400], ["--person", "x" * 257], ["--by", "\x1b"], ["--by", ""]):
            assert run("freeze", "--stream", "s", *flags) == 2

    def test_an_enrolment_goes_to_every_worker(
        self,
        broker: MemoryBroker,
        clips: dict[str, Path],
        tiny_bundle: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from difffake.anchors.file import anchors_from_bytes, read_anchors

        monkeypatch.chdir(tmp_path)
        flags = ["--stream", "news", "--bundle", tiny_bundle.path, "--threads", 1, "--trust", "--by", "eve"]
        asked = ["--bootstrap-servers", "memory:1"]
        assert run("enroll", clips["man"], "--person", "Jan", *flags, *asked) == 0
        assert "sent to the workers on difffake.enrolments" in capsys.readouterr().out
        assert list(tmp_path.iterdir()) == []
        (record,) = records(broker, "difffake.enrolments")
        sent = decode_enrolment(record.value or b"")
        assert isinstance(sent, EnrolmentRecord)
        assert (sent.stream, sent.person, sent.by) == ("news", "Jan", "eve")
        anchors = anchors_from_bytes(sent.anchors, "enrolment")
        assert [person.name for person in anchors.people] == ["Jan"]
        assert run("enroll", clips["man"], "--person", "Ann", *flags, *asked, "--out", "file.msgpack", "-q") == 0
        assert [p.name for p in read_anchors(tmp_path / "file.msgpack").people] == ["Ann"]
        assert len(records(broker, "difffake.enrolments")) == 2
        # The environment names a cluster, but nobody asked for it.
        assert run("enroll", clips["man"], "--person", "Ann", *flags, "-q") == 0
        assert len(records(broker, "difffake.enrolments")) == 2
        assert (tmp_path / "anchors.msgpack").exists()


class TestTail:
    @pytest.fixture(autouse=True)
    def _spoken(self, broker: MemoryBroker) -> None:
        broker.ensure_topics([TopicSpec("difffake.scores", 2), TopicSpec("difffake.alerts", 1)])
        producer = broker.plain_producer()
        evil = "\x1b[31mevil\x9b2J\u202e"
        for number, one in enumerate(
            [
                score("calm", 1, face(0, "Ada", artifact=evidence(0.9))),
                score(evil, 2, face(0, evil, artifact=evidence(1e-3, Level.STRONG), identity=evidence(0.5))),
            ]
        ):
            producer.send("difffake.scores", key=one.key, value=encode(one), partition=number)
        producer.send("difffake.scores", key=b"k", value=b"{}", partition=0)
        producer.send("difffake.alerts", key=b"a", value=encode(alert(1)))
        producer.close(5)

    def test_a_row_per_stream_the_most_suspicious_first(
        self, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        producer, later = broker.plain_producer(), score("calm", 2, face(0, "Ada", artifact=evidence(0.9)))
        producer.send("difffake.scores", key=later.key, value=encode(later), partition=0)
        producer.close(5)
        assert run("tail", "--from-beginning", "--count", 5) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said.replace("\x1b[?25h", "")
        assert not {"\x9b", "\u202e"} & set(said)
        lines = said.splitlines()
        evil, calm = (next(line for line in lines if word in line) for word in ("evil", "calm"))
        assert lines.index(evil) < lines.index(calm)
        assert "p=0.001" in evil
        assert "p=0.5" in evil
        assert "Ada" in calm
        assert "100%" in calm
        assert any("opened threshold on a, person 0: the face" in line for line in lines)
        assert any("1 records that cannot be read" in line for line in lines)

    def test_json_lines_are_the_records(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("tail", "--from-beginning", "--json", "--count", 3) == 0
        said = capsys.readouterr()
        lines = said.out.splitlines()
        assert not {"\x1b", "\x9b", "\u202e"} & set(said.out)
        found = {json.loads(line)["stream"]: decode(line.encode(), ScoreRecord) for line in lines}
        assert set(found) == {"calm", "\x1b[31mevil\x9b2J\u202e"}
        assert found["calm"] == score("calm", 1, face(0, "Ada", artifact=evidence(0.9)))
        assert "not a score record" in said.err

    def test_alerts_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("tail", "--from-beginning", "--json", "--topic", "difffake.alerts", "--count", 1) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == "threshold"

    def test_ctrl_c_leaves_quietly(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Follower, "poll", interrupt)
        assert run("tail") == 0
        assert capsys.readouterr().err == ""

    def test_nobody_who_reads_is_noticed_without_a_line_to_write(self) -> None:
        reads, writes = os.pipe()
        os.close(reads)
        kept = os.dup(1)
        os.dup2(writes, 1)
        try:
            with open(1, "w", closefd=False) as output, contextlib.redirect_stdout(output):
                assert run("tail", "--seconds", 60) == 141
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            os.close(writes)

    def test_into_a_pipe_rows_are_written_as_they_come(
        self, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not a table that is drawn when it leaves."""
        console = Console(file=io.StringIO(), width=400)
        monkeypatch.setattr("stream.commands_tail.results_console", lambda: console)
        seen, polled = list[str](), Follower.poll

        def poll(self: Follower, timeout_s: float, max_records: int = 500) -> list[Record]:
            seen.append(console.file.getvalue())  # type: ignore[attr-defined]
            if "opened threshold" in seen[-1] and "100%" in seen[-1]:
                raise KeyboardInterrupt
            if len(seen) == 2:
                producer, later = broker.plain_producer(), score("calm", 2, face(0, "Ada", artifact=evidence(0.9)))
                producer.send("difffake.scores", key=later.key, value=encode(later), partition=0)
                producer.close(5)
            return polled(self, timeout_s, max_records)

        monkeypatch.setattr(Follower, "poll", poll)
        assert run("tail", "--from-beginning", "--seconds", 60) == 0
        lines = seen[-1].splitlines()
        (calm, again) = [line for line in lines if line.startswith("calm")]
        assert calm == "calm  1.00 s  SCORED  Ada  artifact p=0.9"
        assert again.startswith("calm  2.00 s  SCORED  Ada  artifact p=0.9  coverage 100%")

    def test_it_leaves_after_its_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("tail", "--seconds", 0.3) == 0
        assert "waiting for scores" in capsys.readouterr().out

    def test_a_missing_topic(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("tail", "--topic", "nowhere") == 34
        assert "--alerts-topic" in capsys.readouterr().err


@pytest.mark.kafka
def test_publish_operate_and_tail_on_a_real_cluster(
    kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFFAKE_BOOTSTRAP_SERVERS", kafka_bootstrap)
    name = uuid.uuid4().hex
    video, scores, enrolments = f"{name}.video", f"{name}.scores", f"{name}.enrolments"
    flags = ["--stream", "news", "--topic", video, "--fast", "--segment-seconds", 0.4]
    assert run("publish", clip(tmp_path / "a.mp4"), *flags) == 34
    assert run("publish", clip(tmp_path / "a.mp4"), *flags, "--create-topic", 2, "--loop", 2) == 0
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka_bootstrap))
    try:
        assert [dict(r.headers)["content-type"] for r in records(broker, video)] == [b"video/mp2t"] * 6
        assert run("freeze", "--stream", "news", "--topic", enrolments) == 34
        broker.ensure_topics([TopicSpec(enrolments, 1, compacted=True), TopicSpec(scores, 2)])
        assert run("freeze", "--stream", "news", "--topic", enrolments, "--by", "eve") == 0
        assert run("forget", "--stream", "news", "--topic", enrolments, "--enrolment", "--person", "Ada") == 0
        assert [r.key for r in records(broker, enrolments)] == [b"news/#freeze/#all", b"news/Ada"]
        one = score("news", 1, face(0, "Ada", artifact=evidence(0.9)))
        producer = broker.plain_producer()
        producer.send(scores, key=one.key, value=encode(one))
        producer.close(10)
        capsys.readouterr()
        assert run("tail", "--topic", scores, "--from-beginning", "--json", "--count", 1, "--seconds", 20) == 0
        assert decode(capsys.readouterr().out.encode(), ScoreRecord) == one
    finally:
        broker.close()


@pytest.mark.usefixtures("broker")
def test_a_name_of_digits_is_refused_before_any_footage_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "anchors.msgpack"
    enrol = ["enroll", tmp_path / "missing.mp4", "--stream", "s", "--person", "12", "--out", out]
    assert run(*enrol) == run(*enrol, "--bootstrap-servers", "memory:1") == AnchorError.exit_code
    assert "guest 12" in capsys.readouterr().err
    enrol[enrol.index("12")] = "person 1"
    assert run(*enrol) == run(*enrol, "--bootstrap-servers", "memory:1") == AnchorError.exit_code
    assert "people without a name are called" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
