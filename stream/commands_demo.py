"""``difffake demo``: a real clip, a manipulated copy and a broadcast, made on the spot, and what DiffFake says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from difffake.demo.broadcast import cut_together, shot, swapped_from
from difffake.demo.clips import fetch_clips
from difffake.demo.swap import make_demo_clips, pick_donor
from difffake.detector import Detector
from difffake.report import render_report
from difffake.settings import ScanSettings
from stream.commands_scan import print_result
from stream.console import progress_bar

_CLIPS = Path(".cache/clips")
#: The broadcast: so long of the other person, then twice as long of the first, swapped half-way.
_SHOT_S = 5.0


def demo(
    out: Annotated[Path, typer.Option(help="Folder for clips and reports.")] = Path("demo-output"),
    clips: Annotated[Path, typer.Option(help="Folder that keeps the downloaded clips.")] = _CLIPS,
    source: Annotated[Path | None, typer.Option(help="Your own clip instead of the downloaded one.")] = None,
    donor: Annotated[Path | None, typer.Option(help="Clip or image of the face to lay on.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")] = None,
) -> None:
    """Scan a real clip, a copy with another face over its middle third, and a broadcast with a swap in mid-shot."""
    console = Console()
    free = fetch_clips(clips) if source is None or donor is None else {}
    genuine, other = source or free["woman"], donor or free["man"]
    face = pick_donor(other)
    with progress_bar() as bar:
        task = bar.add_task("laying another face over the middle third", total=1.0)
        made = make_demo_clips(genuine, face, out, lambda share: bar.update(task, completed=share))
        bar.update(task, description="cutting a broadcast together")
        broadcast = out / "broadcast.mp4"
        shots = [shot(other, 0, _SHOT_S), shot(genuine, 0, 2 * _SHOT_S, swapped_from(face, _SHOT_S))]
        starts = cut_together(broadcast, shots)
    swap_s = starts[1] + _SHOT_S
    acts = (
        ("genuine", made.genuine, "Genuine", ""),
        ("swapped", made.swapped, "Manipulated", f", another face from {made.start_s:.1f} to {made.end_s:.1f} s"),
        ("broadcast", broadcast, "Broadcast", f", a cut at {starts[1]:.1f} s, another face from {swap_s:.1f} s on"),
    )
    # Windows short enough to show where the middle third begins and ends.
    with Detector.load(bundle, ScanSettings(window_s=2.0)) as detector:
        for name, path, title, note in acts:
            with progress_bar() as bar:
                task = bar.add_task(f"scanning {path.name}", total=None)
                result = detector.scan(path, lambda at, end: bar.update(task, completed=at, total=end))  # noqa: B023
            console.rule(f"{title}: {path}{note}")
            report = out / f"{name}.html"
            report.write_text(render_report(result), encoding="utf-8")
            (out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
            print_result(console, result, report)
