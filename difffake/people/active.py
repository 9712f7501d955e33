"""The tracks that are being followed, as aligned arrays, and what happened to them in place and time."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from difffake.people.ledger import UNKNOWN, Arrays
from difffake.people.sightings import PeopleSettings
from difffake.people.vectors import among, lengths

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_FIELDS: dict[str, tuple[type, float]] = {
    "track": (np.int64, UNKNOWN),
    "person": (np.int64, UNKNOWN),
    "shot": (np.int64, 0),
    "seen_s": (np.float64, -np.inf),
    # Usable faces so far; their running mean is what a young track is judged by.
    "count": (np.int64, 0),
    # The person was made for this track.
    "born": (np.uint8, 0),
    # When the place last allowed for another face to have taken over.
    "doubt_s": (np.float64, -np.inf),
    # When the face last was near its person, and the run of faces that are nearer to another one.
    "near_s": (np.float64, -np.inf),
    "stray_to": (np.int64, UNKNOWN),
    "stray_s": (np.float64, np.nan),
    "stray_count": (np.int64, 0),
    # Where a new stretch of the track begins that is not yet anybody's; minus infinity in the first stretch.
    "since_s": (np.float64, -np.inf),
}


class ActiveTracks:
    """Aligned arrays of the tracks seen lately, at most ``max_active`` and those of the present frame."""

    def __init__(self, size: int, settings: PeopleSettings) -> None:
        self._settings = settings
        self._size = size
        self.track: I64
        self.person: I64
        self.shot: I64
        self.seen_s: F64
        self.count: I64
        self.born: npt.NDArray[np.uint8]
        self.doubt_s: F64
        self.near_s: F64
        self.stray_to: I64
        self.stray_s: F64
        self.stray_count: I64
        self.since_s: F64
        for name, (dtype, _) in _FIELDS.items():
            setattr(self, name, np.zeros(0, dtype))
        self.box: F32 = np.zeros((0, 4), np.float32)
        self.mean: F32 = np.zeros((0, size), np.float32)

    def __len__(self) -> int:
        return len(self.track)

    def sight(self, track: I64, shot: int, box: F32, time_s: float) -> I64:
        """Rows ``(n,)`` of the tracks of a frame; their places are taken down, and whether those leave doubt."""
        asked, row_of = track.tolist(), {one: row for row, one in enumerate(self.track.tolist())}
        if not row_of.keys() >= set(asked):
            self._begin_tracks(track, box, time_s)
            row_of = {one: row for row, one in enumerate(self.track.tolist())}
        rows: I64 = np.array([row_of[one] for one in asked], np.int64)
        limits = self._settings
        extent = np.maximum(box[:, 2:] - box[:, :2], 1e-6)
        size = np.sqrt(extent[:, 0] * extent[:, 1])
        centre = (box[:, :2] + box[:, 2:]) / 2
        before, seen_s = self.box[rows], self.seen_s[rows]
        moved = lengths(centre - (before[:, :2] + before[:, 2:]) / 2)
        doubtful = (moved > limits.jump * size) | (time_s - seen_s > limits.gap_s)
        doubtful &= np.isfinite(seen_s)
        self.box[rows], self.seen_s[rows], self.shot[rows] = box, time_s, shot
        around = ((time_s - self.seen_s <= limits.memory_s) & (self.shot == shot)).nonzero()[0]
        if len(around) > 1:  # somebody else than the only face there is
            others = (self.box[around, :2] + self.box[around, 2:]) / 2
            apart = lengths(centre[:, None] - others[None])
            apart[rows[:, None] == around[None]] = np.inf
            doubtful |= (apart < limits.close * size[:, None]).any(axis=1)
        self.doubt_s[rows[doubtful]] = time_s
        return rows

    def sight_only(self, shot: int, box: F32, time_s: float) -> None:
        """`sight` of the only track there is, by its box ``(4,)``."""
        x1, y1, x2, y2 = box.tolist()
        u1, v1, u2, v2 = self.box[0].tolist()
        size = math.sqrt(max(x2 - x1, 1e-6) * max(y2 - y1, 1e-6))
        moved = math.hypot(x1 + x2 - u1 - u2, y1 + y2 - v1 - v2) / 2
        gap_s = time_s - float(self.seen_s[0])
        if math.isfinite(gap_s) and (moved > self._settings.jump * size or gap_s > self._settings.gap_s):
            self.doubt_s[0] = time_s
        self.box[0], self.seen_s[0], self.shot[0] = box, time_s, shot

    def average_only(self, face: F32) -> None:
        """`average` of the only track there is, with its face ``(I,)``."""
        self.count[0] += 1
        mean = self.mean[0]
        mean += np.float32(1 / self.count[0]) * (face - mean)

    def _begin_tracks(self, track: I64, box: F32, time_s: float) -> None:
        """Make a row for each of the tracks of a frame that has none."""
        fresh = ~among(track, self.track)
        self._make_room(track, time_s)
        extra = int(fresh.sum())
        for name, (dtype, fill) in _FIELDS.items():
            setattr(self, name, np.concatenate([getattr(self, name), np.full(extra, fill, dtype)]))
        self.track[-extra:] = track[fresh]
        self.box = np.concatenate([self.box, box[fresh]])
        self.mean = np.concatenate([self.mean, np.zeros((extra, self._size), np.float32)])

    def average(self, rows: I64, faces: F32) -> None:
        """Count usable faces ``(n, I)`` of tracks and take them into their running means."""
        self.count[rows] += 1
        weight = (1 / self.count[rows, None]).astype(np.float32)
        self.mean[rows] += weight * (faces - self.mean[rows])

    def release(self, rows: I64, time_s: float) -> None:
        """The tracks are nobody's from now on, and judged anew."""
        self.person[rows], self.since_s[rows] = UNKNOWN, time_s
        self.begin(rows)

    def begin(self, rows: I64) -> None:
        """Forget what tracks showed so far."""
        self.count[rows], self.born[rows], self.mean[rows] = 0, 0, 0
        self.settle(rows)

    def settle(self, rows: I64) -> None:
        """End the runs of faces that were nearer to somebody else."""
        self.stray_to[rows], self.stray_s[rows], self.stray_count[rows] = UNKNOWN, np.nan, 0

    def _make_room(self, coming: I64, time_s: float) -> None:
        """Let those go that were not seen for long, and the longest unseen beyond the bound."""
        is_coming = among(self.track, coming)
        keep = (time_s - self.seen_s <= 10 * self._settings.memory_s) | is_coming
        room = max(self._settings.max_active - len(coming), 0)
        if len(self) > room:
            rank = np.empty(len(self), np.int64)
            rank[np.lexsort((self.track, -self.seen_s))] = np.arange(len(self))
            keep &= (rank < room) | is_coming
        if not keep.all():
            for name in (*_FIELDS, "box", "mean"):
                setattr(self, name, getattr(self, name)[keep])

    def views(self) -> Arrays:
        """Its whole state, as it is: to be read before anything changes."""
        return {f"active_{name}": getattr(self, name) for name in (*_FIELDS, "box", "mean")}

    def restore(self, arrays: Arrays) -> None:
        """Take over the checked arrays of `to_arrays`."""
        for name in (*_FIELDS, "box", "mean"):
            setattr(self, name, np.array(arrays[f"active_{name}"]))


def specification(size: int, exemplars: int) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """Type and shape of every array of a saved registry; letters stand for counts that must agree."""
    active: dict[str, tuple[str, tuple[int | str, ...]]] = {
        f"active_{name}": (np.dtype(dtype).name, ("A",)) for name, (dtype, _) in _FIELDS.items()
    }
    return active | {
        "active_box": ("float32", ("A", 4)),
        "active_mean": ("float32", ("A", size)),
        "ledger_track": ("int64", ("L",)),
        "ledger_from_s": ("float64", ("L",)),
        "ledger_person": ("int64", ("L",)),
        "people_id": ("int64", ("P",)),
        "people_twins": ("int64", ("P",)),
        "people_enrolled": ("uint8", ("P",)),
        "people_count": ("int64", ("P",)),
        "people_seen_s": ("float64", ("P",)),
        "people_box": ("float32", ("P", 4)),
        "people_centre": ("float32", ("P", size)),
        "people_faces": ("float32", ("P", exemplars, size)),
        "people_together": ("uint8", ("P", "P")),
        "events": ("float64", ("E", 5)),
        "names": ("uint8", ("N",)),
        "clock": ("float64", (1,)),
        "state": ("int64", (4,)),
    }
