"""Faces: found, aligned to one template, and judged fit for scoring."""

from difffake.faces.align import CROP_SIDE_PX, EYE_DISTANCE, align, template, to_crop
from difffake.faces.centerface import CenterFace
from difffake.faces.contract import LANDMARKS, FaceDetector, Faces
from difffake.faces.quality import Limits, Quality, assess
from difffake.fitness import Reason

__all__ = [
    "CROP_SIDE_PX",
    "EYE_DISTANCE",
    "LANDMARKS",
    "CenterFace",
    "FaceDetector",
    "Faces",
    "Limits",
    "Quality",
    "Reason",
    "align",
    "assess",
    "template",
    "to_crop",
]
