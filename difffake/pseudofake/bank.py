"""Real faces to make pseudo-deepfakes from: sources, targets and donors in one set of aligned arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from difffake.errors import DataError

if TYPE_CHECKING:
    from difffake.pseudofake.generator import FaceGenerator

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

MIN_EYE_DISTANCE_PX = 8.0
# A face turned so far that its five points lie almost on a line carries no usable geometry.
MIN_FLATNESS = 0.12
_NEAREST = 4


def usable_landmarks(landmarks_px: F32, side_px: int) -> Bools:
    """Which rows of landmarks describe a face that a mask can be fitted to, ``(N,) bool``.

    Finite, inside the crop, eyes at least 8 px apart, mouth below the eyes, and not almost on one line.

    >>> good = np.array([[[30, 40], [60, 40], [45, 55], [33, 70], [57, 70]]], np.float32)
    >>> bool(usable_landmarks(good, 96)[0]), bool(usable_landmarks(good * 0, 96)[0])
    (True, False)
    """
    points = np.asarray(landmarks_px, np.float64)
    finite = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    points = np.where(finite[:, None, None], points, 0.0)
    inside = ((points >= 0) & (points <= side_px)).all(axis=(1, 2))
    eyes = points[:, 1] - points[:, 0]
    distance = np.hypot(eyes[:, 0], eyes[:, 1])
    down = points[:, 3:].mean(axis=1) - points[:, :2].mean(axis=1)
    below = eyes[:, 0] * down[:, 1] - eyes[:, 1] * down[:, 0]  # > 0: the mouth is on the chin's side of the eyes
    spread = np.linalg.svd(points - points.mean(axis=1, keepdims=True), compute_uv=False)
    flat = spread[:, 1] > MIN_FLATNESS * np.maximum(spread[:, 0], 1e-9)
    usable: Bools = finite & inside & (distance >= MIN_EYE_DISTANCE_PX) & (below > 0) & flat
    return usable


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class FaceBank:
    """Aligned crops of real faces, one row a face.

    ``crops (N, S, S, 3) uint8`` RGB, may be a ``numpy.memmap``; ``landmarks (N, 5, 2) float32`` in px of the
    crop; ``people (N,) int32``, equal numbers for the same person; ``generator``, which some families draw with.
    Raises DataError where shapes or dtypes do not fit, or where a row's landmarks are not usable
    (see `usable_landmarks`).
    """

    crops: U8
    landmarks: F32
    people: I32
    generator: FaceGenerator | None = None

    def __post_init__(self) -> None:
        crops = self.crops
        if crops.ndim != 4 or crops.shape[3] != 3 or crops.shape[1] != crops.shape[2]:
            raise _mismatch("crops", "(N, S, S, 3)", crops)
        count, side = crops.shape[0], crops.shape[1]
        if count == 0 or not 64 <= side <= 1024:
            raise DataError(
                f"a face bank of {count} crops of {side} px",
                hint="Give at least one crop, with a side of 64 to 1024 px.",
            )
        if self.landmarks.shape != (count, 5, 2):
            raise _mismatch("landmarks", f"({count}, 5, 2)", self.landmarks)
        if self.people.shape != (count,):
            raise _mismatch("people", f"({count},)", self.people)
        for name, array, dtype in (
            ("crops", crops, np.uint8),
            ("landmarks", self.landmarks, np.float32),
            ("people", self.people, np.int32),
        ):
            if array.dtype != dtype:
                raise DataError(
                    f"{name} are {array.dtype}, expected {np.dtype(dtype)}",
                    hint=f"Convert the array of {name} before building the face bank.",
                )
        bad = np.flatnonzero(~usable_landmarks(self.landmarks, side))
        if bad.size:
            raise DataError(
                f"degenerate landmarks in {bad.size} of {count} crops, first at row {bad[0]}",
                hint="Drop those rows first: difffake.pseudofake.usable_landmarks says which to keep.",
            )

    def __len__(self) -> int:
        return int(self.crops.shape[0])

    @property
    def side_px(self) -> int:
        """Side S of every crop in px."""
        return int(self.crops.shape[1])

    def crop(self, index: int) -> U8:
        """Row ``index`` in memory, ``(S, S, 3) uint8``, not writable through to a memmap."""
        return np.array(self.crops[index], dtype=np.uint8)

    def donor(self, index: int, rng: np.random.Generator, *, candidates: int = 128) -> int:
        """A face of another person in nearly the same pose and expression.

        Of the nearest few by landmarks among ``candidates`` random faces (Face X-ray, Li et al. 2020, section
        3.2), the one of the most similar skin. Raises DataError where the bank holds one person only.
        """
        drawn = rng.integers(len(self), size=candidates)
        drawn = drawn[self.people[drawn] != self.people[index]]
        if drawn.size == 0:
            drawn = np.flatnonzero(self.people != self.people[index])
            if drawn.size == 0:
                raise DataError(
                    "a swap needs two people, the face bank holds one",
                    hint="Add faces of other people, or draw only families that use one face.",
                )
        shapes = _shape(self.landmarks[drawn]) - _shape(self.landmarks[index : index + 1])
        near = drawn[np.argsort(np.square(shapes).sum(axis=(1, 2)), kind="stable")[:_NEAREST]]
        skins = np.stack([self._skin(int(row)) for row in near])
        return int(near[np.argmin(np.square(skins - self._skin(index)).sum(axis=1))])

    def _skin(self, index: int) -> F32:
        """Mean colour ``(3,)`` of the cheeks and nose, below the eyes and above the mouth."""
        points = self.landmarks[index]
        top, bottom = points[:2, 1].mean() * 0.6 + points[2, 1] * 0.4, points[2, 1]
        left, right = points[:, 0].min(), points[:, 0].max()
        rows = slice(int(top), max(int(bottom), int(top) + 2), 2)
        columns = slice(int(left), max(int(right), int(left) + 2), 2)
        patch = self.crops[index, rows, columns]
        return np.asarray(patch.reshape(-1, 3).mean(axis=0), np.float32)


def _shape(landmarks: F32) -> F32:
    """Landmarks without position and scale: centred, in eye distances."""
    eyes = np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=1)
    return np.asarray((landmarks - landmarks.mean(axis=1, keepdims=True)) / eyes[:, None, None], np.float32)


def _mismatch(name: str, expected: str, array: NDArray[Any]) -> DataError:
    return DataError(
        f"{name} have the shape {array.shape}, expected {expected}",
        hint="A face bank is three aligned arrays: crops (N, S, S, 3), landmarks (N, 5, 2), people (N,).",
    )
