"""``difffake scan``: files, folders, images and live addresses -> tables, JSON and HTML reports."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import structlog
import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from difffake.anchors.file import AnchorFile, load_anchors
from difffake.detector import Detector
from difffake.errors import DiffFakeError, LimitExceededError, MediaNotFoundError, NoFaceError, OutputError
from difffake.faces.runtime import DetectorRuntime
from difffake.files import check_apart, check_targets, write_whole
from difffake.folder import left_out_in_words, media_in
from difffake.hangup import interrupted_by_signals
from difffake.media import without_secrets
from difffake.report import anchor_in_words, render_report
from difffake.results import EVIDENCES, QUESTIONS, Level, Person, ScanResult, Window
from difffake.settings import ScanSettings
from engines.choose import EngineKind
from stream.console import (
    LEVEL_STYLES,
    level_text,
    print_error,
    print_note,
    print_table,
    printable,
    progress_bar,
    results_console,
)
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, ThreadsOption, engine_choice
from stream.packets import is_address
from stream.scan_table import MadeWith, ScoreTable, row_of, row_of_failure

log = structlog.get_logger()

_MAX_FILES = 100_000
_MAX_ROWS = 30
_INTERRUPTED = 130
#: File systems hold names of 255 bytes; a number and a suffix come behind.
_MAX_STEM_BYTES = 200


class FailOn(StrEnum):
    """The least level that ends the command with exit code 3."""

    SUSPICIOUS = "suspicious"
    STRONG = "strong"


class Failure(msgspec.Struct, frozen=True):
    """A source that could not be scanned; ``path`` as it was given, ``None`` for live sources."""

    name: str
    path: str | None
    error: str
    message: str
    hint: str
    exit_code: int


class ScanDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` writes: always this shape, for one source or many."""

    format: int = 1
    results: list[ScanResult]
    failures: list[Failure]


