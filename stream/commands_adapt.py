"""``difffake adapt``: real videos and fakes of the user's own -> a bundle that reads faces with what they teach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TimeRemainingColumn
from rich.table import Table

from difffake.adapt import AdaptReport, AdaptSettings, Use, adapt, write
from difffake.adapt.clips import LabelledClip
from difffake.adapt.cross import Recipe
from difffake.adapt.judging import SPECS
from difffake.bundle import ARTIFACT_STILL, check_bundle_target
from difffake.detector import Detector
from difffake.errors import DataError, MissingExtraError
from difffake.evaluation import Layout, Level
from difffake.files import check_apart, check_targets
from difffake.settings import ScanSettings
from engines.contract import Engine
from stream.console import print_error, print_table, printable, progress_bar, results_console
from stream.engine_options import ThreadsOption

_CACHE = Path(".cache/evaluation")


def adapt_command(
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The bundle to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    real: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Real videos, or one folder a person; may be repeated.")
    ] = None,
    fake: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Fakes, the same way; a folder for each tool is best.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="LAYOUT=DIR", help="A data set, in a layout of `difffake evaluate`.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="The bundle to adapt; the shipped one by default.")] = None,
    use: Annotated[
        Use,
        typer.Option(
            help="Whether heads read artifact and anchor from now on; auto: if they help on what they have not seen."
        ),
    ] = Use.AUTO,
    stills: Annotated[
        bool, typer.Option("--stills", help="A head that reads artifact reads still pictures, too, not video alone.")
    ] = False,
    series: Annotated[
        bool, typer.Option("--series", help="Keep videos together whose names differ in a last number alone.")
    ] = False,
    crf: Annotated[
        list[int] | None, typer.Option(help="Learn and judge re-encoded videos too, at this CRF; default 23 and 35.")
    ] = None,
    as_recorded: Annotated[bool, typer.Option("--as-recorded", help="Encode nothing again.")] = False,
    pseudo_fakes: Annotated[
        Path | None, typer.Option(metavar="STORE", help="A crop store: learn from its pseudo-fakes too (extra train).")
    ] = None,
    pseudo_share: Annotated[float, typer.Option(help="The weight of pseudo-fakes, 0 to below 1.")] = 0.5,
    anchor_pseudo_share: Annotated[
        float | None, typer.Option(help="The same for the head that reads anchor, if another.")
    ] = None,
    towards_logit: Annotated[
        float,
        typer.Option(help="How far to draw the head towards the extractor's own reading; 1: as much as the labels."),
    ] = 0.0,
    towards_length: Annotated[
        float,
        typer.Option(help="How far to draw the head on differences towards their size; 1: as much as the labels."),
    ] = 1.0,
    clip_shares: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="TRAIN VALIDATE FIT", help="For a bundle that does not say with which it was trained."),
    ] = None,
    description: Annotated[
        str, typer.Option("--data-terms", help="The data and its terms, for the manifest.")
    ] = "not stated",
    fps: Annotated[float, typer.Option(help="Frames looked at per second of video.")] = 4.0,
    max_frames: Annotated[int, typer.Option(help="Frames looked at per video.")] = 400,
    cache: Annotated[Path, typer.Option(help="Folder that keeps embeddings between runs.")] = _CACHE,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as Markdown.")] = None,
    draws: Annotated[int, typer.Option(help="Bootstrap draws behind the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of folds and pseudo-fakes.")] = 0,
    threads: ThreadsOption = 0,
) -> None:
    """Fit a small supervised head on labelled footage, judge it on people not seen, and write the bundle."""
    check_apart([json, markdown], [])
    check_targets(json, markdown)
    check_bundle_target(out, overwrite=overwrite)
    settings = AdaptSettings(
        cache=cache,
        real=tuple(real or ()),
        fake=tuple(fake or ()),
        data=tuple(_data(one) for one in data or ()),
        series=series,
        crfs=() if as_recorded else tuple(dict.fromkeys(crf or (23, 35))),
        fps=fps,
        max_frames=max_frames,
        recipe=Recipe(pseudo_share=pseudo_share, towards_logit=towards_logit, seed=seed),
        anchor_pseudo_share=anchor_pseudo_share,
        towards_length=towards_length,
        use=use,
        stills=stills,
        description=description,
        draws=draws,
    )
    with (
        Detector.load(bundle, ScanSettings(threads=threads)) as detector,
        progress_bar(TimeRemainingColumn()) as bar,
    ):
        task = bar.add_task("pseudo-fakes", total=1.0)

        def show(what: str, share: float) -> None:
            bar.update(task, completed=share, description=what)

        more: list[LabelledClip] = []
        if pseudo_fakes is not None:
            training = detector.bundle.manifest.training
            with _engine(detector, threads) as engine:
                more = _pseudo(pseudo_fakes, engine, training, clip_shares, seed, partial(show, "pseudo-fakes"))
        report = adapt(settings, detector, out, more, show)
    write(report, markdown=markdown, json=json)
    _show(report, out)


def _data(text: str) -> tuple[Layout, Path]:
    name, _, folder = text.partition("=")
    if name not in set(Layout) or not folder:
        raise typer.BadParameter(f"{printable(text)!r}: LAYOUT=DIR, with one of {', '.join(Layout)}")
    return Layout(name), Path(folder)


def _engine(detector: Detector, threads: int) -> Engine:
    from engines.onnx import OnnxEngine

    return OnnxEngine(detector.bundle.engine_path, threads=threads)


def _pseudo(
    store: Path,
    engine: Engine,
    training: Mapping[str, Any],
    clip_shares: tuple[float, float, float] | None,
    seed: int,
    progress: Callable[[float], None],
) -> list[LabelledClip]:
    try:
        from difffake.adapt.pseudo import held_out_rows, pseudo_clips
        from difffake.training.store import CropStore
    except ImportError as error:
        raise MissingExtraError(
            f"pseudo-fakes need a package that is not installed: {error.name}", hint="pip install 'difffake[train]'"
        ) from error
    faces = CropStore.load(store)
    rows = held_out_rows(faces, training, clip_shares)
    return pseudo_clips(faces, rows, engine, seed=seed, progress=progress)


def _show(report: AdaptReport, out: Path) -> None:
    table = Table(
        "footage", "score", "evidence", "frame", "5 s", "video", "TPR at 5 % FPR", title="AUC, groups not seen"
    )
    # A head can be judged on fewer people than a calibration takes; the bundle then does not have its score.
    specs = {**SPECS, **report.bundle.manifest.scores}
    for variant, scores in report.figures.items():
        for name, levels in scores.items():
            cells = [f"{levels[level].auc.value:.3f}" for level in (Level.FRAME, Level.WINDOW_5S, Level.VIDEO)]
            rate = f"{levels[Level.VIDEO].tpr_at_fpr[0.05].value:.2f}"
            table.add_row(variant, name, specs[name].evidence, *cells, rate)
    print_table(results_console(), table)
    if report.probe.is_telling:
        print_error(
            DataError(
                f"the files alone tell fakes from real videos (AUC {report.probe.auc.value:.2f}): the head may have "
                "learned a codec",
                hint="take fakes and real videos of the same sources, sizes and encoders",
            )
        )
    for found in report.transfer.values():
        for reason in found.reasons_against:
            typer.echo(f"against {found.score}: {reason}")
    for video, reason in report.left_out.items():
        print_error(DataError(f"left out: {video}: {reason}", hint="the others are used"))
    told = {ARTIFACT_STILL: "artifact of still pictures"}
    names = [*report.transfer, *(name for name in report.stands if name not in report.transfer)]
    read = "; ".join(f"{told.get(name, name)} is read by {report.bundle.manifest.evidence[name]}" for name in names)
    typer.echo(f"{report.bundle.model_id} in {printable(str(out))}; {read}")
