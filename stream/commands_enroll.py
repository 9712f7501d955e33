"""``difffake enroll`` and ``difffake anchors``: trusted footage -> a person's anchor, in a file or in every worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from difffake.anchors.enrol import Clip, Enrolment, enrol
from difffake.anchors.file import (
    AnchorFile,
    EnrolledPerson,
    Footage,
    add_person,
    anchors_to_bytes,
    check_target,
    checked_name,
    load_anchors,
    read_anchors,
)
from difffake.bundle import Bundle
from difffake.detector import Detector
from difffake.errors import AnchorError, MediaNotFoundError
from difffake.faces.runtime import DetectorRuntime
from difffake.files import check_apart
from difffake.observe import Observations
from difffake.results import LIMITS, QUESTIONS
from difffake.scoring import Scorer
from difffake.settings import ScanSettings
from difffake.video import open_video
from engines.choose import EngineKind
from stream.commands_operate import ByOption, EnrolmentsTopic, TopicOption, operator
from stream.console import print_table, printable, progress_bar, results_console
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, ThreadsOption, engine_choice
from stream.kafka_options import KafkaOptions, with_kafka
from stream.operate import check_addressable, send_enrolment

_MAX_FOOTAGE = 64
_FILE = Path("anchors.msgpack")


@with_kafka
def enroll(
    footage: Annotated[list[Path], typer.Argument(help="Video of the person alone, or three or more photos.")],
    stream: Annotated[str, typer.Option(help="Id of the stream that the person appears in.")],
    person: Annotated[str, typer.Option(help="The person's name, as verdicts will give it; not 'person 1'.")],
    kafka: KafkaOptions | None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"The anchor file; a person is added to one that is there. {_FILE} by default; none with "
            "--bootstrap-servers.",
        ),
    ] = None,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    fps: Annotated[float, typer.Option(help="Frames analysed per second of video.")] = 5.0,
    duration: Annotated[float | None, typer.Option(help="Take no more than the first seconds of each file.")] = None,
    analysis_side: Annotated[int, typer.Option(help="Long side, px, at which faces are looked for.")] = 640,
    threads: ThreadsOption = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin FILE anew where it is of another stream or other networks.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="The footage is genuine, even if it looks manufactured to the model.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no table and no progress.")] = False,
) -> None:
    """Enrol a person from trusted footage: what later faces of the stream are held against."""
    by = None if kafka is None else operator(by)
    if out is None and kafka is None:
        out = _FILE
    try:
        settings = ScanSettings(fps=fps, duration_s=duration, analysis_side_px=analysis_side, threads=threads)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if len(footage) > _MAX_FOOTAGE:
        raise typer.BadParameter(f"{len(footage)} files of footage: give {_MAX_FOOTAGE} at the most")
    stream, person = checked_name(stream, "stream"), checked_name(person, "person")
    check_addressable(person)
    # Connected before the work, so that a wrong address costs no wait.
    with (
        nullcontext() if kafka is None else closing(kafka.broker()) as broker,
        Detector.load(bundle, settings, engine_choice(engine, engines, detector_engine)) as detector,
    ):
        if out is not None:
            check_apart([out], footage)
            check_target(out, stream, detector.bundle, overwrite=overwrite)
        clips, warnings = _observe(detector, footage, quiet=quiet)
        enrolment = enrol(clips, trust=trust)
        enrolled = EnrolledPerson(
            name=person,
            pool=enrolment.pool,
            footage=tuple(Footage(name=c.name, sha256=c.sha256, duration_s=c.duration_s) for c in clips),
            fps=fps,
            trusted=enrolment.trusted,
        )
        anchors = AnchorFile.of(stream, detector.bundle, (enrolled,))
        if broker is not None and by is not None:
            send_enrolment(broker, topic, stream=stream, person=person, anchors=anchors_to_bytes(anchors), by=by)
        if out is not None:
            anchors = add_person(out, stream, detector.bundle, enrolled, overwrite=overwrite)
        if not quiet:
            console = Console()
            _print_enrolment(console, out, None if kafka is None else topic, anchors, enrolled, enrolment)
            _print_questions(console, detector.bundle, enrolled)
    _print_warnings(Console(stderr=quiet), [*warnings, *enrolment.warnings])


def show_anchors(
    file: Annotated[Path, typer.Argument(help="An anchor file of `difffake enroll`.")],
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
) -> None:
    """Show who is enrolled in an anchor file, and whether it fits a bundle."""
    anchors, warnings = read_anchors(file), []
    try:
        warnings = list(load_anchors(file, Bundle.load(bundle)).warnings)
    except AnchorError as error:
        warnings = [f"anchor: {error}. {error.hint}"]
    console = results_console()
    console.print(Text(f"{printable(file.name)}: stream {anchors.stream}", style="bold"))
    table = Table(box=None, padding=(0, 2), pad_edge=True)
    for column in ("  who", "since", "from", "frames", "holds"):
        table.add_column(column)
    for person in anchors.people:
        pool = person.pool
        holds = [name for name, there in (("anchor", pool.has_artifact), ("identity", pool.has_identity)) if there]
        footage = ", ".join(printable(f.name) for f in person.footage)
        table.add_row(
            Text(f"  {person.name}"), Text(printable(person.created)), Text(footage), str(len(pool)), ", ".join(holds)
        )
    print_table(console, table)
    _print_warnings(console, warnings)


def _observe(detector: Detector, footage: list[Path], *, quiet: bool) -> tuple[list[Clip], list[str]]:
    clips: list[Clip] = []
    warnings: list[str] = []
    with progress_bar(TextColumn("{task.completed:.0f} s"), TimeRemainingColumn(), quiet=quiet) as progress:
        for path in footage:
            if not path.is_file():
                raise MediaNotFoundError(f"{path}: no such file", hint="give files: an anchor names what it is made of")
            task = progress.add_task(printable(path.name), total=None)

            def advance(reached_s: float, end_s: float | None) -> None:
                progress.update(task, completed=reached_s, total=end_s)  # noqa: B023

            clip, told = observe_footage(detector, path, advance)
            clips.append(clip)
            warnings += told
            progress.remove_task(task)
    return clips, warnings


def observe_footage(
    detector: Detector, path: Path, progress: Callable[[float, float | None], None] | None = None
) -> tuple[Clip, list[str]]:
    """The faces of one video or photo with their own `artifact` evidence, and what was odd about the file.

    Args:
        detector: looks.
        path: of the file.
        progress: is told the seconds that were looked at, and how many there are where that is known.

    Raises:
        DiffFakeError: a file that is none, or that cannot be decoded; see `difffake.video.open_video`.
    """
    settings = detector.settings
    with open_video(path, fps=settings.fps, limits=settings.limits, stop_s=settings.duration_s) as video:
        ends = [s for s in (video.info.duration_s, settings.duration_s) if s is not None]

        def advance(reached_s: float, _frames: int) -> None:
            if progress is not None:
                progress(reached_s, min(ends, default=None))

        seen = detector.observe(video, advance, is_still=video.info.kind == "image")
        is_still = video.info.kind == "image"  # a GIF of one picture is one only now
        last_s = float(seen.frame_time_s[-1]) + 1 / settings.fps
        duration_s = None if is_still else min([last_s, *ends])
        own_p = _artifact_p(detector.bundle, seen, is_still=is_still)
        clip = Clip(path.name, seen, own_p, duration_s, video.sha256() or "")
        return clip, [f"{path.name}: {w}" for w in (*video.warnings, *seen.warnings)]


def _artifact_p(bundle: Bundle, seen: Observations, *, is_still: bool) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The p-value of every face's own artifact evidence; NaN where it was not scored."""
    scorer, name = Scorer(bundle), bundle.manifest.readings(is_still=is_still).get("artifact")
    p = np.full(len(seen.track), np.nan)
    for track in np.unique(seen.track[seen.scored]):
        rows = np.flatnonzero((seen.track == track) & seen.scored)
        scores = scorer.score(seen.embedding[rows], seen.logit[rows], seen.time_s[rows])
        if name in scores:
            p[rows] = scorer.p_value(name, scores[name])
    return p


