"""How long each part of the pipeline's benchmark takes, and what the parts share: clips, a broker, what runs the
networks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apache_kafka import ApacheKafka
from pipeline_live import backlog

from difffake.networks import EngineChoice
from stream.bench.clips import Footage, encode, footage
from stream.bench.clock import Spent
from stream.bench.stages import BATCHES
from stream.live import LiveSettings
from stream.publish import Form

#: Frames a second in the gear "analyse".
FPS = 2.0
#: And in "watch": segments have a key frame a second.
KEY_FPS = 1.0
#: Kafka's defaults where the tests' node is in a hurry; and none of the records by which an idle controller says twice
#: a second that it lives: in production a controller has other cores than the workers.
NODE = {
    "broker.session.timeout.ms": "9000",
    "broker.heartbeat.interval.ms": "2000",
    "log.cleaner.backoff.ms": "15000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "10000",
    "metadata.max.idle.interval.ms": "0",
}
SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything takes."""

    seconds: float = 20.0  # of the clips
    rounds: int = 2
    streams: int = 12
    loops: int = 2
    stage_frames: int = 200
    batches: tuple[int, ...] = BATCHES
    user_s: float = 20.0
    #: Size, and pictures looked at a second: 25 is every one of them, 1 the key frames.
    user_cases: tuple[tuple[str, float], ...] = tuple(
        (size, fps) for size in ("720p", "1080p") for fps in (KEY_FPS, FPS, 10.0, 25.0)
    )
    live_s: float = 20.0  # a multiple of the time between two key frames
    probes: int = 4
    sizes: tuple[str, ...] = ("720p",)
    gears: tuple[str, ...] = ("analyse", "watch")
    forms: tuple[Form, ...] = (Form.SEGMENTS, Form.UNITS)
    start: int = 0  # where a search for streams begins; 0: where their cost says
    scaling_streams: tuple[int, ...] = (1, 16, 32)
    scaling_workers: tuple[int, ...] = (1, 2)
    scaling_faces: tuple[int, ...] = (1, 4)
    scaling_frames: int = 400
    overload_s: float = 60.0
    recover_s: float = 20.0


QUICK = Plan()
FULL = Plan(
    rounds=5, live_s=40.0, probes=7, sizes=("360p", "720p", "1080p"), scaling_streams=(1, 2, 4, 8, 16, 32, 64),
    scaling_workers=(1, 2, 3, 4), scaling_faces=(1, 2, 5, 10), scaling_frames=1500, overload_s=600.0, user_s=60.0,
)  # fmt: skip
#: To see that everything runs; its figures mean nothing.
TINY = Plan(
    seconds=4.0, rounds=1, streams=2, loops=8, stage_frames=1, batches=(2,), user_s=1.0, user_cases=(("720p", FPS),),
    live_s=4.0, probes=1,
    scaling_streams=(1, 2), scaling_workers=(1,), scaling_faces=(1,), scaling_frames=160, overload_s=6.0, recover_s=6.0,
)  # fmt: skip


@dataclass(slots=True)
class Bench:
    """What the parts share."""

    plan: Plan
    folder: Path
    sources: list[Path]
    node: ApacheKafka
    choice: EngineChoice
    live: LiveSettings = field(default_factory=lambda: LiveSettings(threads=1))
    #: Seconds of the processor for a second of a stream, by what is looked at; the start of the searches.
    cost: dict[str, float] = field(default_factory=dict)
    #: For the worker, in the parts about one core.
    core: int = 0
    _names: int = 0

    def clip(self, size: str = "720p", faces: int = 1, form: Form = Form.SEGMENTS) -> Path:
        """Made once: a key frame a second, or for access units one in two, and no B-frames."""
        is_live = form is Form.UNITS
        out = self.folder / f"{size}-{faces}-{form.value}-{self.plan.seconds:g}.mp4"
        if not out.exists():
            width, height = SIZES[size]
            half = out.with_suffix(".part.mp4")
            seconds, gop_s = self.plan.seconds, 2.0 if is_live else 1.0
            encode(self.sources, half, width=width, height=height, seconds=seconds, faces=faces, gop_s=gop_s,
                   low_delay=is_live)  # fmt: skip
            half.rename(out)
        return out

    def footage(self, size: str = "720p", form: Form = Form.SEGMENTS, faces: int = 1) -> Footage:
        """Segments of one second, or access units as a live encoder sends them."""
        return footage(self.clip(size, faces, form), form)

    def name(self, what: str) -> str:
        """Topics and groups of their own."""
        self._names += 1
        return f"{what}-{self._names}-{time.monotonic_ns()}"

    @property
    def runtimes(self) -> dict[str, str | None]:
        """What runs the networks, for `pipeline_worker`."""
        folder = None if self.choice.folder is None else str(self.choice.folder)
        return {"engine": self.choice.kind.value, "engines": folder, "detector": self.choice.detector.value}

    def backlog(self, source: Footage, what: str, **more: Any) -> Any:
        """See `pipeline_live.backlog`."""
        pid = self.node.pid or 0
        return backlog(self.node.bootstrap, pid, source, self.name(what), **self.runtimes, **more)


def shown(spent: Spent) -> dict[str, float]:
    """As it stands in the JSON."""
    return {"wall_s": spent.wall_s, "cpu_s": spent.cpu_s, "others": spent.others}