@interrupted_by_signals()
def scan(
    context: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(help="Videos, images, folders, or live addresses (rtsp://, http://, ...).")
    ],
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="ANCHORS", help="Enrolled people, from `difffake enroll`: who should be seen."),
    ] = None,
    guests: Annotated[bool, typer.Option("--guests", help="Others than the enrolled people are expected too.")] = False,
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write all results as JSON; - for stdout.")] = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write a line of scores for each file as soon as it is done."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on behind the lines that --scores has, after a scan that ended. What failed is scanned again "
            "(not where no face was found), and so is what has no report in --report.",
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html|DIR", help="Write an HTML report; into a folder for several.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames analysed per second of video.")] = 5.0,
    window: Annotated[float, typer.Option(help="Length of a time window, seconds.")] = 5.0,
    duration: Annotated[float | None, typer.Option(help="Scan no more than the first seconds.")] = None,
    faces: Annotated[int, typer.Option(help="Faces looked at per frame.")] = 8,
    analysis_side: Annotated[int, typer.Option(help="Long side, px, at which faces are looked for.")] = 640,
    threads: ThreadsOption = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting.")] = None,
    fail_on: Annotated[FailOn | None, typer.Option(help="Leave with exit code 3 when found.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no tables and no progress.")] = False,
) -> None:
    """Scan videos and images, and say what the evidence is.

    `artifact` is said of every face that is fit for scoring. `anchor` and `identity` hold a face against its own
    beginning, its first 8 good frames (fit for scoring, unsuspicious, 0.15 s apart: about two seconds), or against
    footage that you enrolled: a picture, or a face that is seen for a moment, gets `artifact` alone, and the reason.
    """
    settings = _settings(
        {
            "fps": fps,
            "window_s": window,
            "duration_s": duration,
            "max_faces": faces,
            "analysis_side_px": analysis_side,
            "threads": threads,
            "guests": guests,
        },
        set_ or [],
    )
    if resume and scores is None:
        raise typer.BadParameter("--resume goes on in the table of --scores FILE.csv")
    if resume and fail_on is not None:
        raise typer.BadParameter("--fail-on judges what this run scans: with --resume it would say nothing of the rest")
    if resume and json not in (None, "-") and Path(json).is_file():
        raise typer.BadParameter(f"--json {json} is there: with --resume it would lose what is not scanned again")
    if scores == Path("-"):
        raise typer.BadParameter("--scores needs a file of its own, to which lines are added; --json - goes to stdout")
    sources, failures = _expand(paths)
    names = Counter(_name(source) for source in sources if not is_address(source))
    shared = {name for name, count in names.items() if count > 1}
    reports = _report_paths(report, sources)
    outputs = [None if json in (None, "-") else Path(json), scores, *reports]
    check_apart(outputs, (Path(source) for source in sources if not is_address(source)))
    check_targets(*outputs)
    results: list[ScanResult] = []
    interrupted = False
    tables = results_console(stderr=json == "-")
    with (
        Detector.load(bundle, settings, engine_choice(engine, engines, detector_engine)) as detector,
        nullcontext(None if anchor is None else load_anchors(anchor, detector.bundle)) as anchors,
        nullcontext(_made_with(detector, None if scores is None else anchor)) as made_with,
        # The last one: what cannot be scanned at all costs no table of before.
        ScoreTable(
            scores, resumed=resume, made_with=made_with, is_again=_is_again(sources, reports, failures)
        ) as table,
        progress_bar(TextColumn("{task.completed:.0f} s"), TimeRemainingColumn(), quiet=quiet) as progress,
    ):
        lines = [row_of_failure(f.path or f.name, f.error, made_with) for f in failures]
        _write_rows(table, [line for line in lines if line[0] not in table.done], failures)
        if table.done or table.again:
            sources, reports = _left(table, sources, reports)
        for number, (source, target) in enumerate(zip(sources, reports, strict=True)):
            try:
                result = _scan_one(detector, source, progress, anchors, 0 if target is None else settings.moments)
            except KeyboardInterrupt:  # what was found until now is kept, what was not looked at is named
                interrupted = True
                failures += [_not_reached(rest) for rest in sources[number:]]
                break
            except Exception as error:  # a bug in one file's scan must not cost the others theirs
                if context.obj.debug and not isinstance(error, DiffFakeError):
                    raise
                failures.append(_failed(source, error, shared))
                _write_rows(table, [row_of_failure(_key(source), failures[-1].error, made_with)], failures)
                continue
            results.append(result)
            _write_rows(table, [row_of(_key(source), result, made_with)], failures)
            if target is not None:
                try:
                    write_whole(target, render_report(result).encode())
                except OutputError as error:  # the result itself, and the other files, are not lost with it
                    failures.append(_failed(source, error))
                    target = None
            if not quiet:
                print_result(tables, result, target, title=source if _name(source) in shared else None)
    if interrupted and scores is not None:
        other = "" if json in (None, "-") else ", and another --json,"
        print_note(f"what is done stands in {scores}; the same command with --resume{other} goes on from there")
    if json is not None:
        document = msgspec.json.encode(ScanDocument(results=results, failures=failures))
        if json == "-":
            sys.stdout.buffer.write(document + b"\n")
            sys.stdout.buffer.flush()
        else:
            write_whole(Path(json), document)
    raise typer.Exit(_INTERRUPTED if interrupted else _exit_code(results, failures, fail_on))


