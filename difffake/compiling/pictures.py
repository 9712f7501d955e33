"""Faces to judge a compiled network on: taken from clips and pictures as a scan takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError, DiffFakeError
from difffake.evaluation.features import Sampling, frames_of
from difffake.evaluation.layouts import Layout, list_items
from difffake.faces import CROP_SIDE_PX, CenterFace, Reason, align, assess
from difffake.identity import align_identity
from difffake.parity import ParityFaces
from difffake.video import Frame, open_video

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
    files = list_files(sources)
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


def labelled_faces(
    layout: Layout,
    root: Path,
    *,
    side_px: int = CROP_SIDE_PX,
    eye_distance: float,
    fps: float = 4.0,
    max_frames: int = 60,
    threads: int = 0,
) -> tuple[ParityFaces, ParityFaces]:
    """Faces of a data set of real and manipulated footage, for the extractor and for the identity network.

    Real and manipulated footage that belongs together is one clip: its anchor is taken from the real frames.

    Args:
        layout, root: as for `difffake.evaluation.layouts.list_items`.
        side_px, eye_distance: as the extractor wants its faces.
        fps: frames looked at per second.
        max_frames: looked at of each video, from its beginning.
        threads: of the face detector; 0 takes every core.

    Raises:
        DataError: no such data set there, or no face in it that can be scored.
        DiffFakeError: a video that cannot be read.
    """
    sampling, detector = Sampling(fps=fps, max_frames=max_frames), CenterFace(threads=threads)
    numbers: dict[str, int] = {}
    faces: list[U8] = []
    identity: list[U8] = []
    clip: list[int] = []
    time_s: list[float] = []
    family: list[int] = []
    for item in list_items(layout, root).items:
        number = numbers.setdefault(item.pair or item.video, len(numbers))
        frames = frames_of(item.path, sampling, item.region)
        for frame, crop, landmarks_px in _largest(frames, detector, side_px, eye_distance):
            faces.append(crop)
            identity.append(align_identity(frame.image, landmarks_px)[0])
            clip.append(number)
            time_s.append(frame.pts_s)
            family.append(item.label)
    if not faces:
        raise DataError(f"no face that can be scored in {root}", hint="give footage with faces of 80 px and more")
    rest = np.array(clip, np.int64), np.array(time_s, np.float64), np.array(family, np.int64)
    return ParityFaces(_planes(faces), *rest), ParityFaces(_planes(identity), *rest)


def list_files(sources: Sequence[Path]) -> list[Path]:
    """Clips and pictures: files as they are, and what lies below folders.

    Raises:
        DataError: none, or no such file.
    """
    files = list(islice(_files(sources), _MAX_FILES))
    if not files:
        raise DataError(
            f"no clip or picture in {', '.join(map(str, sources))}", hint=f"known are {' '.join(sorted(SUFFIXES))}"
        )
    return files


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
        for frame, crop, landmarks_px in islice(_largest(video, detector, side_px, eye_distance), share):
            found.faces.append(crop)
            found.identity.append(align_identity(frame.image, landmarks_px)[0])
            found.clip.append(number)
            found.time_s.append(frame.pts_s)
            found.frames.append(frame.image)


def _largest(
    frames: Iterable[Frame], detector: CenterFace, side_px: int, eye_distance: float
) -> Iterator[tuple[Frame, U8, npt.NDArray[np.float32]]]:
    """The frames whose largest face can be scored, with that face: ``(side, side, 3)`` and landmarks ``(1, 5, 2)``."""
    ahead = iter(frames)
    while batch := list(islice(ahead, _DETECT_BATCH)):
        for frame, faces in zip(batch, detector.detect([f.image for f in batch]), strict=True):
            if not len(faces):
                continue
            size = faces.boxes_px[:, 2:] - faces.boxes_px[:, :2]
            largest = faces[int(size.prod(axis=1).argmax())]
            crops, _ = align(frame.image, largest.landmarks_px, side_px=side_px, eye_distance=eye_distance)
            height, width = frame.image.shape[:2]
            if assess((height, width), largest, crops, eye_distance=eye_distance).reason[0] is Reason.OK:
                yield frame, crops[0], largest.landmarks_px


def _planes(crops: list[U8]) -> U8:
    return np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))
