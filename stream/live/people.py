"""`People` of a stream from which an operator can take somebody out."""

from __future__ import annotations

from typing import Self, cast

import numpy as np

from difffake.people import People, PeopleSettings
from difffake.people.ledger import Arrays


class StreamPeople(People):
    """People that can be forgotten by name or number."""

    @classmethod
    def restored(cls, arrays: Arrays, settings: PeopleSettings) -> Self:
        """`from_arrays`, as this class; raises as it does."""
        return cast(Self, cls.from_arrays(arrays, settings))

    @property
    def names(self) -> dict[str, int]:
        """Enrolled name -> person."""
        return {name: person for person, name in self._names.items()}

    def remembers(self, person: int) -> bool:
        """Whether this person could be recognised; where there is no identity network, nobody could."""
        return self._known.row(person) >= 0

    def fits(self, identity_dim: int, now_s: float) -> bool:
        """Whether faces with identity embeddings of this size may come after ``now_s``."""
        return self._size in (-1, identity_dim) and self._clock <= now_s

    def replace(self, name: str, identity: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> int:
        """`enrol` a name again by other faces; the person keeps their number if they are alike.

        Raises:
            DataError: as `enrol`.
        """
        before = self.names.get(name)
        if before is None:
            return self.enrol(name, identity)
        del self._names[before]
        row = self._known.row(before)
        self._known.enrolled[row] = False
        after = self.enrol(name, identity)
        if after != before:
            self.forget(before)
        return after

    def forget(self, person: int) -> None:
        """Forget a person's faces and name; whoever shows this face next is somebody new."""
        self._names.pop(person, None)
        row = self._known.row(person)
        if row >= 0:
            self._known.remove(row)
        self._active.release(np.flatnonzero(self._active.person == person), self._clock)
