"""Access units are taken several at a time: nothing of that shows in what is said of them, whatever one of them is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny import write_tiny_bundle
from worker_world import LIVE, SETTINGS, TOPIC, World, assert_same

from stream.broker.contract import Record
from stream.checkpoint import Checkpoint
from stream.decode import Payload, StreamDecoder
from stream.gears import Gears
from stream.live import LiveModels
from stream.messages import Status
from stream.outcome import Teller
from stream.pipeline import Job, Pipeline
from stream.publish import Form
from stream.settings import WorkerSettings

#: All that there is waits at once; a run ends after so many records, not after some time.
RUNS = msgspec.structs.replace(
    SETTINGS,
    poll_records=500,
    commit_records=30,
    pipeline=msgspec.structs.replace(SETTINGS.pipeline, run=16, run_s=60.0),
)
ONE_BY_ONE = msgspec.structs.replace(RUNS, pipeline=msgspec.structs.replace(SETTINGS.pipeline, run=1))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveModels]:
    path = write_tiny_bundle(tmp_path_factory.mktemp("runs") / "tiny", identity=True).path
    with LiveModels.load(path, LIVE) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def units(models: LiveModels, clips: dict[str, Path]) -> list[Record]:
    """The records of a stream in access units."""
    world = World(models, clips)
    world.publish(Form.UNITS, streams=("a",))
    return world.records(TOPIC)


@pytest.fixture(scope="module")
def alone(models: LiveModels, clips: dict[str, Path], units: list[Record]) -> World:
    """Two streams of them, each record taken alone."""
    return done(make(models, clips, units, "ab"), ONE_BY_ONE)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """All that were begun."""
    begun: list[Job] = []
    real = Pipeline.start

    def start(self: Pipeline, job: Job) -> None:
        begun.append(job)
        real(self, job)

    monkeypatch.setattr(Pipeline, "start", start)
    return begun


def make(models: LiveModels, clips: dict[str, Path], records: list[Record], streams: str = "a") -> World:
    """The same records as several streams."""
    world = World(models, clips)
    producer = world.broker.plain_producer()
    for record in records:
        for stream in streams:
            producer.send(TOPIC, key=stream.encode(), value=record.value, headers=record.headers,
                          timestamp_ms=record.timestamp_ms, partition=0)  # fmt: skip
    producer.close(1.0)
    return world


class Traced:
    """Remembers how each record ended."""

    headers = ()

    def __init__(self, ended: list[tuple[int, str]], offset: int) -> None:
        self._ended, self._offset = ended, offset

    def decoded(self, seconds: float) -> None:
        assert seconds > 0

    def scoring(self) -> None: ...

    def scored(self) -> None: ...

    def end(self, outcome: str, *_: object) -> None:
        self._ended.append((self._offset, outcome))


class Tracer:
    """Traces every record."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, str]] = []

    def begin(self, record: Record) -> Traced:
        return Traced(self.ended, record.offset)

    def commit(self, traces: Sequence[object]) -> AbstractContextManager[None]:
        assert traces
        return nullcontext()


def done(world: World, settings: WorkerSettings) -> World:
    world.drain(world.worker(settings=settings))
    return world


def replaced(records: list[Record], at: int, value: bytes) -> list[Record]:
    changed = list(records)
    changed[at] = Record(TOPIC, 0, at, b"a", value, records[at].headers, records[at].timestamp_ms)
    return changed


def offsets(world: World) -> list[int]:
    return [letter.error.offset for letter in world.letters()]


def test_what_is_said_of_them_is_the_same_to_the_bit(
    models: LiveModels, clips: dict[str, Path], units: list[Record], alone: World, jobs: list[Job]
) -> None:
    together = done(make(models, clips, units, "ab"), RUNS)
    assert len(jobs) < 2 * len(units) / 2
    assert max(len(job.decodings) for job in jobs) >= 3
    assert_same(together, alone)
    assert together.letters() == alone.letters() == []
    assert {name: s.next_offset for name, s in together.states().items()} == {
        name: s.next_offset for name, s in alone.states().items()
    }


