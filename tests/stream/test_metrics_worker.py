"""What a worker tells of its work is what a reader of its output topics sees."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from live_show import SETTINGS
from live_world import Shown, picture
from PIL import Image
from stream_media import H264_BASE, unit_records
from test_metrics import told

from stream.broker.contract import Record, TopicPartition, TopicSpec
from stream.broker.errors import BrokerError, StaleGroupError
from stream.broker.memory import ManualClock, MemoryBroker, MemorySettings
from stream.decode import DecodeSettings
from stream.health import Health
from stream.live import LiveModels
from stream.live.models import Look
from stream.messages import AlertRecord, ScoreRecord, decode
from stream.metrics.ends import EndOffsets
from stream.metrics.instruments import Metrics
from stream.settings import Overload, WorkerSettings
from stream.worker import Worker

WORK = WorkerSettings(commit_interval_s=1e6, commit_records=10, poll_timeout_s=0.01, enrolments_s=1e-6)
FACE, SMALL = (Shown(2),), (Shown(2, small=True),)


class World:
    """A broker in memory, its input, and workers on it."""

    def __init__(self, models: LiveModels) -> None:
        self.models, self.clock = models, ManualClock()
        self.broker = MemoryBroker(MemorySettings(session_timeout_s=5), clock=self.clock)
        self.broker.ensure_topics([TopicSpec("video.in", 2)])
        self.started = 0

    def send(
        self, key: bytes | None, value: bytes, time_s: float = 0.0, partition: int = 0, age_s: float = 1.0
    ) -> None:
        producer, headers = self.broker.plain_producer(), [("pts-ns", str(round(time_s * 1e9)).encode())]
        stamp = round((time.time() - age_s) * 1e3)
        producer.send("video.in", key=key, value=value, headers=headers, partition=partition, timestamp_ms=stamp)
        producer.flush(1.0)
        producer.close(1.0)

    def show(self, stream: str, faces: tuple[Shown, ...], frames: int = 20, begin_s: float = 0.0, **more: Any) -> None:
        """Two pictures a second, from second ``begin_s`` on."""
        for number in range(frames):
            image = io.BytesIO()
            Image.fromarray(picture(number * 10**9 // 2, faces).image).save(image, "png")
            self.send(stream.encode(), image.getvalue(), begin_s + number / 2, **more)

    def worker(self, settings: WorkerSettings = WORK, health: Health | None = None) -> tuple[Worker, Metrics]:
        self.started += 1
        metrics = Metrics(settings.metrics, health)
        worker = Worker(self.broker, self.models, settings, name=str(self.started), decode=DecodeSettings(fps=2.0),
                        live=SETTINGS, metrics=metrics)  # fmt: skip
        return worker, metrics

    def records(self, topic: str) -> list[Record]:
        reader = self.broker.reader()
        partitions = [TopicPartition(topic, p) for p in range(self.broker.partitions(topic))]
        return [r for p in partitions for r in reader.read(p, None, reader.end_offset(p))]


@pytest.fixture
def world(models: LiveModels) -> World:
    return World(models)


def step_until(worker: Worker, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        worker.step()
        assert time.monotonic() < until, dict(worker.counts)


def committed(metrics: Metrics) -> float:
    return sum(told(metrics)["difffake_records_total"].values())


def test_every_figure_is_that_of_the_output_topics(world: World) -> None:
    world.show("good", FACE)
    world.show("empty", (), partition=1)
    world.show("tiny", SMALL, partition=1)
    world.send(b"good", b"no picture", 10)
    world.send(None, b"nobody's")
    worker, metrics = world.worker()
    # Nobody leaves: what is told of streams goes with their partitions.
    step_until(worker, lambda: worker.counts["records"] == 62 and not worker.is_busy)
    worker._flush()
    worker._snapshot_s = float("-inf")
    worker.step()
    found = told(metrics)
    scores = [decode(r.value or b"", ScoreRecord) for r in world.records("difffake.scores")]
    alerts = [decode(r.value or b"", AlertRecord) for r in world.records("difffake.alerts")]
    letters = world.records("difffake.deadletters")

    statuses = Counter(score.status.value for score in scores)
    assert {s: n for (s,), n in found["difffake_frames_total"].items() if n} == statuses
    assert sum(found["difffake_alerts_total"].values()) == len(alerts)
    assert sum(found["difffake_dead_letters_total"].values()) == len(letters) == 2
    outcomes = {o: n for (o,), n in found["difffake_records_total"].items() if n}
    assert outcomes == {"analysed": 60, "dead_letter": 2}
    assert found["difffake_end_to_end_seconds_count"][()] == 62
    faces = Counter(face.quality.value for score in scores for face in score.faces)
    assert {q: n for (q,), n in found["difffake_faces_total"].items() if n} == faces
    p_values = Counter(evidence for score in scores for face in score.faces for evidence in face.evidence)
    assert {e: n for (e,), n in found["difffake_evidence_p_value_count"].items()} == p_values

    seconds, covered = found["difffake_stream_seconds_total"], found["difffake_stream_covered_seconds_total"]
    assert seconds == {("good",): 9.5, ("empty",): 9.5, ("tiny",): 9.5}
    assert covered["empty",] == 9.5
    assert covered["tiny",] == 0
    assert found["difffake_stream_uncovered_seconds_total"]["tiny", "low_quality"] == 9.5
    warm_up_s = found["difffake_stream_uncovered_seconds_total"]["good", "warming_up"]
    assert covered["good",] + warm_up_s == 9.5
    assert 0 < warm_up_s < 5
    assert found["difffake_stream_last_covered_timestamp_seconds"]["tiny",] == 0
    assert found["difffake_stream_coverage_ratio"]["tiny",] == 0
    assert found["difffake_stream_anchor_age_seconds"]["good", "self"] > 0
    assert ("tiny", "self") not in found["difffake_stream_anchor_age_seconds"]

    assert {stage for (stage,) in found["difffake_stage_seconds_count"]} == {
        "decode", "find", "align", "extractor", "identity", "score", "commit"
    }  # fmt: skip
    assert found["difffake_stage_items_total"]["find",] == 60
    assert found["difffake_batch_frames_total"][()] == found["difffake_batch_wait_seconds_count"][()] == 60
    assert set(found["difffake_lag_seconds"].values()) == {0}
    assert found["difffake_partitions_assigned"][()] == 2
    assert found["difffake_ready"][()] == 1
    assert found["difffake_alert_budget_per_stream_hour"][()] == pytest.approx(0.01 / 24)
    worker.run(lambda: True)
    assert "difffake_stream_seconds_total" not in told(metrics), "its partitions are nobody's now"


def test_a_stream_of_nothing_but_garbage_is_told_as_not_looked_at(world: World) -> None:
    """`difffake_stream_coverage_ratio` is what the rules and dashboards go by; it had no series there."""
    world.show("good", FACE)
    for number in range(5):
        world.send(b"noise", b"no picture", number / 2)
    world.send(None, b"nobody's")
    worker, metrics = world.worker()
    step_until(worker, lambda: worker.counts["records"] == 26 and not worker.is_busy)
    worker._flush()
    found = told(metrics)
    assert found["difffake_stream_coverage_ratio"]["noise",] == 0
    assert found["difffake_stream_last_covered_timestamp_seconds"]["noise",] == 0
    assert found["difffake_stream_last_frame_timestamp_seconds"]["noise",] > time.time() - 60
    scores = [decode(r.value or b"", ScoreRecord) for r in world.records("difffake.scores")]
    statuses = Counter(score.status.value for score in scores)
    assert statuses["DECODE_ERROR"] == 5
    assert {s: n for (s,), n in found["difffake_frames_total"].items() if n} == statuses
    assert {o: n for (o,), n in found["difffake_records_total"].items() if n} == {"analysed": 20, "dead_letter": 6}
    worker.run(lambda: True)


def test_a_backlog_is_told_in_seconds_and_records(world: World) -> None:
    world.show("old", FACE, 30, age_s=100)
    worker, metrics = world.worker()
    with EndOffsets(lambda: _Undying(world.broker), metrics, every_s=0.01):
        step_until(worker, lambda: bool(worker.counts["polled"]))
        until = time.monotonic() + 30
        while not (lag := told(metrics).get("difffake_lag_records")):
            worker.step()
            assert time.monotonic() < until
        assert lag["video.in", "1"] == 0
        step_until(worker, lambda: told(metrics)["difffake_lag_records"]["video.in", "0"] == 0)
    worker.run(lambda: True)


class _Undying:
    """A connection whose end is not that of the broker in memory."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.reader = broker.reader

    def close(self) -> None: ...


