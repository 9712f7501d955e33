"""False alarms per hour: real clips, held against an anchor of the same person, in several qualities.

    python benchmarks/false_alarms.py CLIPS... --side-by-side DIR --same a,b --out benchmarks/results/false_alarms

CLIPS are real videos, or folders of them; of videos in a --side-by-side folder the left half is the real footage.
Every alarm is a false one. The anchor (K good faces spread over the first third) comes from the clip as recorded; the
rest of the clip is judged as recorded and after each encode, in windows as a scan judges them. With --same, clips of
one person (by name, without suffix) are also held against each other's anchors: other footage, other days. A clip must
show one person in front: leave others out with --skip. Writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from difffake import __version__
from difffake.detector import Detector
from difffake.errors import DiffFakeError
from difffake.evaluation import Codec, EvaluationProtocol, Item, Layout, Level, Recompression, Subject, features_id
from difffake.evaluation.alarms import count_alarms
from difffake.evaluation.features import Features, FeatureStore, Sampling
from difffake.evaluation.layouts import REAL, list_items
from difffake.evaluation.protocol import (
    WINDOW_S,
    ClipScores,
    GenuineAnchor,
    genuine_anchor,
    main_subject,
    pool,
    score_clip,
)
from difffake.folder import VIDEO_SUFFIXES
from difffake.scoring import ANCHOR_SIZE, Scorer
from difffake.settings import ScanSettings

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

CONDITIONS: dict[str, Recompression | None] = {
    "as recorded": None,
    "H.264 CRF 23": Recompression(Codec.H264, 23),
    "H.264 CRF 35": Recompression(Codec.H264, 35),
    "H.265 CRF 28": Recompression(Codec.H265, 28),
    "half the size, H.264 CRF 23": Recompression(Codec.H264, 23, shrink=2),
}
LEVELS = (Level.WINDOW_1S, Level.WINDOW_2S, Level.WINDOW_5S)
SAME_STREAM, OTHER_FOOTAGE = "same stream", "other footage"
_BEGIN, _END = "<!-- figures: benchmarks/false_alarms.py -->\n", "\n<!-- end of figures -->"
_PAGE_WINDOW_S = 2.0
# The calibration of this evidence is for anchors from other footage than the stream that is judged.
ENROLLED = "identity_enrolled"
YAW_EDGES_DEG = (0.0, 10.0, 20.0, 30.0, 90.0)
YAW = "|yaw|"


@dataclass
class Judged:
    """Scored clips of one setting and condition: names, scores (with |yaw| beside them), seconds of footage."""

    names: list[str] = field(default_factory=list)
    clips: list[ClipScores] = field(default_factory=list)

    def add(self, name: str, features: Features, scorer: Scorer, anchor: GenuineAnchor, tolerance_s: float) -> None:
        """Score a clip's main person after the anchor's stretch; a clip without a face there is not added."""
        features = main_subject(features)
        scored = score_clip(features, scorer, subject=Subject.MAIN, anchor=anchor, tolerance_s=tolerance_s)
        scored.scores[YAW] = np.abs(features.yaw_deg).astype(np.float64)
        scored = scored.after(anchor.until_s + tolerance_s)
        if len(scored.time_s):
            self.names.append(name)
            self.clips.append(scored)

    def footage_s(self, score: str, fps: float) -> float:
        """Frames that have the score, in seconds."""
        return sum(int(np.isfinite(clip.scores[score]).sum()) for clip in self.clips) / fps


def real_clips(paths: Iterable[Path], side_by_side: Iterable[Path], skip: set[str]) -> Iterator[Item]:
    """Whole videos, and left halves."""
    for path in paths:
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES) if path.is_dir() else [path]
        yield from (Item(p, REAL, p.stem, p.stem) for p in files if p.stem not in skip)
    for folder in side_by_side:
        for item in list_items(Layout.SIDE_BY_SIDE, folder).items:
            if item.label == REAL and item.path.stem not in skip:
                yield item


def look(
    items: list[Item], stores: dict[str, FeatureStore]
) -> tuple[dict[str, dict[str, Features]], list[dict[str, str]]]:
    """Features by clip and condition, and what could not be looked at."""
    found: dict[str, dict[str, Features]] = {}
    left_out = []
    for number, item in enumerate(items, 1):
        for condition, store in stores.items():
            print(f"\r{number}/{len(items)} {item.video[-40:]} {condition:<30}", end="", file=sys.stderr, flush=True)
            try:
                features = store.features(item)
                if not len(features):
                    reason = "no face good enough"
                else:
                    found.setdefault(item.video, {})[condition] = features
                    continue
            except DiffFakeError as error:
                reason = str(error)
            left_out.append({"clip": item.video, "condition": condition, "reason": reason})
    print(file=sys.stderr)
    return found, left_out


def judge(
    found: dict[str, dict[str, Features]],
    same: list[tuple[str, ...]],
    conditions: list[str],
    scorer: Scorer,
    fps: float,
) -> tuple[dict[tuple[str, str], Judged], list[str]]:
    """Everything scored, by setting and condition; and the clips without an anchor."""
    recorded = next(iter(CONDITIONS))
    anchors = {
        name: anchor
        for name, by_condition in found.items()
        if recorded in by_condition
        and (anchor := genuine_anchor(by_condition[recorded], ANCHOR_SIZE, EvaluationProtocol.HIJACK))
    }
    judged = {(setting, c): Judged() for setting in (SAME_STREAM, OTHER_FOOTAGE) for c in conditions}
    pairs = [(SAME_STREAM, name, name) for name in found]
    pairs += [(OTHER_FOOTAGE, a, b) for group in same for a, b in permutations(group, 2)]
    for setting, source, watched in pairs:
        if source not in anchors or watched not in found:
            continue
        anchor = anchors[source]
        if setting == OTHER_FOOTAGE:
            anchor = GenuineAnchor(anchor.pool, -np.inf)  # other footage: all of the watched clip is judged
        label = watched if source == watched else f"{watched} against {source}"
        for condition in conditions:
            if condition in found[watched]:
                features = found[watched][condition]
                judged[setting, condition].add(label, features, scorer, anchor, 0.5 / fps)
    return judged, sorted(set(found) - set(anchors))


def evidence_scores(scorer: Scorer, evidence: dict[str, str], setting: str) -> dict[str, str]:
    """Evidence -> score: those against a given anchor, with the calibration that fits the setting."""
    given = {name: score for name, score in evidence.items() if scorer.spec(score).anchor == "given"}
    other = setting == OTHER_FOOTAGE
    if other and ENROLLED in given:
        given.pop("identity", None)
    if not other:
        given.pop(ENROLLED, None)
    return given


def figures(
    judged: dict[tuple[str, str], Judged], scorer: Scorer, evidence: dict[str, str], settings: ScanSettings, fps: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of alarms by setting, condition, evidence, window and level; and rows by pose."""
    rows: list[dict[str, Any]] = []
    poses: list[dict[str, Any]] = []
    for (setting, condition), table in judged.items():
        names = evidence_scores(scorer, evidence, setting)
        for level in LEVELS if table.clips else ():
            clip, means = pool(table.clips, [*names.values(), YAW], level)
            for kind, score in names.items():
                p = scorer.p_value(score, means[score])
                about = {
                    "setting": setting,
                    "condition": condition,
                    "evidence": kind,
                    "score": score,
                    "window_s": WINDOW_S[level],
                }
                footage_s = table.footage_s(score, fps)
                for word, threshold in (("suspicious", settings.suspicious_p), ("strong", settings.strong_p)):
                    of = about | {"level": word, "p_below": threshold}
                    rows.append(of | alarm_row(p, clip, threshold, footage_s, table.names))
                    poses += [of | row for row in pose_rows(p, clip, means[YAW], threshold)]
    return rows, poses


