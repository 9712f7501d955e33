"""Where a shot ends: the picture changes in colours and in places."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from difffake.faces.contract import F32, U8

_CUT_SIZE = (64, 36)
_BINS = 8


class CutDetector:
    """Tells a cut from motion: both the colours and the places of them must change.

    Args:
        colour_change: share of pixels, 0 to 1, that change their bin of a coarse colour histogram.
        pixel_change: mean absolute difference of the shrunk picture, grey levels.
    """

    def __init__(self, colour_change: float = 0.3, pixel_change: float = 18.0) -> None:
        self._colour_change, self._pixel_change = colour_change, pixel_change
        self._last: tuple[npt.NDArray[np.int16], F32] | None = None

    def is_cut(self, image: U8) -> bool:
        """Compare RGB ``(H, W, 3) uint8`` with the image of the call before; the first one is no cut."""
        small = cv2.resize(image, _CUT_SIZE, interpolation=cv2.INTER_AREA)
        code = (small // (256 // _BINS)).astype(np.int64) @ np.array([_BINS * _BINS, _BINS, 1])
        colours = np.bincount(code.ravel(), minlength=_BINS**3).astype(np.float32) / code.size
        pixels = small.astype(np.int16)
        last, self._last = self._last, (pixels, colours)
        if last is None:
            return False
        changed_colours = float(np.abs(colours - last[1]).sum()) / 2
        changed_pixels = float(np.abs(pixels - last[0]).mean())
        return changed_colours > self._colour_change and changed_pixels > self._pixel_change
