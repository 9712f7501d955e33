"""``difffake work``: a worker of the consumer group that scores streams, until it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from difffake import hardware
from difffake.errors import DiffFakeError
from difffake.faces.runtime import DetectorRuntime
from difffake.hardware import Hwaccel
from engines.choose import EngineKind
from stream.batcher import BatchSettings
from stream.decode import DecodeSettings, Gear
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, HwaccelOption, engine_choice
from stream.gears import GearSettings
from stream.kafka_options import KafkaOptions, with_kafka
from stream.live import LiveModels, LiveSettings
from stream.pipeline import PipelineSettings
from stream.settings import Overload, Topics, WorkerSettings
from stream.worker import Worker

#: An open transaction of a worker that was killed holds its partitions' new owners up for no longer than this.
_TRANSACTION_S = 15.0


class GearChoice(StrEnum):
    """How closely streams are looked at."""

    WATCH = "watch"
    ANALYSE = "analyse"
    SCRUTINISE = "scrutinise"


@with_kafka
def work(
    kafka: KafkaOptions,
    topic: Annotated[list[str] | None, typer.Option(help="Input topic; may be given several times.")] = None,
    group: Annotated[str, typer.Option(help="Consumer group: its workers share the streams.")] = "difffake",
    instance_id: Annotated[
        str | None, typer.Option(help="Static membership: a restart within the session timeout moves nothing.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Begins the names of all topics that are not input.")] = "difffake",
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    hwaccel: HwaccelOption = Hwaccel.OFF,
    fps: Annotated[float, typer.Option(help="Frames analysed per second of stream time.")] = 2.0,
    analysis_side: Annotated[
        int, typer.Option(help="Long side, px, at which whole pictures are looked through.")
    ] = 480,
    guests: Annotated[bool, typer.Option("--guests", help="Others than the enrolled people are expected.")] = False,
    commit_interval: Annotated[float, typer.Option(help="Seconds between two commits.")] = 1.0,
    session_timeout: Annotated[
        float, typer.Option(help="Seconds after which others take over from a silent worker.")
    ] = 10.0,
    gear: Annotated[
        GearChoice, typer.Option(help="How closely streams are looked at that are not suspicious; watch: key frames.")
    ] = GearChoice.ANALYSE,
    overload: Annotated[
        Overload, typer.Option(help="More work than time: wait, or shed the oldest of the least suspicious streams.")
    ] = Overload.WAIT,
    max_age: Annotated[float, typer.Option(help="With --overload shed: seconds after which a record is shed.")] = 2.0,
    threads: Annotated[int, typer.Option(min=0, help="Threads of decoders and of networks; 0: one per core.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Most frames in one run of the networks.")] = 8,
    batch_deadline: Annotated[float, typer.Option(help="Longest wait of a frame for company in it, s.")] = 0.02,
    idle_exit: Annotated[float | None, typer.Option(help="Leave after so many seconds without a record.")] = None,
) -> None:
    """Score the streams of input topics: scores, alerts and dead letters go back to Kafka, each frame exactly once."""
    try:
        settings = WorkerSettings(
            inputs=topic or ["video.in"],
            group=group,
            instance_id=instance_id,
            topics=Topics.under(prefix),
            commit_interval_s=commit_interval,
            overload=overload,
            max_age_s=max_age,
            pipeline=PipelineSettings.for_cores(threads, BatchSettings(size=batch, deadline_s=batch_deadline)),
        )
        live = LiveSettings(threads=1, analysis_side_px=analysis_side, guests=guests)
        decode = DecodeSettings(fps=fps, hwaccel=hwaccel)
        gears = GearSettings(base=Gear(gear.value))
    except (ValueError, msgspec.ValidationError) as error:
        raise typer.BadParameter(str(error)) from error
    hardware.check(hwaccel)
    broker = kafka.broker(transaction_timeout_s=_TRANSACTION_S, session_timeout_s=session_timeout)
    try:
        with LiveModels.load(bundle, live, engine_choice(engine, engines, detector_engine)) as models:
            name = instance_id or f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            worker = Worker(broker, models, settings, name=name, decode=decode, live=live, gears=gears)
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, lambda *_: worker.stop())
            print(f"working: {', '.join(settings.inputs)} as {group}, model {models.model_id}", file=sys.stderr)  # noqa: T201
            worker.run(None if idle_exit is None else worker.idle_for(idle_exit))
            _report(worker)
    finally:
        broker.close()


def _report(worker: Worker) -> None:
    for name, count in sorted(worker.counts.items()):
        print(f"  {name}: {count}", file=sys.stderr)  # noqa: T201
    if worker.counts["state_lost"]:
        raise DiffFakeError(
            f"{worker.counts['state_lost']} streams lost their state and began anew",
            hint="see the log for which; their anchors were taken again",
        )