def test_ends_are_asked_for_again_whatever_the_client_raised(world: World) -> None:
    """The lag would stay as it was told last, for ever."""
    worker, metrics = world.worker()
    raised: list[Exception] = []

    def connect() -> _Undying:
        if len(raised) < 2:
            raised.append(KeyError("in[0]") if raised else BrokerError("away", hint="wait"))
            metrics.ends = {TopicPartition("video.in", 0): 0}
            raise raised[-1]
        return _Undying(world.broker)

    with EndOffsets(connect, metrics, every_s=0.01):  # type: ignore[arg-type]
        step_until(worker, lambda: len(told(metrics).get("difffake_lag_records", ())) == 2)
    assert len(raised) == 2
    worker.run(lambda: True)


def test_kafka_is_there_while_it_answers_also_a_worker_without_partitions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without Kafka ends before any rule that waits for a minute has seen it, and its lag is not known."""
    metrics, is_there = Metrics(), True

    class Standby(_Undying):
        def partitions(self, topic: str) -> int:
            if not is_there:
                raise BrokerError("away", hint="wait")
            return world.broker.partitions(topic)

    def connected() -> bool:
        return told(metrics)["difffake_kafka_connected"][()] == 1

    assert not connected(), "it looks for brokers"
    with EndOffsets(lambda: Standby(world.broker), metrics, every_s=0.01, topic="video.in"):
        until = time.monotonic() + 30
        while not connected():
            assert time.monotonic() < until
            time.sleep(0.01)
        monkeypatch.setattr("stream.metrics.instruments._ANSWER_S", 0.2)
        time.sleep(0.3)
        while not connected():  # however long ago it connected: it is asked
            assert time.monotonic() < until
        is_there = False
        monkeypatch.setattr(world.broker, "reader", _away)
        while connected():
            assert time.monotonic() < until
            time.sleep(0.01)
    metrics.committed(0.1)
    assert connected(), "a commit is an answer, too"


def _away(**_: object) -> None:
    raise BrokerError("away", hint="wait")


@pytest.mark.parametrize(
    ("age_s", "least_s", "most_s"), [(100, 99, 200), (-3600, 0, 99), (1.7e9, 0, 99)], ids=["old", "ahead", "1970"]
)
def test_the_oldest_record_in_memory_is_the_lag(world: World, age_s: float, least_s: float, most_s: float) -> None:
    """A producer's clock that is ahead hides no lag, one that begins in 1970 makes none of half a century."""
    world.show("old", FACE, 10, age_s=age_s)
    worker, metrics = world.worker()
    seen: list[float] = []
    until = time.monotonic() + 30
    while worker.counts["records"] < 10:
        worker._snapshot_s = float("-inf")
        worker.step()
        seen.append(max(told(metrics)["difffake_lag_seconds"].values(), default=0.0))
        assert time.monotonic() < until
    assert least_s < max(seen) < most_s
    worker.run(lambda: True)


