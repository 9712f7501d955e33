"""Anchors of real people, and the faces of the same people to hold against them: natural change of two kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from difffake.scoring import ANCHOR_SIZE
from difffake.training.identity_faces import ORIGINAL, IdentityFaces

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trial:
    """An anchor of a real person and faces to hold against it: rows of one `IdentityFaces`."""

    person: str
    anchor: I64
    rows: I64


def stream_trials(faces: IdentityFaces) -> list[Trial]:
    """The beginning of each track as the anchor of what follows, and its end as the anchor of what came before.

    In every delivery by its own anchor, and by the anchor of the original: a stream changes its rate midway.
    """
    trials: list[Trial] = []
    for person, tracks in _tracks(faces):
        for original in tracks:
            source = original[faces.delivery[original] == ORIGINAL]
            for delivery in np.unique(faces.delivery[original]):
                own = original[faces.delivery[original] == delivery]
                for anchored in [own] if delivery == ORIGINAL else [own, source]:
                    trials += _both_ends(faces, person, anchored, own)
    return trials


def enrolled_trials(faces: IdentityFaces, *, max_anchors_per_photo: int = 4) -> list[Trial]:
    """Each photo, in every delivery, against other photos of the person: one at a time, and all of them together.

    One photo is like a clip as an anchor (one place, one light), several are like a diverse pool. Of people with
    several clips each clip is held against the beginning of every other.
    """
    trials: list[Trial] = []
    by_person = grouped(faces.people[~faces.is_video], np.flatnonzero(~faces.is_video))
    for person, rows in by_person:
        photos = np.unique(faces.footage[rows])
        for photo in photos if len(photos) > 1 else []:
            tested = rows[faces.footage[rows] == photo]
            others = rows[(faces.footage[rows] != photo) & (faces.delivery[rows] == ORIGINAL)]
            trials += [Trial(person, others[i : i + 1], tested) for i in range(min(len(others), max_anchors_per_photo))]
            if len(others) > 1:
                trials.append(Trial(person, others[:ANCHOR_SIZE], tested))
    longest: dict[str, list[I64]] = {}
    for person, tracks in _tracks(faces):
        longest.setdefault(person, []).append(tracks[0])
    for person, clips in longest.items():
        for i, anchored in enumerate(clips):
            source = anchored[faces.delivery[anchored] == ORIGINAL][:ANCHOR_SIZE]
            trials += [Trial(person, source, clip) for j, clip in enumerate(clips) if j != i]
    return trials


def _tracks(faces: IdentityFaces) -> list[tuple[str, list[I64]]]:
    """Per clip its person and the rows of each of its tracks, in order of time, the longest track first."""
    video = np.flatnonzero(faces.is_video)
    video = video[np.argsort(faces.time_s[video], kind="stable")]
    clips = []
    for _, rows in grouped(faces.footage[video], video):
        tracks = [own for _, own in grouped(faces.track[rows], rows)]
        clips.append((str(faces.people[rows[0]]), tracks))
    return clips


def _both_ends(faces: IdentityFaces, person: str, anchored: I64, tested: I64) -> list[Trial]:
    size = min(ANCHOR_SIZE, len(anchored) // 2)
    if size < 2:
        return []
    first, last = anchored[:size], anchored[-size:]
    times = faces.time_s
    pairs = [(first, tested[times[tested] > times[first[-1]]]), (last, tested[times[tested] < times[last[0]]])]
    return [Trial(person, anchor, rows) for anchor, rows in pairs if len(rows)]


def grouped(keys: npt.NDArray[Any], rows: I64) -> list[tuple[Any, I64]]:
    """Rows by key, each group in the order given."""
    found, place = np.unique(keys, return_inverse=True)
    order = np.argsort(place, kind="stable")
    parts = np.split(rows[order], np.cumsum(np.bincount(place, minlength=len(found)))[:-1])
    return list(zip(found.tolist(), parts, strict=True)) if len(found) else []
