"""Synthetic people: textured ellipses with eyes, nose and mouth, where the template has them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from difffake.faces import template
from difffake.training.sources import Kind
from difffake.training.store import STORE_EYE_DISTANCE, STORE_SIDE_PX, CropStore, CropWriter

U8 = npt.NDArray[np.uint8]


def drawn_face(rng: np.random.Generator, skin: npt.NDArray[np.float64]) -> tuple[U8, npt.NDArray[np.float32]]:
    """A crop ``(288, 288, 3) uint8`` and its landmarks ``(5, 2) float32``."""
    side = STORE_SIDE_PX
    points = template(side, eye_distance=STORE_EYE_DISTANCE) + rng.normal(0, 1.5, (5, 2)).astype(np.float32)
    noise = cv2.resize(rng.normal(0, 18, (72, 72, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    image = np.clip(rng.uniform(40, 200, 3) + noise, 0, 255).astype(np.uint8)
    face = np.zeros((side, side), np.uint8)
    cv2.ellipse(face, (side // 2, side // 2), (68, 92), 0, 0, 360, 255, -1)
    image[face > 0] = np.clip(skin + noise[face > 0], 0, 255)
    for x, y in points[:2]:
        cv2.circle(image, (round(float(x)), round(float(y))), 7, (30, 30, 40), -1)
    cv2.line(image, *(tuple(int(v) for v in points[i]) for i in (3, 4)), color=(150, 40, 50), thickness=6)
    return image, points.astype(np.float32)


def drawn_store(path: Path, *, people: int = 24, photos: int = 2, clips: int = 6, frames: int = 4) -> CropStore:
    """A store of ``people`` with photos, and ``clips`` people with frames half a second apart."""
    rng = np.random.default_rng(5)
    with CropWriter(path, side_px=STORE_SIDE_PX, eye_distance=STORE_EYE_DISTANCE) as writer:
        for number in range(people + clips):
            clip = number >= people
            skin = rng.uniform([120, 80, 60], [230, 190, 170])
            for shot in range(frames if clip else photos):
                crop, points = drawn_face(rng, skin)
                writer.append(
                    crop,
                    points,
                    person=f"{'clips' if clip else 'photos'}/{number}",
                    source="clips" if clip else "photos",
                    kind=Kind.VIDEO if clip else Kind.PHOTO,
                    time_s=shot / 2 if clip else None,
                    eye_distance_px=60.0,
                )
    return CropStore.load(path)