def test_work_that_is_done_again_is_counted_once(world: World) -> None:
    world.show("a", FACE)
    worker, metrics = world.worker()
    for _ in range(2):
        world.broker.fail_next_commit(StaleGroupError("made up", hint="none"))
        failed = worker.counts["rewinds"]
        step_until(worker, lambda failed=failed: worker.counts["rewinds"] > failed)  # type: ignore[misc]
        assert committed(metrics) == 0
    step_until(worker, lambda: committed(metrics) == 20)
    found = told(metrics)
    assert sum(found["difffake_frames_total"].values()) == len(world.records("difffake.scores")) == 20
    assert found["difffake_stream_seconds_total"]["a",] == 9.5
    assert found["difffake_commit_failures_total"]["StaleGroupError",] == 2
    assert found["difffake_rewinds_total"][()] == 2
    worker.run(lambda: True)


def test_a_stream_that_moves_goes_on_and_loses_no_time_in_between(world: World) -> None:
    world.show("a", FACE, 10)
    first, told_first = world.worker()
    step_until(first, lambda: committed(told_first) == 10)
    first.run(lambda: True)
    image = io.BytesIO()
    Image.fromarray(picture(0, FACE).image).save(image, "png")
    world.send(b"a", image.getvalue(), 64.5)
    second, told_second = world.worker()
    step_until(second, lambda: second.counts["records"] == 1)
    second._flush()
    found = told(told_second)
    assert found["difffake_stream_seconds_total"]["a",] == 60.0
    assert found["difffake_stream_uncovered_seconds_total"]["a", "gap"] == 55.0
    assert found["difffake_restored_streams_total"][()] == 1
    second.run(lambda: True)


