"""What is told to `People`, how it decides, and what it tells back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: More numbers than any identity network gives.
MAX_IDENTITY = 4096


@dataclass(frozen=True, slots=True)
class PeopleSettings:
    """Distances are Euclidean between embeddings of dlib's network; how they were found: ``benchmarks/people.py``.

    Args:
        sure: a single face this near to a person is that person.
        accept: the mean of ``decide_after`` faces this near is.
        near: a single face of a person's own track this near is still that person's, and may be learnt from.
        fresh: a single face farther from everybody is somebody new.
        merge: centres of two people never seen together, that are this near, are one.
        margin: the second nearest must be this much farther for a decision on a single face; ``stray_margin`` is how
            much nearer somebody else must be before a track's person is doubted.
        diverse: least distance between exemplars.
        decide_after: usable faces of a track after which it is decided for good.
        exemplars: K, exemplars of a person.
        gap_s: a track not seen for longer may have become another face.
        jump, close: a move between two frames, and a distance to another face, in face sizes, after which the same
            may have happened.
        memory_s: how long ago that may be.
        max_people: the longest unseen people without a name are forgotten beyond.
        max_tracks: tracks that `People.resolve` knows.
        max_active: tracks followed at once.
        max_events: events kept until they are taken.
    """

    sure: float = 0.36
    accept: float = 0.40
    near: float = 0.45
    fresh: float = 0.62
    merge: float = 0.33
    margin: float = 0.05
    stray_margin: float = 0.15
    diverse: float = 0.2
    decide_after: int = 3
    exemplars: int = 8
    gap_s: float = 0.7
    jump: float = 0.5
    close: float = 1.5
    memory_s: float = 1.0
    max_people: int = 1024
    max_tracks: int = 65_536
    max_active: int = 256
    max_events: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.merge <= self.sure <= self.accept <= self.near <= self.fresh:
            raise ValueError("need 0 < merge <= sure <= accept <= near <= fresh")
        bounds = (self.decide_after, self.max_people, self.max_tracks, self.max_active, self.max_events)
        if min(bounds) < 1 or self.exemplars < 3:
            raise ValueError("bounds must be at least 1, exemplars at least 3")


class Kind(StrEnum):
    """What was put right."""

    MERGED = "merged"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class PersonEvent:
    """A correction of who is who.

    Args:
        kind: MERGED: ``person`` was ``other`` all along. SPLIT: ``track`` was taken for ``person``, and is ``other``
            from ``time_s`` on.
        time_s: since when, s; of a merge, when it was noticed.
        track: the track that was divided; -1 in a merge.
    """

    kind: Kind
    time_s: float
    person: int
    other: int
    track: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Sightings:
    """N faces of successive frames, rows in order of time, all faces of a frame together.

    Args:
        time_s: ``(N,) float64``.
        track: ``(N,) int64`` of `difffake.people.Tracker`; not negative.
        shot: ``(N,) int64``: one more after every cut.
        identity: ``(N, I) float32``; rows that are not finite are faces not fit for it. I may be 0.
        boxes_px: ``(N, 4) float32``.

    Raises:
        DataError: shapes that differ, times that are not finite or go back, negative tracks.
    """

    time_s: F64
    track: I64
    shot: I64
    identity: F32
    boxes_px: F32

    def __post_init__(self) -> None:
        times, track = np.asarray(self.time_s, np.float64), np.asarray(self.track, np.int64)
        shot, identity = np.asarray(self.shot, np.int64), np.asarray(self.identity, np.float32)
        boxes = np.asarray(self.boxes_px, np.float32)
        n = len(times) if times.ndim == 1 else -1
        shapes = [array.shape for array in (times, track, shot, identity, boxes)]
        if shapes != [(n,), (n,), (n,), (n, identity.shape[-1]), (n, 4)] or identity.shape[-1] > MAX_IDENTITY:
            raise DataError(f"not sightings: {shapes}", hint="one row per face in each field")
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise DataError("times of sightings must be finite and never go back", hint="pass frames in order of time")
        if (track < 0).any() or not np.isfinite(boxes).all():
            raise DataError("sightings with a negative track or a box that is not finite", hint="pass tracked faces")
        for name, array in zip(self.__dataclass_fields__, (times, track, shot, identity, boxes), strict=True):
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.time_s)

    def frames(self) -> list[slice]:
        """Rows of each frame. Equal times are one frame, unless a track comes twice."""
        starts = [0] if len(self) else []
        seen: set[int] = set()
        for row in range(len(self)):
            if row and (self.time_s[row] != self.time_s[row - 1] or int(self.track[row]) in seen):
                starts.append(row)
                seen.clear()
            seen.add(int(self.track[row]))
        return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(self)], strict=True)]
