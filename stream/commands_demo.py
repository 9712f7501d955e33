"""``difffake demo``: a stream and a manipulated copy of it through a broker and a worker, or files through a scan."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from difffake.demo.broadcast import cut_together, shot, swapped_from
from difffake.demo.clips import fetch_clips
from difffake.demo.swap import DemoClips, Donor, make_demo_clips, pick_donor
from difffake.detector import Detector
from difffake.faces.runtime import DetectorRuntime
from difffake.files import check_targets, write_whole
from difffake.networks import EngineChoice
from difffake.report import render_report
from difffake.results import EVIDENCES, ScanResult
from difffake.settings import ScanSettings
from engines.choose import EngineKind
from stream.broker.contract import Broker, Record
from stream.broker.memory import MemoryBroker
from stream.commands_scan import print_result
from stream.commands_tail import picture
from stream.console import LEVEL_STYLES, print_heading, print_table, printable, progress_bar, results_console
from stream.demo import Deployment
from stream.engine_options import DetectorOption, EngineOption, EnginesOption, engine_choice
from stream.kafka_options import KafkaOptions, with_kafka
from stream.live import LiveModels, LiveSettings
from stream.messages import AlertKind, AlertRecord, AlertState, ScoreRecord, Source, decode
from stream.stopping import HeldInterrupt
from stream.tail import Board

_CLIPS = Path(".cache/clips")
#: The broadcast: so long of the other person, then twice as long of the first, swapped half-way.
_SHOT_S = 5.0
_CLEAN, _SWAPPED = "studio-1", "studio-2"
#: Where nobody watches a table: a line for each stream after so much of it.
_LINE_S = 5.0
_TRANSACTION_S = 15.0


@with_kafka
def demo(
    kafka: KafkaOptions | None,
    out: Annotated[Path, typer.Option(help="Folder for clips and reports.")] = Path("demo-output"),
    clips: Annotated[Path, typer.Option(help="Folder that keeps the downloaded clips.")] = _CLIPS,
    source: Annotated[Path | None, typer.Option(help="Your own clip instead of the downloaded one.")] = None,
    donor: Annotated[Path | None, typer.Option(help="Clip or image of the face to lay on.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
    engine: EngineOption = EngineKind.ONNX,
    engines: EnginesOption = None,
    detector_engine: DetectorOption = DetectorRuntime.ONNX,
    files: Annotated[
        bool, typer.Option("--files", help="Scan a clip, a manipulated copy and a broadcast as files; no stream.")
    ] = False,
    speed: Annotated[float, typer.Option(min=0.1, help="Stream time per time on the clock.")] = 2.0,
    prefix: Annotated[
        str, typer.Option(help="Begins the names of the topics on a cluster of your own; every run adds a number.")
    ] = "difffake-demo",
) -> None:
    """Watch two streams, one with another face over half of it: publisher, broker, worker, table and alerts."""
    if kafka is not None:
        if files:
            raise typer.BadParameter("--files needs no broker: give it, or --bootstrap-servers")
        # Connected before the work, so that a wrong address costs no wait.
        kafka.broker().close()
    console, choice = results_console(), engine_choice(engine, engines, detector_engine)
    check_targets(out / "genuine.html")
    free = fetch_clips(clips) if source is None or donor is None else {}
    genuine, other = source or free["woman"], donor or free["man"]
    face = pick_donor(other)
    with progress_bar() as bar:
        task = bar.add_task("laying another face over half of a copy", total=1.0)
        made = make_demo_clips(genuine, face, out, lambda share: bar.update(task, completed=share))
    if files:
        _scan_files(console, made, genuine, other, face, out, bundle, choice)
        return
    _watch_streams(console, made, kafka, bundle, choice, speed=speed, prefix=prefix)
    # Windows short enough to show where the other face begins and ends.
    with Detector.load(bundle, ScanSettings(window_s=2.0), choice) as detector:
        for name, path in (("genuine", made.genuine), ("swapped", made.swapped)):
            _, report = _scan(detector, name, path, out)
            console.print(Text(f"report on {path.name}: {report}"), soft_wrap=True)


# -- streams -----------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Seen:
    """What came out of the deployment, for the summary."""

    board: Board = field(default_factory=lambda: Board(window_s=3600))
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    pts_ns: dict[tuple[str, Source], int] = field(default_factory=dict)
    opened: list[AlertRecord] = field(default_factory=list)
    closed: set[str] = field(default_factory=set)

    def score(self, score: ScoreRecord, timestamp_ms: int) -> None:
        """Take in a score record."""
        self.board.feed(score, timestamp_ms)
        self.statuses.setdefault(score.stream, Counter())[score.status.value] += 1
        self.pts_ns[score.stream, score.source] = score.pts_ns

    def alert(self, alert: AlertRecord) -> None:
        """Take in an alert."""
        if alert.state is AlertState.OPENED:
            self.opened.append(alert)
        elif alert.state is AlertState.CLOSED:
            self.closed.add(alert.id)

    def opened_s(self, alert: AlertRecord) -> float:
        """Time of the frame at which an alert opened."""
        return self.pts_ns.get((alert.stream, alert.last), alert.start_ns) / 1e9


def _watch_streams(
    console: Console,
    made: DemoClips,
    kafka: KafkaOptions | None,
    bundle: Path | None,
    engines: EngineChoice,
    *,
    speed: float,
    prefix: str,
) -> None:
    prefix = f"{prefix}-{uuid.uuid4().hex[:8]}"
    memory = MemoryBroker()
    where = "a broker in this process" if kafka is None else f"{kafka.bootstrap_servers}, topics {prefix}.*"
    streams = {_CLEAN: made.genuine, _SWAPPED: made.swapped}

    def connect() -> Broker:
        return memory if kafka is None else kafka.broker(transaction_timeout_s=_TRANSACTION_S)

    live, began_s = LiveSettings(), time.monotonic()
    with LiveModels.load(bundle, live, engines) as models:
        deployment = Deployment(connect, models, live, streams, prefix=prefix, speed=speed, fps=5.0)
        console.print(Text(f"{_CLEAN} is genuine; {_SWAPPED} shows another face {_span(made)}"), soft_wrap=True)
        console.print(Text(f"through {printable(where)}, model {printable(models.model_id)}", "dim"), soft_wrap=True)
        console.print(Text("p: how often genuine footage looks as unusual; small is suspicious", "dim"), soft_wrap=True)
        with HeldInterrupt() as interrupt, deployment:
            seen = _follow(console, _until(interrupt, deployment.records()), deployment.topics.alerts)
        interrupt.check()
    _summarise(console, seen, made, time.monotonic() - began_s)


def _until(interrupt: HeldInterrupt, batches: Iterable[list[Record]]) -> Iterator[list[Record]]:
    for records in batches:
        interrupt.check()
        yield records


def _follow(console: Console, batches: Iterable[list[Record]], alerts_topic: str) -> _Seen:
    """Show a live table on a terminal, else a line now and then; alerts are printed when they open and close."""
    seen, due_s = _Seen(), dict[str, float]()
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        for records in batches:
            for record in records:
                if record.topic == alerts_topic:
                    alert = decode(record.value or b"", AlertRecord)
                    seen.alert(alert)
                    if alert.state is not AlertState.UPDATED:
                        console.print(_alert_line(alert), soft_wrap=True)
                    continue
                score = decode(record.value or b"", ScoreRecord)
                seen.score(score, record.timestamp_ms)
                if live is None and score.pts_ns / 1e9 >= due_s.setdefault(score.stream, _LINE_S):
                    due_s[score.stream] += _LINE_S
                    console.print(_score_line(score), soft_wrap=True)
            if live is not None:
                live.update(picture(seen.board, console.height), refresh=True)
    return seen


def _alert_line(alert: AlertRecord) -> Text:
    style = "dim" if alert.state is AlertState.CLOSED else LEVEL_STYLES[alert.level]
    return Text(printable(f"{alert.state.value}: {alert.kind.value} on {alert.stream}: {alert.sentence}"), style)


def _score_line(score: ScoreRecord) -> Text:
    said = [
        f"{name} p={e.p_value if e.accumulated is None else e.accumulated:.2g}"
        for face in score.faces[:1]
        for name, e in sorted(face.evidence.items())
    ]
    return Text(f"{score.pts_ns / 1e9:6.1f} s  {score.stream}  {score.status.value}  {', '.join(said)}")


def _summarise(console: Console, seen: _Seen, made: DemoClips, seconds: float) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("stream", "frames", *EVIDENCES, "alerts", "statuses"):
        table.add_column(column)
    for row in sorted(seen.board.rows(time.time_ns() // 1_000_000), key=lambda row: row.stream):
        worst = [row.worst.get(evidence) for evidence in EVIDENCES]
        table.add_row(
            row.stream,
            str(seen.statuses[row.stream].total()),
            *(Text("") if w is None else Text(f"p={w.p_value:.2g}", LEVEL_STYLES[w.level]) for w in worst),
            str(sum(alert.stream == row.stream for alert in seen.opened)),
            ", ".join(f"{n} {status}" for status, n in sorted(seen.statuses[row.stream].items())),
        )
    print_heading(console, f"{len(seen.pts_ns)} frames in {seconds:.0f} s, and the worst p-value of each evidence")
    print_table(console, table)
    for alert in seen.opened:
        after = ""
        if alert.stream == _SWAPPED and alert.kind is AlertKind.IDENTITY_SWITCH:
            after = f", {seen.opened_s(alert) - made.start_s:.1f} s after the other face came"
        line = f"{alert.stream}: {alert.kind.value} ({alert.evidence}) at {seen.opened_s(alert):.1f} s{after}"
        state = "" if alert.id in seen.closed else "; still open at the end"
        console.print(Text(line + state, LEVEL_STYLES[alert.level]), soft_wrap=True)
    for stream in sorted(set(seen.statuses) - {alert.stream for alert in seen.opened}):
        console.print(Text(f"{stream}: no alert", "green"))


def _span(made: DemoClips) -> str:
    return f"from {made.start_s:.1f} to {made.end_s:.1f} s"


# -- files -------------------------------------------------------------------------------------------------------------
def _scan_files(
    console: Console,
    made: DemoClips,
    genuine: Path,
    other: Path,
    face: Donor,
    out: Path,
    bundle: Path | None,
    engines: EngineChoice,
) -> None:
    broadcast = out / "broadcast.mp4"
    starts = cut_together(
        broadcast, [shot(other, 0, _SHOT_S), shot(genuine, 0, 2 * _SHOT_S, swapped_from(face, _SHOT_S))]
    )
    swap_s = starts[1] + _SHOT_S
    acts = (
        ("genuine", made.genuine, "Genuine", ""),
        ("swapped", made.swapped, "Manipulated", f", another face {_span(made)}"),
        ("broadcast", broadcast, "Broadcast", f", a cut at {starts[1]:.1f} s, another face from {swap_s:.1f} s on"),
    )
    with Detector.load(bundle, ScanSettings(window_s=2.0), engines) as detector:
        for name, path, title, note in acts:
            result, report = _scan(detector, name, path, out)
            print_heading(console, f"{title}: {path}{note}")
            print_result(console, result, report)


def _scan(detector: Detector, name: str, path: Path, out: Path) -> tuple[ScanResult, Path]:
    with progress_bar() as bar:
        task = bar.add_task(f"scanning {path.name}", total=None)
        result = detector.scan(path, lambda at, end: bar.update(task, completed=at, total=end))
    report = out / f"{name}.html"
    write_whole(report, render_report(result).encode())
    write_whole(out / f"{name}.json", msgspec.json.format(msgspec.json.encode(result), indent=2))
    return result, report
