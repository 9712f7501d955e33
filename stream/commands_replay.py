"""``difffake replay``: a score made again from the input that it names, and how far it is from the old one."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from difffake import hardware
from difffake.errors import EngineError, MissingExtraError
from difffake.faces.runtime import DetectorRuntime
from difffake.hardware import Hwaccel
from difffake.networks import EngineChoice, ModelName
from engines.choose import EngineKind
from stream.broker.contract import Broker, TopicPartition
from stream.console import printable
from stream.decode import DecodeSettings
from stream.engine_options import EnginesOption, HwaccelOption, ThreadsOption
from stream.kafka_options import KafkaOptions, with_kafka
from stream.live import LiveModels, LiveSettings
from stream.messages import ScoreRecord, decode
from stream.replay import Replay, ReplayError, parse_lines, replay
from stream.topics import Topics

_PLACE = re.compile(r"^([a-zA-Z0-9._-]{1,249}):(\d{1,10}):(\d{1,19})$")
_MAX_ROWS = 60


@with_kafka
def replay_command(
    kafka: KafkaOptions,
    from_score: Annotated[
        str,
        typer.Option(
            metavar="FILE|-|TOPIC:PARTITION:OFFSET", help="A line of `difffake tail --json`, or where the score lies."
        ),
    ],
    line: Annotated[int, typer.Option(min=1, help="Which line of the file.")] = 1,
    prefix: Annotated[str, typer.Option(help="Begins the names of all topics that are not input.")] = "difffake",
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
    engine: Annotated[
        EngineKind | None, typer.Option(help="What runs the networks; by default what the score's model id names.")
    ] = None,
    engines: EnginesOption = None,
    detector_engine: Annotated[
        DetectorRuntime | None, typer.Option(help="What runs the face detector; by default what the model id names.")
    ] = None,
    hwaccel: HwaccelOption = Hwaccel.OFF,
    fps: Annotated[float, typer.Option(help="As the worker had it.")] = 2.0,
    analysis_side: Annotated[int, typer.Option(help="As the worker had it.")] = 480,
    guests: Annotated[bool, typer.Option("--guests", help="As the worker had it.")] = False,
    threads: ThreadsOption = 0,
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="Leave with exit code 3 when the difference is larger.")
    ] = None,
) -> None:
    """Score a frame again from the input that its score names, and show the difference: 0 for the same model."""
    try:
        live = LiveSettings(threads=threads, analysis_side_px=analysis_side, guests=guests)
        decode_settings = DecodeSettings(fps=fps, hwaccel=hwaccel)
    except (ValueError, msgspec.ValidationError) as error:
        raise typer.BadParameter(str(error)) from error
    hardware.check(hwaccel)
    given = _given(from_score, line)
    with closing(kafka.broker()) as broker:
        score = given if isinstance(given, ScoreRecord) else _fetched(broker, given)
        choice = ModelName.parse(score.model_id).choice(engines)
        if engine is not None:
            choice = replace(choice, kind=engine, identity=None)
        if detector_engine is not None:
            choice = replace(choice, detector=detector_engine)
        with _models(score, bundle, live, choice) as models:
            again = replay(broker, models, score, topics=Topics.under(prefix), decode=decode_settings, live=live)
    _print(score, again)
    if tolerance is not None and again.max_difference > tolerance:
        raise typer.Exit(3)


def _models(score: ScoreRecord, bundle: Path | None, live: LiveSettings, choice: EngineChoice) -> LiveModels:
    try:
        return LiveModels.load(bundle, live, choice)
    except (EngineError, MissingExtraError) as error:
        raise ReplayError(
            f"the score is by {score.model_id}; of its engines this does not run here: {error}",
            hint=f"{error.hint}; or compare it with the exact engine: --engine onnx",
        ) from error


def _given(place: str, line: int) -> ScoreRecord | re.Match[str]:
    """A score out of a file, or where in Kafka it lies: what is neither costs no wait for a broker."""
    if place == "-":
        return parse_lines(list(islice(sys.stdin.buffer, line)), line)
    path = Path(place)
    if path.is_file():
        with path.open("rb") as file:
            return parse_lines(list(islice(file, line)), line)
    found = _PLACE.match(place)
    if found is None:
        raise ReplayError(f"{place}: no such file", hint="give a file, - for stdin, or TOPIC:PARTITION:OFFSET")
    return found


def _fetched(broker: Broker, found: re.Match[str]) -> ScoreRecord:
    partition, offset = TopicPartition(found[1], int(found[2])), int(found[3])
    with closing(broker.reader()) as reader:
        end = reader.end_offset(partition)
        record = next(reader.read(partition, offset, min(offset + 1, end)), None) if offset < end else None
    if record is None or record.value is None:
        raise ReplayError(
            f"{found[0]}: no record there", hint="`difffake tail --json` prints scores that can be replayed"
        )
    return decode(record.value, ScoreRecord)


def _print(score: ScoreRecord, again: Replay) -> None:
    console = Console()
    console.print(
        Text(
            f"{printable(score.stream)} at {score.pts_ns / 1e9:.3f} s, {score.source.topic}/{score.source.partition} "
            f"offset {score.source.offset}: {again.frames} frames from offset {again.began_at} on"
        ),
        soft_wrap=True,
    )
    for note in again.notes:
        console.print(Text(f"  {printable(note)}", style="yellow"), soft_wrap=True)
    if again.differences:
        table = Table(box=None, padding=(0, 2), pad_edge=True)
        for column in ("  field", "before", "after", "apart"):
            table.add_column(column, overflow="fold")
        for found in again.differences[:_MAX_ROWS]:
            before, after = (Text(printable("" if v is None else str(v))) for v in (found.before, found.after))
            table.add_row(Text(f"  {printable(found.what)}"), before, after, f"{found.size:.3g}")
        console.print(table)
        if len(again.differences) > _MAX_ROWS:
            console.print(f"  and {len(again.differences) - _MAX_ROWS} more")
    console.print(f"max difference {again.max_difference:.3g}", highlight=False)
