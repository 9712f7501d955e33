"""The identity trap: an anchor of the impersonated person does not catch the impersonation.

    python benchmarks/identity_trap.py DIR --impostors FOLDER --out benchmarks/results/identity_trap

DIR holds side-by-side recordings of face swaps: real on the left, swapped on the right, and the swapped-in face's name
before the last ``_number`` of the file name. Recordings of one name are different people who wear the same face. A test
passes where the mean identity distance to the anchor (K good faces spread over the first third of a recording) lies
below a verification threshold: the distance that one in a thousand pairs of different people falls below, from FOLDER
with one picture, or one folder of pictures, a person. Without FOLDER, --threshold says it. Writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from difffake import __version__
from difffake.anchors import AnchorPool
from difffake.detector import Detector
from difffake.errors import DiffFakeError
from difffake.evaluation import EvaluationProtocol, Item, Layout, features_id, list_items
from difffake.evaluation.features import Features, FeatureStore, Sampling
from difffake.evaluation.layouts import REAL
from difffake.evaluation.protocol import GenuineAnchor, genuine_anchor, main_subject
from difffake.folder import IMAGE_SUFFIXES
from difffake.scoring import ANCHOR_SIZE, Scorer, distances
from difffake.settings import ScanSettings

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

FALSE_ACCEPTS = 1e-3
# Which evidence an alarm would come from: anchors from other footage, or from the stream itself.
OTHER_FOOTAGE, SAME_STREAM = ("identity_enrolled", "identity"), ("identity",)


@dataclass(frozen=True)
class Side:
    """One half of a recording: its main person's faces, and its anchor."""

    recording: str
    features: Features
    anchor: GenuineAnchor

    @property
    def rest(self) -> Features:
        """After the anchor's stretch."""
        return self.features.only(np.flatnonzero(self.features.time_s > self.anchor.until_s))


@dataclass(frozen=True)
class Row:
    """A question, with the anchor and the judged faces of every pair that answers it."""

    question: str
    should_pass: bool
    pairs: tuple[tuple[str, AnchorPool, Features], ...]
    evidence: tuple[str, ...]


def face_name(recording: str) -> str:
    """The swapped-in face's name: without the last ``_number``."""
    return re.sub(r"_\d+$", "", recording)


def look(store: FeatureStore, items: list[Item], label: str) -> Iterator[tuple[Item, Features]]:
    """Faces of all items; what cannot be looked at is told and left out."""
    for number, item in enumerate(items, 1):
        print(f"\r{label} {number}/{len(items)} {item.video[-50:]:<50}", end="", file=sys.stderr, flush=True)
        try:
            features = store.features(item)
        except DiffFakeError as error:
            print(f"\nleft out {item.video}: {error}", file=sys.stderr)
            continue
        known = features.only(np.flatnonzero(np.isfinite(features.identity).all(axis=1)))
        if len(known):
            yield item, main_subject(known)
    print(file=sys.stderr)


def impostor_items(folder: Path, most: int) -> list[Item]:
    """One picture a person, by name, up to ``most`` people; a person is a file or a sub-folder."""
    chosen: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            person = path.stem if path.parent == folder else path.parent.name
            chosen.setdefault(person, path)
    return [Item(path, REAL, person, person) for person, path in sorted(chosen.items())[:most]]


def verification_threshold(faces: F32, rate: float = FALSE_ACCEPTS) -> float:
    """The distance that a share ``rate`` of all pairs of N different people, ``(N, I)``, falls below."""
    pairs = distances(faces, faces)[np.triu_indices(len(faces), 1)]
    return float(np.quantile(pairs, rate))


def questions(real: dict[str, Side], swap: dict[str, Side]) -> list[Row]:
    """What is held against what."""
    by_face = defaultdict(list)
    for name in sorted(real.keys() & swap.keys()):
        by_face[face_name(name)].append(name)
    actors = [pair for names in by_face.values() for pair in permutations(names, 2)]
    faces = [(a, b) for a, b in permutations(sorted(swap), 2) if face_name(a) != face_name(b)]

    def held(anchors: dict[str, Side], judged: dict[str, Side], pairs: list[tuple[str, str]]) -> Any:
        return tuple(
            (f"{b} against {a}", anchors[a].anchor.pool, judged[b].rest if a == b else judged[b].features)
            for a, b in pairs
        )

    own = [(name, name) for name in sorted(real.keys() & swap.keys())]
    return [
        Row(
            "impersonation: the face worn by another actor, against an anchor of the face",
            False,
            held(swap, swap, actors),
            OTHER_FOOTAGE,
        ),
        Row("the same actors without the swap, against each other", False, held(real, real, actors), OTHER_FOOTAGE),
        Row(
            "all actors without the swap, against each other",
            False,
            held(real, real, list(permutations(sorted(real), 2))),
            OTHER_FOOTAGE,
        ),
        Row("different swapped-in faces, against each other", False, held(swap, swap, faces), OTHER_FOOTAGE),
        Row("hijack: the swap, against an anchor of the stream's own actor", False, held(real, swap, own), SAME_STREAM),
        Row("no swap: the rest of the real half, against its own beginning", True, held(real, real, own), SAME_STREAM),
    ]


