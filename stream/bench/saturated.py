"""A worker with more work than time: what it gets done, and what that costs. The broker is in its own process."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from stream.batcher import BatchSettings
from stream.bench.clips import Footage, headers
from stream.bench.clock import Moment, Spent
from stream.broker.contract import TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.decode import DecodeSettings, Gear
from stream.gears import GearSettings
from stream.live import LiveModels, LiveSettings
from stream.messages import ScoreRecord, decode
from stream.pipeline import PipelineSettings
from stream.settings import WorkerSettings
from stream.topics import Topics
from stream.worker import Worker

TOPIC = "bench.in"
#: Share of the frames after which counting begins: anchors are taken by then.
_WARM = 0.25


@dataclass(frozen=True, slots=True)
class Saturated:
    """What a saturated worker did.

    Args:
        streams: side by side.
        frames: analysed.
        spent: on them.
        faces: in a frame, on average; of all frames, like ``statuses``.
        statuses: of all frames, those before counting began, too.
    """

    streams: int
    frames: int
    spent: Spent
    faces: float
    statuses: dict[str, int]

    @property
    def fps(self) -> float:
        """Frames analysed per second."""
        return self.frames / self.spent.wall_s

    @property
    def cpu_ms(self) -> float:
        """Of the processor, for a frame."""
        return 1e3 * self.spent.cpu_s / self.frames


def worked_off(
    source: Footage,
    models: LiveModels,
    live: LiveSettings,
    *,
    streams: int,
    loops: int = 1,
    fps: float = 2.0,
    gear: Gear = Gear.ANALYSE,
    threads: int = 0,
    batch: BatchSettings | None = None,
    run: int | None = None,
) -> Saturated:
    """Let a worker score the same footage as so many streams, ``loops`` times over; ``run``: see `PipelineSettings`."""
    pipeline = PipelineSettings.for_cores(threads, batch or BatchSettings())
    if run is not None:
        pipeline = msgspec.structs.replace(pipeline, run=run)
    broker = MemoryBroker()
    broker.ensure_topics([TopicSpec(TOPIC, 8)])
    producer = broker.plain_producer()
    for base_ns, record in source.rounds(loops):
        for number in range(streams):
            key = f"stream-{number:03d}".encode()
            producer.send(TOPIC, key=key, value=record.value, headers=headers(record, base_ns))
    producer.close(10.0)
    settings = WorkerSettings(
        inputs=[TOPIC],
        group="bench",
        topics=Topics.under("bench"),
        poll_timeout_s=0.01,
        pipeline=pipeline,
    )
    # Suspicion must not change how much there is to do.
    decoding, gears = DecodeSettings(fps=fps, scrutinise_fps=fps), GearSettings(base=gear)
    worker = Worker(broker, models, settings, name="bench", decode=decoding, live=live, gears=gears)
    total = len(source.records) * streams * loops
    started = 0, Moment.now()
    began: tuple[int, Moment] | None = None
    ended: list[tuple[int, Moment]] = []

    def is_over() -> bool:
        nonlocal began
        records = worker.counts["records"]
        if began is None and records >= _WARM * total:
            began = _frames(worker), Moment.now()
        if records >= total and not worker.is_busy:
            ended.append((_frames(worker), Moment.now()))
        return bool(ended)

    limit = time.monotonic() + 3600
    worker.run(lambda: is_over() or time.monotonic() > limit)
    if began is None or not ended:
        raise TimeoutError("the worker did not finish within an hour")
    if began[0] == ended[0][0]:  # so little footage that all of it was over at once: the warming up counts, too
        began = started
    statuses = {name.partition(":")[2]: n for name, n in worker.counts.items() if name.startswith("frames:")}
    faces = _faces_a_frame(broker, settings.topics.scores)
    return Saturated(streams, ended[0][0] - began[0], ended[0][1].since(began[1]), faces, statuses)


def _faces_a_frame(broker: MemoryBroker, scores: str) -> float:
    reader = broker.reader()
    partitions = [TopicPartition(scores, number) for number in range(broker.partitions(scores))]
    found = [
        len(decode(record.value or b"", ScoreRecord).faces)
        for one in partitions
        for record in reader.read(one, None, reader.end_offset(one))
    ]
    reader.close()
    return sum(found) / max(1, len(found))


def _frames(worker: Worker) -> int:
    return sum(n for name, n in worker.counts.items() if name.startswith("frames:"))
