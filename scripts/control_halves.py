"""Is it the face? What a head learns from the same places of genuine and manipulated halves, with and without the face.

    python scripts/control_halves.py DIR [--bundle BUNDLE] [--json FILE]

DIR holds side-by-side clips: the left half genuine, the right half its swap. A head that told the halves by their side,
their codec or their place in the picture would do so without a face, too. Three crops of each picture: the face;
the place below it, at the same size; the face with an ellipse over what a swap redraws. Heads are fitted as ``difffake
adapt`` fits them and judge clips of swapped-in faces that they have not seen. AUC over clips.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from difffake.adapt.clips import Rows
from difffake.adapt.heads import Candidate, fit_heads
from difffake.bundle import Bundle
from difffake.evaluation import Layout, auc, list_items
from difffake.evaluation.features import Sampling, frames_of
from difffake.evaluation.layouts import FAKE, Item
from difffake.faces import CenterFace, align
from engines.onnx import OnnxEngine

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
PLACES = ("face", "below the face", "face covered")
#: Below the face: this many eye distances.
_BELOW = 3.2
_ANALYSED_PX = 640
_SHRINKAGE = Candidate(0.5)


def main() -> None:
    """Print a line a place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    detector, found = CenterFace(threads=1), []
    with OnnxEngine(Bundle.load(asked.bundle).engine_path, threads=1) as engine:
        for item in list_items(Layout.SIDE_BY_SIDE, asked.folder).items:
            crops = [places(frame, detector) for frame in _frames(item, asked.frames)]
            kept = [c for c in crops if c is not None]
            if kept:
                views = np.ascontiguousarray(np.stack(kept, axis=1).transpose(0, 1, 4, 2, 3))
                found.append((item, [engine.infer(view).embedding for view in views]))
    label = np.array([item.label == FAKE for item, _ in found])
    series = np.array([re.sub(r"_\d+$", "", item.path.stem) for item, _ in found])
    figures = {}
    for k, place in enumerate(PLACES):
        scores = left_out_scores([views[k] for _, views in found], label, series)
        figures[place] = round(auc(label.astype(int), scores), 3)
        print(f"{place}: AUC {figures[place]:.3f} over {len(found)} clips")
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


def _frames(item: Item, count: int) -> list[U8]:
    return [frame.image for frame in frames_of(item.path, Sampling(0.5, count), item.region)]


def places(image: U8, detector: CenterFace) -> list[U8] | None:
    """The three crops ``(224, 224, 3) uint8`` of a picture; None without a face."""
    scale = min(1.0, _ANALYSED_PX / max(image.shape[:2]))
    small = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    (faces,) = detector.detect([small])
    if not len(faces):
        return None
    largest = int(np.argmax(np.prod(faces.boxes_px[:, 2:] - faces.boxes_px[:, :2], axis=1)))
    points = faces.landmarks_px[largest : largest + 1] / scale
    eyes = np.linalg.norm(points[0, 0] - points[0, 1])
    face = align(image, points.astype(np.float32))[0][0]
    below = align(image, (points + np.array([0, _BELOW * eyes])).astype(np.float32))[0][0]
    y, x = np.mgrid[: face.shape[0], : face.shape[1]]
    covered = face.copy()
    covered[((y - 124) / 98) ** 2 + ((x - 112) / 76) ** 2 < 1] = 128
    return [face, below, covered]


def left_out_scores(
    views: list[F32], label: npt.NDArray[np.bool_], series: npt.NDArray[np.str_]
) -> npt.NDArray[np.float64]:
    """Mean score of each clip by a head that has seen no clip of its series."""
    scores = np.full(len(views), np.nan)
    for one in np.unique(series):
        kept = np.flatnonzero(series != one)
        clip_of = np.repeat(kept, [len(views[i]) for i in kept])
        fake = label[clip_of]
        weight = 1 / np.bincount(clip_of, minlength=len(views))[clip_of]
        for kind in (fake, ~fake):
            weight[kind] /= 2 * weight[kind].sum()
        (head,) = fit_heads(
            Rows(np.concatenate([views[i] for i in kept]), np.zeros(len(fake), np.float32), fake, weight), [_SHRINKAGE]
        )
        for i in np.flatnonzero(series == one):
            scores[i] = head(views[i], np.zeros(len(views[i]), np.float32)).mean()
    return scores


if __name__ == "__main__":
    main()
