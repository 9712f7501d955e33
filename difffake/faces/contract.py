"""What a face detector returns, whatever network is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

#: Rows of ``landmarks_px``: left and right are those of the picture, not of the person.
LANDMARKS = ("left eye", "right eye", "nose tip", "left mouth corner", "right mouth corner")


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces of one image as aligned arrays: row i of each array is face i, best first.

    Args:
        boxes_px: ``(N, 4) float32``, ``x1, y1, x2, y2`` in pixels of the image; may reach beyond its border.
        landmarks_px: ``(N, 5, 2) float32``, ``x, y`` in pixels, in the order of `LANDMARKS`.
        confidence: ``(N,) float32``, 0 to 1.

    Raises:
        ValueError: the arrays do not agree in length, or have other shapes.

    >>> faces = Faces.empty()
    >>> len(faces), faces.landmarks_px.shape
    (0, (0, 5, 2))
    """

    boxes_px: F32
    landmarks_px: F32
    confidence: F32

    def __post_init__(self) -> None:
        n = len(self.confidence)
        shapes = (self.boxes_px.shape, self.landmarks_px.shape, self.confidence.shape)
        if shapes != ((n, 4), (n, 5, 2), (n,)):
            raise ValueError(f"faces need boxes (N, 4), landmarks (N, 5, 2), confidence (N,); got {shapes}")

    def __len__(self) -> int:
        return len(self.confidence)

    def __getitem__(self, index: int | slice | Sequence[int] | npt.NDArray[Any]) -> Faces:
        """Select faces by slice, indices or boolean mask; an ``int`` gives one face, still as arrays."""
        if isinstance(index, int | np.integer):
            n = len(self)
            if not -n <= index < n:
                raise IndexError(f"face {index} of {n}")
            index = [int(index)]
        return Faces(self.boxes_px[index], self.landmarks_px[index], self.confidence[index])

    @staticmethod
    def empty() -> Faces:
        """No face: arrays of length 0 with the right shapes."""
        return Faces(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros((0,), np.float32))


class FaceDetector(Protocol):
    """Finds faces with five landmarks."""

    def detect(self, images: Sequence[U8]) -> list[Faces]:
        """Find the faces of each image.

        Args:
            images: RGB ``(H, W, 3) uint8`` each, of any sizes.

        Returns:
            One `Faces` per image, in its own pixels; a picture without a face gives `Faces.empty`.
        """
        ...
