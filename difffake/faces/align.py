"""Five-point similarity alignment: every face upright, centred, and at one scale.

The closed form is Umeyama's (1991, IEEE TPAMI 13(4), "Least-squares estimation of transformation parameters
between two point patterns") in two dimensions without reflection, where it needs no SVD: with points as
complex numbers the best similarity is ``z -> s z + t`` with ``s = <z - mean, w - mean> / |z - mean|^2``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from difffake.faces.contract import F32, U8

if TYPE_CHECKING:
    from difffake.picture import Picture

CROP_SIDE_PX = 224
#: Distance between the eyes as a share of the crop's side.
EYE_DISTANCE = 0.28
#: The largest side a crop may have; bounds the memory that a caller's number can ask for.
MAX_SIDE_PX = 2048

#: Landmarks in units of the eye distance, relative to the crop's centre. The eyes are 0.36 above the centre
#: (0.40 of the height at `EYE_DISTANCE`), so that chin and forehead are in. Proportions: frontal faces.
_SHAPE = np.array([[-0.5, -0.36], [0.5, -0.36], [0.0, 0.22], [-0.41, 0.76], [0.41, 0.76]])


def template(side_px: int = CROP_SIDE_PX, *, eye_distance: float = EYE_DISTANCE) -> F32:
    """Return where the five landmarks land in a crop: ``(5, 2) float32``, ``x, y`` in pixels.

    The template scales about the crop's centre, so ``template(288, eye_distance=0.28 * 224 / 288)`` is the
    crop of ``template(224, eye_distance=0.28)`` with a margin of 32 px around it, pixel for pixel.

    Args:
        side_px: side of the square crop.
        eye_distance: distance between the eyes as a share of the side.

    Raises:
        ValueError: the side is not in 1..`MAX_SIDE_PX`, or the eye distance not in (0, 1).

    >>> template().round().tolist()[:2]
    [[80.0, 89.0], [143.0, 89.0]]
    """
    if not 1 <= side_px <= MAX_SIDE_PX:
        raise ValueError(f"side_px must be 1 to {MAX_SIDE_PX}, not {side_px}")
    if not 0 < eye_distance < 1:
        raise ValueError(f"eye_distance is a share of the side between 0 and 1, not {eye_distance}")
    # Pixel centres lie at whole numbers: the centre of the crop is at (side - 1) / 2.
    return (_SHAPE * (eye_distance * side_px) + (side_px - 1) / 2).astype(np.float32)


def similarity(source: npt.NDArray[np.floating], target: npt.NDArray[np.floating]) -> F32:
    """Fit rotation, uniform scale and shift that take ``source`` to ``target`` with least squares.

    Args:
        source: points ``(N, P, 2)``, P >= 2.
        target: points ``(P, 2)`` or ``(N, P, 2)``.

    Returns:
        ``(N, 2, 3) float32`` matrices for column vectors ``(x, y, 1)``. A degenerate row (all source points
        equal) gives a matrix of NaN.
    """
    z = np.asarray(source, np.float64)
    w = np.asarray(target, np.float64)
    z_mean, w_mean = z.sum(axis=-2) / z.shape[-2], w.sum(axis=-2) / w.shape[-2]
    dz, dw = z - z_mean[:, None], w - w_mean[..., None, :]
    power = (dz * dz).sum(axis=(-2, -1))
    power = np.where(power > 0, power, np.nan)
    cos = (dz * dw).sum(axis=(-2, -1)) / power
    sin = (dz[..., 0] * dw[..., 1] - dz[..., 1] * dw[..., 0]).sum(axis=-1) / power
    matrix = np.empty((len(z), 2, 3))
    matrix[:, 0, 0], matrix[:, 0, 1] = cos, -sin
    matrix[:, 1, 0], matrix[:, 1, 1] = sin, cos
    matrix[:, :, 2] = w_mean - np.einsum("nij,nj->ni", matrix[:, :, :2], z_mean)
    return matrix.astype(np.float32)


def to_crop(landmarks_px: F32, matrices: F32) -> F32:
    """Take image points into their crops: ``(N, P, 2)`` and ``(N, 2, 3)`` give ``(N, P, 2) float32``."""
    moved = np.einsum("nij,npj->npi", matrices[:, :, :2], landmarks_px) + matrices[:, None, :, 2]
    return np.asarray(moved, np.float32)


def align(
    image: U8 | Picture,
    landmarks_px: F32,
    *,
    side_px: int = CROP_SIDE_PX,
    eye_distance: float = EYE_DISTANCE,
    target_px: F32 | None = None,
) -> tuple[U8, F32]:
    """Cut every face out of an image, aligned to `template` or to another set of points.

    Large faces are averaged down (area interpolation by a power of two, then 2x2 samples a pixel), so that no
    detail aliases; small ones are interpolated linearly. Beyond the picture's border lies its mirror image.

    Args:
        image: RGB ``(H, W, 3) uint8``, or a picture, of which only what a crop covers is asked for: the pixels are
            the same.
        landmarks_px: ``(N, 5, 2) float32`` in the image's pixels.
        side_px: side of the crops.
        eye_distance: distance between the eyes as a share of the side.
        target_px: where the landmarks shall land, ``(5, 2)`` in pixels of the crop, instead of the template of
            ``side_px`` and ``eye_distance``.

    Returns:
        Crops ``(N, side_px, side_px, 3) uint8`` and matrices ``(N, 2, 3) float32`` that take image pixels to
        crop pixels.

    Raises:
        ValueError: the image is no ``(H, W, 3) uint8``, landmarks are not finite or all in one place, or a size or the
            target is out of range.
    """
    if isinstance(image, np.ndarray) and (
        image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape
    ):
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    points = np.asarray(landmarks_px, np.float32)
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise ValueError(f"landmarks are (N, 5, 2), not {points.shape}")
    target = template(side_px, eye_distance=eye_distance)
    if target_px is not None:
        target = np.asarray(target_px, np.float32)
        if target.shape != (5, 2) or not np.isfinite(target).all():
            raise ValueError(f"a target is five finite points (5, 2), not {target.shape}")
    matrices = similarity(points, target) if np.isfinite(points).all() else None
    if matrices is None or not np.isfinite(matrices).all():
        raise ValueError("landmarks must be finite and not all in one place")
    crops = np.empty((len(points), side_px, side_px, 3), np.uint8)
    scales = np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    levels = np.clip(np.floor(-np.log2(np.maximum(scales, 1e-6)) + 1e-6), 0, 6).astype(int)
    for crop, matrix, level in zip(crops, matrices, levels, strict=True):
        _warp(image, matrix, int(level), crop)
    return crops, matrices


def _warp(image: U8 | Picture, matrix: F32, level: int, out: U8) -> None:
    """Warp one crop into ``out``, reading only what it covers of the image, shrunk by ``2**level``."""
    side = out.shape[0]
    step = 1 << level
    x0, y0, x1, y1 = _covered(image, matrix, side, 2 * step, step)
    region = image[y0:y1, x0:x1] if isinstance(image, np.ndarray) else image.crop(x0, y0, x1, y1)
    if level:
        region = _shrunk(region, step)
    # Pixel i of the shrunk region has its centre at low + i * step + (step - 1) / 2 of the image.
    local = matrix.astype(np.float64)
    local[:, 2] += local[:, :2] @ (x0 + (step - 1) / 2, y0 + (step - 1) / 2)
    local[:, :2] *= step
    # OpenCV warps four channels in a third of the time of three, to the same values.
    colours = cv2.cvtColor(region, cv2.COLOR_RGB2RGBA)
    how, border = cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101
    if np.hypot(local[0, 0], local[1, 0]) >= 1:
        crop = cv2.warpAffine(colours, local, (side, side), flags=how, borderMode=border)
    else:
        # Still shrinking, by less than two: sample at twice the side and average 2x2 (centres at 2 x + 1/2).
        local *= 2
        local[:, 2] += 0.5
        twice = cv2.warpAffine(colours, local, (2 * side, 2 * side), flags=how, borderMode=border)
        crop = cv2.resize(twice, (side, side), interpolation=cv2.INTER_AREA)
    cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB, dst=out)


def _shrunk(region: U8, step: int) -> U8:
    """The means of blocks of ``step`` pixels; of those that reach beyond the end, its last pixels are repeated."""
    height, width = region.shape[:2]
    rest_y, rest_x = height % step, width % step
    if not (rest_y or rest_x):
        return np.asarray(cv2.resize(region, (width // step, height // step), interpolation=cv2.INTER_AREA), np.uint8)
    # Only the last blocks are copied to be filled up: the whole may be the picture.
    rows, columns = -(-height // step), -(-width // step)
    result = np.empty((rows, columns, 3), np.uint8)
    end_y, end_x = height - rest_y, width - rest_x
    if end_y and end_x:
        result[: end_y // step, : end_x // step] = _shrunk(region[:end_y, :end_x], step)
    if rest_y:
        result[-1:] = _shrunk(_filled(region[end_y:], step), step)
    if rest_x and end_y:
        result[: end_y // step, -1:] = _shrunk(_filled(region[:end_y, end_x:], step), step)
    return result


def _filled(region: U8, step: int) -> U8:
    """With its last row and column repeated, up to whole blocks."""
    more_y, more_x = -region.shape[0] % step, -region.shape[1] % step
    return np.asarray(cv2.copyMakeBorder(region, 0, more_y, 0, more_x, cv2.BORDER_REPLICATE), np.uint8)


def _covered(image: U8 | Picture, matrix: F32, side: int, margin: int, step: int) -> tuple[int, int, int, int]:
    """Corners x0, y0, x1, y1 of what a warp reads of the image. They hold whole blocks of ``step`` between them, unless
    the image ends there."""
    to_image = np.asarray(cv2.invertAffineTransform(matrix), np.float64)
    edge = np.array([[-1, -1], [side, -1], [-1, side], [side, side]], np.float64)
    corners = (edge @ to_image[:, :2].T + to_image[:, 2]).T.tolist()
    size = image.shape[1::-1] if isinstance(image, np.ndarray) else (image.width_px, image.height_px)
    lows, highs = [], []
    for along, limit in zip(corners, size, strict=True):
        low = min(max(math.floor(min(along)) - margin, 0), limit - 1)
        high = max(min(max(math.ceil(max(along)) + margin, 1), limit), low + 1)
        lows.append(low)
        highs.append(high if high >= limit else max(high - (high - low) % step, low + 1))
    return lows[0], lows[1], highs[0], highs[1]
