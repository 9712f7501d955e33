"""Who is who within a shot: faces joined to tracks by where they are, tracks ended by cuts.

A track is one person in one shot. The same person after a cut gets a new track: position says nothing across a cut,
and joining tracks by identity needs an identity embedding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError
from difffake.faces.contract import F32, Faces
from difffake.people.ledger import Arrays
from difffake.people.vectors import lengths

I64 = npt.NDArray[np.int64]

#: Type and shape of a saved tracker's arrays; ``T`` tracks.
_SAVED: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "tracks_id": ("int64", ("T",)),
    "tracks_seen_s": ("float64", ("T",)),
    "tracks_box": ("float32", ("T", 4)),
    "tracks_landmarks": ("float32", ("T", 5, 2)),
    "tracks_confidence": ("float32", ("T",)),
    "tracks_next": ("int64", (1,)),
}
#: Faces in one frame may exceed what is remembered.
_MAX_FRAME = 1024
#: Farther out no picture reaches.
_MAX_PX = 1e6
_HINT = "start with a new tracker, or pass what to_arrays gave"

#: Distance between the eyes of a face seen from the front, as a share of its box's width.
_EYES_OF_WIDTH = 0.4
#: Boxes that overlap by more are the same face, however its landmarks moved.
_OVERLAP = 0.3
#: So far above that that no rounding matters.
_SURE_OVERLAP = 0.4


class Tracker:
    """Gives every face of successive frames an integer track id, from 0 on, never used twice.

    Faces are matched by overlap and by how far the landmarks moved, measured in eye distances: robust at a few frames
    a second, where boxes of a moving head overlap little. The pairs are the best for all faces together, so that of
    two people close together neither takes the other's place.

    Args:
        max_gap_s: a track not seen for longer ends.
        max_move: farthest mean move of the landmarks between two frames, in eye distances.
        max_tracks: tracks remembered at once; the longest unseen is forgotten first.
    """

    def __init__(self, max_gap_s: float = 1.5, max_move: float = 2.5, max_tracks: int = 64) -> None:
        self._max_gap_s, self._max_move, self._max_tracks = max_gap_s, max_move, max_tracks
        self._next = 0
        self._forget()

    def _forget(self) -> None:
        self._ids = np.zeros(0, np.int64)
        self._seen_s = np.zeros(0)
        self._faces = Faces.empty()

    def update(self, faces: Faces, time_s: float, *, cut: bool = False) -> I64:
        """Track ids ``(N,) int64`` of the N faces of the next frame; ``cut`` ends all tracks first."""
        if cut:
            self._forget()
        if self._is_only_one(faces, time_s):  # one face is what most streams show
            self._seen_s, self._faces = np.full(1, float(time_s)), faces
            return self._ids.copy()
        alive = time_s - self._seen_s <= self._max_gap_s
        if not alive.all():
            self._ids, self._seen_s, self._faces = self._ids[alive], self._seen_s[alive], self._faces[alive]
        ids = np.full(len(faces), -1, np.int64)
        matched = np.zeros(len(self._ids), bool)
        if len(faces) and len(self._ids):
            old, new = _pairs(self._likeness(faces))
            matched[old], ids[new] = True, self._ids[old]
        fresh = ids < 0
        ids[fresh] = self._next + np.arange(int(fresh.sum()))
        self._next += int(fresh.sum())
        self._remember(faces, ids, time_s, ~matched)
        return ids

    def _is_only_one(self, faces: Faces, time_s: float) -> bool:
        """Whether the only face is that of the only track, beyond doubt: there is nothing to be weighed."""
        if not (len(faces) == len(self._ids) == 1 and time_s - self._seen_s[0] <= self._max_gap_s):
            return False
        x1, y1, x2, y2 = self._faces.boxes_px[0].tolist()
        u1, v1, u2, v2 = faces.boxes_px[0].tolist()
        inside = max(min(x2, u2) - max(x1, u1), 0.0) * max(min(y2, v2) - max(y1, v1), 0.0)
        either = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inside
        is_sure: bool = inside > _SURE_OVERLAP * either > 0.0  # not where any of it is not a number
        return is_sure

    def _likeness(self, faces: Faces) -> npt.NDArray[np.float64]:
        """``(T, N)``: higher is more alike, minus infinity where it cannot be the same face."""
        old, new = self._faces, faces
        eyes = lengths(old.landmarks_px[:, 1] - old.landmarks_px[:, 0])
        steps = lengths(old.landmarks_px[:, None] - new.landmarks_px[None]).mean(axis=2)
        # In profile the eyes lie close together, and the head still moves as fast.
        widths = old.boxes_px[:, 2] - old.boxes_px[:, 0]
        move = steps / np.maximum(np.maximum(eyes, _EYES_OF_WIDTH * widths), 1.0)[:, None]
        overlap = iou(old.boxes_px, new.boxes_px)
        likeness: npt.NDArray[np.float64] = np.where(
            (move <= self._max_move) | (overlap > _OVERLAP), overlap - move / self._max_move, -np.inf
        )
        return likeness

    def _remember(self, faces: Faces, ids: I64, time_s: float, unmatched: npt.NDArray[np.bool_]) -> None:
        if not unmatched.any():
            self._ids, self._seen_s, self._faces = ids.copy(), np.full(len(ids), float(time_s)), faces
            return
        order = np.argsort(-self._seen_s[unmatched], kind="stable")[: max(self._max_tracks - len(ids), 0)]
        keep = np.flatnonzero(unmatched)[order]
        self._ids = np.concatenate([ids, self._ids[keep]])
        self._seen_s = np.concatenate([np.full(len(ids), time_s), self._seen_s[keep]])
        self._faces = Faces(
            np.concatenate([faces.boxes_px, self._faces.boxes_px[keep]]),
            np.concatenate([faces.landmarks_px, self._faces.landmarks_px[keep]]),
            np.concatenate([faces.confidence, self._faces.confidence[keep]]),
        )

    def to_arrays(self) -> Arrays:
        """The whole state, but for the arguments; `from_arrays` goes on exactly from here."""
        return {name: array.copy() for name, array in self.views().items()}

    def views(self) -> Arrays:
        """`to_arrays` without copies: to be read before anything changes."""
        return {
            "tracks_id": self._ids,
            "tracks_seen_s": self._seen_s,
            "tracks_box": self._faces.boxes_px,
            "tracks_landmarks": self._faces.landmarks_px,
            "tracks_confidence": self._faces.confidence,
            "tracks_next": np.array([self._next], np.int64),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Arrays, *, max_gap_s: float = 1.5, max_move: float = 2.5, max_tracks: int = 64
    ) -> Tracker:
        """The tracker of `to_arrays`.

        Raises:
            DataError: arrays that are missing, of another shape or type, beyond the bounds, or that contradict
                each other.
        """
        tracker = cls(max_gap_s, max_move, max_tracks)
        given = arrays.get("tracks_id")
        count = len(given) if isinstance(given, np.ndarray) and given.ndim == 1 else 0
        for name, (dtype, shape) in _SAVED.items():
            array = arrays.get(name)
            wanted = tuple(count if n == "T" else n for n in shape)
            if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.shape != wanted:
                raise DataError(f"a damaged tracker: {name} is missing, or of another type or shape", hint=_HINT)
        ids: I64 = np.array(arrays["tracks_id"], np.int64)
        seen_s: npt.NDArray[np.float64] = np.array(arrays["tracks_seen_s"], np.float64)
        places: list[F32] = [np.array(arrays[f"tracks_{n}"], np.float32) for n in ("box", "landmarks", "confidence")]
        following = int(np.asarray(arrays["tracks_next"], np.int64)[0])
        sound = count <= max_tracks + _MAX_FRAME and 0 <= following < 1 << 62
        sound = sound and len(np.unique(ids)) == count and bool(((ids >= 0) & (ids < following)).all())
        sound = sound and bool(np.isfinite(seen_s).all()) and all(bool((np.abs(a) <= _MAX_PX).all()) for a in places)
        if not sound:
            raise DataError("a damaged tracker: tracks that cannot be", hint=_HINT)
        tracker._next, tracker._ids, tracker._seen_s, tracker._faces = following, ids, seen_s, Faces(*places)
        return tracker


def _pairs(likeness: npt.NDArray[np.float64]) -> tuple[I64, I64]:
    """Rows and columns ``(M,)`` of the pairs to match: as many as can be, and of those the likest altogether.

    Shortest augmenting paths (Kuhn 1955; Jonker and Volgenant 1987). Minus infinity is never matched.
    """
    old, new = likeness.shape
    if old == new == 1:  # one face is what most streams show
        only = np.flatnonzero(np.isfinite(likeness))
        return only, only
    # A column for each row that may stay alone, at no cost; a match is worth more than any two differ.
    cost = np.zeros((old, new + old))
    cost[:, :new] = np.where(np.isfinite(likeness), -8 - np.clip(likeness, -3, 1), 1)
    row_price, price = np.zeros(old), np.zeros(new + old)
    owner = np.full(new + old, -1)
    for start in range(old):
        reach, before = np.full(new + old, np.inf), np.full(new + old, -1)
        done = np.zeros(new + old, bool)
        row, length, column = start, 0.0, -1
        while row >= 0:
            step = length + cost[row] - row_price[row] - price
            nearer = ~done & (step < reach)
            reach[nearer], before[nearer] = step[nearer], column
            column = int(np.where(done, np.inf, reach).argmin())
            length, row = float(reach[column]), int(owner[column])
            done[column] = True
        end = column
        passed = done.copy()
        passed[end] = False
        row_price[owner[passed]] += length - reach[passed]
        row_price[start] += length
        price[passed] -= length - reach[passed]
        while end >= 0:
            last = int(before[end])
            owner[end] = start if last < 0 else owner[last]
            end = last
    columns = np.flatnonzero(owner[:new] >= 0)
    rows = owner[columns]
    sound = np.isfinite(likeness[rows, columns])
    return rows[sound], columns[sound]


def iou(a: F32, b: F32) -> npt.NDArray[np.float64]:
    """Intersection over union ``(A, B)`` of boxes ``(A, 4)`` and ``(B, 4)``, ``x1, y1, x2, y2``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.maximum(high - low, 0), axis=2, dtype=np.float64)
    area_a = np.prod(np.maximum(a[:, 2:] - a[:, :2], 0), axis=1, dtype=np.float64)
    area_b = np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1, dtype=np.float64)
    return np.asarray(inside / np.maximum(area_a[:, None] + area_b[None] - inside, 1e-9), np.float64)
