"""``difffake doctor``: what this host has, which engine would be used and why, and how fast each of them is."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import difffake
from difffake.faces.runtime import DetectorRuntime
from difffake.networks import EXTRACTOR
from engines.choose import EngineKind
from engines.tensorrt_api import host_info
from stream.console import printable, progress_bar
from stream.doctor.engines import BATCHES, MEASURE_S, engine_rows, model_check
from stream.doctor.host import host_checks
from stream.doctor.report import Check, EngineRow, Report, Section, State
from stream.doctor.software import software_checks
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, ThreadsOption, engine_choice
from stream.kafka_options import KafkaOptions, with_kafka
from stream.topics import Topics

_STYLES = {State.OK: "", State.NOTE: "yellow", State.PROBLEM: "bold red"}


@with_kafka
def doctor(
    kafka: KafkaOptions | None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    threads: ThreadsOption = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Measure no speeds.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False,
    topic: Annotated[list[str] | None, typer.Option(help="Input topic; may be given several times.")] = None,
    group: Annotated[str, typer.Option(help="Consumer group of the workers.")] = "difffake",
    prefix: Annotated[str, typer.Option(help="Begins the names of all topics that are not input.")] = "difffake",
) -> None:
    """Say what this host has, which engine runs the networks, how fast, and what keeps a worker from running."""
    with progress_bar(quiet=json) as bar:
        task = bar.add_task("looking at this host", total=None)
        host = host_info()
        sections = [Section("host", host_checks()), Section("software", software_checks(host))]
        bar.update(task, description="opening the model")
        choice = engine_choice(engine, engines, detector_engine)
        loaded, model_id, check = model_check(bundle, choice, threads)
        sections.append(Section("model", [check]))
        rows: list[EngineRow] = []
        if loaded is not None:
            for row in engine_rows(loaded, engines, model_id, threads=threads, measure_s=0 if quick else MEASURE_S):
                rows.append(row)
                bar.update(task, description=f"measured {row.network} on {row.kind}")
        if kafka is not None:
            from stream.doctor.cluster import cluster_checks

            bar.update(task, description="asking Kafka")
            found = cluster_checks(kafka, topic or ["video.in"], Topics.under(prefix), group)
            sections.append(Section("Kafka", list(found)))
    report = Report(difffake=difffake.__version__, model_id=model_id, sections=sections, engines=rows)
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    else:
        print_report(Console(), report, engine)
    raise typer.Exit(1 if report.problems else 0)


def print_report(console: Console, report: Report, asked: EngineKind) -> None:
    """Sections of checks, the table of engines, and the sum of it."""
    for section in report.sections:
        console.print(Text(section.title, style="bold"))
        console.print(Padding(_checks(section.checks), (0, 0, 1, 2)))
    if report.engines:
        console.print(Text("engines, faces a second (detector: images of 640 x 360)", style="bold"))
        console.print(Padding(_engines(report.engines), (0, 0, 1, 2)))
        if compared := _compared(report.engines, asked):
            console.print(Padding(Text(compared), (0, 0, 1, 2)))
        if not all(row.runs for row in report.engines):
            console.print(Text("engines that do not run here", style="bold"))
            console.print(Padding(_left_out(report.engines), (0, 0, 1, 2)))
    problems = report.problems
    if problems:
        names = ", ".join(check.name for check in problems)
        console.print(Text(f"a worker cannot run here: {names}", style=_STYLES[State.PROBLEM]))
    else:
        console.print(Text("a worker can run here", style="green"))


def _checks(checks: Iterable[Check]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(printable(check.name)), Text(printable(check.value), style=_STYLES[check.state]))
        if check.hint:
            table.add_row("", Text(f"→ {printable(check.hint)}", style=_STYLES[check.state]))
    return table


def _engines(rows: Iterable[EngineRow]) -> Table:
    """What runs, and how fast."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("network")
    table.add_column("engine")
    for batch in BATCHES:
        table.add_column(f"{batch} at once", justify="right")
    table.add_column("")
    before = ""
    for row in (row for row in rows if row.runs):
        said = ", ".join(word for word, is_so in (("in use", row.is_used), ("best", row.is_best)) if is_so)
        table.add_row(
            row.network if row.network != before else "",
            Text(row.label, style="bold" if row.is_used else ""),
            *(f"{row.per_s[batch]:.0f}/s" if batch in row.per_s else "" for batch in BATCHES),
            Text(said, style="green"),
        )
        before = row.network
    return table


def _left_out(rows: Iterable[EngineRow]) -> Table:
    """Why others do not run, and what mends it; what is said twice stands there once."""
    whose: dict[tuple[str, str], list[EngineRow]] = {}
    for row in rows:
        if not row.runs:
            whose.setdefault((row.reason, row.hint), []).append(row)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(overflow="fold", max_width=30)
    table.add_column(overflow="fold")
    for (reason, hint), alike in whose.items():
        kinds, networks = dict.fromkeys(row.kind for row in alike), dict.fromkeys(row.network for row in alike)
        said = Text(f"{printable(reason)}\n→ {printable(hint)}", style="dim")
        table.add_row(Text(f"{', '.join(kinds)} ({', '.join(networks)})", style="dim"), said)
    return table


def _compared(rows: list[EngineRow], asked: EngineKind) -> str:
    """What `auto` would change."""
    of = [row for row in rows if row.network == EXTRACTOR]
    used = next((row.kind for row in of if row.is_used), None)
    best = next((row.kind for row in of if row.is_best), None)
    if used is None or best is None or used == best:
        return ""
    return f"--engine {asked} takes {used}; --engine auto would take {best}"
