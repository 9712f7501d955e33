"""Identity embeddings of real people as streams deliver them: what natural change of an identity is fitted on.

Every clip is observed as it is and after real encodes, every photo as it is and after what streams do to a picture,
always through the same face detector, tracker and quality gate as a scan.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError, DiffFakeError
from difffake.evaluation.recompress import Codec, Recompression, recompress
from difffake.faces import FaceDetector
from difffake.faces.finder import EveryFrame
from difffake.files import write_whole
from difffake.identity import align_identity
from difffake.observe import Observations, observe
from difffake.pseudofake import degrade
from difffake.settings import ScanSettings
from difffake.training.sources import Kind, SourceLimits, read_items
from difffake.training.store import CropStore
from difffake.video import open_video
from engines.contract import Engine

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Progress = Callable[[float], None]

ORIGINAL = "original"
DEGRADED = "degraded"
#: What a clip goes through on its way.
ENCODES: tuple[Recompression, ...] = (
    Recompression(crf=23),
    Recompression(crf=28),
    Recompression(crf=35),
    Recompression(crf=28, shrink=2),
    Recompression(codec=Codec.H265, crf=30),
)
FPS = 4.0
MAX_CLIP_S = 20.0
#: Tracks with fewer embedded faces cannot give an anchor and something to hold against it.
MIN_TRACK = 12
_MIN_IOU = 0.4
_BATCH = 32


@dataclass(frozen=True, slots=True)
class IdentityFaces:
    """Embedded faces, one a row.

    Args:
        identity: ``(N, I) float32``.
        people: ``(N,)`` names.
        footage: ``(N,) int64``, the number of the clip or photo, the same in every delivery.
        track: ``(N,) int64``, which face of the clip, the longest seen first; 0 for photos.
        delivery: ``(N,)`` names: `ORIGINAL`, an encode or `DEGRADED`.
        time_s: ``(N,) float64``; NaN for photos.
    """

    identity: F32
    people: npt.NDArray[np.str_]
    footage: I64
    track: I64
    delivery: npt.NDArray[np.str_]
    time_s: F64

    def __len__(self) -> int:
        return len(self.footage)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | I64) -> IdentityFaces:
        return IdentityFaces(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    @property
    def is_video(self) -> npt.NDArray[np.bool_]:
        """``(N,)``: whether the face was taken from a clip."""
        return np.isfinite(self.time_s)

    def save(self, path: Path, *, network: str = "") -> None:
        """Keep them in an ``.npz`` file, to fit again without embedding again.

        Args:
            path: the file.
            network: the digest of the network that they are from.

        Raises:
            OutputError: it cannot be written.
        """
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, network=np.array(network), **arrays)
        write_whole(path, packed.getvalue())

    @staticmethod
    def load(path: Path, *, network: str = "") -> IdentityFaces:
        """Read what `save` has written.

        Args:
            path: the file.
            network: the digest of the network that they must be from; empty: of any.

        Raises:
            DataError: no such file, not all of it, or faces as another network sees them.
        """
        hint = "embed the clips and photos again"
        try:
            with np.load(path, allow_pickle=False) as stored:
                faces = IdentityFaces(*(stored[f.name] for f in dataclasses.fields(IdentityFaces)))
                before = str(stored["network"]) if "network" in stored else ""
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path.name} holds no identity embeddings: {error}", hint=hint) from error
        if network and before and network != before:
            raise DataError(
                f"{path.name} holds faces as another network sees them", hint="name a new file, or remove it"
            )
        rows = {len(getattr(faces, f.name)) for f in dataclasses.fields(faces)}
        if len(rows) != 1 or faces.identity.ndim != 2 or not np.isfinite(faces.identity).all():
            raise DataError(f"the arrays of {path.name} do not fit each other", hint=hint)
        return faces

    @staticmethod
    def join(parts: Sequence[IdentityFaces]) -> IdentityFaces:
        """All of them, with footage numbered anew so that no two parts share any.

        Raises:
            DataError: nothing to join.
        """
        if not any(len(part) for part in parts):
            raise DataError("no face was embedded", hint="see that the clips and pictures show faces, upright")
        shifts = np.cumsum([0] + [int(p.footage.max(initial=-1)) + 1 for p in parts])
        moved = [dataclasses.replace(p, footage=p.footage + s) for p, s in zip(parts, shifts[:-1], strict=True)]
        return IdentityFaces(
            *(np.concatenate([getattr(p, f.name) for p in moved]) for f in dataclasses.fields(IdentityFaces))
        )


def embed_clips(
    sources: Sequence[Path],
    detector: FaceDetector,
    engine: Engine,
    identity_engine: Engine,
    *,
    skipped: Counter[str] | None = None,
    progress: Progress | None = None,
) -> IdentityFaces:
    """Observe every clip of the sources in every delivery.

    The person of a clip is the folder it lies in, or the file itself; see `difffake.training.sources`.

    Args:
        sources: clips, and folders of clips.
        detector: finds the faces.
        engine: the extractor; nothing of it is kept, but `observe` embeds with both.
        identity_engine: embeds who they are.
        skipped: counts what could not be used, by reason.
        progress: called with the share done, 0 to 1.

    Raises:
        DataError: a source is not there, or no clip shows a face for long enough.
    """
    skipped = Counter() if skipped is None else skipped
    items = [i for s in sources for i in read_items(s, SourceLimits(), skipped) if i.kind is Kind.VIDEO]
    parts: list[IdentityFaces] = []
    for done, item in enumerate(items):
        path = item.data
        assert isinstance(path, Path)  # noqa: S101  (what a clip's item holds)
        try:
            seen = _deliveries(path, detector, engine, identity_engine)
            parts.append(_same_tracks(item.person, seen))
        except DiffFakeError as error:
            skipped[f"{path.name}: {error}"] += 1
        if progress:
            progress((done + 1) / len(items))
    return IdentityFaces.join(parts)


def embed_photos(
    store: CropStore,
    rows: I64,
    detector: FaceDetector,
    identity_engine: Engine,
    rng: np.random.Generator,
    *,
    progress: Progress | None = None,
) -> IdentityFaces:
    """Embed photos as they are and degraded; of the degraded ones the landmarks are found again, as in a stream.

    A face that is lost on the way is left out.

    Args:
        store: crops with landmarks.
        rows: which of them.
        detector: finds the landmarks of degraded crops.
        identity_engine: embeds who they are.
        rng: draws the degradations.
        progress: called with the share done, 0 to 1.
    """
    names = store.person_names()
    identities, kept, delivery = [], [], []
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        crops, points = np.asarray(store.crops[batch]), store.landmarks[batch]
        changed = degrade(crops, rng)
        found = [_nearest_face(f.landmarks_px, p) for f, p in zip(detector.detect(list(changed)), points, strict=True)]
        good = np.flatnonzero([f is not None for f in found])
        chips = [align_identity(crop, p[None])[0] for crop, p in zip(crops, points, strict=True)]
        chips += [align_identity(changed[i], found[i][None])[0] for i in good]  # type: ignore[index]
        identities.append(_infer(identity_engine, chips))
        kept.append(np.concatenate([batch, batch[good]]))
        delivery += [ORIGINAL] * len(batch) + [DEGRADED] * len(good)
        if progress:
            progress(min(1.0, (start + len(batch)) / len(rows)))
    row = np.concatenate([np.zeros(0, np.int64), *kept])
    dim = identity_engine.spec.dim
    return IdentityFaces(
        identity=np.concatenate([np.zeros((0, dim), np.float32), *identities]),
        people=names[row],
        footage=row,
        track=np.zeros(len(row), np.int64),
        delivery=np.array(delivery, np.str_),
        time_s=np.full(len(row), np.nan),
    )


def several_photos(store: CropStore) -> I64:
    """Rows of the photos of people who have at least two, who alone show natural change."""
    photos = np.flatnonzero(~store.is_video)
    counts = np.bincount(store.people[photos], minlength=len(store.names))
    return photos[counts[store.people[photos]] > 1]


def _deliveries(
    path: Path, detector: FaceDetector, engine: Engine, identity_engine: Engine
) -> dict[str, tuple[Observations, float]]:
    """Observations by delivery, and by how much the picture was shrunk."""
    settings = ScanSettings(fps=FPS)

    def look(file: Path) -> Observations:
        with open_video(file, fps=FPS, stop_s=MAX_CLIP_S) as video:
            return observe(video, EveryFrame(detector), engine, settings, identity_engine=identity_engine)

    seen = {ORIGINAL: (look(path), 1.0)}
    with TemporaryDirectory() as folder:
        for encode in ENCODES:
            file = recompress(path, Path(folder) / f"{encode}.mp4", encode, stop_s=MAX_CLIP_S)
            seen[str(encode)] = look(file), 1.0 / encode.shrink
    return seen


def _same_tracks(person: str, seen: dict[str, tuple[Observations, float]]) -> IdentityFaces:
    """Faces of the original's long tracks, found again in every delivery by time and place."""
    first = seen[ORIGINAL][0]
    known = np.isfinite(first.identity).all(axis=1)
    tracks, counts = np.unique(first.track[known], return_counts=True)
    longest = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts >= MIN_TRACK)]
    parts: list[IdentityFaces] = []
    for number, track in enumerate(tracks[longest]):
        own = np.flatnonzero(known & (first.track == track))
        for delivery, (other, scale) in seen.items():
            rows = _matched(first, own, other, scale)
            parts.append(
                IdentityFaces(
                    identity=other.identity[rows],
                    people=np.full(len(rows), person),
                    footage=np.zeros(len(rows), np.int64),
                    track=np.full(len(rows), number, np.int64),
                    delivery=np.full(len(rows), delivery),
                    time_s=other.time_s[rows],
                )
            )
    if not parts:
        raise DataError("no face in it is seen for long enough", hint=f"{MIN_TRACK} good faces at {FPS:g} a second")
    return IdentityFaces(
        *(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(IdentityFaces))
    )


