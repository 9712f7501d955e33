"""``difffake demo``: a real clip and a manipulated copy of it, made on the spot, and what DiffFake says of both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from difffake.demo.clips import fetch_clips
from difffake.demo.swap import make_demo_clips, pick_donor
from difffake.detector import Detector
from difffake.report import render_report
from difffake.settings import ScanSettings
from stream.commands_scan import print_result
from stream.console import progress_bar

_CLIPS = Path(".cache/clips")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for clips and reports.")] = Path("demo-output"),
    clips: Annotated[Path, typer.Option(help="Folder that keeps the downloaded clips.")] = _CLIPS,
    source: Annotated[Path | None, typer.Option(help="Your own clip instead of the downloaded one.")] = None,
    donor: Annotated[Path | None, typer.Option(help="Clip or image of the face to lay on.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
) -> None:
    """Scan a real clip, and a copy with another face laid over its middle third."""
    console = Console()
    free = fetch_clips(clips) if source is None or donor is None else {}
    with progress_bar() as bar:
        task = bar.add_task("laying another face over the middle third", total=1.0)
        made = make_demo_clips(
            source or free["woman"],
            pick_donor(donor or free["man"]),
            out,
            lambda share: bar.update(task, completed=share),
        )
    # Windows short enough to show where the middle third begins and ends.
    with Detector.load(bundle, ScanSettings(window_s=2.0)) as detector:
        for name, path in (("genuine", made.genuine), ("swapped", made.swapped)):
            with progress_bar() as bar:
                task = bar.add_task(f"scanning {path.name}", total=None)
                result = detector.scan(path, lambda at, end: bar.update(task, completed=at, total=end))  # noqa: B023
            title = "Genuine" if name == "genuine" else "Manipulated"
            note = "" if name == "genuine" else f", another face from {made.start_s:.1f} to {made.end_s:.1f} s"
            console.rule(f"{title}: {path}{note}")
            report = out / f"{name}.html"
            report.write_text(render_report(result), encoding="utf-8")
            (out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
            print_result(console, result, report)
