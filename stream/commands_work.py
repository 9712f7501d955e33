"""``difffake work``: a worker of the consumer group that scores streams, until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import uuid
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import structlog
import typer

from difffake import hardware
from difffake.errors import DiffFakeError, EngineError
from difffake.faces.runtime import DetectorRuntime
from difffake.hardware import Hwaccel
from difffake.settings import MAX_THREADS
from engines.choose import EngineKind
from stream.alerts import AlertSettings
from stream.allocator import bound_heaps
from stream.batcher import BatchSettings
from stream.container import usable_cores
from stream.decode import DecodeSettings, Gear
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, HwaccelOption, engine_choice
from stream.gears import GearSettings
from stream.health import Health
from stream.kafka_options import KafkaOptions, with_kafka
from stream.lifeline import Lifeline
from stream.live import LiveModels, LiveSettings
from stream.logs import speak_as, tell
from stream.metrics.ends import EndOffsets
from stream.metrics.instruments import Metrics
from stream.metrics.settings import MetricsSettings
from stream.pipeline import PipelineSettings
from stream.probes import Door, next_address
from stream.settings import Overload, WorkerSettings
from stream.stopping import StopSignals
from stream.supervisor import Supervisor, worker_command
from stream.topics import Topics
from stream.tracing import Tracing
from stream.worker import Worker

if TYPE_CHECKING:
    from stream.cli import Invocation

log = structlog.get_logger()

_MOST_WORKERS = 1024
#: Above half of the seven that Python's share would fill an interpreter with; not measured.
_MANY_THREADS = 4

HTTP_ENV, DRAIN_ENV, WORKERS_ENV = "DIFFFAKE_HTTP", "DIFFFAKE_DRAIN_TIMEOUT", "DIFFFAKE_WORKERS"
ALERT_BUDGET_ENV, TRACES_ENV = "DIFFFAKE_ALERT_BUDGET", "DIFFFAKE_TRACES"
#: An open transaction of a worker that was killed holds its partitions' new owners up for no longer than this.
_TRANSACTION_S = 15.0


class GearChoice(StrEnum):
    """How closely streams are looked at."""

    WATCH = "watch"
    ANALYSE = "analyse"
    SCRUTINISE = "scrutinise"


@with_kafka
def work(
    context: typer.Context,
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
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            max=_MOST_WORKERS,
            envvar=WORKERS_ENV,
            help="Processes, which share the cores and the streams of the group; 0: one per core. "
            "Each serves HTTP on a port of its own: the one of --http, and those that follow it.",
        ),
    ] = 1,
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_THREADS,
            help="Threads that decode and run the networks; 0: one per core, or the share of each of the workers.",
        ),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Most frames in one run of the networks.")] = 8,
    batch_deadline: Annotated[
        float,
        typer.Option(help="Longest wait of a frame for company in it, s; five times that while its thread decodes."),
    ] = 0.02,
    alert_budget: Annotated[
        float,
        typer.Option(
            envvar=ALERT_BUDGET_ENV, help="False alerts that a stream may raise in a day, see docs/alerts.md."
        ),
    ] = AlertSettings().budget_per_day,
    alert_thumbnails: Annotated[bool, typer.Option(help="Alerts carry a picture of the face.")] = True,
    traces: Annotated[
        bool,
        typer.Option(
            "--traces", envvar=TRACES_ENV, help="OpenTelemetry, sent to OTEL_EXPORTER_OTLP_ENDPOINT (extra otel)."
        ),
    ] = False,
    forget_after: Annotated[
        float, typer.Option(help="Days of silence after which a stream's state is deleted; its enrolments stay.")
    ] = 7.0,
    idle_exit: Annotated[float | None, typer.Option(help="Leave after so many seconds without a record.")] = None,
    http: Annotated[
        str | None,
        typer.Option(
            envvar=HTTP_ENV,
            metavar="HOST:PORT",
            help="Serve /metrics, /startupz, /livez and /readyz there, in containers 0.0.0.0:9464; off by default.",
        ),
    ] = None,
    live_timeout: Annotated[
        float, typer.Option(help="/livez fails when the loop has not turned over for so many seconds.")
    ] = 120.0,
    max_stream_series: Annotated[
        int, typer.Option(min=0, help='Streams with metrics of their own; others share those of stream="_other".')
    ] = 1_000,
    drain_timeout: Annotated[
        float, typer.Option(envvar=DRAIN_ENV, help="On SIGTERM everything is finished or given back within so long, s.")
    ] = 25.0,
    line: Annotated[str | None, typer.Option(hidden=True, metavar="NUMBER:FD")] = None,
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
            drain_timeout_s=drain_timeout,
            forget_s=forget_after * 86400,
            metrics=MetricsSettings(max_stream_series=max_stream_series),
            pipeline=PipelineSettings.for_cores(threads, BatchSettings(size=batch, deadline_s=batch_deadline)),
        )
        live = LiveSettings(threads=1, analysis_side_px=analysis_side, guests=guests, portraits=alert_thumbnails)
        alerts = AlertSettings(budget_per_day=alert_budget, thumbnails=alert_thumbnails)
        decode = DecodeSettings(fps=fps, hwaccel=hwaccel)
        gears = GearSettings(base=Gear(gear.value))
    except (ValueError, msgspec.ValidationError) as error:
        raise typer.BadParameter(str(error)) from error
    if workers != 1:
        raise typer.Exit(_supervise(context.obj, workers or usable_cores(), threads, http, instance_id, drain_timeout))
    bound_heaps(settings.pipeline.threads)
    hardware.check(hwaccel)
    metrics = Metrics(settings.metrics, Health(live_timeout))
    with contextlib.ExitStack() as stack:
        lifeline = stack.enter_context(_lifeline(line, metrics.health)) if line else None
        signals = stack.enter_context(StopSignals())
        if lifeline:
            lifeline.hold()
        if http:
            stack.enter_context(Door(http, metrics))
        broker = kafka.broker(transaction_timeout_s=_TRANSACTION_S, session_timeout_s=session_timeout)
        stack.callback(broker.close)
        if http:  # before the engines, which may take minutes to open: Kafka is there meanwhile
            ends = EndOffsets(lambda: kafka.broker(is_told=False), metrics, topic=settings.inputs[0])
            stack.enter_context(ends)
        models = stack.enter_context(LiveModels.load(bundle, live, engine_choice(engine, engines, detector_engine)))
        models.warm(settings.pipeline.threads)
        if http:
            _watch_gpu(stack, metrics, models, hwaccel)
        name = instance_id or f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        worker = Worker(
            broker,
            models,
            settings,
            name=name,
            decode=decode,
            live=live,
            alerts=alerts,
            gears=gears,
            metrics=metrics,
            tracing=_tracing(stack) if traces else None,
        )
        signals.drain(worker)
        _tell_crowded(settings.pipeline.threads)
        tell(f"working: {', '.join(settings.inputs)} as {group}, model {models.model_id}")
        worker.run(None if idle_exit is None else worker.idle_for(idle_exit))
        if lifeline:
            lifeline.leave(is_done=not signals.are_heard)
        _report(worker)


def _supervise(
    called: Invocation, count: int, threads: int, http: str | None, instance_id: str | None, drain_s: float
) -> int:
    """Run workers, each by this command once more, with what is its own at the end, where it counts."""

    def command(number: int, fd: int) -> list[str]:
        own = ["--workers", "1", "--line", f"{number}:{fd}"]
        own += ["--threads", str(threads or max(1, usable_cores() // count))]
        if http:
            own += ["--http", next_address(http, number)]
        if instance_id:
            own += ["--instance-id", f"{instance_id}-{number}"]
        return worker_command([*called.arguments, *own])

    # Threads of a library's own would be more than there are cores.
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | os.environ
    tell(f"starting {count} workers")
    return Supervisor(count, command, drain_s=drain_s, environment=environment).run()


def _lifeline(line: str, health: Health) -> Lifeline:
    number, _, fd = line.partition(":")
    speak_as(f"worker {number}")
    return Lifeline(int(fd), health)


def _tell_crowded(threads: int) -> None:
    """A seventh of a worker's time is Python (``docs/performance.md``), of which one thread runs at a time."""
    if threads > _MANY_THREADS:
        log.warning(
            "many threads in one process wait for each other",
            threads=threads,
            hint="give --workers 0: a process for each core, which share the streams of their group",
        )


