"""``difffake bench``: each stage alone, a worker with all of them, and how many streams that makes on this host."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from difffake.demo.clips import fetch_clips
from difffake.faces.runtime import DetectorRuntime
from difffake.settings import MAX_THREADS
from engines.choose import EngineKind
from stream.batcher import BatchSettings
from stream.bench.clips import Footage, encode, footage
from stream.bench.saturated import worked_off
from stream.bench.side_by_side import worked_off_by
from stream.bench.stages import Tools, bound_fps, measure_stages
from stream.commands_work import GearChoice
from stream.console import progress_bar
from stream.container import usable_cores
from stream.decode import Gear
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, engine_choice
from stream.live import LiveModels, LiveSettings
from stream.publish import Form

CLIPS = Path(".cache/clips")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Args:
        stages: CPU ms of each stage for an analysed frame.
        workers: processes; each has its share of the cores, and of the streams.
        bound_fps: frames a second that no pipeline can beat: cores / the sum of the stages.
        fps, cpu_ms: of a worker with a broker in its own process.
        ratio: of the two, on the wall; cpu_ratio: by CPU, which holds where others use the machine, too.
        streams: in real time on this host, by the worker's CPU; queues and latencies are not in it.
        others: cores that others kept busy meanwhile.
    """

    model_id: str
    cores: int
    workers: int
    fps_per_stream: float
    gear: str
    frames: int
    stages: dict[str, float]
    bound_fps: float
    fps: float
    cpu_ms: float
    ratio: float
    cpu_ratio: float
    streams: float
    others: float


def bench(
    clip: Annotated[
        Path | None, typer.Argument(help="Video to measure with, as it is; else the demonstration's at 1280 x 720.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    units: Annotated[bool, typer.Option("--units", help="As access units instead of segments of 1 s.")] = False,
    gear: Annotated[GearChoice, typer.Option(help="How closely streams are looked at.")] = GearChoice.ANALYSE,
    fps: Annotated[float, typer.Option(min=0.1, help="Frames analysed per second of stream time.")] = 2.0,
    streams: Annotated[int, typer.Option(min=1, help="Streams side by side.")] = 12,
    loops: Annotated[int, typer.Option(min=1, help="How often each stream plays the video.")] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that share cores and streams, as of difffake work; 0: one per core.")
    ] = 1,
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_THREADS,
            help="Threads that decode and run the networks, of each worker; 0: its share of the cores.",
        ),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Most frames in one run of the networks.")] = 8,
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False,
) -> None:
    """Measure what this host can do with a model, without Kafka: each stage alone, and a worker with all of them."""
    count = min(workers or usable_cores(), streams)
    used = threads * count or usable_cores()
    live, choice, looked = LiveSettings(threads=1), engine_choice(engine, engines, detector_engine), Gear(gear.value)
    with progress_bar(quiet=json) as bar:
        task = bar.add_task("making the video", total=None)
        source = _source(clip, Form.UNITS if units else Form.SEGMENTS)
        bar.update(task, description="each stage alone")
        tools = Tools.load(bundle, live, choice)
        try:
            stages = measure_stages(source, tools, fps=fps, gear=looked, threads=used, batches=sorted({1, batch}))
        finally:
            tools.networks.close()
        bar.update(task, description="a worker" if count == 1 else f"{count} workers")
        how: dict[str, Any] = {"streams": streams, "loops": loops, "fps": fps, "gear": looked}
        how |= {"threads": threads or max(1, used // count), "batch": BatchSettings(size=batch)}
        if count > 1:
            done = worked_off_by(count, source, bundle, live, choice, **how)
        else:
            with LiveModels.load(bundle, live, choice) as models:
                done = worked_off(source, models, live, **how)
    bound = bound_fps(stages, used)
    stage_ms = {name: stage.cpu_ms for name, stage in stages.items()}
    # In watch fewer frames are looked at than `fps`: what counts is what was.
    stream_s = streams * loops * source.length_ns / 1e9
    figures = Figures(
        model_id=tools.networks.model_id,
        cores=used,
        workers=count,
        fps_per_stream=sum(done.statuses.values()) / stream_s,
        gear=gear.value,
        frames=done.frames,
        stages=stage_ms,
        bound_fps=bound,
        fps=done.fps,
        cpu_ms=done.cpu_ms,
        ratio=done.fps / bound,
        cpu_ratio=sum(stage_ms.values()) / done.cpu_ms,
        streams=used * 1e3 / done.cpu_ms / (sum(done.statuses.values()) / stream_s),
        others=done.spent.others,
    )
    if json:
        sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
    else:
        _show(figures)


def _source(clip: Path | None, form: Form) -> Footage:
    if clip is not None:
        return footage(clip, form)
    with tempfile.TemporaryDirectory() as folder:
        made = encode([fetch_clips(CLIPS)["woman"]], Path(folder) / "720p.mp4", width=1280, height=720, seconds=20)
        return footage(made, form)


def _show(figures: Figures) -> None:
    table = Table("stage", "CPU ms a frame", box=None, pad_edge=False)
    for name, ms in figures.stages.items():
        table.add_row(name, f"{ms:.2f}")
    table.add_row("all stages", f"{sum(figures.stages.values()):.2f}")
    table.add_row("the worker" if figures.workers == 1 else f"{figures.workers} workers", f"{figures.cpu_ms:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"{figures.fps:.1f} frames/s of at most {figures.bound_fps:.1f} on {figures.cores} cores: "
        f"{figures.ratio:.2f} of the bound, by CPU {figures.cpu_ratio:.2f}\n"
        f"{figures.streams:.0f} streams at {figures.fps_per_stream:.2g} frames/s each ({figures.gear}), by CPU alone"
    )
    if figures.others > 0.1:
        print(  # noqa: T201
            f"warning: others kept {figures.others:.1f} cores busy meanwhile; only figures of CPU mean something",
            file=sys.stderr,
        )
