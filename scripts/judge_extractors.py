"""Exported extractors side by side, on pseudo-fakes of people who trained neither: AUC of the logit by family.

    python scripts/judge_extractors.py STORE A/extractor.onnx B/extractor.onnx [--portraits DIR] [--json FILE]

The people are those who validate (`difffake.training.split`): nothing that a bundle was fitted on is looked at. Every
extractor sees the same pictures: as a camera delivers them, and re-encoded as H.264 at CRF 23 and 35. ``--portraits``
names a folder with ``real/`` and ``fake/``, pictures of one face each, which are judged beside the families.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from difffake.evaluation.metrics import auc
from difffake.faces import CenterFace, align
from difffake.pseudofake import FAMILIES, capture, shares_of, through_codec
from difffake.training.batches import Draw, centre_matrix, warp
from difffake.training.crops import read_photo
from difffake.training.split import bank_of, split_people
from difffake.training.store import CropStore
from engines.onnx import OnnxEngine

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
_BATCH = 8
_SIDE = 224
#: As the camera delivers it, and re-encoded.
FOOTAGE: dict[str, int | None] = {"as made": None, "CRF 23": 23, "CRF 35": 35}


def main() -> None:
    """Print a table a footage, families across."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("extractors", type=Path, nargs="+")
    parser.add_argument("--crops", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--portraits", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    store = CropStore.load(asked.store)
    rows = split_people(store, clip_shares=(0.5, 0.05, 0.45)).validate
    bank, rng = bank_of(store, rows), np.random.default_rng(0)
    draw = Draw.of(bank.people, store.is_video[rows], 0.25, store.eye_distance_px[rows], 0.4)
    families, matrix = list(shares_of(bank)), centre_matrix(bank.side_px, _SIDE)
    engines = [OnnxEngine(path, threads=asked.threads) for path in asked.extractors]
    logits: list[dict[str, list[F32]]] = [{footage: [] for footage in FOOTAGE} for _ in engines]
    for _ in range(-(-asked.crops // _BATCH)):
        pictures: U8 = np.empty((1 + len(families), _BATCH, _SIDE, _SIDE, 3), np.uint8)
        for i, row in enumerate(draw.rows(_BATCH, rng)):
            crop = bank.crop(int(row))
            if rng.random() < 0.5:
                crop = capture(crop, rng)
            pictures[0, i] = warp(crop, matrix, _SIDE)
            for k, family in enumerate(families, start=1):
                pictures[k, i] = warp(FAMILIES[family].make(bank, int(row), crop, rng), matrix, _SIDE)
        moves = rng.uniform(-3, 3, (_BATCH, 2)).astype(np.float32)
        for footage, crf in FOOTAGE.items():
            seen = pictures if crf is None else np.stack([through_codec(kind, crf, moves) for kind in pictures])
            faces = np.ascontiguousarray(seen.reshape(-1, _SIDE, _SIDE, 3).transpose(0, 3, 1, 2))
            for engine, kept in zip(engines, logits, strict=True):
                kept[footage].append(engine.infer(faces).logit.reshape(1 + len(families), _BATCH))
    portraits = [_faces(asked.portraits / side) for side in ("real", "fake")] if asked.portraits else []
    figures = {
        str(path): {footage: _by_family(np.concatenate(kept[footage], axis=1), families) for footage in FOOTAGE}
        for path, kept in zip(asked.extractors, logits, strict=True)
    }
    for path, engine in zip(asked.extractors, engines, strict=True):
        for footage, crf in FOOTAGE.items() if portraits else ():
            real, fake = (_logits(engine, faces, crf) for faces in portraits)
            labels = np.repeat([0, 1], [len(real), len(fake)])
            figures[str(path)][footage]["portraits"] = round(float(auc(labels, np.concatenate([real, fake]))), 4)
    columns = [*families, "portraits"] if portraits else families
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    for footage in FOOTAGE:
        print(f"\n| {footage} | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for name, by_footage in figures.items():
            print(f"| {name} | " + " | ".join(f"{by_footage[footage][column]:.3f}" for column in columns) + " |")
    for engine in engines:
        engine.close()


def _faces(folder: Path) -> U8:
    """The largest face of every picture in a folder, ``(N, 224, 224, 3) uint8``."""
    detector, faces = CenterFace(threads=1), []
    for path in sorted(folder.iterdir()):
        picture = read_photo(path, 50_000_000)
        found = detector.detect([picture])[0] if picture is not None else None
        if picture is None or found is None or not len(found):
            print(f"{path}: no face")
            continue
        largest = int(np.argmax(np.prod(found.boxes_px[:, 2:] - found.boxes_px[:, :2], axis=1)))
        faces.append(align(picture, found.landmarks_px[largest : largest + 1])[0][0])
    return np.stack(faces)


def _logits(engine: OnnxEngine, faces: U8, crf: int | None) -> F32:
    seen = faces if crf is None else through_codec(faces, crf, np.zeros((len(faces), 2), np.float32))
    return engine.infer(np.ascontiguousarray(seen.transpose(0, 3, 1, 2))).logit


def _by_family(logits: F32, families: list[str]) -> dict[str, float]:
    """AUC of each row of fakes against the first row, the real ones."""
    labels = np.repeat([0, 1], logits.shape[1])
    return {
        family: round(float(auc(labels, np.concatenate([logits[0], logits[k]]))), 4)
        for k, family in enumerate(families, start=1)
    }


if __name__ == "__main__":
    main()
