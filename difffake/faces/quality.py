"""The quality gate: which faces are fit for scoring, and if not, the first reason why.

A face that is too small, soft or turned gives a score, but no evidence; the gate keeps such frames out of the
verdict and lets reports say what was wrong with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from difffake.faces.align import EYE_DISTANCE
from difffake.faces.contract import F32, U8, Faces
from difffake.fitness import Reason


@dataclass(frozen=True, slots=True)
class Limits:
    """What a face must have to be scored. The defaults and how they were found: ``docs/detectors.md``."""

    eye_distance_px: float = 20.0
    visible_share: float = 0.85
    yaw_deg: float = 50.0
    pitch_deg: float = 40.0
    luma: tuple[float, float] = (16.0, 239.0)
    contrast: float = 6.0
    sharpness: float = 0.08


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured of each face, one row a face, and the verdict.

    Args:
        reason: N times the first limit that is not met, or ``Reason.OK``.
        eye_distance_px: ``(N,) float32``, in pixels of the picture.
        visible_share: ``(N,) float32``, 0 to 1: the part of the face's box inside the picture.
        yaw_deg: ``(N,) float32``, about; positive when the nose points to the picture's right.
        pitch_deg: ``(N,) float32``, about; positive when the nose points down.
        luma: ``(N,) float32``, 0 to 255: mean brightness of the face.
        contrast: ``(N,) float32``: standard deviation of that brightness.
        sharpness: ``(N,) float32``: root of the variance of the Laplacian over that of the brightness.
    """

    reason: list[Reason]
    eye_distance_px: F32
    visible_share: F32
    yaw_deg: F32
    pitch_deg: F32
    luma: F32
    contrast: F32
    sharpness: F32

    def __len__(self) -> int:
        return len(self.reason)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Mask ``(N,)`` of the faces fit for scoring."""
        return np.array([r is Reason.OK for r in self.reason], bool)


#: How far the nose tip stands out of the plane of eyes and mouth, in eye distances.
_NOSE_DEPTH = 0.4
#: Where the nose tip lies between the eyes' line (0) and the mouth's (1) in a level face.
_NOSE_LEVEL = 0.57
#: From the eyes' line to the mouth's, in eye distances, in a level face.
_EYES_TO_MOUTH = 1.12
#: Variance that rounding to whole grey levels (1/12 each) adds to a Laplacian (weights 1, 1, 1, 1, -4).
_ROUNDING = 20 / 12
#: The part of a crop that is face: left, top, right, bottom about its centre, in eye distances.
_FACE = (-0.8, -0.7, 0.8, 1.1)


def assess(
    image_hw: tuple[int, int],
    faces: Faces,
    crops: U8,
    limits: Limits | None = None,
    *,
    eye_distance: float = EYE_DISTANCE,
) -> Quality:
    """Measure every face of one picture and hold it against the limits.

    Args:
        image_hw: height and width of the picture, px.
        faces: N faces in it.
        crops: their aligned crops ``(N, S, S, 3) uint8`` RGB from `difffake.faces.align.align`.
        limits: `Limits()` if not given.
        eye_distance: the share of the crop's side that they were aligned to.

    Raises:
        ValueError: faces and crops do not match.

    >>> assess((360, 640), Faces.empty(), np.zeros((0, 224, 224, 3), np.uint8)).reason
    []
    """
    if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8 or len(crops) != len(faces):
        raise ValueError(f"{len(faces)} faces need as many crops (S, S, 3) uint8, not {crops.shape}")
    limits = limits or Limits()
    eyes = _length(faces.landmarks_px[:, 1] - faces.landmarks_px[:, 0])
    visible = _visible_share(faces, image_hw)
    yaw, pitch = head_pose(faces.landmarks_px)
    luma, contrast, sharpness = _texture(crops, eyes, eye_distance)
    holds = {
        Reason.TOO_SMALL: eyes < limits.eye_distance_px,
        Reason.TRUNCATED: visible < limits.visible_share,
        Reason.POSE: (np.abs(yaw) > limits.yaw_deg) | (np.abs(pitch) > limits.pitch_deg),
        Reason.EXPOSURE: (luma < limits.luma[0]) | (luma > limits.luma[1]) | (contrast < limits.contrast),
        Reason.BLURRED: sharpness < limits.sharpness,
        Reason.OK: np.ones(len(faces), bool),
    }
    names, first = list(holds), np.array(list(holds.values())).argmax(axis=0)
    return Quality([names[i] for i in first.tolist()], eyes, visible, yaw, pitch, luma, contrast, sharpness)


def _length(vectors: npt.NDArray[np.floating]) -> F32:
    """Of vectors ``(N, 2)``."""
    return np.asarray(np.sqrt((vectors * vectors).sum(axis=1)), np.float32)


def head_pose(landmarks_px: F32) -> tuple[F32, F32]:
    """Estimate yaw and pitch, in degrees, of N faces from ``(N, 5, 2)`` landmarks, whatever their roll.

    The nose tip stands `_NOSE_DEPTH` out of the plane of eyes and mouth; turning the head moves it against that
    plane by the tangent of the angle. Good to about 10 degrees for a gate, not a measurement; a full profile
    gives 90 degrees or less.
    """
    left, right, tip, corner, other = (landmarks_px[:, i] for i in range(5))
    eyes = right - left
    middle = (left + right) / 2
    mouth = (corner + other) / 2 - middle
    nose = tip - middle
    # Across and down in the face's own frame: down is from the eyes to the mouth, across stands upright on it.
    length = np.maximum(_length(mouth), 1e-6)
    down = mouth / length[:, None]
    width = np.maximum(np.abs(eyes[:, 0] * down[:, 1] - eyes[:, 1] * down[:, 0]), 1e-6)
    side = (nose[:, 0] * down[:, 1] - nose[:, 1] * down[:, 0]) / width
    level = (nose * down).sum(axis=1) / length
    yaw = np.degrees(np.arctan(side / _NOSE_DEPTH))
    pitch = np.degrees(np.arctan((level - _NOSE_LEVEL) * _EYES_TO_MOUTH / _NOSE_DEPTH))
    return yaw.astype(np.float32, copy=False), pitch.astype(np.float32, copy=False)


def _visible_share(faces: Faces, image_hw: tuple[int, int]) -> F32:
    """Part of each box inside the picture; 0 when a landmark lies outside."""
    size = np.array([image_hw[1], image_hw[0]], np.float32)
    low, high = faces.boxes_px[:, :2], faces.boxes_px[:, 2:]
    inside = np.maximum(np.minimum(high, size) - np.maximum(low, 0), 0)
    whole = np.maximum(high - low, 1e-6)
    seen = ((faces.landmarks_px >= 0) & (faces.landmarks_px <= size - 1)).all(axis=(1, 2))
    share = inside[:, 0] * inside[:, 1] / (whole[:, 0] * whole[:, 1])
    return np.where(seen, share, 0).astype(np.float32, copy=False)


def _texture(crops: U8, eyes_px: Sequence[float] | F32, eye_distance: float) -> tuple[F32, F32, F32]:
    """Brightness, contrast and sharpness of the faces in crops, at the resolution that the picture had."""
    result = np.zeros((3, len(crops)), np.float32)
    side = crops.shape[1]
    unit = eye_distance * side
    x1, y1, x2, y2 = (min(max(round(edge * unit + side / 2), 0), side) for edge in _FACE)
    for i, (crop, eyes) in enumerate(zip(crops, eyes_px, strict=True)):
        grey = cv2.cvtColor(crop[y1:y2, x1:x2], cv2.COLOR_RGB2GRAY).astype(np.float32)
        if eyes < unit:
            # Enlarged pixels are smooth whatever the camera did: go back to the picture's own.
            share = max(float(eyes), 4.0) / unit
            size = max(3, round(grey.shape[1] * share)), max(3, round(grey.shape[0] * share))
            grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
        deviation = float(grey.std())
        laplacian = cv2.Laplacian(grey, cv2.CV_32F, ksize=1)[1:-1, 1:-1]
        detail = max(float(laplacian.var()) - _ROUNDING, 0.0) ** 0.5
        result[:, i] = grey.mean(), deviation, detail / max(deviation, 1.0)
    return result[0], result[1], result[2]
