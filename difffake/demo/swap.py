"""A cheap face swap made on the spot: another person's face, laid on by landmarks, over half of a clip.

It is made in another way than any pseudo-fake of the training (gradient-domain blending, Perez et al. 2003, of a
whole donor face), so the demonstration is no test of what the model has learned by heart. Both copies, genuine and
swapped, pass through the same encoder: the codec cannot give the answer away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from difffake.demo.writer import VideoWriter
from difffake.errors import NoFaceError
from difffake.faces import CenterFace, Faces, align
from difffake.limits import Limits
from difffake.video import open_video

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_SIDE_PX = 320


@dataclass(frozen=True, slots=True)
class Donor:
    """The face that is laid on: an aligned crop, its landmarks, and the oval that is taken from it."""

    crop: U8
    landmarks_px: F32
    mask: U8


@dataclass(frozen=True, slots=True)
class DemoClips:
    """The two copies, and the stretch (seconds) in which the second one is manipulated."""

    genuine: Path
    swapped: Path
    start_s: float
    end_s: float


def pick_donor(source: Path) -> Donor:
    """Take the most frontal face of a clip or image.

    Raises:
        NoFaceError: there is none.
    """
    detector = CenterFace()
    best: tuple[float, Donor] | None = None
    with open_video(source, fps=5, limits=Limits()) as video:
        for frame in video:
            faces = detector.detect([frame.image])[0]
            if not len(faces):
                continue
            crops, matrices = align(frame.image, faces.landmarks_px[:1], side_px=_SIDE_PX, eye_distance=0.3)
            points = faces.landmarks_px[0] @ matrices[0, :, :2].T + matrices[0, :, 2]
            asymmetry = abs(float(points[2, 0] - points[[0, 1], 0].mean()))
            if best is None or asymmetry < best[0]:
                best = (asymmetry, Donor(crops[0], points.astype(np.float32), _oval(points)))
    if best is None:
        raise NoFaceError(f"no face in the donor {source.name}", hint="name a clip or image with one clear face")
    return best[1]


def make_demo_clips(
    source: Path, donor: Donor, folder: Path, progress: Callable[[float], None] | None = None
) -> DemoClips:
    """Write ``genuine.mp4`` and ``swapped.mp4``: the same clip, and with the donor's face over half of it, from its
    first third on: long enough for an alert that keeps to the default budget.

    Raises:
        NoFaceError: the clip shows no face in that half.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_video(source, fps=None, limits=Limits()) as video:
        times = [frame.pts_s for frame in video]
        rate = Fraction(video.info.fps or 25).limit_denominator(1001)
    start_s, end_s = times[len(times) // 3], times[5 * len(times) // 6]
    clips = DemoClips(folder / "genuine.mp4", folder / "swapped.mp4", start_s, end_s)
    detector = CenterFace(analysis_side_px=320)
    swapped = 0
    with (
        open_video(source, fps=None, limits=Limits()) as video,
        VideoWriter(clips.genuine, rate) as genuine,
        VideoWriter(clips.swapped, rate) as manipulated,
    ):
        for frame in video:
            image = frame.image
            genuine.write(image)
            if start_s <= frame.pts_s < end_s:
                faces = detector.detect([image])[0]
                if len(faces):
                    image = lay_on(image, faces, donor)
                    swapped += 1
            manipulated.write(image)
            if progress:
                progress((frame.index + 1) / len(times))
    if not swapped:
        raise NoFaceError(f"no face in {source.name} from its first third on", hint="name a clip that shows a face")
    return clips


def lay_on(image: U8, faces: Faces, donor: Donor) -> U8:
    """Return a copy of ``image`` with the donor's face over its first face."""
    target = faces.landmarks_px[0].astype(np.float64)
    source = np.c_[donor.landmarks_px.astype(np.float64), np.ones(5)]
    matrix = np.linalg.lstsq(source, target, rcond=None)[0].T
    height, width = image.shape[:2]
    warped = cv2.warpAffine(donor.crop, matrix, (width, height), flags=cv2.INTER_AREA)
    mask = cv2.warpAffine(donor.mask, matrix, (width, height), flags=cv2.INTER_NEAREST)
    mask[:2], mask[-2:], mask[:, :2], mask[:, -2:] = 0, 0, 0, 0
    x, y, w, h = cv2.boundingRect(mask)
    if w < 8 or h < 8:
        return image
    return np.asarray(cv2.seamlessClone(warped, image, mask, (x + w // 2, y + h // 2), cv2.NORMAL_CLONE), np.uint8)


def _oval(points: npt.NDArray[np.floating]) -> U8:
    """An ellipse over brows, cheeks and chin of an aligned crop with these landmarks, 255 inside."""
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    apart = float(np.linalg.norm(points[1] - points[0]))
    centre = eyes + 0.62 * (mouth - eyes)
    mask = np.zeros((_SIDE_PX, _SIDE_PX), np.uint8)
    axes = (int(0.92 * apart), int(1.12 * apart))
    cv2.ellipse(mask, (int(centre[0]), int(centre[1])), axes, 0, 0, 360, 255, -1)
    return mask
