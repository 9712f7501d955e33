"""Which person each track was, from when on: what a file's faces are looked up in once it has been seen whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[np.generic]]

UNKNOWN = -1


class Ledger:
    """Entries ``(track, from_s, person)``: a track's person from that time on. Oldest entries go first when full.

    Args:
        max_entries: entries kept; a track whose entries are gone is `UNKNOWN`.
    """

    def __init__(self, max_entries: int) -> None:
        self._max = max_entries
        self._size = 0
        self._track, self._person = np.zeros(64, np.int64), np.zeros(64, np.int64)
        self._from_s = np.zeros(64, np.float64)

    def __len__(self) -> int:
        return self._size

    def assign(self, track: int, person: int) -> int:
        """The track was this person all along; returns who it was before, or `UNKNOWN`."""
        mine = np.flatnonzero(self._track[: self._size] == track)
        before = int(self._person[mine[-1]]) if len(mine) else UNKNOWN
        if len(mine):
            self._person[mine] = person
        else:
            self._append(track, -np.inf, person)
        return before

    def split(self, track: int, from_s: float, person: int) -> None:
        """The track is another person from this time on."""
        self._append(track, from_s, person)

    def merge(self, gone: int, survivor: int) -> None:
        """Two persons were one."""
        people = self._person[: self._size]
        people[people == gone] = survivor

    def resolve(self, track: I64, time_s: F64 | None) -> I64:
        """Persons ``(N,) int64`` of tracks at these times, or now; `UNKNOWN` where nothing is known."""
        size = self._size
        order = np.lexsort((np.arange(size), self._from_s[:size], self._track[:size]))
        tracks, starts, people = self._track[:size][order], self._from_s[:size][order], self._person[:size][order]
        names, first = np.unique(tracks, return_index=True)
        out = np.full(len(track), UNKNOWN, np.int64)
        if not len(names):
            return out
        at = np.clip(np.searchsorted(names, track), 0, len(names) - 1)
        known = names[at] == track
        last = np.append(first[1:], size)
        # Within a track few entries: step back from its last one to the one that had begun.
        entry = last[at] - 1
        if time_s is not None:
            while (late := known & (entry > first[at]) & (starts[entry] > time_s)).any():
                entry[late] -= 1
        out[known] = people[entry[known]]
        return out

    def _append(self, track: int, from_s: float, person: int) -> None:
        if self._size >= self._max:
            # A quarter at once, so that a full ledger does not move with every entry.
            kept = slice(self._max // 4 + 1, self._size)
            count = self._size - kept.start
            for array in (self._track, self._from_s, self._person):
                array[:count] = array[kept].copy()
            self._size = count
        if self._size == len(self._track):
            self._track, self._person = np.resize(self._track, 2 * self._size), np.resize(self._person, 2 * self._size)
            self._from_s = np.resize(self._from_s, 2 * self._size)
        self._track[self._size], self._from_s[self._size], self._person[self._size] = track, from_s, person
        self._size += 1

    def views(self) -> Arrays:
        """Its whole state, as it is: to be read before anything changes."""
        size = self._size
        return {
            "ledger_track": self._track[:size],
            "ledger_from_s": self._from_s[:size],
            "ledger_person": self._person[:size],
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, max_entries: int) -> Ledger:
        """The ledger of `views`.

        Raises:
            DataError: more entries than allowed, or NaN times. Shapes and types are the caller's to check.
        """
        track, from_s, person = (arrays[f"ledger_{name}"] for name in ("track", "from_s", "person"))
        if len(track) > max_entries or np.isnan(np.asarray(from_s, np.float64)).any():
            raise DataError("a damaged record of tracks", hint="start with a new one")
        ledger = cls(max_entries)
        ledger._size = len(track)
        room = max(64, len(track))
        ledger._track, ledger._person = np.zeros(room, np.int64), np.zeros(room, np.int64)
        ledger._from_s = np.zeros(room)
        ledger._track[: len(track)], ledger._from_s[: len(track)] = track, from_s
        ledger._person[: len(track)] = person
        return ledger
