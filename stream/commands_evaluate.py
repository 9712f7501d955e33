"""``difffake evaluate`` and ``difffake compare``: data sets -> figures with intervals, and two models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from difffake.detector import Detector
from difffake.evaluation import (
    Codec,
    EvaluationProtocol,
    EvaluationSettings,
    Recompression,
    Subject,
    evaluate,
    to_markdown,
    write,
)
from difffake.evaluation import compare as compare_reports
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


def evaluate_command(
    folder: FolderArgument,
    layout: LayoutOption,
    compression: CompressionOption = COMPRESSION,
    split: SplitOption = None,
    crf: Annotated[int | None, typer.Option(help="Recompress each video at this CRF before it is scored.")] = None,
    codec: Annotated[Codec, typer.Option(help="The codec of --crf.")] = Codec.H264,
    fps: Annotated[float, typer.Option(help="Frames scored per second of video.")] = 4.0,
    max_frames: Annotated[int, typer.Option(help="Frames scored per video.")] = 400,
    subject: Annotated[Subject | None, typer.Option(help="Whose score stands for a frame with several faces.")] = None,
    protocol: Annotated[
        EvaluationProtocol,
        typer.Option(help="clip: is it a fake? hijack: is the stream still the one of its anchor?"),
    ] = EvaluationProtocol.CLIP,
    anchor_as_recorded: Annotated[
        bool, typer.Option("--anchor-as-recorded", help="With --crf: anchors come from the files as recorded.")
    ] = False,
    bundle: BundleOption = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as Markdown.")] = None,
    cache: CacheOption = CACHE,
    draws: DrawsOption = DRAWS,
    seed: SeedOption = 0,
    threads: ThreadsOption = 0,
) -> None:
    """Score a data set of real and manipulated video, with intervals over people."""
    check_apart([json, markdown], [split] if split else [])
    check_targets(json, markdown)
    settings = EvaluationSettings(
        layout=layout,
        root=folder,
        cache=cache,
        compression=compression,
        split=split,
        fps=fps,
        max_frames=max_frames,
        recompression=None if crf is None else Recompression(codec, crf),
        subject=subject,
        draws=draws,
        seed=seed,
        protocol=protocol,
        anchor_as_recorded=anchor_as_recorded,
    )
    chosen = engine_choice(engine, engines, detector_engine)
    with (
        Detector.load(bundle, ScanSettings(threads=threads), chosen) as detector,
        progress_bar(MofNCompleteColumn()) as bar,
    ):
        task = bar.add_task("looking", total=None)

        def show(done: int, total: int, video: str) -> None:
            bar.update(task, completed=done, total=total, description=printable(video)[-40:])

        report = evaluate(settings, detector, show)
    write(report, markdown=markdown, json=json)
    if markdown is None:
        typer.echo(to_markdown(report))


def compare_command(
    first: Annotated[Path, typer.Argument(help="A JSON report of `difffake evaluate`.")],
    second: Annotated[Path, typer.Argument(help="Another one, on the same data.")],
) -> None:
    """Hold two evaluation reports side by side."""
    typer.echo(compare_reports(first, second))
