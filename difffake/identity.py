"""Faces as the identity network wants them.

The network is dlib's face recognition ResNet (Davis King, CC0), run by `engines`: aligned faces ``(B, 3, 150, 150)
uint8`` -> embeddings ``(B, 128) float32``, whose Euclidean distance tells whether two faces are of one person. They
are not normalised. It expects faces aligned like those it was trained on; `align_identity` imitates dlib's alignment
with our five landmarks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from difffake.faces.align import align
from difffake.faces.contract import F32, U8

if TYPE_CHECKING:
    from difffake.picture import Picture

IDENTITY_SIDE_PX = 150

#: Where our landmarks lie in the chips that dlib cuts (150 px, padding 0.25): medians over 3,495 faces of LFW, mirror
#: images included, by ``scripts/measure_identity_template.py``. Matched to dlib's alignment, not to a recognition rate.
#: The eyes are not level because CenterFace sees every face turned by 1.5 degrees, mirror images too; dlib does not.
_TEMPLATE_PX = np.array([[44.91, 45.75], [102.86, 44.26], [74.11, 78.23], [48.3, 104.77], [97.62, 103.25]], np.float32)


def identity_template() -> F32:
    """Return where the five landmarks land in an identity crop: ``(5, 2) float32``, ``x, y`` in pixels of 150.

    >>> identity_template().shape
    (5, 2)
    """
    return _TEMPLATE_PX.copy()


def align_identity(image: U8 | Picture, landmarks_px: F32) -> U8:
    """Cut every face out of an image for the identity network.

    Args:
        image: RGB ``(H, W, 3) uint8``, or a picture.
        landmarks_px: ``(N, 5, 2) float32`` in the image's pixels, in the order of `difffake.faces.LANDMARKS`.

    Returns:
        ``(N, 150, 150, 3) uint8``; a network takes them with the channels in front (``transpose(0, 3, 1, 2)``).

    Raises:
        ValueError: the image is no ``(H, W, 3) uint8``, or landmarks are not finite or all in one place.
    """
    crops, _ = align(image, landmarks_px, side_px=IDENTITY_SIDE_PX, target_px=_TEMPLATE_PX)
    return crops