def alarm_row(p: F64, clip: I64, threshold: float, footage_s: float, names: list[str]) -> dict[str, Any]:
    """Alarms below one threshold."""
    found = count_alarms(p, clip, threshold)
    return {
        "windows": found.windows,
        "below": found.below,
        "share": _number(found.share),
        "alarms": found.alarms,
        "footage_h": footage_s / 3600,
        "per_hour": _number(found.per_hour(footage_s)),
        "per_hour_at_most": _number(found.per_hour_at_most(footage_s)),
        "clips": found.clips,
        "clips_concerned": [names[i] for i in found.concerned],
    }


def pose_rows(p: F64, clip: I64, yaw_deg: F64, threshold: float) -> list[dict[str, Any]]:
    """Windows below one threshold by their mean |yaw|."""
    rows = []
    for low, high in pairwise(YAW_EDGES_DEG):
        turned = (yaw_deg >= low) & (yaw_deg < high)
        found = count_alarms(p[turned], clip[turned], threshold)
        rows.append(
            {"yaw_deg": [low, high], "windows": found.windows, "below": found.below, "share": _number(found.share)}
        )
    return rows


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def markdown(report: dict[str, Any]) -> str:
    """The tables for people."""
    lines = [
        f"Model `{report['model']}`, difffake {report['difffake']}; {report['fps']:g} frames a second. All clips are "
        f"real: every alarm is a false one. Anchors: {ANCHOR_SIZE} good faces spread over the first third of the clip "
        "as recorded. An alarm is a run of windows whose mean score has a p-value below the level; footage counts only "
        "while a face is scored. Behind 'at most': 95 % upper bound if alarms came independently, which those of one "
        "clip do not.",
    ]
    for setting, title in ((SAME_STREAM, "the same stream"), (OTHER_FOOTAGE, "other footage of the same person")):
        rows = [row for row in report["rows"] if row["setting"] == setting]
        if not rows:
            continue
        lines += [
            "",
            f"## Anchor from {title}",
            "",
            "| condition | evidence | window, s | windows | footage, h | level | windows below | alarms / h (at most) "
            "| clips |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['condition']} | {row['evidence']} (`{row['score']}`) | {row['window_s']:g} | {row['windows']} | "
            f"{row['footage_h']:.3f} | {row['level']} (p < {row['p_below']:g}) | {_percent(row['share'])} | "
            f"{_rate(row)} | {len(row['clips_concerned'])} of {row['clips']} |"
            for row in rows
        ]
    lines += ["", "## By pose: share of one-second windows below the level, anchor from the same stream", ""]
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(YAW_EDGES_DEG)]
    lines += ["| condition | evidence | level | " + " | ".join(f"yaw {b}°" for b in bins) + " |"]
    lines += ["|---" * (3 + len(bins)) + "|"]
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for row in report["poses"]:
        if row["setting"] == SAME_STREAM and row["window_s"] == 1.0:
            cell = f"{_percent(row['share'])} of {row['windows']}"
            grouped.setdefault((row["condition"], row["evidence"], row["level"]), []).append(cell)
    lines += ["| " + " | ".join([*about, *cells]) + " |" for about, cells in grouped.items()]
    concerned = sorted({name for row in report["rows"] for name in row["clips_concerned"]})
    lines += ["", f"Clips with an alarm somewhere: {', '.join(concerned) or 'none'}."]
    if report["without_anchor"]:
        lines += [f"Too short for an anchor: {', '.join(report['without_anchor'])}."]
    if report["left_out"]:
        out = [f"{row['clip']} ({row['condition']}: {row['reason']})" for row in report["left_out"]]
        lines += [f"Not looked at: {'; '.join(out)}."]
    return "\n".join(lines) + "\n"


