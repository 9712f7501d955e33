"""``difffake robustness``: what codecs, sizes, captions and the like do to scores and false alarms."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from difffake.detector import Detector
from difffake.evaluation import EvaluationSettings
from difffake.evaluation.conditions import conditions_named
from difffake.evaluation.robustness import DEFAULT_FPS, DEFAULT_MAX_FRAMES, RobustnessSettings, robustness
from difffake.evaluation.robustness_report import robustness_markdown, write_robustness
from difffake.evaluation.warming import warm
from difffake.faces.runtime import DetectorRuntime
from difffake.files import check_apart, check_targets
from difffake.settings import ScanSettings
from engines.choose import EngineKind
from stream.console import printable, progress_bar
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, ThreadsOption, engine_choice
from stream.evaluation_options import (
    CACHE,
    COMPRESSION,
    DRAWS,
    BundleOption,
    CacheOption,
    CompressionOption,
    DrawsOption,
    FolderArgument,
    LayoutOption,
    SeedOption,
    SplitOption,
)


def robustness_command(
    folder: FolderArgument,
    layout: LayoutOption,
    compression: CompressionOption = COMPRESSION,
    split: SplitOption = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this condition, beside the footage as recorded; may be repeated."),
    ] = None,
    clips: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real videos, on which every alarm is a false one.")
    ] = None,
    clips_condition: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A condition for --clips; by default a few of those of the data set."),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A score to judge; by default those of the evidences and unsupervised ones."),
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames looked at per second of video.")] = DEFAULT_FPS,
    max_frames: Annotated[int, typer.Option(help="Frames looked at per video.")] = DEFAULT_MAX_FRAMES,
    anchor_as_recorded: Annotated[
        bool, typer.Option("--anchor-as-recorded", help="Anchors come from the files as recorded.")
    ] = False,
    bundle: BundleOption = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the card as Markdown.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    cache: CacheOption = CACHE,
    draws: DrawsOption = DRAWS,
    seed: SeedOption = 0,
    threads: ThreadsOption = 0,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Processes that look at videos, which share the cores.")] = 1,
) -> None:
    """Judge a data set again after each of many things that streams do to pictures."""
    check_apart([out, json], [split] if split else [])
    check_targets(out, json)
    conditions = conditions_named(condition or ())
    clips_conditions = (
        conditions_named(clips_condition) if clips_condition else tuple(c for c in conditions if c.is_core)
    )
    settings = RobustnessSettings(
        evaluation=EvaluationSettings(
            layout=layout,
            root=folder,
            cache=cache,
            compression=compression,
            split=split,
            fps=fps,
            max_frames=max_frames,
            anchor_as_recorded=anchor_as_recorded,
            draws=draws,
            seed=seed,
        ),
        conditions=conditions,
        scores=tuple(score or ()),
        clips=clips,
        clips_conditions=clips_conditions if clips is not None else (),
    )
    chosen = engine_choice(engine, engines, detector_engine)
    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task("looking", total=None)

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=printable(what)[:40])

        if jobs > 1:
            share = threads or max(1, (os.cpu_count() or 1) // jobs)
            warm(settings, partial(Detector.load, bundle, ScanSettings(threads=share), chosen), jobs, show)
        with Detector.load(bundle, ScanSettings(threads=threads), chosen) as detector:
            report = robustness(settings, detector, show)
    write_robustness(report, markdown=out, json_file=json)
    if out is None:
        typer.echo(robustness_markdown(report))
