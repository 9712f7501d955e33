"""Embeddings of benchmark videos, kept on disk: the slow part is done once per file, extractor and recompression.

Scores, windows and intervals are computed from these in seconds, so that a protocol can be changed or a
bundle's densities refitted without decoding anything again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from difffake.errors import MediaNotFoundError
from difffake.evaluation.conditions import Condition, TreatedFile
from difffake.evaluation.layouts import Item, Region
from difffake.evaluation.recompress import Recompression, recompress
from difffake.folder import IMAGE_SUFFIXES
from difffake.video import Frame, open_video

FORMAT = 2
SEAM_PX = 4  # dropped on both sides of the cut between two halves

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Observed(Protocol):
    """Aligned arrays, one row a face: what ``Detector.observe`` returns, as far as it is used here."""

    @property
    def time_s(self) -> F64: ...
    @property
    def track(self) -> I64: ...
    @property
    def person(self) -> I64: ...
    @property
    def yaw_deg(self) -> F32: ...
    @property
    def identity(self) -> F32: ...
    @property
    def embedding(self) -> F32: ...
    @property
    def logit(self) -> F32: ...


class Observer(Protocol):
    """Finds and embeds faces: a ``difffake.Detector``."""

    def observe(self, frames: Iterable[Frame]) -> Observed: ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which pictures are looked at: ``fps`` a second, the first ``max_frames``, after which encode or under which
    condition."""

    fps: float = 4.0
    max_frames: int = 400
    recompression: Recompression | None = None
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """Scored faces of one item, rows in order of time.

    ``time_s (N,) float64``, ``track (N,) int64``, ``person (N,) int64`` (the same across cuts; -1: nobody can tell),
    ``yaw_deg (N,) float32``, ``embedding (N, D) float32``, ``logit (N,) float32``, ``identity (N, I) float32`` (NaN
    where not embedded; I is 0 without an identity network); ``frames`` pictures were looked at and ``faces`` faces
    found, of which N were good enough to be embedded.
    """

    time_s: F64
    track: I64
    person: I64
    yaw_deg: F32
    embedding: F32
    logit: F32
    identity: F32
    frames: int
    faces: int

    def __len__(self) -> int:
        return len(self.time_s)

    def only(self, keep: NDArray[Any]) -> Features:
        """The rows of a mask or index."""
        return replace(self, **{name: getattr(self, name)[keep] for name in ROWS})


# One row a face in each, in the precision that the cache keeps.
ROWS: dict[str, type[np.generic]] = {
    "time_s": np.float64,
    "track": np.int64,
    "person": np.int64,
    "yaw_deg": np.float32,
    "embedding": np.float32,
    "logit": np.float32,
    "identity": np.float32,
}
_TABLES = ("embedding", "identity")


