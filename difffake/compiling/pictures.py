"""Real faces to judge a compiled network on: taken from clips and pictures as a scan takes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError, DiffFakeError
from difffake.faces import CROP_SIDE_PX, CenterFace, Reason, align, assess
from difffake.identity import align_identity
from difffake.parity import ParityFaces
from difffake.video import open_video

U8 = npt.NDArray[np.uint8]

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".mp4", ".mpg", ".mpeg", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts"}
)
_MAX_FILES = 10_000
_DETECT_BATCH = 8


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a compiled network is judged on.

    Args:
        faces: one face of each frame, aligned for the extractor, with clip and time.
        identity: the same faces aligned for the identity network.
        frames: whole frames ``(H, W, 3) uint8``, for the detector.
    """

    faces: ParityFaces
    identity: ParityFaces
    frames: list[U8]


@dataclass(slots=True)
class _Found:
    faces: list[U8] = field(default_factory=list)
    identity: list[U8] = field(default_factory=list)
    clip: list[int] = field(default_factory=list)
    time_s: list[float] = field(default_factory=list)
    frames: list[U8] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.faces)


def collect_pictures(
    sources: Sequence[Path],
    *,
    side_px: int = CROP_SIDE_PX,
    eye_distance: float,
    min_faces: int = 1,
    max_faces: int = 256,
    max_frames: int = 16,
    fps: float = 5.0,
    threads: int = 0,
) -> Pictures:
    """Take the largest face of each frame, of as many files as it needs.

    Args:
        sources: clips, pictures, and folders of these.
        side_px, eye_distance: as the extractor wants its faces.
        min_faces: fewer are refused: where two of a dozen change places, the order of all of them looks lost.
        max_faces: in all; every file gives an equal share.
        max_frames: whole frames kept for the detector.
        fps: frames looked at per second of a clip.
        threads: of the face detector; 0 takes every core.

    Raises:
        DataError: no file, or too few faces that could be scored.
    """
    files = list(islice(_files(sources), _MAX_FILES))
    if not files:
        raise DataError(
            f"no clip or picture in {', '.join(map(str, sources))}", hint=f"known are {' '.join(sorted(SUFFIXES))}"
        )
    share = -(-max_faces // len(files))
    detector, found = CenterFace(threads=threads), _Found()
    failed: DiffFakeError | None = None
    for number, file in enumerate(files):
        if len(found) >= max_faces:
            break
        try:
            _take(file, number, detector, found, min(share, max_faces - len(found)), side_px, eye_distance, fps)
        except DiffFakeError as error:  # one file of many may be none; what stands in no picture is told below
            failed = error
    if not len(found):
        why = f": {failed}" if failed is not None else ""
        raise DataError(
            f"no face that can be scored in {len(files)} files{why}",
            hint="give clips or pictures with faces of 80 px and more",
        )
    if len(found) < min_faces:
        raise DataError(
            f"only {len(found)} faces that can be scored in {len(files)} files, and {min_faces} are needed",
            hint=f"give more or longer clips: {fps:g} frames a second are looked at",
        )
    clip, time_s = np.array(found.clip, np.int64), np.array(found.time_s, np.float64)
    real = np.zeros(len(found), np.int64)
    step = max(1, len(found.frames) // max_frames)
    return Pictures(
        ParityFaces(_planes(found.faces), clip, time_s, real),
        ParityFaces(_planes(found.identity), clip, time_s, real),
        found.frames[::step][:max_frames],
    )


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        if source.is_dir():
            yield from (p for p in sorted(source.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file())
        elif source.is_file():
            yield source
        else:
            raise DataError(f"no such file or folder: {source}", hint="check the path")


def _take(
    file: Path,
    number: int,
    detector: CenterFace,
    found: _Found,
    share: int,
    side_px: int,
    eye_distance: float,
    fps: float,
) -> None:
    """Add at most ``share`` faces of a file, as clip ``number``."""
    with open_video(file, fps=fps) as video:
        frames = iter(video)
        while share > 0 and (batch := list(islice(frames, _DETECT_BATCH))):
            for frame, faces in zip(batch, detector.detect([f.image for f in batch]), strict=True):
                if share <= 0 or not len(faces):
                    continue
                size = faces.boxes_px[:, 2:] - faces.boxes_px[:, :2]
                largest = faces[int(size.prod(axis=1).argmax())]
                crops, _ = align(frame.image, largest.landmarks_px, side_px=side_px, eye_distance=eye_distance)
                height, width = frame.image.shape[:2]
                if assess((height, width), largest, crops, eye_distance=eye_distance).reason[0] is not Reason.OK:
                    continue
                found.faces.append(crops[0])
                found.identity.append(align_identity(frame.image, largest.landmarks_px)[0])
                found.clip.append(number)
                found.time_s.append(frame.pts_s)
                found.frames.append(frame.image)
                share -= 1


def _planes(crops: list[U8]) -> U8:
    return np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))
