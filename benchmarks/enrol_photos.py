"""How often does enrolment call a photo manufactured: genuine photos, of which each is a false alarm, and composites.

    python benchmarks/enrol_photos.py NAME=FOLDER ... --out benchmarks/results/enrol_photos

Each FOLDER holds photos, or a folder of photos for each person; of a video, a picture every two seconds is taken as a
photo. They are read as `difffake enroll` reads photos, by the bundle's score of still pictures. People with three
photos or more are enrolled, too: three photos each, the first by name. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from difffake.anchors.enrol import Clip, EnrolmentRules, enrol
from difffake.detector import Detector
from difffake.errors import AnchorError, DiffFakeError
from difffake.folder import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from difffake.settings import ScanSettings
from difffake.video import open_video
from stream.commands_enroll import observe_footage

RULES = EnrolmentRules()
_EVERY_S = 2.0


@dataclass(frozen=True)
class Photo:
    """A photo of somebody; `p` of its own artifact evidence."""

    person: str
    clip: Clip
    p: float


def photos(folder: Path, most: int) -> Iterator[tuple[str, Path]]:
    """Whose, and which; of every person three at the most, and no more than ``most`` in all."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    by_person = [(who, list(group)) for who, group in groupby(files, key=lambda f: f.parent)]
    several = [(who.name, file) for who, group in by_person if who != folder and len(group) >= 3 for file in group[:3]]
    rest = [("", file) for who, group in by_person if who == folder or len(group) < 3 for file in group]
    yield from several[:most]
    yield from rest[: max(0, most - len(several))]


def look(detector: Detector, folder: Path, most: int) -> tuple[list[Photo], int]:
    """Photos with a face that is fit, and how many had none."""
    found: list[Photo] = []
    unfit = 0
    with tempfile.TemporaryDirectory() as scratch:
        for person, path in photos(folder, most):
            for still in stills(path, Path(scratch)):
                try:
                    clip, _ = observe_footage(detector, still)
                except DiffFakeError:
                    unfit += 1
                    continue
                size = np.prod(clip.seen.boxes_px[:, 2:] - clip.seen.boxes_px[:, :2], axis=1)
                fit = np.flatnonzero(np.isfinite(clip.artifact_p))
                if len(fit):
                    # Of the person in front.
                    found.append(Photo(person, clip, float(clip.artifact_p[fit[size[fit].argmax()]])))
                else:
                    unfit += 1
    return found, unfit


def stills(path: Path, scratch: Path) -> Iterator[Path]:
    """A photo, or pictures of a video."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        yield path
        return
    with open_video(path, fps=1 / _EVERY_S) as video:
        for number, frame in enumerate(video):
            target = scratch / f"{path.stem}-{number}.png"
            cv2.imwrite(str(target), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
            yield target


def enrolments(found: list[Photo]) -> dict[str, int]:
    """Of people with three photos: how many are enrolled, with a warning, and refused for what the photos look like."""
    counts = {"people": 0, "warned": 0, "refused": 0, "other": 0}
    for _, group in groupby((f for f in found if f.person), key=lambda f: f.person):
        three = list(group)
        if len(three) < RULES.min_photos:
            continue
        try:
            done = enrol([one.clip for one in three])
        except AnchorError as error:
            counts["refused" if "manufactured" in str(error) else "other"] += 1
        else:
            counts["warned"] += any("manufactured" in warning for warning in done.warnings)
        counts["people"] += 1
    return counts


def markdown(rows: dict[str, dict[str, Any]], model_id: str) -> str:
    lines = [
        f"Photos as `difffake enroll` reads them; model {model_id}.",
        "",
        f"| photos | with a fit face | p < {RULES.strong_p:g} (warned of) | p < {RULES.suspicious_p:g} | "
        "three of one person: enrolled | with a warning | refused as manufactured | refused otherwise |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        people = row["enrolments"]
        lines.append(
            f"| {name} | {row['photos']} | {row['strong']} ({row['strong'] / max(row['photos'], 1):.1%}) | "
            f"{row['suspicious']} ({row['suspicious'] / max(row['photos'], 1):.1%}) | "
            f"{people['people'] - people['refused'] - people['other']} of {people['people']} | {people['warned']} | "
            f"{people['refused']} | {people['other']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--most", type=int, default=150, help="photos of each folder")
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with Detector.load(None, ScanSettings(threads=1)) as detector:
        for name, _, folder in (text.partition("=") for text in options.folders):
            found, unfit = look(detector, Path(folder), options.most)
            p = np.array([one.p for one in found])
            rows[name] = {
                "photos": len(found),
                "unfit": unfit,
                "strong": int((p < RULES.strong_p).sum()),
                "suspicious": int((p < RULES.suspicious_p).sum()),
                "enrolments": enrolments(found),
            }
            print(name, rows[name], flush=True)
        model_id = detector.bundle.model_id
    text = markdown(rows, model_id)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    options.out.with_suffix(".json").write_text(
        json.dumps({"model_id": model_id, "photos": rows}, indent=2) + "\n", encoding="utf-8"
    )
    print(text)


if __name__ == "__main__":
    main()