def answer(
    row: Row, threshold: float, scorer: Scorer, evidence: dict[str, str], settings: ScanSettings
) -> dict[str, Any]:
    """Distances, how many pass, and how many raise no identity alarm."""
    tests = []
    kind = next((e for e in row.evidence if e in evidence), None)
    for name, pool, features in row.pairs:
        if not len(features):
            continue
        test: dict[str, Any] = {"test": name, "distance": float(distances(features.identity, pool.identities).mean())}
        if kind is not None:
            score = evidence[kind]
            values = scorer.score(features.embedding, features.logit, features.time_s, pool, features.identity)[score]
            test["p_value"] = float(scorer.p_value(score, np.array([values.mean()]))[0])
        tests.append(test)
    found = np.array([test["distance"] for test in tests])
    p = np.array([test.get("p_value", np.nan) for test in tests])
    return {
        "question": row.question,
        "same_person": row.should_pass,
        "pairs": len(tests),
        "median_distance": float(np.median(found)) if len(found) else None,
        "pass": int(np.sum(found < threshold)),
        "evidence": kind,
        "not_suspicious": None if kind is None else int(np.sum(p >= settings.suspicious_p)),
        "not_strong": None if kind is None else int(np.sum(p >= settings.strong_p)),
        "tests": tests,
    }


def markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        f"Model `{report['model']}`, difffake {report['difffake']}; {report['recordings']} recordings. Threshold "
        f"{report['threshold']:.3f} ({report['threshold_from']}). Anchors: {ANCHOR_SIZE} good faces spread over the "
        "first third of a recording. 'Passes': mean distance below the threshold, as a verification would decide. 'No "
        "alarm': the scan's own identity evidence, mean over the recording.",
        "",
        "| question | pairs | median distance | passes as the anchor's person | no alarm at "
        f"p < {report['suspicious_p']:g} | no alarm at p < {report['strong_p']:g} |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        of = row["pairs"]
        median = "–" if row["median_distance"] is None else f"{row['median_distance']:.3f}"
        alarms = [
            "–" if row[key] is None else f"{row[key]} of {of} (`{row['evidence']}`)"
            for key in ("not_suspicious", "not_strong")
        ]
        lines.append(f"| {row['question']} | {of} | {median} | {row['pass']} of {of} | {' | '.join(alarms)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Look, hold against each other, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="side-by-side recordings")
    parser.add_argument("--impostors", type=Path, help="folder of pictures of different people")
    parser.add_argument("--max-people", type=int, default=1000, help="people taken from --impostors")
    parser.add_argument("--threshold", type=float, help="verification threshold, if it is known")
    parser.add_argument("--bundle", type=Path, help="model bundle; the shipped one by default")
    parser.add_argument("--cache", type=Path, default=Path(".cache/evaluation"))
    parser.add_argument("--fps", type=float, default=4.0)
    parser.add_argument("--max-frames", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "identity_trap")
    options = parser.parse_args(arguments)
    if (options.impostors is None) == (options.threshold is None):
        parser.error("give either --impostors or --threshold")
    cv2.setNumThreads(max(1, options.threads))

    settings = ScanSettings(threads=options.threads)
    with Detector.load(options.bundle, settings) as detector:
        if not detector.bundle.manifest.identity_dim:
            parser.error("the bundle has no identity network")
        sampling = Sampling(options.fps, options.max_frames)
        store = FeatureStore(options.cache, detector, features_id(detector), sampling)
        threshold, source = options.threshold, "given"
        if options.impostors is not None:
            people = impostor_items(options.impostors, options.max_people)
            faces = [features.identity[0] for _, features in look(store, people, "person")]
            if len(faces) < 2:
                parser.error(f"fewer than two people with a face in {options.impostors}")
            threshold = verification_threshold(np.stack(faces))
            source = f"one in {1 / FALSE_ACCEPTS:,.0f} pairs of {len(faces)} different people lies below it"
        real: dict[str, Side] = {}
        swap: dict[str, Side] = {}
        for item, features in look(store, list(list_items(Layout.SIDE_BY_SIDE, options.folder).items), "half"):
            anchor = genuine_anchor(features, ANCHOR_SIZE, EvaluationProtocol.HIJACK)
            if anchor is not None:
                side = real if item.label == REAL else swap
                side[item.path.stem] = Side(item.path.stem, features, anchor)
        scorer = Scorer(detector.bundle)
        evidence = dict(detector.bundle.manifest.evidence)
        report = {
            "model": detector.model_id,
            "difffake": __version__,
            "recordings": len(real.keys() & swap.keys()),
            "threshold": threshold,
            "threshold_from": source,
            "suspicious_p": settings.suspicious_p,
            "strong_p": settings.strong_p,
            "rows": [answer(row, threshold, scorer, evidence, settings) for row in questions(real, swap)],
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


if __name__ == "__main__":
    main()