def test_no_commit_holds_more_of_them_than_it_may(
    models: LiveModels,
    clips: dict[str, Path],
    units: list[Record],
    alone: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[int] = []
    real = Checkpoint.commit

    def commit(self: Checkpoint, *what: Any) -> None:
        held.append(worker.counts["records"] - sum(held))
        real(self, *what)

    monkeypatch.setattr(Checkpoint, "commit", commit)
    world = make(models, clips, units, "ab")
    worker = world.worker(settings=msgspec.structs.replace(RUNS, commit_records=3))
    world.drain(worker)
    assert max(held) == 3
    assert sum(held) == 2 * len(units)
    assert_same(world, alone)


def test_each_record_is_settled_once_with_its_own_outcome(
    models: LiveModels, clips: dict[str, Path], units: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    real = Teller.finish

    def finish(self: Teller, stream: object, outcome: object, *rest: object) -> None:
        told.append(outcome.record.offset)  # type: ignore[attr-defined]
        real(self, stream, outcome, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Teller, "finish", finish)
    world, tracer = make(models, clips, units), Tracer()
    worker = world.worker(settings=RUNS, tracing=tracer)
    world.drain(worker)
    assert told == list(range(len(units)))
    assert tracer.ended == [(offset, "done") for offset in told]
    frames = {s.source.offset for s in world.scores()}
    nothing = worker.counts["records:nothing_due"] + worker.counts["records:no_picture_yet"]
    assert worker.counts["records"] == len(units) == nothing + len(frames)


@pytest.mark.parametrize("every", [1, 15])
def test_killed_between_runs_they_are_read_again_and_nothing_is_doubled(
    models: LiveModels, clips: dict[str, Path], units: list[Record], alone: World, every: int
) -> None:
    world = make(models, clips, units, "ab")
    for _ in range(4):
        worker = world.worker(settings=RUNS)
        world.work(worker, every)
        world.kill(worker)
    done(world, RUNS)
    assert_same(world, alone)


def test_a_damaged_unit_in_the_middle_of_a_run_is_buried_alone(
    models: LiveModels, clips: dict[str, Path], units: list[Record]
) -> None:
    value = units[5].value or b""
    damaged = replaced(units, 5, value[: len(value) // 2])
    alone, together = done(make(models, clips, damaged), ONE_BY_ONE), done(make(models, clips, damaged), RUNS)
    assert offsets(alone) == offsets(together) == [5]
    assert together.letters()[0].value == damaged[5].value
    assert together.scores() == alone.scores()
    assert {Status.DECODE_ERROR, Status.WARMING_UP} <= {s.status for s in together.scores()}


@pytest.mark.parametrize("at", [0, 5])
def test_bytes_that_are_no_unit_are_buried_alone(
    models: LiveModels, clips: dict[str, Path], units: list[Record], alone: World, at: int
) -> None:
    odd = [*units[:at], Record(TOPIC, 0, at, b"a", b"no unit", units[0].headers, 0), *units[at:]]
    world = done(make(models, clips, odd), RUNS)
    assert offsets(world) == [at]
    usual = [(s.pts_ns, s.faces) for s in alone.scores() if s.stream == "a"]
    unread = [s for s in world.scores() if s.reason.startswith("dead letter")]
    assert [s.source.offset for s in unread] == ([0] if at == 0 else []), "nobody knew the stream yet"
    assert [(s.pts_ns, s.faces) for s in world.scores() if s not in unread] == usual


@pytest.mark.parametrize("stage", ["decode", "finish"])
def test_a_unit_that_breaks_the_analysis_is_found_and_buried_alone(
    models: LiveModels, clips: dict[str, Path], units: list[Record], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    broken: list[int] = []
    decode, finish = StreamDecoder.decode, Teller.finish

    def breaks(offset: int) -> None:
        if offset == 6:
            broken.append(offset)
            raise ZeroDivisionError("made up")

    def decoding(self: StreamDecoder, payload: Payload, *rest: object) -> object:
        breaks(payload.offset)
        return decode(self, payload, *rest)  # type: ignore[arg-type]

    def finishing(self: Teller, stream: object, outcome: object, *rest: object) -> None:
        breaks(outcome.record.offset)  # type: ignore[attr-defined]
        finish(self, stream, outcome, *rest)  # type: ignore[arg-type]

    if stage == "decode":
        monkeypatch.setattr(StreamDecoder, "decode", decoding)
    else:
        monkeypatch.setattr(Teller, "finish", finishing)
    alone, together = done(make(models, clips, units), ONE_BY_ONE), done(make(models, clips, units), RUNS)
    # What refers to its picture is lost with it, in either.
    letters = [(letter.error.offset, letter.error.class_name) for letter in together.letters()]
    assert letters[0] == (6, "ZeroDivisionError")
    assert letters == [(letter.error.offset, letter.error.class_name) for letter in alone.letters()]
    assert {name for _, name in letters[1:]} <= {"CorruptInputError"}
    assert broken == [6, 6]
    assert together.scores() == alone.scores()


def test_no_record_is_decoded_beyond_one_that_gives_a_frame(
    models: LiveModels, clips: dict[str, Path], units: list[Record], jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How the next is decoded depends on what is seen in this one: its gear, too."""
    asked: list[int] = []
    real = Gears.observe

    def observe(self: Gears, score: object) -> None:
        asked.append(sum(len(job.decodings) for job in jobs))
        real(self, score)  # type: ignore[arg-type]

    monkeypatch.setattr(Gears, "observe", observe)
    world = done(make(models, clips, units), RUNS)
    # When a frame is scored, its record is the last that was begun.
    per_job = [len(job.decodings) for job in jobs if job.decodings]
    ends = {sum(per_job[: n + 1]) for n in range(len(per_job))}
    assert len(asked) == len(world.scores())
    assert set(asked) <= ends
