"""A worker process of the benchmarks: settings as JSON on the command line, counts as JSON on stdout when it ends.

It differs from `difffake work` in one thing: suspicion does not raise the sampling rate, so that the work is the same
whatever the scores say. ``cpus``: the cores that it may use.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import structlog

from difffake.faces.runtime import DetectorRuntime
from difffake.hardware import Hwaccel
from difffake.networks import EngineChoice
from engines.choose import EngineKind
from stream.allocator import bound_heaps
from stream.batcher import BatchSettings
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.decode import DecodeSettings, Gear
from stream.gears import GearSettings
from stream.live import LiveModels, LiveSettings
from stream.pipeline import PipelineSettings
from stream.settings import Overload, WorkerSettings
from stream.topics import Topics
from stream.worker import Worker


def main() -> None:
    """Work until SIGTERM."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    if cpus := given.get("cpus"):
        os.sched_setaffinity(0, cpus)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    live = LiveSettings(threads=1, max_faces=given.get("max_faces", 8))
    settings = WorkerSettings(
        inputs=[given["topic"]],
        group=given["group"],
        topics=Topics.under(given["group"]),
        commit_interval_s=given["commit_s"],
        overload=Overload(given.get("overload", "wait")),
        pipeline=PipelineSettings.for_cores(
            given.get("threads", 0), BatchSettings(size=given.get("batch", 8), deadline_s=given.get("deadline_s", 0.02))
        ),
    )
    bound_heaps(settings.pipeline.threads)
    hwaccel = Hwaccel(given.get("hwaccel", "off"))
    decode = DecodeSettings(fps=given["fps"], scrutinise_fps=given["fps"], hwaccel=hwaccel)
    gears = GearSettings(base=Gear(given["gear"]))
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=given["bootstrap"]))
    folder = Path(given["engines"]) if given.get("engines") else None
    choice = EngineChoice(
        EngineKind(given.get("engine", "onnx")), folder, detector=DetectorRuntime(given.get("detector", "onnx"))
    )
    with LiveModels.load(None, live, choice) as models:
        models.warm(settings.pipeline.threads)
        worker = Worker(broker, models, settings, name=f"w{os.getpid()}", decode=decode, live=live, gears=gears)
        signal.signal(signal.SIGTERM, lambda *_: worker.stop())
        worker.run()
    broker.close()
    print(json.dumps(dict(worker.counts)))


if __name__ == "__main__":
    main()
