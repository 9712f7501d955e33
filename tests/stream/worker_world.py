"""A broker in memory with real clips on it, and workers that may be killed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from stream.alerts import AlertSettings, Tuning
from stream.broker.contract import Record, TopicPartition, TopicSpec
from stream.broker.memory import ManualClock, MemoryBroker, MemorySettings
from stream.decode import DecodeSettings
from stream.live import LiveModels, LiveSettings
from stream.messages import (
    AlertRecord,
    DeadLetter,
    ScoreRecord,
    StateRecord,
    decode,
    decode_state,
)
from stream.publish import Form, Publisher, PublishSettings
from stream.settings import WorkerSettings
from stream.tracing import Tracing
from stream.worker import Worker

TOPIC, PARTITIONS = "video.in", 2
SETTINGS = WorkerSettings(
    commit_interval_s=1e6, commit_records=3, poll_records=4, poll_timeout_s=0.01, enrolments_s=1e-6
)
#: The clips are real, and short: what counts as strong here is next to everything, so that alerts open in them.
LIVE = LiveSettings(threads=1, analysis_side_px=320, strong_p=0.98, suspicious_p=0.99)
_ANYTHING = Tuning(share=0.33, kappa=0.999, decorrelation_s=0.2)
ALERTS = AlertSettings(
    budget_per_day=86_400 / 0.2, block_s=0.2, artifact=_ANYTHING, anchor=_ANYTHING, identity=_ANYTHING, update_s=0.3
)


@dataclass
class World:
    """A broker with input, and workers on it."""

    models: LiveModels
    clips: dict[str, Path]

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(
            MemorySettings(session_timeout_s=5, transaction_timeout_s=5, loss_timeout_s=2), clock=self.clock
        )
        self.broker.ensure_topics([TopicSpec(TOPIC, PARTITIONS)])
        self.started = 0

    def publish(self, form: Form = Form.FRAMES, streams: tuple[str, ...] = ("a", "b", "c"), **settings: object) -> None:
        options = PublishSettings(form=form, fps=5.0, segment_s=0.5, **settings)  # type: ignore[arg-type]
        with Publisher(self.broker, TOPIC, options) as publisher:
            list(publisher.publish_many({stream: [self.clips["man"]] for stream in streams}))

    def send(self, key: bytes | None, value: bytes | None, *headers: tuple[str, bytes], partition: int = 0) -> None:
        producer = self.broker.plain_producer()
        producer.send(TOPIC, key=key, value=value, headers=headers, partition=partition, timestamp_ms=1000)
        producer.flush(1.0)
        producer.close(1.0)

    def worker(
        self, alerts: AlertSettings = ALERTS, settings: WorkerSettings = SETTINGS, tracing: Tracing | None = None
    ) -> Worker:
        self.started += 1
        return Worker(
            self.broker,
            self.models,
            settings,
            name=str(self.started),
            decode=DecodeSettings(fps=5.0),
            live=LIVE,
            alerts=alerts,
            tracing=tracing,
        )

    @staticmethod
    def work(worker: Worker, records: int) -> None:
        """Until so many more records are done, or nothing comes any more; others are then in progress."""
        enough, until = worker.counts["records"] + records, time.monotonic() + 10
        idle = worker.idle_for(0.2)
        while worker.counts["records"] < enough and not idle() and time.monotonic() < until:
            worker.step()

    def kill(self, worker: Worker) -> None:
        """What a SIGKILL leaves: an open transaction and a member that is heard of no more."""
        self.broker.silence(worker._consumer)  # type: ignore[arg-type]
        worker._pipeline.close()
        self.clock.advance(6.0)

    def drain(self, worker: Worker) -> None:
        """Work until nothing comes any more, and leave in order."""
        worker.run(worker.idle_for(0.05))

    def records(self, topic: str) -> list[Record]:
        reader = self.broker.reader()
        partitions = [TopicPartition(topic, p) for p in range(self.broker.partitions(topic))]
        return [r for p in partitions for r in reader.read(p, None, reader.end_offset(p))]

    def scores(self) -> list[ScoreRecord]:
        """By stream and time; as a reader of committed records sees them."""
        found = [decode(r.value or b"", ScoreRecord) for r in self.records("difffake.scores")]
        return sorted(found, key=lambda s: (s.stream, s.pts_ns))

    def alerts(self) -> list[AlertRecord]:
        """By stream, in the order in which they were told."""
        found = [decode(r.value or b"", AlertRecord) for r in self.records("difffake.alerts")]
        return sorted(found, key=lambda a: a.stream)

    def letters(self) -> list[DeadLetter]:
        return [DeadLetter.parse(r) for r in self.records("difffake.deadletters")]

    def states(self) -> dict[str, StateRecord]:
        states = [decode_state(r.key, r.value) for r in self.records("difffake.state") if r.value]
        return {s.stream: s for s in states if isinstance(s, StateRecord)}


def assert_same(world: World, undisturbed: World) -> None:
    """Every record is there once, and says the same."""
    assert world.scores() == undisturbed.scores()
    assert world.alerts() == undisturbed.alerts()
    # Anchors were moved from worker to worker, or not: the same bytes.
    anchors = {name: (state.anchors, state.arrays_digest) for name, state in undisturbed.states().items()}
    assert all(heads and digest for heads, digest in anchors.values())
    assert {name: (state.anchors, state.arrays_digest) for name, state in world.states().items()} == anchors