class FeatureStore:
    """Computes an item's features, or reads them from ``folder``.

    The key is all that can change them: the file's content, the region, the sampling, the recompression or condition,
    and ``features_id``, which stands for the extractor and the way faces are found and cut out. A cache file that
    cannot be read is computed again. Remove the folder after a change to the code that finds faces. Stores of several
    conditions may share what they decode, in ``treated``.
    """

    def __init__(
        self,
        folder: Path,
        observer: Observer,
        features_id: str,
        sampling: Sampling,
        treated: TreatedFile | None = None,
    ) -> None:
        self._folder, self._observer = folder, observer
        self._features_id, self._sampling = features_id, sampling
        self._treated = TreatedFile() if treated is None else treated
        self.computed = 0

    def features(self, item: Item) -> Features:
        """Raises `DiffFakeError` where the file cannot be read."""
        digest = _sha256(item.path)
        cached = self._folder / "features" / f"{self._key(item, digest)}.npz"
        features = _read(cached)
        if features is None:
            features = self._compute(item, digest)
            _write(cached, features)
            self.computed += 1
        return features

    def _key(self, item: Item, digest: str) -> str:
        parts = {
            "format": FORMAT,
            "file": digest,
            "region": item.region,
            "fps": self._sampling.fps,
            "max_frames": self._sampling.max_frames,
            "recompression": None if self._sampling.recompression is None else str(self._sampling.recompression),
            "features": self._features_id,
        }
        if self._sampling.condition is not None:
            parts["condition"] = self._sampling.condition.fingerprint
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _compute(self, item: Item, digest: str) -> Features:
        looked_at = _Counted(self._frames(item, digest))
        seen = self._observer.observe(looked_at)
        everything = Features(
            **{name: np.asarray(getattr(seen, name), kind) for name, kind in ROWS.items()},
            frames=looked_at.count,
            faces=len(seen.time_s),
        )
        # A face that the quality gate refused has no embedding.
        good = np.isfinite(everything.logit) & np.isfinite(everything.embedding).all(axis=1)
        rows = np.flatnonzero(good)
        return everything.only(rows[np.argsort(everything.time_s[rows], kind="stable")])

    def _frames(self, item: Item, digest: str) -> Iterator[Frame]:
        told = self._sampling
        if told.condition is None:
            return frames_of(self._source(item, digest), told, item.region)
        panels = 1 if item.region is None else 2
        frames = self._treated.frames(item.path, digest, told.condition, told.fps, told.max_frames, panels)
        return _halves(iter(frames), item.region)

    def _source(self, item: Item, digest: str) -> Path:
        recompression = self._sampling.recompression
        if recompression is None or item.path.suffix.lower() in IMAGE_SUFFIXES:
            return item.path
        # No more is encoded than is looked at; the second on top lets the encoder look ahead.
        stop_s = self._sampling.max_frames / self._sampling.fps + 1.0
        encoded = self._folder / "recompressed" / f"{digest}-{recompression}-{stop_s:g}s.mp4"
        if not encoded.is_file():
            recompress(item.path, encoded, recompression, stop_s=stop_s)
        return encoded


class _Counted:
    """Passes frames on and counts them."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames, self.count = frames, 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            self.count += 1
            yield frame


def frames_of(path: Path, sampling: Sampling, region: Region | None) -> Iterator[Frame]:
    """The frames of a video, or of a half of it, that are looked at; ``sampling.recompression`` was done before."""
    with open_video(path, fps=sampling.fps) as video:
        yield from _halves(islice(video, sampling.max_frames), region)


def _halves(frames: Iterator[Frame], region: Region | None) -> Iterator[Frame]:
    for frame in frames:
        yield frame if region is None else replace(frame, image=half(frame.image, region))


def half(image: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
    """The left or right half of ``(H, W, 3) uint8``, cut at W // 2, without the 4 px beside the cut."""
    cut = image.shape[1] // 2
    part = image[:, : cut - SEAM_PX] if region is Region.LEFT else image[:, cut + SEAM_PX :]
    return np.ascontiguousarray(part)


def _sha256(path: Path) -> str:
    try:
        stat = path.stat()
        return _sha256_of(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise MediaNotFoundError(
            f"{path.name} cannot be read: {error.strerror}", hint="check that it is still there and readable"
        ) from None


@lru_cache(maxsize=64)
def _sha256_of(path: Path, _size: int, _mtime_ns: int) -> str:
    # The two halves of a file follow each other: remembered, a file is hashed once.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, features: Features) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: np.asarray(getattr(features, field.name)) for field in fields(Features)}
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


def _read(path: Path) -> Features | None:
    if not path.is_file():
        return None
    try:
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            found = Features(
                **{name: np.asarray(data[name], kind) for name, kind in ROWS.items()},
                frames=int(data["frames"]),
                faces=int(data["faces"]),
            )
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return None
    rows = len(found.time_s)
    shapes = {name: getattr(found, name).shape for name in ROWS}
    fits = all(shape[:1] == (rows,) and len(shape) == (2 if name in _TABLES else 1) for name, shape in shapes.items())
    return found if fits else None