def test_a_record_that_is_damaged_in_part_ends_once_and_is_a_dead_letter_too(world: World) -> None:
    records = unit_records("video/h264", H264_BASE, 30, base_ns=0)
    producer = world.broker.plain_producer()
    for number, unit in enumerate(records):
        value = unit.value[: len(unit.value) // 2] if number == 12 else unit.value
        producer.send("video.in", key=b"u", value=value, headers=unit.headers, partition=0, timestamp_ms=1)
    producer.flush(1.0)
    producer.close(1.0)
    worker, metrics = world.worker()
    step_until(worker, lambda: worker.counts["records"] == 30)
    worker._flush()
    found = told(metrics)
    assert sum(found["difffake_records_total"].values()) == 30
    assert found["difffake_records_total"]["dead_letter",] == len(world.records("difffake.deadletters")) == 1
    assert sum(found["difffake_dead_letters_total"].values()) == 1
    assert found["difffake_records_total"]["nothing_due",] > 0, "at 25 pictures a second most are not due"
    frames = found["difffake_frames_total"]
    assert sum(frames.values()) == len(world.records("difffake.scores"))
    worker.run(lambda: True)


def test_what_is_shed_is_not_looked_at(world: World) -> None:
    world.show("a", FACE, age_s=60)
    settings = msgspec.structs.replace(WORK, overload=Overload.SHED)
    worker, metrics = world.worker(settings)
    step_until(worker, lambda: worker.counts["records"] == 20)
    worker._flush()
    found = told(metrics)
    assert found["difffake_records_total"]["shed",] == found["difffake_shed_records_total"]["too_old",] == 20
    assert found["difffake_frames_total"]["SHED",] == found["difffake_lost_frames_total"]["shed",] == 20
    assert found["difffake_stream_covered_seconds_total"]["a",] == 0
    assert found["difffake_stream_gear"]["a",] == 0
    worker.run(lambda: True)


def test_a_producer_without_a_clock_is_not_shed(world: World) -> None:
    """Its records say 1970: all of them would be too old, always."""
    world.show("a", FACE, 3, age_s=time.time() - 86_400)
    worker, _ = world.worker(msgspec.structs.replace(WORK, overload=Overload.SHED))
    step_until(worker, lambda: worker.counts["records"] == 3)
    worker.run(lambda: True)
    assert len(world.records("difffake.scores")) == 3
    assert not worker.counts["records:shed"]
    assert not worker.counts["frames:SHED"]


def test_what_is_too_old_is_told_while_others_still_wait_for_the_networks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in "abc":
        world.show(stream, FACE, 3)
    world.show("late", FACE, 8, age_s=3600)
    hangs, release, look = threading.Event(), threading.Event(), world.models.look

    def stuck(frames: list[object]) -> list[Look]:
        hangs.set()
        release.wait(60)
        return look(frames)  # type: ignore[arg-type]

    monkeypatch.setattr(world.models, "look", stuck)
    pipeline = msgspec.structs.replace(WORK.pipeline, in_progress=1)
    settings = msgspec.structs.replace(WORK, overload=Overload.SHED, max_age_s=600.0, pipeline=pipeline)
    worker, _ = world.worker(settings)
    try:
        step_until(worker, lambda: worker.counts["records:shed"] == worker.counts["records"] == 8)
        assert hangs.wait(30)
        assert worker.is_busy
    finally:
        release.set()
    step_until(worker, lambda: worker.counts["records"] == 17)
    worker.run(lambda: True)
    assert worker.counts["frames:SHED"] == 8
    assert len(world.records("difffake.scores")) == 17


def test_ready_only_with_partitions_and_until_it_is_told_to_stop(world: World) -> None:
    health = Health()
    assert not health.startup().ok
    world.show("a", FACE, 3)
    worker, metrics = world.worker(health=health)
    assert not health.startup().ok
    step_until(worker, lambda: health.ready().ok)
    assert health.startup().ok
    assert health.live().ok
    worker.stop()
    assert not health.ready().ok
    assert health.live().ok
    assert told(metrics)["difffake_draining"][()] == 1
    worker.run()
    assert worker.has_left


def test_a_worker_without_partitions_is_not_ready(world: World) -> None:
    first, _ = world.worker()
    step_until(first, lambda: first._health.ready().ok)
    others = [world.worker()[0] for _ in range(3)]
    for _ in range(20):
        for worker in (first, *others):
            worker.step()
    ready = [worker._health.ready().ok for worker in (first, *others)]
    assert sum(ready) == 2, "as many as there are partitions"
    for worker in (*others, first):
        worker.run(lambda: True)


def test_a_drain_gives_back_what_does_not_end_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.show("a", FACE, 5)
    settings = msgspec.structs.replace(WORK, drain_timeout_s=1.5)
    worker, metrics = world.worker(settings)
    hangs, release, look = threading.Event(), threading.Event(), world.models.look

    def stuck(frames: list[object]) -> list[Look]:
        hangs.set()
        release.wait(60)
        return look(frames)  # type: ignore[arg-type]

    monkeypatch.setattr(world.models, "look", stuck)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert hangs.wait(30)
        worker.stop()
        until = time.monotonic() + 60
        while not worker.has_left:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert committed(metrics) == 0, "the networks still hang"
    finally:
        release.set()
        thread.join(60)
    assert not thread.is_alive()
    assert not world.records("difffake.scores")
    monkeypatch.undo()
    second, told_second = world.worker()
    step_until(second, lambda: second.counts["records"] == 5)
    second.run(lambda: True)
    assert committed(told_second) == len(world.records("difffake.scores")) == 5