def _matched(first: Observations, own: I64, other: Observations, scale: float) -> I64:
    """Rows of ``other`` that show what rows ``own`` of ``first`` show: within half a frame, and in the same place."""
    candidates = np.flatnonzero(np.isfinite(other.identity).all(axis=1))
    if other is first:
        return own
    gap = np.abs(other.time_s[candidates][:, None] - first.time_s[own][None])
    overlap = _iou(other.boxes_px[candidates] / scale, first.boxes_px[own])
    same = (gap < 0.5 / FPS) & (overlap > _MIN_IOU)
    return candidates[same.any(axis=1)]


def _iou(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> F64:
    """Intersection over union of every box of ``(N, 4)`` with every one of ``(M, 4)``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9), np.float64)


def _nearest_face(found: F32, expected: F32) -> F32 | None:
    """The landmarks nearest to the expected ones, unless they are farther off than half the eyes' distance."""
    if not len(found):
        return None
    gaps = np.linalg.norm(found - expected, axis=2).mean(axis=1)
    eyes = float(np.linalg.norm(expected[1] - expected[0]))
    best = int(gaps.argmin())
    return np.asarray(found[best], np.float32) if gaps[best] < 0.5 * eyes else None


def _infer(engine: Engine, chips: list[U8]) -> F32:
    if not chips:
        return np.zeros((0, engine.spec.dim), np.float32)
    return engine.infer(np.ascontiguousarray(np.stack(chips).transpose(0, 3, 1, 2))).embedding
