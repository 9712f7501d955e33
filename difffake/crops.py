"""The faces of one picture as the networks take them: judged, and cut out where they are fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from difffake.faces import EYE_DISTANCE, Faces, Quality, align, assess
from difffake.identity import IDENTITY_SIDE_PX, align_identity
from difffake.picture import Picture

U8 = npt.NDArray[np.uint8]


#: swscale converts rows of other lengths seven times slower.
_ROW_PX = 16
_MAX_KEPT = 64


class NearPicture:
    """A `Picture` that converts each part once: the close-up of a face is where its crops are cut from. Use it for one
    look."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self.width_px, self.height_px = picture.width_px, picture.height_px
        self._parts: list[tuple[int, int, U8]] = []

    def small(self, width_px: int, height_px: int) -> U8:
        """See `Picture.small`."""
        return self._picture.small(width_px, height_px)

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> U8:
        """See `Picture.crop`."""
        for left, top, part in self._parts:
            if left <= x0 and top <= y0 and x1 <= left + part.shape[1] and y1 <= top + part.shape[0]:
                return part[y0 - top : y1 - top, x0 - left : x1 - left]
        # From even pixels on, whose chroma is their own: nothing before them is converted, and then left out by a copy.
        left, top = x0 & ~1, y0 & ~1
        width = min(-(-(x1 - left) // _ROW_PX) * _ROW_PX, self.width_px)
        left = max(0, min(left, self.width_px - width))
        part = self._picture.crop(left, top, left + width, y1)
        self._parts = [*self._parts[-_MAX_KEPT + 1 :], (left, top, part)]
        return part[y0 - top :, x0 - left : x1 - left]

    def rgb(self) -> U8:
        """See `Picture.rgb`."""
        return self._picture.rgb()


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """N faces of a picture, of which M are fit for the networks.

    Args:
        quality: N rows.
        faces: ``(M, S, S, 3) uint8`` for the extractor.
        chips: ``(M, 150, 150, 3) uint8`` for the identity network; none were asked for: ``(0, 150, 150, 3)``.
    """

    quality: Quality
    faces: U8
    chips: U8


def cut_out(
    picture: Picture, faces: Faces, side_px: int, *, eye_distance: float = EYE_DISTANCE, has_identity: bool = False
) -> Crops:
    """Align the faces of a picture, judge them, and keep the crops of those that are fit.

    Args:
        picture: only what the crops cover is asked for.
        faces: N faces in it.
        side_px: of the extractor's crops.
        eye_distance: the share of their side between the eyes.
        has_identity: cut them out for the identity network, too.

    Raises:
        ValueError: as `align`.
    """
    crops, _ = align(picture, faces.landmarks_px, side_px=side_px, eye_distance=eye_distance)
    quality = assess((picture.height_px, picture.width_px), faces, crops, eye_distance=eye_distance)
    fit = quality.ok
    chips = np.zeros((0, IDENTITY_SIDE_PX, IDENTITY_SIDE_PX, 3), np.uint8)
    if has_identity:
        chips = align_identity(picture, faces.landmarks_px[fit])
    return Crops(quality, crops[fit], chips)


def channels_first(crops: U8) -> U8:
    """Crops ``(N, S, S, 3)`` as engines take them, ``(N, 3, S, S)``, C-contiguous."""
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
