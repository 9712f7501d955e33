"""The people of a stream by their faces: a few exemplars each, their centre, and who was seen beside whom."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from difffake.people.ledger import UNKNOWN, Arrays
from difffake.people.vectors import length, lengths

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: The first exemplars of a person. They stay, and everything learnt later must be near them.
CORE = 3
_FIELDS = ("id", "twins", "enrolled", "count", "seen_s", "box", "centre", "faces", "closest")


class Galleries:
    """P people as aligned arrays; rows move when a person goes, ids never change.

    Args:
        size: I, numbers in an identity embedding.
        exemplars: K, most exemplars of a person.
        diverse: least distance of a new exemplar to those there are.
        near: farthest distance to a person's centre, and to that of its core, of a face that is learnt from.
    """

    def __init__(self, size: int, exemplars: int, diverse: float, near: float) -> None:
        self.size, self._k, self._diverse, self._near = size, exemplars, diverse, near
        self.count_people = 0
        self.id: I64 = np.zeros(0, np.int64)
        self.twins: I64 = np.zeros(0, np.int64)
        self.enrolled: Mask = np.zeros(0, bool)
        self.count: I64 = np.zeros(0, np.int64)
        self.seen_s: F64 = np.zeros(0)
        self.box: F32 = np.zeros((0, 4), np.float32)
        self.centre: F32 = np.zeros((0, size), np.float32)
        self.faces: F32 = np.zeros((0, exemplars, size), np.float32)
        #: Least distance of a later exemplar to another one: follows from the faces; NaN where nobody has asked yet.
        self.closest: F32 = np.zeros(0, np.float32)
        self.together: Mask = np.zeros((0, 0), bool)
        self._reserve(8)

    def _reserve(self, room: int) -> None:
        old = self.count_people
        for name in _FIELDS:
            array = getattr(self, name)
            grown = np.zeros((room, *array.shape[1:]), array.dtype)
            grown[:old] = array[:old]
            setattr(self, name, grown)
        together = np.zeros((room, room), bool)
        together[:old, :old] = self.together[:old, :old]
        self.together = together

    def __len__(self) -> int:
        return self.count_people

    def add(self, person: int, faces: F32, time_s: float, *, enrolled: bool = False) -> int:
        """A new person of 1 to K faces ``(k, I)``; returns its row."""
        row = self.count_people
        if row == len(self.id):
            self._reserve(2 * row)
        self.count_people += 1
        self.id[row], self.twins[row], self.enrolled[row], self.seen_s[row] = person, UNKNOWN, enrolled, time_s
        self.box[row] = np.nan
        self.together[row], self.together[:, row] = False, False
        self._set(row, faces)
        return row

    def _set(self, row: int, faces: F32) -> None:
        self.faces[row] = 0
        self.faces[row, : len(faces)] = faces
        self.count[row] = len(faces)
        self.centre[row] = faces.mean(axis=0)
        self.closest[row] = np.nan

    def take_over(self, row: int, other: int) -> None:
        """A person is known by the faces of another one from now on."""
        for array in (self.faces, self.count, self.centre, self.enrolled, self.closest):
            array[row] = array[other]

    def rows(self, people: I64) -> I64:
        """Rows ``(N,)`` of person ids; -1 where there is no such person (any more)."""
        # People and faces of a frame are few: all pairs cost less than sorting.
        same = people[:, None] == self.id[None, : self.count_people]
        return np.where(same.any(axis=1), same.argmax(axis=1), -1) if self.count_people else np.full(len(people), -1)

    def row(self, person: int) -> int:
        """Row of one person; -1 where there is none."""
        at = (self.id[: self.count_people] == person).nonzero()[0]
        return int(at[0]) if len(at) and person != UNKNOWN else -1

    def distances(self, faces: F32) -> F64:
        """Euclidean distances ``(N, P) float64`` of faces ``(N, I)`` to the people's centres: one matrix product."""
        centres = self.centre[: self.count_people]
        squares = (faces * faces).sum(axis=1)[:, None] + (centres * centres).sum(axis=1)[None] - 2 * (faces @ centres.T)
        return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float64)

    def learn(self, row: int, face: F32, *, restart: bool) -> bool:
        """Take a face ``(I,)`` of a person in; returns whether the gallery changed.

        The first faces are the core. Later ones must be near the core as well as near the whole, so that no path of
        small steps leads away, and must show something new.

        Args:
            restart: a first face far from the few there are replaces them: those were the bad ones.
        """
        count = int(self.count[row])
        if self.enrolled[row]:
            return False
        faces = self.faces[row, :count]
        if count < CORE:
            near = float(length(face - self.centre[row])) < self._near
            if near or restart:
                self._set(row, np.concatenate([faces, face[None]]) if near else face[None])
            return near or restart
        novelty = lengths(faces - face)
        # Most faces are nothing new.
        if novelty.min() < self._diverse or (count == self._k and novelty.min() <= self._closest(row)):
            return False
        core = faces[:CORE].mean(axis=0)
        if max(length(face - self.centre[row]), length(face - core)) > self._near:
            return False
        if count < self._k:
            self._set(row, np.concatenate([faces, face[None]]))
            return True
        # In the place of the exemplar nearest to another: it is farther from all than that one.
        faces = faces.copy()
        faces[int(self._between(row).min(axis=1).argmin())] = face
        self._set(row, faces)
        return True

    def _between(self, row: int) -> F32:
        """Distances ``(K, K)`` between the exemplars of a full gallery; infinity where one must stay."""
        faces = self.faces[row]
        between = lengths(faces[:, None] - faces[None])
        np.fill_diagonal(between, np.inf)
        between[:CORE] = np.inf
        return between

    def _closest(self, row: int) -> float:
        if np.isnan(self.closest[row]):
            self.closest[row] = self._between(row).min()
        return float(self.closest[row])

    def merge(self, gone: int, survivor: int) -> None:
        """One row becomes part of another and is freed."""
        count = int(self.count[survivor])
        room = 0 if self.enrolled[survivor] else self._k - count
        more = self.faces[gone, : min(room, int(self.count[gone]))]
        if len(more):
            self._set(survivor, np.concatenate([self.faces[survivor, :count], more]))
        if self.seen_s[gone] > self.seen_s[survivor]:
            self.seen_s[survivor], self.box[survivor] = self.seen_s[gone], self.box[gone]
        self.together[survivor] |= self.together[gone]
        self.together[:, survivor] |= self.together[:, gone]
        self.together[survivor, survivor] = False
        if self.twins[survivor] == UNKNOWN:
            self.twins[survivor] = self.twins[gone]
        self.remove(gone)

    def remove(self, row: int) -> None:
        """Free a row; the last one moves there."""
        last = self.count_people - 1
        for name in _FIELDS:
            array = getattr(self, name)
            array[row] = array[last]
        self.together[row] = self.together[last]
        self.together[:, row] = self.together[:, last]
        self.together[row, row] = False
        self.count_people = last

    def views(self) -> Arrays:
        """Its whole state, as it is: to be read before anything changes."""
        p = self.count_people
        return {
            "people_id": self.id[:p],
            "people_twins": self.twins[:p],
            "people_enrolled": self.enrolled[:p].view(np.uint8),
            "people_count": self.count[:p],
            "people_seen_s": self.seen_s[:p],
            "people_box": self.box[:p],
            "people_centre": self.centre[:p],
            "people_faces": self.faces[:p],
            "people_together": self.together[:p, :p].astype(np.uint8),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over the checked arrays of `to_arrays`."""
        p = len(arrays["people_id"])
        self._reserve(max(8, p))
        self.count_people = p
        self.id[:p], self.twins[:p] = arrays["people_id"], arrays["people_twins"]
        self.enrolled[:p], self.count[:p] = arrays["people_enrolled"] != 0, arrays["people_count"]
        self.seen_s[:p], self.box[:p] = arrays["people_seen_s"], arrays["people_box"]
        self.centre[:p], self.faces[:p] = arrays["people_centre"], arrays["people_faces"]
        self.together[:p, :p] = arrays["people_together"] != 0
        self.closest[:p] = np.nan