def _settings(known: dict[str, object], more: list[str]) -> ScanSettings:
    for item in more:
        name, separator, value = item.partition("=")
        if not separator or name not in ScanSettings.__struct_fields__:
            raise typer.BadParameter(
                f"{item!r}: give NAME=VALUE with one of {', '.join(ScanSettings.__struct_fields__)}"
            )
        known[name] = value
    try:
        return msgspec.convert(known, ScanSettings, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _expand(paths: list[str]) -> tuple[list[str], list[Failure]]:
    """Folders become the media files in them; what is no folder stays as it was given."""
    sources: list[str] = []
    failures: list[Failure] = []
    for path in paths:
        if not path:  # it would be the folder that one is in
            error = MediaNotFoundError("an empty name", hint="was a variable of a script never set?")
            failures.append(_failed(path, error))
            continue
        if not os.path.isdir(path):  # noqa: PTH112 - of a path that may not be looked at, Path raises
            sources.append(path)
            continue
        found = media_in(Path(path))
        if found.left_out:
            print_note(f"{path}: {left_out_in_words(found.left_out)}. To have one scanned, name it itself")
        if not found.files:
            error = MediaNotFoundError(f"{path}: no video or image in this folder", hint="name the files themselves")
            failures.append(_failed(path, error))
        sources += map(str, found.files)
    if len(sources) > _MAX_FILES:
        raise LimitExceededError(f"{len(sources)} files, over the limit of {_MAX_FILES}", hint="scan folder by folder")
    return sources, failures


def _scan_one(
    detector: Detector, source: str, progress: Progress, anchors: AnchorFile | None, explained: int
) -> ScanResult:
    task = progress.add_task(printable(Path(source).name or source), total=None)

    def advance(reached_s: float, end_s: float | None) -> None:
        progress.update(task, completed=reached_s, total=end_s)

    try:
        log.debug("scan", source=source)
        return detector.scan(source, advance, anchors=anchors, explained=explained)
    finally:
        progress.remove_task(task)


def _made_with(detector: Detector, anchor: Path | None) -> MadeWith:
    digest = "" if anchor is None else hashlib.sha256(anchor.read_bytes()).hexdigest()[:12]
    return MadeWith.of(detector.model_id, detector.settings, digest)


def _is_missing(report: Path | None) -> bool:
    return report is not None and not report.exists()


def _is_again(sources: list[str], reports: list[Path | None], failures: list[Failure]) -> Callable[[str, str], bool]:
    """Which lines of a table that is gone on with say nothing that stays: failures, which may pass (an address that did
    not answer), and results of files whose report is missing. That there is no face in it is a result, of the same
    work. Nothing of an address comes twice."""
    targets = {_key(source): target for source, target in zip(sources, reports, strict=True)}
    targets |= {failure.path or failure.name: None for failure in failures}

    def is_again(path: str, error: str) -> bool:
        if path not in targets or error == NoFaceError.__name__:
            return False
        return bool(error) or (_is_missing(targets[path]) and Path(path).is_file())

    return is_again


def _left(table: ScoreTable, sources: list[str], reports: list[Path | None]) -> tuple[list[str], list[Path | None]]:
    """What a table that is gone on with has no line of; a note says how much that is."""
    both = list(zip(sources, reports, strict=True))
    left = [(source, report) for source, report in both if _key(source) not in table.done]
    again = f" ({table.again} again, which failed or had no report)" if table.again else ""
    print_note(f"{table.name} has {len(both) - len(left)} of {len(both)} already; {len(left)} to scan{again}")
    lost = sum(_is_missing(report) for source, report in both if table.done.get(_key(source)) == "")
    if lost:
        print_note(f"{lost} of them {'has' if lost == 1 else 'have'} no report: addresses, and files that are gone")
    return [source for source, _ in left], [report for _, report in left]


def _write_rows(table: ScoreTable, rows: list[list[str]], failures: list[Failure]) -> None:
    """Where they cannot be written, the scan and its other outputs go on."""
    try:
        for row in rows:
            table.add(row)
    except OutputError as error:
        failures.append(_failed(table.name, error))


def _failed(source: str, error: Exception, shared: Collection[str] = ()) -> Failure:
    """Told, and as it stands in the document; ``shared``: names that several sources have, which say too little."""
    name = _name(source)
    if name in shared and isinstance(error, DiffFakeError) and str(error).startswith(f"{name}:"):
        print_error(DiffFakeError(source + str(error).removeprefix(name), hint=error.hint))
    else:
        print_error(error)
    hint, exit_code = (error.hint, error.exit_code) if isinstance(error, DiffFakeError) else ("report it", 1)
    return Failure(_name(source), _path(source), type(error).__name__, _utf8(str(error)), hint, exit_code)


def _not_reached(source: str) -> Failure:
    told = f"{_name(source)}: interrupted"
    return Failure(_name(source), _path(source), "KeyboardInterrupt", told, "scan it again", _INTERRUPTED)


def _path(source: str) -> str | None:
    return None if is_address(source) else _utf8(source)


def _name(source: str) -> str:
    return _utf8(without_secrets(source) if is_address(source) else Path(source).name or source)


def _key(source: str) -> str:
    """What stands in the table; of an address whose query is left out, which may say which of many videos it is, a
    digest tells it from others."""
    key = _path(source) or _name(source)
    if is_address(source) and "?" in source:
        key += f"#{hashlib.sha256(source.encode(errors='replace')).hexdigest()[:8]}"
    return key


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def _report_paths(report: Path | None, sources: list[str]) -> list[Path | None]:
    """Where each source's report goes; names that occur twice get a number."""
    if report is None:
        return [None] * len(sources)
    if report.suffix.lower() in (".html", ".htm") and not report.is_dir():
        if len(sources) > 1:
            raise typer.BadParameter(f"{len(sources)} sources need a folder for their reports, not {report.name}")
        return [report] * len(sources)
    taken: set[str] = set()
    targets: list[Path | None] = []
    for source in sources:
        stem = re.sub(r"[^\w.-]+", "_", Path(source.split("?")[0].split("@")[-1]).name).strip("._") or "report"
        stem = stem.encode(errors="replace")[:_MAX_STEM_BYTES].decode(errors="ignore")
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        targets.append(report / f"{name}.html")
    return targets


def _exit_code(results: list[ScanResult], failures: list[Failure], fail_on: FailOn | None) -> int:
    if failures:
        return failures[0].exit_code
    if fail_on is None:
        return 0
    bound = Level.STRONG if fail_on is FailOn.STRONG else Level.SUSPICIOUS
    return 3 if any(level.rank >= bound.rank for r in results for level in r.levels.values()) else 0


def print_result(console: Console, result: ScanResult, report: Path | None = None, *, title: str | None = None) -> None:
    """Print verdicts per person and a table of windows; ``report`` is where the HTML lies, ``title`` stands for the
    name."""
    statuses = ", ".join(f"{n} {s}" for s, n in result.frames_by_status.items() if n and s != "SCORED")
    console.print(Text(printable(title or result.source.name), style="bold"))
    console.print(
        f"  {result.coverage:.0%} of {result.frames_analysed} frame{'s' * (result.frames_analysed != 1)} scored"
        + (f" ({statuses})" if statuses else "")
        + f", model {printable(result.model_id)}",
        markup=False,
        highlight=False,
    )
    still = result.source.kind == "image"
    for person in result.people:
        _print_person(console, person, still=still)
    for switch in result.switches:
        console.print(Text(f"  identity switch: {printable(switch.sentence)}", style=LEVEL_STYLES[switch.level]))
    if not still:
        _print_windows(console, result)
    if result.people:
        console.print(Text("  p: how often real footage looks as unusual as this", style="dim"))
    for warning in result.warnings:
        console.print(Text(f"  warning: {printable(warning)}", style="yellow"))
    if report is not None:
        console.print(Text(f"  report: {printable(str(report))}"))
    console.print()


def _print_person(console: Console, person: Person, *, still: bool) -> None:
    shots = f" in {len(person.spans)} shots" if len(person.spans) > 1 else ""
    span = "" if still else f", {person.start_s:.1f} to {person.end_s:.1f} s{shots}"
    console.print(Text(f"  {printable(person.label)}{span}"))
    if person.ambiguous_with:
        others = printable(", ".join(person.ambiguous_with))
        console.print(Text(f"    cannot be told from {others} by the face", style="yellow"))
    for evidence, verdict in person.verdicts.items():
        line = Text(f"{evidence}: ")
        line.append(f"{QUESTIONS[evidence]} ", style="dim")
        line.append(printable(verdict.sentence), style=LEVEL_STYLES[verdict.level])
        line.append(f", by {printable(person.scores[evidence])}", style="dim")
        _print_below(console, line)
    for why, evidences in person.missing_by_reason.items():
        _print_below(console, Text(f"{' and '.join(evidences)}: {printable(why)}", style="dim"))
    against: dict[str, list[str]] = {}
    for evidence, anchor in person.anchors.items():
        passes = "" if anchor.name is not None else "; a face that was false from the start on passes"
        against.setdefault(anchor_in_words(anchor) + passes, []).append(evidence)
    for words, evidences in against.items():
        _print_below(console, Text(f"{' and '.join(evidences)} held against {printable(words)}", style="dim"))


def _print_below(console: Console, text: Text) -> None:
    """Indented, its further lines too."""
    console.print(Padding(text, (0, 0, 0, 4), expand=False))


def _print_windows(console: Console, result: ScanResult) -> None:
    rows = [(person, window) for person in result.people for window in person.windows]
    shown = rows
    if len(rows) > _MAX_ROWS:
        worst = sorted(range(len(rows)), key=lambda i: _least_p(rows[i][1]))[:_MAX_ROWS]
        shown = [rows[i] for i in sorted(worst)]
    table = Table(box=None, padding=(0, 2), pad_edge=True)
    for column in ("  who", "window", *EVIDENCES):
        table.add_column(column)
    for person, window in shown:
        span = f"{window.start_s:.0f} to {window.end_s:.0f} s"
        table.add_row(Text(f"  {printable(person.label)}"), span, *(_cell(window, e) for e in EVIDENCES))
    print_table(console, table)
    if len(shown) < len(rows):
        console.print(f"  the {len(shown)} most suspicious of {len(rows)} windows; all of them: --json, --report")


def _cell(window: Window, evidence: str) -> Text:
    found = getattr(window, evidence)
    if found is None:
        # In full it stands beside the person.
        return Text(window.missing.get(evidence, "").partition(":")[0], style="dim")
    return level_text(found.level, found.p_value)


def _least_p(window: Window) -> float:
    return min((e.p_value for e in (window.artifact, window.anchor, window.identity) if e is not None), default=1.0)