def _print_enrolment(
    console: Console,
    out: Path | None,
    topic: str | None,
    anchors: AnchorFile,
    person: EnrolledPerson,
    enrolment: Enrolment,
) -> None:
    figures = enrolment.figures
    places = [f"in {printable(str(out))}"] if out else []
    places += [f"sent to the workers on {printable(topic)}"] if topic else []
    console.print(Text(f"{person.name} on {anchors.stream}, {' and '.join(places)}", style="bold"))
    left_out = [
        f"{n} {what}" for n, what in ((figures.together, "with two faces"), (figures.strangers, "of another face")) if n
    ]
    rows = {
        "footage": ", ".join(printable(f.name) for f in person.footage),
        "frames": f"{len(person.pool)} of {figures.good} good ones, of {figures.frames} analysed"
        + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        "time": f"{figures.span_s:.1f} s" if figures.span_s else "photos",
        "pose": "yaw {:.0f} to {:.0f}°, pitch {:.0f} to {:.0f}°".format(*figures.yaw_deg, *figures.pitch_deg),
        "light": "{:.0f} to {:.0f} of 255".format(*figures.luma),
        "identity": "none: the bundle has no identity network"
        if figures.identity_spread is None
        else f"all within {figures.identity_spread:.2f} of their centre",
    }
    if out is not None:
        rows["in the file"] = f"{len(anchors.people)} {'people' if len(anchors.people) > 1 else 'person'}"
    table = Table(box=None, padding=(0, 2), pad_edge=True, show_header=False)
    for name, value in rows.items():
        table.add_row(f"  {name}", Text(value))
    console.print(table)


def _print_questions(console: Console, bundle: Bundle, person: EnrolledPerson) -> None:
    """Which questions the anchor answers, and what the answers do not say."""
    pool, table = person.pool, Table(box=None, padding=(0, 2), pad_edge=True, show_header=False)
    for evidence, there in (("anchor", pool.has_artifact), ("identity", pool.has_identity)):
        answered = there and {evidence, f"{evidence}_enrolled"} & set(bundle.manifest.evidence)
        missing = "not available in this bundle" if there else "not answered by this anchor"
        told = f"{QUESTIONS[evidence]} {LIMITS[evidence]}" if answered else missing
        table.add_row(f"  {evidence}", Text(told, style="" if answered else "dim"))
    console.print(table)


def _print_warnings(console: Console, warnings: list[str]) -> None:
    for warning in warnings:
        console.print(Text(f"  warning: {printable(warning)}", style="yellow"))