def page_table(report: dict[str, Any]) -> str:
    """The table of docs/identity.md: windows of 2 s below each level, and alarms an hour, by encode."""
    found = {
        (row["evidence"], row["level"], row["condition"]): row
        for row in report["rows"]
        if row["setting"] == SAME_STREAM and row["window_s"] == _PAGE_WINDOW_S
    }
    names = list(dict.fromkeys(condition for _, _, condition in found))
    lines = ["| evidence | level | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for evidence in ("identity", "anchor"):
        for level in ("strong", "suspicious"):
            rows = [found[evidence, level, name] for name in names]
            cells = [
                f"{100 * row['share']:.1f} %, {row['per_hour']:.0f}/h" if row["below"] else "0, 0/h" for row in rows
            ]
            lines.append(f"| {evidence} | {level} (p < {rows[0]['p_below']}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _rate(row: dict[str, Any]) -> str:
    if row["per_hour"] is None:
        return "–"
    return f"{row['per_hour']:.1f} ({row['per_hour_at_most']:.1f})"


def main(arguments: list[str] | None = None) -> None:
    """Look, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="real videos, or folders of them")
    parser.add_argument("--side-by-side", type=Path, action="append", default=[], help="folder; left halves are real")
    parser.add_argument("--same", action="append", default=[], help="names of clips of one person: a,b[,c]")
    parser.add_argument("--skip", action="append", default=[], help="name of a clip to leave out")
    parser.add_argument("--condition", action="append", choices=list(CONDITIONS), help="only these; default all")
    parser.add_argument("--bundle", type=Path, help="model bundle; the shipped one by default")
    parser.add_argument("--cache", type=Path, default=Path(".cache/evaluation"))
    parser.add_argument("--fps", type=float, default=ScanSettings().fps)
    parser.add_argument("--max-frames", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "false_alarms")
    parser.add_argument("--page", type=Path, help="page whose table is rewritten")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(max(1, options.threads))

    items = list(real_clips(options.clips, options.side_by_side, set(options.skip)))
    same = [tuple(group.split(",")) for group in options.same]
    if unknown := {name for group in same for name in group} - {item.video for item in items}:
        parser.error(f"--same names clips that are not there: {', '.join(sorted(unknown))}")
    conditions = options.condition or list(CONDITIONS)
    settings = ScanSettings(threads=options.threads)
    with Detector.load(options.bundle, settings) as detector:
        # The recording itself is always looked at: anchors come from it.
        stores = {
            name: FeatureStore(
                options.cache,
                detector,
                features_id(detector),
                Sampling(options.fps, options.max_frames, recompression),
            )
            for name, recompression in CONDITIONS.items()
            if recompression is None or name in conditions
        }
        found, left_out = look(items, stores)
        scorer = Scorer(detector.bundle)
        judged, without_anchor = judge(found, same, conditions, scorer, options.fps)
        rows, poses = figures(judged, scorer, detector.bundle.manifest.evidence, settings, options.fps)
        report = {
            "model": detector.model_id,
            "difffake": __version__,
            "fps": options.fps,
            "clips": [item.video for item in items],
            "same": same,
            "skipped": options.skip,
            "without_anchor": without_anchor,
            "left_out": left_out,
            "rows": rows,
            "poses": poses,
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    if options.page is not None:
        page = options.page.read_text(encoding="utf-8")
        before, after = page.partition(_BEGIN)[0], page.partition(_END)[2]
        options.page.write_text(before + _BEGIN + page_table(report) + _END + after, encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    main()