def _tracing(stack: contextlib.ExitStack) -> Tracing:
    try:
        from stream.opentelemetry_traces import OpenTelemetryTraces
    except ImportError as error:
        raise DiffFakeError(
            f"--traces needs OpenTelemetry: {error}", hint="pip install 'difffake[otel]', or leave --traces out"
        ) from error
    traces = OpenTelemetryTraces()
    stack.callback(traces.close)
    return traces


def _watch_gpu(stack: contextlib.ExitStack, metrics: Metrics, models: LiveModels, hwaccel: Hwaccel) -> None:
    """Tell of the GPU where anything runs on it."""
    if hwaccel is Hwaccel.OFF and not any(use.engine.startswith("tensorrt") for use in models.engines):
        return
    from engines.device_memory import open_device
    from stream.metrics.gpu import GpuMetrics

    try:
        device = open_device()
    except EngineError as error:
        log.warning("no figures of the GPU", error=str(error), hint=error.hint)
        return
    stack.callback(device.close)
    metrics.registry.register(GpuMetrics(device))


def _report(worker: Worker) -> None:
    for name, count in sorted(worker.counts.items()):
        tell(f"  {name}: {count}")
    if worker.counts["state_lost"]:
        raise DiffFakeError(
            f"{worker.counts['state_lost']} streams lost their state and began anew",
            hint="see the log for which; their anchors were taken again",
        )
