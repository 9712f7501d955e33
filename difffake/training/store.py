"""The crop store: aligned faces on disk, with who they are and where they came from.

A folder with three files: ``crops.u8`` (raw ``(N, S, S, 3) uint8``, read by memory map), ``landmarks.npy``
(``(N, 5, 2) float32``, in pixels of the crops) and ``meta.json``.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from difffake.errors import DataError, OutputError
from difffake.faces import CROP_SIDE_PX, EYE_DISTANCE
from difffake.files import writing
from difffake.pseudofake import FaceGenerator
from difffake.training.sources import Kind

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

#: Crops are kept with a margin of 32 px around what the network sees, for geometric jitter.
STORE_SIDE_PX = 288
STORE_EYE_DISTANCE = EYE_DISTANCE * CROP_SIDE_PX / STORE_SIDE_PX
VERSION = 1
#: Where a store keeps the face generators that were trained on it, if any were.
GENERATOR_FOLDER = "generator"
MAX_META_BYTES = 512 * 2**20
MAX_SIDE_PX = 2048


class CropMeta(msgspec.Struct, frozen=True):
    """``meta.json``: one entry per crop in each of the last five lists; ``skipped[source][reason]``."""

    version: int
    side_px: int
    eye_distance: float
    people: list[str]
    sources: list[str]
    skipped: dict[str, dict[str, int]]
    person: list[int]
    source: list[int]
    kind: list[Kind]
    time_s: list[float | None]
    eye_distance_px: list[float]


@dataclass(frozen=True, slots=True)
class CropStore:
    """Aligned faces of many people; row i of each array is crop i.

    Args:
        crops: ``(N, S, S, 3) uint8`` RGB; a read-only memory map when loaded from disk.
        landmarks: ``(N, 5, 2) float32``, px in the crops.
        people: ``(N,) int32``, index into ``names``.
        names: the people's keys, ``source/name``.
        is_video: ``(N,) bool``.
        time_s: ``(N,) float32``; NaN for photos.
        eye_distance_px: ``(N,) float32``, in the pixels of the original picture.
        generator: what `difffake train-generator` left in the store, or None.
        skipped: how many files, or frames of clips, were passed over: by source, by reason.
    """

    crops: U8
    landmarks: F32
    people: I32
    names: tuple[str, ...]
    is_video: npt.NDArray[np.bool_]
    time_s: F32
    eye_distance_px: F32
    generator: FaceGenerator | None = None
    skipped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.crops)

    def person_names(self) -> npt.NDArray[np.str_]:
        """The person's key of each crop, ``(N,)``."""
        return np.array(self.names)[self.people]

    @staticmethod
    def load(path: Path, *, with_generator: bool = True) -> CropStore:
        """Open a store that `CropWriter` (through `difffake.training.crops.prepare`) has written.

        Args:
            path: its folder.
            with_generator: open the face generators in it, too, if there are any.

        Raises:
            DataError: no store, a damaged one, or one without a single crop.
        """
        hint = "make it again with the sources it was made from"
        try:
            if (path / "meta.json").stat().st_size > MAX_META_BYTES:
                raise DataError(f"{path / 'meta.json'} is too large to be one of ours", hint=hint)
            meta = msgspec.json.decode((path / "meta.json").read_bytes(), type=CropMeta)
            landmarks = np.load(path / "landmarks.npy", allow_pickle=False)
            size = (path / "crops.u8").stat().st_size
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{path} is no crop store: {error}", hint=hint) from error
        n, side, generator = len(meta.person), meta.side_px, path / GENERATOR_FOLDER
        if meta.version != VERSION or not 0 < side <= MAX_SIDE_PX:
            raise DataError(f"{path} is a crop store of version {meta.version}, not {VERSION}", hint=hint)
        if n == 0:
            raise DataError(f"{path} holds no crop", hint="see `skipped` in its meta.json for the reasons")
        lengths = {len(meta.source), len(meta.kind), len(meta.time_s), len(meta.eye_distance_px)}
        people = np.array(meta.person, np.int32)
        if (
            lengths != {n}
            or size != n * side * side * 3
            or landmarks.shape != (n, 5, 2)
            or landmarks.dtype != np.float32
            or people.min() < 0
            or people.max() >= len(meta.people)
        ):
            raise DataError(f"the files of the crop store {path} do not fit each other", hint=hint)
        return CropStore(
            crops=np.memmap(path / "crops.u8", np.uint8, "r", shape=(n, side, side, 3)),
            landmarks=landmarks,
            people=people,
            names=tuple(meta.people),
            is_video=np.array([kind is Kind.VIDEO for kind in meta.kind]),
            time_s=np.array([np.nan if t is None else t for t in meta.time_s], np.float32),
            eye_distance_px=np.array(meta.eye_distance_px, np.float32),
            generator=FaceGenerator.load(generator) if with_generator and generator.exists() else None,
            skipped=meta.skipped,
        )


class CropWriter:
    """Appends crops to a new store; it appears under its name only when the ``with`` block ends well.

    Raises:
        OutputError: it cannot be written.
        DataError: something other than a crop store, or an old store without ``overwrite``, is in the way.
    """

    def __init__(self, path: Path, *, side_px: int, eye_distance: float, overwrite: bool = False) -> None:
        if path.exists() and not (overwrite and (path / "meta.json").is_file()):
            raise DataError(
                f"{path} exists already",
                hint="name a new folder" if (path / "meta.json").is_file() else "it is no crop store",
            )
        self._path, self._side, self._eye_distance = path, side_px, eye_distance
        self._partial = path.with_name(path.name + ".partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        with writing(path):
            self._partial.mkdir(parents=True)
            self._file = (self._partial / "crops.u8").open("wb")
        self._landmarks: list[F32] = []
        self._people: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._person: list[int] = []
        self._source: list[int] = []
        self._kind: list[Kind] = []
        self._time_s: list[float | None] = []
        self._eyes: list[float] = []
        self.skipped: dict[str, dict[str, int]] = {}

    def __len__(self) -> int:
        return len(self._person)

    @property
    def people(self) -> int:
        """How many people have a crop so far."""
        return len(self._people)

    def append(
        self,
        crop: U8,
        landmarks: F32,
        *,
        person: str,
        source: str,
        kind: Kind,
        time_s: float | None,
        eye_distance_px: float,
    ) -> None:
        """Add one crop ``(S, S, 3) uint8`` with landmarks ``(5, 2) float32`` in its pixels."""
        with writing(self._path):
            self._file.write(np.ascontiguousarray(crop).tobytes())
        self._landmarks.append(landmarks)
        self._person.append(self._people.setdefault(person, len(self._people)))
        self._source.append(self._sources.setdefault(source, len(self._sources)))
        self._kind.append(kind)
        self._time_s.append(time_s)
        self._eyes.append(round(eye_distance_px, 2))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # what is left to write does not fit on the disk either
                self._file.close()
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        try:
            with writing(self._path):
                self._finish()
        except OutputError:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise

    def _finish(self) -> None:
        self._file.close()
        landmarks = np.array(self._landmarks, np.float32).reshape(-1, 5, 2)
        np.save(self._partial / "landmarks.npy", landmarks, allow_pickle=False)
        meta = CropMeta(
            VERSION,
            self._side,
            self._eye_distance,
            list(self._people),
            list(self._sources),
            self.skipped,
            self._person,
            self._source,
            self._kind,
            self._time_s,
            self._eyes,
        )
        (self._partial / "meta.json").write_bytes(msgspec.json.encode(meta))
        if self._path.exists():
            shutil.rmtree(self._path)
        self._partial.replace(self._path)
