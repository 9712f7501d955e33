"""Records on their way: order within a stream, parallel across streams, bounded, and each failure its own record's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from stream.batcher import BatchSettings
from stream.broker.contract import TopicPartition
from stream.decode import CorruptInputError
from stream.intake import StreamKey
from stream.pipeline import Job, Pipeline, PipelineSettings

SOURCE = TopicPartition("video.in", 0)


@dataclass(frozen=True)
class Frame:
    picture: str
    pts_ns: int
    index: int
    offset: int


@dataclass
class Record:
    frames: Iterator[Frame]


@dataclass(frozen=True)
class Seen:
    picture: str
    finder: tuple[str, ...]


class ScriptedDecoder:
    """Gives out so many frames; may fail before one of them. Counts how many were taken."""

    def __init__(self, frames: int, *, fails_at: int | None = None, slow_s: float = 0.0) -> None:
        self.frames, self.fails_at, self.slow_s = frames, fails_at, slow_s
        self.taken = 0
        self._busy = threading.Lock()

    def decode(self, payload: str, _gear: object) -> Record:
        if self.fails_at == -1:
            raise ValueError(f"no picture in {payload}")
        return Record(self._frames(payload))

    def _frames(self, payload: str) -> Iterator[Frame]:
        for n in range(self.frames):
            assert self._busy.acquire(blocking=False), "two threads in one decoder"
            if n == self.fails_at:
                self._busy.release()
                raise ValueError(f"picture {n} of {payload}")
            time.sleep(self.slow_s)
            self.taken += 1
            self._busy.release()
            yield Frame(f"{payload}#{n}", n, n, 0)


class Held(ScriptedDecoder):
    """Says when it has begun, and waits until it may go on."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.begun, self.go = threading.Event(), threading.Event()

    def decode(self, payload: str, gear: object) -> Record:
        self.begun.set()
        assert self.go.wait(20)
        return super().decode(payload, gear)


class ScriptedNetworks:
    """What is seen of a frame names it and all frames of the stream before it."""

    def __init__(self, *, breaks: str = "", slow_s: float = 0.0, may_be_shared: bool = True) -> None:
        self.breaks, self.slow_s, self.may_be_shared = breaks, slow_s, may_be_shared
        self.threads: set[str] = set()
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def look(self, frames: Sequence[Any]) -> list[Any]:
        self.open.wait(10)
        time.sleep(self.slow_s)
        self.batches.append(len(frames))
        self.threads.add(threading.current_thread().name)
        if self.breaks and any(self.breaks in frame.picture for frame in frames):
            raise RuntimeError(f"cannot look at {self.breaks}")
        return [Seen(frame.picture, (*frame.finder, frame.picture)) for frame in frames]


@pytest.fixture(autouse=True)
def frames_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Shown:
        picture: str
        pts_ns: int
        finder: tuple[str, ...]

    monkeypatch.setattr("stream.pipeline.LookFrame", Shown)


def job(stream: str, decoder: ScriptedDecoder, payload: str | None = None, finder: tuple[str, ...] = ()) -> Job:
    key: StreamKey = (SOURCE, stream)
    return Job(key, decoder, [payload or stream], None, finder)  # type: ignore[arg-type]


