"""Changes that make a picture look processed: geometry, sharpness, resolution, JPEG. RGB ``(h, w, 3) uint8``."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from difffake.pseudofake.bank import F32, U8
from difffake.pseudofake.masks import Mask

INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)


def small_affine(centre_px: F32, side_px: float, rng: np.random.Generator) -> F32:
    """A map ``(2, 3)``: moved by up to 3 % of ``side_px``, scaled by up to 5 %, turned by up to 3 degrees."""
    scale = 1 + rng.uniform(-0.05, 0.05, size=2)
    angle = np.deg2rad(rng.uniform(-3, 3))
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    shift = rng.uniform(-0.03, 0.03, size=2) * side_px
    return np.hstack([linear, (centre_px - linear @ centre_px + shift)[:, None]]).astype(np.float32)


def warp_window(image: U8, to_crop: F32, mask: Mask, *, interpolation: int = cv2.INTER_LINEAR) -> U8:
    """``image`` mapped by ``to_crop (2, 3)`` into the crop; only the mask's window is computed."""
    shifted = np.array(to_crop, np.float64)
    shifted[:, 2] -= (mask.left, mask.top)
    height, width = mask.alpha.shape
    return cv2.warpAffine(
        image, shifted, (width, height), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101
    ).astype(np.uint8, copy=False)


def resample(image: U8, factor: float, rng: np.random.Generator) -> U8:
    """Down by ``factor`` and up again, each with a random interpolation."""
    height, width = image.shape[:2]
    small = (max(round(width * factor), 4), max(round(height * factor), 4))
    down, up = (int(rng.choice(INTERPOLATIONS)) for _ in range(2))
    shrunk = cv2.resize(image, small, interpolation=down)
    return cv2.resize(shrunk, (width, height), interpolation=up).astype(np.uint8, copy=False)


def unsharp(image: U8, sigma_px: float, amount: float) -> U8:
    """Sharper for ``amount > 0``; ``amount = -1`` is the blurred picture itself."""
    blurred = cv2.GaussianBlur(image, (0, 0), sigma_px)
    return cv2.addWeighted(image, 1 + amount, blurred, -amount, 0).astype(np.uint8, copy=False)


def match_detail(
    image: U8, reference: U8, inside: NDArray[np.bool_], ratio: float, *, sigma_px: float = 1.2, most: float = 2.5
) -> U8:
    """Detail of ``image`` scaled to ``ratio`` times that of ``reference``, measured over ``inside``.

    Live swaps are often sharper inside the face than around it, and seldom equal. Detail is what a blur of
    ``sigma_px`` takes away. The gain is bounded by ``most``, since detail that is not there cannot be amplified
    into being.
    """
    blurred = cv2.GaussianBlur(image, (0, 0), sigma_px)
    ours = _deviation(cv2.subtract(image[..., 1], blurred[..., 1], dtype=cv2.CV_16S), inside)
    green = np.ascontiguousarray(reference[..., 1])
    theirs = _deviation(cv2.subtract(green, cv2.GaussianBlur(green, (0, 0), sigma_px), dtype=cv2.CV_16S), inside)
    gain = float(np.clip(ratio * theirs / max(ours, 0.05), 0.25, most))
    return cv2.addWeighted(image, gain, blurred, 1 - gain, 0).astype(np.uint8, copy=False)


def _deviation(values: cv2.typing.MatLike, inside: NDArray[np.bool_]) -> float:
    chosen = np.asarray(values, np.float32)[inside]
    return float(chosen.std()) if chosen.size else 0.0


def recompress(image: U8, quality: int) -> U8:
    """Through JPEG at ``quality`` (1 to 100) and back."""
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])
