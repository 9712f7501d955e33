"""Colour: random changes of one picture, and transfer of colour from one face to another.

All on RGB ``(h, w, 3) uint8`` windows. Statistics are taken on every third pixel: enough, and nine times faster.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from difffake.pseudofake.bank import F32, U8, Bools

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_STRIDE = 3
# A transfer may stretch contrast or a colour axis by so much: beyond it, blotches and noise are what one sees.
_STRETCH = (0.5, 1.6)
TRANSFERS = ("lab_mean_std", "rgb_covariance", "histogram", "low_frequency", "mean_only")


def jitter_colour(image: U8, rng: np.random.Generator, *, strength: float = 1.0) -> U8:
    """Hue, saturation, contrast, brightness and channel shift, composed into one affine map of RGB.

    At strength 1: hue +-12 degrees, saturation and contrast +-25 %, brightness +-20, channels +-12 levels.
    """
    hue, saturation, contrast = (
        np.deg2rad(12) * rng.uniform(-1, 1) * strength,
        1 + 0.25 * rng.uniform(-1, 1) * strength,
        1 + 0.25 * rng.uniform(-1, 1) * strength,
    )
    cosine, sine = saturation * np.cos(hue), saturation * np.sin(hue)
    rotate = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    linear = contrast * (_FROM_YIQ @ rotate @ _TO_YIQ)
    pivot = image[::_STRIDE, ::_STRIDE].reshape(-1, 3).mean(axis=0)
    shift = strength * (20 * rng.uniform(-1, 1) + 12 * rng.uniform(-1, 1, size=3))
    return _affine_rgb(image, linear, pivot - linear @ pivot + shift)


def transfer_colour(source: U8, target: U8, inside: Bools, kind: str) -> U8:
    """``source (h, w, 3)`` in the colours of ``target (h, w, 3)``, statistics over ``inside (h, w)``.

    Kinds: mean and deviation in Lab (Reinhard et al. 2001); the linear Monge-Kantorovitch map between RGB
    covariances (Pitie & Kokaram 2007); a histogram per channel; low frequencies replaced, which takes over the
    light on the face as well; the mean only.
    """
    chosen = inside[::_STRIDE, ::_STRIDE]
    if int(chosen.sum()) < 16:
        return source
    if kind == "low_frequency":
        return _low_frequency(source, target)
    if kind == "lab_mean_std":
        source = cv2.cvtColor(source, cv2.COLOR_RGB2LAB).astype(np.uint8, copy=False)
        target = cv2.cvtColor(target, cv2.COLOR_RGB2LAB).astype(np.uint8, copy=False)
    ours = source[::_STRIDE, ::_STRIDE][chosen].astype(np.float64)
    theirs = target[::_STRIDE, ::_STRIDE][chosen].astype(np.float64)
    if kind == "histogram":
        return cv2.LUT(source, _histogram_tables(ours, theirs)).astype(np.uint8, copy=False)
    if kind == "rgb_covariance":
        linear = _monge_kantorovitch(np.cov(ours.T), np.cov(theirs.T))
    elif kind == "lab_mean_std":
        linear = np.diag(np.clip(theirs.std(axis=0) / (ours.std(axis=0) + 1e-3), *_STRETCH))
    else:
        linear = np.eye(3)
    changed = _affine_rgb(source, linear, theirs.mean(axis=0) - linear @ ours.mean(axis=0))
    if kind == "lab_mean_std":
        return cv2.cvtColor(changed, cv2.COLOR_LAB2RGB).astype(np.uint8, copy=False)
    return changed


def _affine_rgb(image: U8, linear: NDArray[np.float64], shift: NDArray[np.float64]) -> U8:
    matrix = np.hstack([linear, shift[:, None]])
    return cv2.transform(image, matrix).astype(np.uint8, copy=False)


def _monge_kantorovitch(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric A with ``A ours A = theirs``, its stretch along each axis bounded."""
    ridge = np.eye(3) * 4.0  # levels squared: keeps the map tame on nearly grey pictures
    root = _symmetric_power(ours + ridge, 0.5)
    back = _symmetric_power(ours + ridge, -0.5)
    values, vectors = np.linalg.eigh(back @ _symmetric_power(root @ (theirs + ridge) @ root, 0.5) @ back)
    return np.asarray((vectors * np.clip(values, *_STRETCH)) @ vectors.T, np.float64)


def _symmetric_power(matrix: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 1e-6) ** power) @ vectors.T, np.float64)


def _histogram_tables(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> U8:
    """Per-channel look-up tables ``(1, 256, 3)`` that bring our distribution onto theirs, slopes bounded."""
    levels = np.arange(256, dtype=np.float64)
    tables = np.empty((1, 256, 3), np.uint8)
    quantiles = np.linspace(0, 1, 33)
    for channel in range(3):
        from_levels = np.quantile(ours[:, channel], quantiles) + 1e-3 * np.arange(33)  # strictly rising
        wanted = np.quantile(theirs[:, channel], quantiles)
        rises = np.diff(from_levels) * np.clip(np.diff(wanted) / np.diff(from_levels), *_STRETCH)
        to_levels = np.concatenate([[0.0], np.cumsum(rises)])
        to_levels += wanted[16] - to_levels[16]  # the medians meet
        mapped = np.interp(levels, from_levels, to_levels)
        below, above = levels < from_levels[0], levels > from_levels[-1]
        mapped[below] += levels[below] - from_levels[0]  # beyond the seen range: shift, do not clip
        mapped[above] += levels[above] - from_levels[-1]
        tables[0, :, channel] = np.clip(np.round(mapped), 0, 255)
    return tables


def _low_frequency(source: U8, target: U8) -> U8:
    height, width = source.shape[:2]
    # Five cells across the face: light and skin tone pass, eyes and mouth of the target do not.
    small = (5, 5)
    ours: F32 = cv2.resize(source, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    theirs: F32 = cv2.resize(target, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    step = cv2.resize(cv2.blur(theirs - ours, (3, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(source, step, dtype=cv2.CV_8U).astype(np.uint8, copy=False)
