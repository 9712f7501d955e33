"""Where in a face its score comes from: parts are blurred one after the other, and what the score loses is their share.

Occlusion (Zeiler & Fergus 2014), because it asks nothing of the network but to run. Parts are blurred with soft edges,
not covered: a patch with a border would itself look manufactured to a network that looks for borders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Parts along each side: GRID ** 2 + 1 runs of the network explain a face.
GRID = 7
_QUALITY = 85

#: Crops ``(N, S, S, 3) uint8`` -> scores ``(N,)``.
ScoreCrops = Callable[[U8], F64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """``drop (GRID, GRID) float64``: what the score loses where a part is blurred; ``score``: of the whole face."""

    drop: F64
    score: float


def explain(crop: U8, score: ScoreCrops, grid: int = GRID) -> Explanation:
    """Blur each of ``grid ** 2`` parts of a crop ``(S, S, 3) uint8`` in turn and see what its score loses."""
    side = crop.shape[0]
    blurred = cv2.GaussianBlur(crop, (0, 0), side / 12).astype(np.float32)
    bumps = _bumps(side, grid)[..., None]
    views = crop[None] + bumps * (blurred - crop)[None]
    found = score(np.concatenate([crop[None], np.rint(views).astype(np.uint8)]))
    return Explanation((found[0] - found[1:]).reshape(grid, grid), float(found[0]))


def overlay(crop: U8, explanation: Explanation) -> bytes | None:
    """The crop as JPEG, red where the score hangs on it most; None where blurring lowers it nowhere."""
    grid, side = len(explanation.drop), crop.shape[0]
    heat = np.maximum(explanation.drop, 0.0)
    if not np.isfinite(heat).all() or not heat.max() > 0:
        return None
    bumps = _bumps(side, grid).astype(np.float64)
    spread = np.tensordot(heat.ravel(), bumps, axes=1) / np.maximum(bumps.sum(axis=0), 1e-6)
    share = (spread / spread.max())[..., None]
    grey = crop.mean(axis=2, keepdims=True)
    red = np.array([225.0, 30.0, 30.0])
    # Grey beneath, so that red lips are not taken for the heat.
    picture = (1 - 0.65 * share) * (0.35 * crop + 0.65 * grey) + 0.65 * share * red
    done, data = cv2.imencode(
        ".jpg", np.rint(picture).clip(0, 255).astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    return data.tobytes() if done else None


def _bumps(side: int, grid: int) -> F32:
    """Soft spots ``(grid ** 2, side, side)``, 1 at their centres; together they cover the whole crop."""
    centres = (np.arange(grid) + 0.5) * side / grid
    reach = side / grid * 0.6
    line = np.exp(-0.5 * ((np.arange(side) + 0.5 - centres[:, None]) / reach) ** 2)
    return np.asarray(np.einsum("iy,jx->ijyx", line, line).reshape(grid * grid, side, side), np.float32)
