"""Broadcasts of three real clips, one of them swapped half-way: does `scan` name the person and the moment?

    python benchmarks/broadcast.py SWAPS CLIP CLIP --out benchmarks/results/broadcast

SWAPS is a folder of side-by-side recordings (left half genuine, right half the swap of the same frames). For each of
them one broadcast: the first clip, the recording (its left half, from its middle on its right half), the second
clip; H.264 at ``--crf``. And the same broadcast without the swap, in which nothing must be told.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from difffake.demo.broadcast import FPS, cut_together, shot
from difffake.detector import Detector
from difffake.evaluation.features import half
from difffake.evaluation.layouts import Layout, Region, list_items
from difffake.results import IdentitySwitch, ScanResult
from difffake.settings import ScanSettings
from difffake.video import open_video

U8 = npt.NDArray[np.uint8]
CLIP_S = 4.0
WITHIN_S = 2.0


def recording(path: Path, *, swapped: bool) -> tuple[Iterator[U8], float]:
    """The pictures of a side-by-side recording, from its middle (s, returned too) on swapped, or genuine throughout."""
    with open_video(path, fps=None) as video:
        length_s = sum(1 for _ in video) / (video.info.fps or FPS)

    def alter(image: U8, time_s: float) -> U8:
        return half(image, Region.RIGHT if swapped and time_s >= length_s / 2 else Region.LEFT)

    return shot(path, 0.0, length_s, alter), length_s / 2


def scan_broadcast(detector: Detector, path: Path, clips: list[Path], *, swapped: bool, crf: int) -> dict[str, Any]:
    """Make one broadcast, scan it, and hold what is told against what was done."""
    pictures, middle_s = recording(path, swapped=swapped)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "broadcast.mp4"
        starts = cut_together(target, [shot(clips[0], 0.0, CLIP_S), pictures, shot(clips[1], 0.0, CLIP_S)], crf=crf)
        result = detector.scan(target)
    at_s = round(np.ceil(middle_s * FPS) / FPS + starts[1], 3)
    return {
        "recording": path.stem,
        "swapped": swapped,
        "genuine_s": round(middle_s, 2),
        "swap_at_s": at_s if swapped else None,
        "people": [f"{p.label}: {[(s.start_s, s.end_s) for s in p.spans]}" for p in result.people],
        "person": label_at(result, starts[1], starts[2]),
        "anchored": has_anchor(result, starts[1], at_s),
        "switches": [told(switch) for switch in result.switches],
        "identity_missing": {p.label: p.missing["identity"] for p in result.people if "identity" in p.missing},
    }


def label_at(result: ScanResult, start_s: float, end_s: float) -> str | None:
    """Label of the person who is seen first in the second shot."""
    spans = [(s.start_s, p.label) for p in result.people for s in p.spans if start_s - 0.1 <= s.start_s < end_s]
    return min(spans)[1] if spans else None


def has_anchor(result: ScanResult, start_s: float, swap_s: float) -> bool:
    """Whether the second shot's person had an anchor before the swap."""
    found = [a for p in result.people if (a := p.anchors.get("identity")) is not None and a.end_s >= start_s]
    return any(anchor.end_s < swap_s for anchor in found)


def told(switch: IdentitySwitch) -> dict[str, Any]:
    """What the report says of a switch."""
    return {"label": switch.label, "time_s": switch.time_s, "end_s": switch.end_s, "p": switch.p_value}


def is_found(row: dict[str, Any]) -> bool:
    """The right person, and the moment within two seconds."""
    return any(s["label"] == row["person"] and abs(s["time_s"] - row["swap_at_s"]) <= WITHIN_S for s in row["switches"])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all broadcasts."""
    swapped = [r for r in rows if r["swapped"]]
    anchored = [r for r in swapped if r["anchored"]]
    found = [r for r in swapped if is_found(r)]
    genuine = [r for r in rows if not r["swapped"]]
    late = [s["time_s"] - r["swap_at_s"] for r in found for s in r["switches"] if s["label"] == r["person"]]
    return {
        "broadcasts": len(swapped),
        "anchor_in_time": len(anchored),
        "found": len(found),
        "found_of_anchored": sum(is_found(r) for r in anchored),
        "median_delay_s": round(float(np.median(late)), 2) if late else None,
        "largest_delay_s": round(max(late, key=abs), 2) if late else None,
        "other_switches_told": sum(
            not (s["label"] == r["person"] and abs(s["time_s"] - r["swap_at_s"]) <= WITHIN_S)
            for r in swapped
            for s in r["switches"]
        ),
        "genuine_broadcasts": len(genuine),
        "switches_told_in_genuine": sum(len(r["switches"]) for r in genuine),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    s = report["summary"]
    told_right = f"{s['found_of_anchored']} of {s['anchor_in_time']}"
    told_wrong = f"{s['switches_told_in_genuine']} of {s['genuine_broadcasts']}"
    lines = [
        "# Broadcasts with a swap half-way",
        "",
        f"Model `{report['model']}`, {report['fps']:g} frames a second, H.264 CRF {report['crf']}.",
        f"{s['broadcasts']} broadcasts: a clip, a recording that is swapped from its middle on, a clip.",
        "",
        "| | |",
        "|---|---|",
        f"| an anchor was complete before the swap | {s['anchor_in_time']} of {s['broadcasts']} |",
        f"| person and moment (within {WITHIN_S:g} s) told, of these | {told_right} |",
        f"| moment told later than it was, median / largest, s | {s['median_delay_s']} / {s['largest_delay_s']} |",
        f"| other switches told in them | {s['other_switches_told']} |",
        f"| switches told in the same broadcasts without a swap | {told_wrong} |",
        "",
        "| recording | swap at, s | told at, s | person | anchor in time |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if row["swapped"]:
            at = ", ".join(f"{t['time_s']:.1f} ({t['label']})" for t in row["switches"]) or "–"
            in_time = "yes" if row["anchored"] else "no"
            lines.append(f"| {row['recording']} | {row['swap_at_s']:.1f} | {at} | {row['person']} | {in_time} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swaps", type=Path)
    parser.add_argument("clips", type=Path, nargs=2)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--crf", type=int, default=23)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit", type=int, help="no more recordings than this")
    parser.add_argument("--out", type=Path, help="stem of the .json and .md to write")
    options = parser.parse_args()
    listing = list_items(Layout.SIDE_BY_SIDE, options.swaps)
    paths = sorted({item.path for item in listing.items if item.region is Region.LEFT})[: options.limit]
    rows = []
    with Detector.load(options.bundle, ScanSettings(fps=options.fps, threads=options.threads)) as detector:
        for path in paths:
            for swapped in (True, False):
                row = scan_broadcast(detector, path, options.clips, swapped=swapped, crf=options.crf)
                rows.append(row)
                print(json.dumps(row), flush=True)
        report = {
            "model": detector.model_id,
            "fps": options.fps,
            "crf": options.crf,
            "clips": [c.name for c in options.clips],
            "summary": summary(rows),
            "rows": rows,
        }
    print(markdown(report))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(markdown(report))


if __name__ == "__main__":
    main()
