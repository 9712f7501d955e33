"""A broadcast cut together from shots, to see who is who across cuts and when a face becomes another's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from difffake.demo.swap import Donor, lay_on
from difffake.demo.writer import VideoWriter
from difffake.faces import CenterFace
from difffake.limits import Limits
from difffake.video import open_video

U8 = npt.NDArray[np.uint8]
#: A picture and its time within the shot (s) -> the picture that is broadcast.
Alter = Callable[[U8, float], U8]

FPS = 25
SIZE_PX = (640, 360)


def shot(source: Path, start_s: float, seconds: float, alter: Alter | None = None) -> Iterator[U8]:
    """The pictures of a stretch of a video, `FPS` a second whatever its own rate; RGB ``(H, W, 3) uint8``."""
    due = 0
    with open_video(source, fps=None, limits=Limits(), stop_s=start_s + seconds) as video:
        for frame in video:
            time_s = frame.pts_s - start_s
            # Half a frame early, so that equal rates stay in step.
            ready = min(int((time_s + 0.5 / FPS) * FPS) + 1, round(seconds * FPS)) if time_s >= 0 else 0
            if ready > due:
                image = frame.image if alter is None else alter(frame.image, time_s)
                yield from [image] * (ready - due)
                due = ready


def swapped_from(donor: Donor, at_s: float) -> Alter:
    """Lay the donor's face over the first face of every picture from ``at_s`` on."""
    detector = CenterFace(analysis_side_px=320)

    def alter(image: U8, time_s: float) -> U8:
        if time_s < at_s:
            return image
        faces = detector.detect([image])[0]
        return lay_on(image, faces, donor) if len(faces) else image

    return alter


def cut_together(path: Path, shots: Sequence[Iterable[U8]], *, crf: int = 20) -> list[float]:
    """Write shots one after the other, each fitted into `SIZE_PX`; return when each begins, s."""
    starts: list[float] = []
    written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, Fraction(FPS), crf) as out:
        for images in shots:
            starts.append(written / FPS)
            for image in images:
                out.write(_fit(image))
                written += 1
    return starts


def _fit(image: U8) -> U8:
    """Scale into the frame, black around."""
    width, height = SIZE_PX
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    frame[top : top + size[1], left : left + size[0]] = small
    return frame
