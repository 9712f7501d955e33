"""Faces: found, aligned to one template, and judged fit for scoring."""

from difffake.faces.align import CROP_SIDE_PX, EYE_DISTANCE, align, template, to_crop
from difffake.faces.centerface import CenterFace
from difffake.faces.contract import LANDMARKS, FaceDetector, Faces

__all__ = [
    "CROP_SIDE_PX",
    "EYE_DISTANCE",
    "LANDMARKS",
    "CenterFace",
    "FaceDetector",
    "Faces",
    "align",
    "template",
    "to_crop",
]
