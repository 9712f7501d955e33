"""Who is who within a shot: faces joined to tracks by where they are, tracks ended by cuts.

A track is one person in one shot. The same person after a cut gets a new track: position says nothing across a cut,
and joining tracks by identity needs an identity embedding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from difffake.faces.contract import F32, Faces

I64 = npt.NDArray[np.int64]


class Tracker:
    """Gives every face of successive frames an integer track id, from 0 on, never used twice.

    Faces are matched greedily, best pair first, by overlap and by how far the landmarks moved, measured in eye
    distances: robust at a few frames a second, where boxes of a moving head overlap little.

    Args:
        max_gap_s: a track not seen for longer ends.
        max_move: farthest mean move of the landmarks between two frames, in eye distances.
        max_tracks: tracks remembered at once; the longest unseen is forgotten first.
    """

    def __init__(self, max_gap_s: float = 1.5, max_move: float = 2.0, max_tracks: int = 64) -> None:
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
        alive = time_s - self._seen_s <= self._max_gap_s
        self._ids, self._seen_s, self._faces = self._ids[alive], self._seen_s[alive], self._faces[alive]
        ids = np.full(len(faces), -1, np.int64)
        matched = np.zeros(len(self._ids), bool)
        if len(faces) and len(self._ids):
            likeness = self._likeness(faces)
            for flat in np.argsort(-likeness, axis=None, kind="stable"):
                old, new = np.unravel_index(flat, likeness.shape)
                if not np.isfinite(likeness[old, new]):
                    break
                if not matched[old] and ids[new] < 0:
                    matched[old], ids[new] = True, self._ids[old]
        fresh = ids < 0
        ids[fresh] = self._next + np.arange(int(fresh.sum()))
        self._next += int(fresh.sum())
        self._remember(faces, ids, time_s, ~matched)
        return ids

    def _likeness(self, faces: Faces) -> npt.NDArray[np.float64]:
        """``(T, N)``: higher is more alike, minus infinity where it cannot be the same face."""
        old, new = self._faces, faces
        eyes = np.linalg.norm(old.landmarks_px[:, 1] - old.landmarks_px[:, 0], axis=1)
        steps = np.linalg.norm(old.landmarks_px[:, None] - new.landmarks_px[None], axis=3).mean(axis=2)
        move = steps / np.maximum(eyes, 1.0)[:, None]
        overlap = iou(old.boxes_px, new.boxes_px)
        likeness: npt.NDArray[np.float64] = np.where(
            (move <= self._max_move) | (overlap > 0.3), overlap - move / self._max_move, -np.inf
        )
        return likeness

    def _remember(self, faces: Faces, ids: I64, time_s: float, unmatched: npt.NDArray[np.bool_]) -> None:
        order = np.argsort(-self._seen_s[unmatched], kind="stable")[: max(self._max_tracks - len(ids), 0)]
        keep = np.flatnonzero(unmatched)[order]
        self._ids = np.concatenate([ids, self._ids[keep]])
        self._seen_s = np.concatenate([np.full(len(ids), time_s), self._seen_s[keep]])
        self._faces = Faces(
            np.concatenate([faces.boxes_px, self._faces.boxes_px[keep]]),
            np.concatenate([faces.landmarks_px, self._faces.landmarks_px[keep]]),
            np.concatenate([faces.confidence, self._faces.confidence[keep]]),
        )


def iou(a: F32, b: F32) -> npt.NDArray[np.float64]:
    """Intersection over union ``(A, B)`` of boxes ``(A, 4)`` and ``(B, 4)``, ``x1, y1, x2, y2``."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.maximum(high - low, 0), axis=2, dtype=np.float64)
    area_a = np.prod(np.maximum(a[:, 2:] - a[:, :2], 0), axis=1, dtype=np.float64)
    area_b = np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1, dtype=np.float64)
    return np.asarray(inside / np.maximum(area_a[:, None] + area_b[None] - inside, 1e-9), np.float64)
