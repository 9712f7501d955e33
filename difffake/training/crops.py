"""From folders, tar files and clips to a crop store: find the main face, align it, keep what is fit."""

from __future__ import annotations

import io
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from difffake.errors import DataError, DiffFakeError
from difffake.faces import CenterFace, Faces, align, to_crop
from difffake.training.sources import (
    Item,
    Kind,
    SourceLimits,
    check_sources,
    read_items,
    source_name,
)
from difffake.training.store import F32, STORE_EYE_DISTANCE, STORE_SIDE_PX, U8, CropStore, CropWriter
from difffake.video import open_video

#: Called after every chunk with the files done and the crops kept so far.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How crops are made.

    Args:
        side_px: side of a stored crop; the network's 224 px lie in its middle.
        eye_distance: between the eyes, as a share of that side.
        min_eye_distance_px: in the original picture; smaller faces hold nothing to learn from.
        min_confidence: of the detector.
        clip_fps: frames taken per second of a clip.
        clip_frames: most crops of one clip, spread evenly over it.
        rival: a frame of a clip whose second largest face has more than this share of the largest one's
            size (side of the box) is passed over: which of the two is the clip's person cannot be told.
        max_pixels: most pixels of a decoded picture.
        processes: worker processes.
        limits: bounds on what is read.
    """

    side_px: int = STORE_SIDE_PX
    eye_distance: float = STORE_EYE_DISTANCE
    min_eye_distance_px: float = 16.0
    min_confidence: float = 0.6
    clip_fps: float = 3.0
    clip_frames: int = 60
    rival: float = 0.8
    max_pixels: int = 50_000_000
    processes: int = 2
    limits: SourceLimits = field(default_factory=SourceLimits)


class Crop(NamedTuple):
    """One crop on its way from a worker process to the store."""

    person: str
    kind: Kind
    pixels: U8
    landmarks: F32
    time_s: float | None
    eye_distance_px: float


def prepare(
    sources: Sequence[Path],
    out: Path,
    settings: CropSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> CropStore:
    """Make the crop store ``out`` from folders of people, flat folders, tar files of these, and clips.

    Who a file shows is told by `difffake.training.sources.person_key`. Only the main face of a picture is
    kept: the largest, in photos also the one nearest the middle. Nothing else leaves a mark on the disk.

    Raises:
        DataError: a source that is missing or damaged, ``out`` in the way, or not a single face found.
    """
    settings = settings or CropSettings()
    check_sources(sources)
    done = 0
    with (
        CropWriter(out, side_px=settings.side_px, eye_distance=settings.eye_distance, overwrite=overwrite) as writer,
        # Spawned, not forked: a forked copy of a running thread pool hangs.
        ProcessPoolExecutor(
            settings.processes, multiprocessing.get_context("spawn"), _start_worker, (settings,)
        ) as pool,
    ):
        for source in sources:
            name = source_name(source)
            skipped: Counter[str] = Counter()
            chunks = _chunks(read_items(source, settings.limits, skipped))
            for crops, lost, files in _map_in_order(pool, chunks, ahead=2 * settings.processes):
                skipped.update(lost)
                done += files
                for crop in crops:
                    writer.append(
                        crop.pixels,
                        crop.landmarks,
                        person=crop.person,
                        source=name,
                        kind=crop.kind,
                        time_s=crop.time_s,
                        eye_distance_px=crop.eye_distance_px,
                    )
                if progress is not None:
                    progress(done, len(writer))
            writer.skipped[name] = dict(skipped)
        if not len(writer):  # before an older store makes way
            raise DataError(
                f"no crop could be made of {done} files; {skipped_in_words(writer.skipped) or 'no face in them'}",
                hint="give pictures and clips that show one face, at least 16 px between the eyes",
            )
    return CropStore.load(out)


def skipped_in_words(skipped: Mapping[str, Mapping[str, int]]) -> str:
    """``passed over: of lfw 3 no_face, 1 unreadable``; empty where nothing was."""
    told = [
        f"of {name} " + ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        for name, reasons in skipped.items()
        if reasons
    ]
    return f"passed over: {'; '.join(told)}" if told else ""


def read_photo(data: bytes | Path, max_pixels: int) -> U8 | None:
    """Decode a photo upright to RGB ``(H, W, 3) uint8``; None where it is damaged or too large."""
    try:
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        with Image.open(source, formats=("JPEG", "PNG", "WEBP", "BMP")) as picture:
            # Only the header has been read so far: a bomb is turned away before it goes off.
            if picture.width * picture.height > max_pixels:
                return None
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def sample_clip(path: Path, settings: CropSettings) -> Iterator[tuple[float, U8]]:
    """Yield ``(time_s, RGB image)`` at about ``clip_fps``, at most ``clip_frames`` spread over the clip.

    Raises:
        DiffFakeError: what `difffake.video.open_video` raises of unreadable files.
    """
    # A file whose header does not tell its length is cut off instead of spread.
    with open_video(path) as probe:
        duration_s = probe.info.duration_s or 0.0
    fps = min(settings.clip_fps, settings.clip_frames / max(duration_s, 1e-3))
    with open_video(path, fps=fps) as video:
        for frame in islice(video, settings.clip_frames):
            yield frame.pts_s, frame.image


def _chunks(items: Iterable[Item], size: int = 32) -> Iterator[list[Item]]:
    """Photos in chunks; a clip alone, since it is as much work as a chunk."""
    batch: list[Item] = []
    for item in items:
        if item.kind is Kind.VIDEO:
            yield [item]
            continue
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


_Result = tuple[list[Crop], Counter[str], int]


def _map_in_order(pool: ProcessPoolExecutor, chunks: Iterator[list[Item]], *, ahead: int) -> Iterator[_Result]:
    """Like ``pool.map``, but reads only ``ahead`` chunks in advance, so that a tar never lies in memory."""
    waiting: deque[Future[_Result]] = deque(pool.submit(_work, chunk) for chunk in islice(chunks, ahead))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(_work, chunk) for chunk in islice(chunks, 1))
        yield result


_worker: tuple[CenterFace, CropSettings] | None = None


def _start_worker(settings: CropSettings) -> None:
    # A process of a pool can keep its network between calls in a global only.
    global _worker
    cv2.setNumThreads(1)
    _worker = CenterFace(threshold=settings.min_confidence, threads=1), settings


def _work(items: list[Item]) -> _Result:
    if _worker is None:
        raise RuntimeError("the worker process was not started by prepare()")
    detector, settings = _worker
    skipped: Counter[str] = Counter()
    crops: list[Crop] = []
    photos = [item for item in items if item.kind is Kind.PHOTO]
    pictures = [(item, read_photo(item.data, settings.max_pixels)) for item in photos]
    readable = [(item, image) for item, image in pictures if image is not None]
    skipped["unreadable"] += len(pictures) - len(readable)
    for (item, image), faces in zip(readable, detector.detect([p for _, p in readable]), strict=True):
        _keep(item, image, faces, None, settings, crops, skipped)
    for item in items:
        if item.kind is Kind.VIDEO and isinstance(item.data, Path):
            try:
                _work_clip(item, item.data, detector, settings, crops, skipped)
            except DiffFakeError:
                skipped["unreadable"] += 1
    return crops, +skipped, len(items)


def _work_clip(
    item: Item,
    path: Path,
    detector: CenterFace,
    settings: CropSettings,
    crops: list[Crop],
    skipped: Counter[str],
) -> None:
    for time_s, image in sample_clip(path, settings):
        _keep(item, image, detector.detect([image])[0], time_s, settings, crops, skipped)


def _keep(
    item: Item,
    image: U8,
    faces: Faces,
    time_s: float | None,
    settings: CropSettings,
    crops: list[Crop],
    skipped: Counter[str],
) -> None:
    """Append the main face's crop, or count the reason why there is none."""
    if len(faces) == 0:
        skipped["no_face"] += 1
        return
    size = np.sqrt(np.prod(np.maximum(faces.boxes_px[:, 2:] - faces.boxes_px[:, :2], 0), axis=1))
    if time_s is not None:
        largest = np.sort(size)[::-1]
        if len(largest) > 1 and largest[1] > settings.rival * largest[0]:
            skipped["several_people"] += 1
            return
        main = int(np.argmax(size))
    else:
        # Photos of a person show that person in the middle; bystanders may be larger.
        middle = np.array(image.shape[1::-1], np.float32) / 2
        away = np.linalg.norm((faces.boxes_px[:, :2] + faces.boxes_px[:, 2:]) / 2 - middle, axis=1)
        main = int(np.argmax(size * np.exp(-4 * away / max(image.shape[:2]))))
    points = faces.landmarks_px[main : main + 1]
    eyes = float(np.linalg.norm(points[0, 1] - points[0, 0]))
    if eyes < settings.min_eye_distance_px:
        skipped["too_small"] += 1
        return
    pixels, matrices = align(image, points, side_px=settings.side_px, eye_distance=settings.eye_distance)
    crops.append(Crop(item.person, item.kind, pixels[0], to_crop(points, matrices)[0], time_s, eyes))