class Runs:
    """Gives a frame for each record whose payload asks for one; refuses or fails at others."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def decode(self, payload: str, _gear: object) -> Record:
        self.begun.append(payload)
        if payload.startswith("refused"):
            raise CorruptInputError("no unit", hint="none")
        return Record(iter([Frame(payload, 0, 0, 0)] if payload.startswith("frame") else []))

    def state(self) -> str:
        return f"after {self.begun[-1]}"


def run(stream: str, decoder: Runs, *payloads: str) -> Job:
    return Job((SOURCE, stream), decoder, payloads, None, ())  # type: ignore[arg-type]


def finish(pipeline: Pipeline, seconds: float = 20.0) -> dict[str, tuple[Job, list[str]]]:
    """All jobs to their ends: stream -> its job, and the pictures that were seen."""
    seen: dict[str, tuple[Job, list[str]]] = {}
    deadline = time.monotonic() + seconds
    while len(pipeline) and time.monotonic() < deadline:
        for done in pipeline.ready(0.05):
            pictures = [sight.look.picture for sight in done.take()]  # type: ignore[attr-defined]
            seen.setdefault(done.stream[1], (done, []))[1].extend(pictures)
            if not done.done:
                pipeline.go_on(done)
    assert not len(pipeline), "jobs that never end"
    return seen


@pytest.mark.parametrize("may_be_shared", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_frame_is_seen_once_in_its_streams_order(threads: int, may_be_shared: bool) -> None:
    lengths = {f"s{n}": n * 7 % 12 for n in range(20)}
    settings = PipelineSettings(threads=threads, ahead=2, part=4)
    networks = ScriptedNetworks(slow_s=0.001, may_be_shared=may_be_shared)
    with Pipeline(networks, settings) as pipeline:  # type: ignore[arg-type]
        for stream, length in lengths.items():
            pipeline.start(job(stream, ScriptedDecoder(length, slow_s=0.001)))
        seen = finish(pipeline)
    for stream, length in lengths.items():
        pictures = [f"{stream}#{n}" for n in range(length)]
        done, found = seen[stream]
        assert found == pictures
        assert done.error is None
        assert done.finder == tuple(pictures), "each frame was looked at knowing the one before"
    assert pipeline.batches.frames == sum(lengths.values())


def test_frames_of_different_streams_share_batches() -> None:
    networks = ScriptedNetworks()
    networks.open.clear()
    with Pipeline(networks, PipelineSettings(batch=BatchSettings(size=4, deadline_s=5.0))) as pipeline:  # type: ignore[arg-type]
        for n in range(8):
            pipeline.start(job(f"s{n}", ScriptedDecoder(3)))
        networks.open.set()
        finish(pipeline)
    assert max(networks.batches) > 1
    assert max(networks.batches) <= 4


def test_few_streams_are_shared_out_among_the_networks_threads() -> None:
    settings = PipelineSettings(threads=2, batch=BatchSettings(size=8, deadline_s=5.0))
    networks = ScriptedNetworks(slow_s=0.002)
    with Pipeline(networks, settings) as pipeline:  # type: ignore[arg-type]
        for n in range(4):
            pipeline.start(job(f"s{n}", ScriptedDecoder(10)))
        finish(pipeline)
    assert max(networks.batches) <= 2


def test_networks_that_belong_to_a_thread_are_used_by_one() -> None:
    networks = ScriptedNetworks(may_be_shared=False)
    with Pipeline(networks, PipelineSettings(threads=3)) as pipeline:  # type: ignore[arg-type]
        for n in range(6):
            pipeline.start(job(f"s{n}", ScriptedDecoder(5)))
        finish(pipeline)
    assert networks.threads == {"networks"}


def test_a_frame_is_looked_at_while_another_stream_is_still_being_decoded() -> None:
    """With as many threads as there are decoders at work nobody would look; one that has nothing to decode does."""
    networks, slow = ScriptedNetworks(), Held(1)
    with Pipeline(networks, PipelineSettings(threads=2, batch=BatchSettings(deadline_s=60.0))) as pipeline:  # type: ignore[arg-type]
        pipeline.start(job("slow", slow))
        assert slow.begun.wait(10)
        pipeline.start(job("quick", ScriptedDecoder(1)))
        (first,) = pipeline.ready(10)
        assert first.stream[1] == "quick"
        slow.go.set()
        assert set(finish(pipeline)) == {"slow"}


def test_one_thread_decodes_for_a_batch_before_it_looks() -> None:
    networks, first = ScriptedNetworks(), Held(1)
    settings = PipelineSettings(threads=1, batch=BatchSettings(size=4, deadline_s=60.0))
    with Pipeline(networks, settings) as pipeline:  # type: ignore[arg-type]
        pipeline.start(job("s0", first))
        assert first.begun.wait(10)
        for n in range(1, 4):
            pipeline.start(job(f"s{n}", ScriptedDecoder(1)))
        first.go.set()
        finish(pipeline)
    assert networks.batches == [4]


def test_a_decoder_runs_no_further_ahead_than_it_may() -> None:
    networks, decoder = ScriptedNetworks(), ScriptedDecoder(50)
    networks.open.clear()
    with Pipeline(networks, PipelineSettings(ahead=3)) as pipeline:  # type: ignore[arg-type]
        pipeline.start(job("a", decoder))
        time.sleep(0.1)
        assert decoder.taken <= 3 + 1
        networks.open.set()
        assert len(finish(pipeline)["a"][1]) == 50


def test_a_long_record_comes_in_parts_and_waits_until_they_are_taken() -> None:
    with Pipeline(ScriptedNetworks(), PipelineSettings(part=4)) as pipeline:  # type: ignore[arg-type]
        pipeline.start(job("a", ScriptedDecoder(11)))
        (first,) = pipeline.ready(10)
        time.sleep(0.05)
        assert not first.done
        assert len(first.take()) == 4
        pipeline.go_on(first)
        assert len(finish(pipeline)["a"][1]) == 7


@pytest.mark.parametrize(
    ("payloads", "begun"),
    [
        (["1", "2", "frame 3", "4"], 3),
        (["frame 1", "frame 2"], 1),
        (["1", "2"], 2),
        (["1", "refused 2", "3"], 2),
        (["refused 1", "frame 2"], 1),
    ],
)
def test_a_run_ends_behind_the_first_record_that_gives_a_frame_or_is_refused(payloads: list[str], begun: int) -> None:
    decoder = Runs()
    with Pipeline(ScriptedNetworks(), PipelineSettings(run_s=60.0)) as pipeline:  # type: ignore[arg-type]
        pipeline.start(run("a", decoder, *payloads))
        done, seen = finish(pipeline)["a"]
    assert decoder.begun == payloads[:begun]
    assert seen == [p for p in decoder.begun if p.startswith("frame")]
    assert isinstance(done.error, CorruptInputError) == payloads[begun - 1].startswith("refused")
    assert [d.after for d in done.decodings] == [*(f"after {p}" for p in payloads[: begun - 1]), None]


def test_a_run_gives_its_thread_to_other_streams_when_its_time_is_over() -> None:
    decoders = [Runs(), Runs()]
    with Pipeline(ScriptedNetworks(), PipelineSettings(threads=1, run_s=0.0)) as pipeline:  # type: ignore[arg-type]
        for stream, decoder in zip("ab", decoders, strict=True):
            pipeline.start(run(stream, decoder, *"12345678"))
        seen = finish(pipeline)
    assert [decoder.begun for decoder in decoders] == [["1"], ["1"]]
    assert all(len(done.decodings) == 1 and done.error is None for done, _ in seen.values())


@pytest.mark.parametrize("at", [-1, 0, 2])
def test_a_decoder_that_fails_ends_its_record_alone(at: int) -> None:
    with Pipeline(ScriptedNetworks()) as pipeline:  # type: ignore[arg-type]
        pipeline.start(job("bad", ScriptedDecoder(5, fails_at=at)))
        pipeline.start(job("good", ScriptedDecoder(5)))
        seen = finish(pipeline)
    assert isinstance(seen["bad"][0].error, ValueError)
    assert len(seen["bad"][1]) == max(at, 0)
    assert seen["good"][0].error is None
    assert len(seen["good"][1]) == 5


def test_a_frame_that_breaks_the_networks_costs_its_record_alone() -> None:
    networks = ScriptedNetworks(breaks="bad#1")
    networks.open.clear()
    with Pipeline(networks, PipelineSettings(batch=BatchSettings(deadline_s=0.5))) as pipeline:  # type: ignore[arg-type]
        for stream in ("a", "bad", "b"):
            pipeline.start(job(stream, ScriptedDecoder(4)))
        networks.open.set()
        seen = finish(pipeline)
    assert isinstance(seen["bad"][0].error, RuntimeError)
    assert seen["bad"][1] == ["bad#0"]
    assert all(seen[stream][0].error is None and len(seen[stream][1]) == 4 for stream in "ab")


def test_a_forgotten_job_is_not_given_out_and_its_stream_can_begin_again() -> None:
    networks = ScriptedNetworks()
    networks.open.clear()
    with Pipeline(networks) as pipeline:  # type: ignore[arg-type]
        old = job("a", ScriptedDecoder(6), "old")
        pipeline.start(old)
        time.sleep(0.05)
        pipeline.cancel(old)
        pipeline.start(job("a", ScriptedDecoder(6), "new"))
        networks.open.set()
        seen = finish(pipeline)
    assert seen["a"][1] == [f"new#{n}" for n in range(6)]
    assert not old.done


def test_closes_while_everything_is_under_way() -> None:
    pipeline = Pipeline(ScriptedNetworks(slow_s=0.01), PipelineSettings(threads=2))  # type: ignore[arg-type]
    for n in range(12):
        pipeline.start(job(f"s{n}", ScriptedDecoder(100, slow_s=0.001)))
    time.sleep(0.05)
    pipeline.close()
    assert not len(pipeline)
    assert not [t for t in threading.enumerate() if t.name.startswith(("pipeline", "networks"))]


def test_settings_are_bounded() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PipelineSettings(ahead=0)


@pytest.mark.parametrize("where", ["decode", "networks"])
def test_a_thread_that_dies_is_told_to_the_owner(where: str) -> None:
    """Its jobs would never be done: a worker would go on without their streams, and call itself well."""

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    hooks: dict[str, Any] = {"timed": fail} if where == "decode" else {"batched": fail}
    with Pipeline(ScriptedNetworks(), **hooks) as pipeline:  # type: ignore[arg-type]
        pipeline.start(job("a", ScriptedDecoder(2)))
        with pytest.raises(RuntimeError, match="no room"):  # noqa: PT012  (it may take a moment)
            for _ in range(200):
                pipeline.ready(0.1)
