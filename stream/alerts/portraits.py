"""The picture of a face that an alert carries: aligned, small, bounded."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt

from stream.messages.alerts import MAX_THUMBNAIL_BYTES

U8 = npt.NDArray[np.uint8]

SIDE_PX = 112
_QUALITIES = (85, 70, 50, 30, 10)


def shrunk(crop: U8) -> U8:
    """A copy of an aligned crop ``(S, S, 3) uint8`` of `SIDE_PX` a side: what is kept of a face until nobody asks."""
    small: U8 = cv2.resize(crop, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return small


def jpeg(picture: U8) -> bytes | None:
    """``(H, W, 3) uint8`` RGB as JPEG of no more than `MAX_THUMBNAIL_BYTES`; None where that cannot be done."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    for quality in _QUALITIES:
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and data.size <= MAX_THUMBNAIL_BYTES:
            return data.tobytes()
    return None


def find(portraits: Mapping[int, U8], boxes_px: npt.NDArray[np.float32], box_px: tuple[float, ...]) -> bytes | None:
    """The picture of the face in a box.

    Args:
        portraits: row of a face -> its shrunk crop.
        boxes_px: ``(N, 4)`` of the frame's faces.
        box_px: one of them, as a score tells it.
    """
    rows = np.flatnonzero((boxes_px == np.asarray(box_px, np.float32)).all(axis=1)) if len(boxes_px) else ()
    return next((jpeg(portraits[int(row)]) for row in rows if int(row) in portraits), None)
