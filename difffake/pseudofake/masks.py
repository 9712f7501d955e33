"""Where a face is altered: soft masks from five landmarks.

No landmark network: a canonical face of our own (units: distance between the eyes, origin between them) is
fitted to the five points by affine least squares, loosened at random, and shapes are cut from it. The outline
is deformed before it is filled, which gives what elastic deformation of the filled mask gives (Face X-ray, Li
et al. 2020, section 3.2; Self-Blended Images, Shiohara & Yamasaki 2022, section 3.2) at a fraction of the cost,
and keeps the reach of a mask bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from difffake.errors import DataError
from difffake.pseudofake.bank import F32, U8, usable_landmarks

RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
_CONTOUR_POINTS = 72


def _mirror(left: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return left + [(-x, y) for x, y in reversed(left)]


_JAW_LEFT = [(-0.97, 0.02), (-0.96, 0.28), (-0.93, 0.54), (-0.87, 0.80), (-0.77, 1.05), (-0.63, 1.28)]
_CHIN = [(-0.45, 1.49), (-0.24, 1.64), (0.0, 1.70)]
_BROW_LEFT = [(-0.80, -0.22), (-0.67, -0.32), (-0.50, -0.35), (-0.33, -0.32), (-0.18, -0.26)]
_FOREHEAD_LEFT = [(-0.93, -0.30), (-0.80, -0.56), (-0.52, -0.76), (-0.18, -0.85)]
_HALF_CHIN = _JAW_LEFT + _CHIN[:-1]

FIVE_POINTS = np.array([(-0.5, 0.0), (0.5, 0.0), (0.0, 0.58), (-0.43, 1.01), (0.43, 1.01)], np.float32)

_FACE = [(x, y) for x, y in _HALF_CHIN] + [_CHIN[-1]] + [(-x, y) for x, y in reversed(_HALF_CHIN)]
_WHOLE = _FACE + [(-x, y) for x, y in _BROW_LEFT] + list(reversed(_BROW_LEFT))
_EXTENDED = _FACE + [(-x, y) for x, y in _FOREHEAD_LEFT] + list(reversed(_FOREHEAD_LEFT))
_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)

#: Outlines in canonical coordinates, closed polygons.
SHAPES: dict[str, F32] = {
    name: np.asarray(points, np.float32)
    for name, points in {
        "face": _WHOLE,
        "face_and_forehead": _EXTENDED,
        "face_below_brows": [*_FACE, (0.80, -0.14), (0.18, -0.18), (-0.18, -0.18), (-0.80, -0.14)],
        "ellipse": np.stack([0.88 * np.cos(_ANGLES), 0.50 + 1.06 * np.sin(_ANGLES)], axis=1),
        "inner_face": _mirror(
            [(-0.20, -0.40), (-0.62, -0.42), (-0.84, -0.24), (-0.80, 0.30), (-0.66, 0.85), (-0.52, 1.18), (-0.2, 1.36)]
        ),
        # What tools paste that draw an aligned square: eroded by a tenth on each side, and feathered.
        "square": [(-1.22, -1.0), (1.22, -1.0), (1.22, 1.42), (-1.22, 1.42)],
        "eyes": _mirror(
            [(-0.12, -0.30), (-0.50, -0.40), (-0.82, -0.28), (-0.88, 0.02), (-0.74, 0.20), (-0.45, 0.26), (-0.10, 0.20)]
        ),
        "nose": _mirror(
            [(-0.09, -0.02), (-0.13, 0.28), (-0.27, 0.55), (-0.31, 0.70), (-0.16, 0.81)],
        ),
        "mouth": _mirror([(-0.22, 0.80), (-0.50, 0.88), (-0.58, 1.02), (-0.46, 1.22), (-0.20, 1.34)]),
        "mouth_and_jaw": _mirror(
            [(-0.20, 0.79), (-0.55, 0.76), (-0.86, 0.72), (-0.77, 1.05), (-0.63, 1.28), (-0.45, 1.49), (-0.24, 1.64)]
        ),
        "lower_face": _mirror(
            [
                (-0.16, 0.46),
                (-0.52, 0.42),
                (-0.93, 0.44),
                (-0.87, 0.80),
                (-0.77, 1.05),
                (-0.63, 1.28),
                (-0.45, 1.49),
                (-0.24, 1.64),
            ]
        ),
    }.items()
}
GLOBAL_SHAPES = ("face", "face_and_forehead", "face_below_brows", "ellipse", "inner_face")
LOCAL_SHAPES = ("eyes", "nose", "mouth", "mouth_and_jaw", "lower_face")
#: Of swaps: the whole faces, and the square now and then.
SWAP_SHAPES = (*GLOBAL_SHAPES, "face_and_forehead", "face", "square", "square")
MOUTH_SHAPES = ("mouth", "mouth_and_jaw", "lower_face")


@dataclass(frozen=True, slots=True)
class Mask:
    """A soft mask as a window of the crop: zero everywhere outside the window.

    ``alpha (h, w) float32`` in [0, 1], the blending ratio included; ``left``, ``top`` px of its corner.
    """

    alpha: F32
    left: int
    top: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the window in a crop: ``crop[mask.window]`` is ``(h, w, 3)``."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def full(self, side_px: int) -> F32:
        """The mask at full size, ``(S, S) float32``."""
        whole = np.zeros((side_px, side_px), np.float32)
        whole[self.window] = self.alpha
        return whole


def fit_canonical(landmarks_px: F32) -> F32:
    """Affine map ``(2, 3) float32`` from canonical coordinates to px, least squares over the five points."""
    known = np.hstack([FIVE_POINTS, np.ones((5, 1), np.float32)])
    solution, *_ = np.linalg.lstsq(known, landmarks_px, rcond=None)
    return np.asarray(solution.T, np.float32)


def outline(landmarks_px: F32, shape: str) -> F32:
    """The undeformed outline of a shape in px, ``(M, 2) float32``.

    Raises DataError for landmarks that no face can be fitted to.
    """
    if landmarks_px.shape != (5, 2) or not usable_landmarks(landmarks_px[None], 1 << 15)[0]:
        raise DataError(
            "degenerate landmarks: no face can be fitted to the five points",
            hint="Give five points (5, 2) in px, eyes apart and mouth below them; difffake.faces.align does.",
        )
    affine = fit_canonical(landmarks_px)
    return np.asarray(SHAPES[shape] @ affine[:, :2].T + affine[:, 2], np.float32)


def draw_mask(landmarks_px: F32, side_px: int, rng: np.random.Generator, shapes: tuple[str, ...]) -> Mask:
    """A random soft mask of one of ``shapes``, in px of a crop of ``side_px``.

    Outline loosened and deformed, edge softened over a random width and moved in or out, then scaled by a
    ratio from `RATIOS`. Beyond the undeformed outline it reaches at most 0.6 eye distances plus 5 % of the
    outline's extent. Raises DataError for degenerate landmarks.
    """
    shape = shapes[int(rng.integers(len(shapes)))]
    points = outline(landmarks_px, shape)
    eye_px = float(np.linalg.norm(landmarks_px[1] - landmarks_px[0]))
    contour = _deform(_resample_closed(points), eye_px, rng)
    small = 0.5 if shape in ("eyes", "nose", "mouth") else 1.4 if shape == "square" else 1.0
    radius = max(1, round(small * eye_px * float(rng.choice((0.03, 0.06, 0.09, 0.12)) * rng.uniform(0.7, 1.2))))
    margin = 2 * radius + 2
    low = np.floor(contour.min(axis=0)).astype(int) - margin
    high = np.ceil(contour.max(axis=0)).astype(int) + margin + 1
    left, top = (int(v) for v in np.clip(low, 0, side_px - 1))
    right, bottom = (int(v) for v in np.clip(high, 1, side_px))
    canvas: U8 = np.zeros((max(bottom - top, 1), max(right - left, 1)), np.uint8)
    fixed = np.round((contour - (left, top)) * 16).astype(np.int32)  # 1/16 px, so that edges do not snap
    cv2.fillPoly(canvas, [fixed], 255, lineType=cv2.LINE_8, shift=4)
    # Two box filters are nearly Gaussian and, unlike it, end: the reach stays bounded.
    size = (2 * radius + 1, 2 * radius + 1)
    soft = cv2.blur(canvas, size, borderType=cv2.BORDER_REPLICATE)
    soft = cv2.blur(soft, size, borderType=cv2.BORDER_REPLICATE)
    # Levels after the blur erode (0.4..1) or dilate (0..0.6) the soft edge.
    floor, ceiling = ((0.0, 1.0), (0.4, 1.0), (0.0, 0.6), (0.25, 0.75))[int(rng.integers(4))]
    ratio = RATIOS[int(rng.integers(len(RATIOS)))]
    levels = np.clip((np.arange(256, dtype=np.float32) / 255 - floor) / (ceiling - floor), 0, 1) * ratio
    return Mask(np.asarray(levels, np.float32)[soft], left, top)


def _resample_closed(points: F32) -> F32:
    """The polygon's outline at equally spaced points, ``(72, 2) float32``."""
    closed = np.vstack([points, points[:1]])
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    at = np.linspace(0, steps[-1], _CONTOUR_POINTS, endpoint=False)
    return np.stack([np.interp(at, steps, closed[:, 0]), np.interp(at, steps, closed[:, 1])], axis=1).astype(np.float32)


def _deform(contour: F32, eye_px: float, rng: np.random.Generator) -> F32:
    """Grow or shrink about the centre, move, and bend by a smooth periodic noise along the outline."""
    centre = contour.mean(axis=0)
    scale = rng.uniform(0.90, 1.05, size=2)
    shift = rng.uniform(-0.03, 0.03, size=2) * eye_px
    orders = np.arange(2, 7)
    phase = 2 * np.pi * (np.arange(_CONTOUR_POINTS)[:, None] / _CONTOUR_POINTS * orders + rng.random((2, 1, 5)))
    amplitude = rng.uniform(0, 0.04) * eye_px / np.sqrt(orders)
    bend = (amplitude * rng.uniform(-1, 1, size=(2, 1, 5)) * np.sin(phase)).sum(axis=2).T
    return np.asarray((contour - centre) * scale + centre + shift + bend, np.float32)
