"""The running windows of a stream: the scores of each person and evidence in the last few seconds."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from operator import itemgetter

import numpy as np

from difffake.errors import DataError
from difffake.people.ledger import Arrays
from difffake.results import EVIDENCES

#: Scores in one window: with more frames than this in its time, it is shorter.
MAX_SCORES = 1024
_HINT = "delete this stream's state: it then warms up again"

_SCORE = itemgetter(1)
_Key = tuple[int, str]
#: What scores were measured against; where that changes, a window begins anew.
Against = tuple[int, int]


class Windows:
    """Scores by person and evidence, the oldest first; all of one window were measured against one thing.

    Args:
        length_s: how far back a window reaches, s of stream time.
    """

    def __init__(self, length_s: float) -> None:
        self._length_ns = round(length_s * 1e9)
        self._scores: dict[_Key, deque[tuple[int, float]]] = {}
        self._against: dict[_Key, Against] = {}

    def move(self, now_ns: int) -> None:
        """Forget what is a window's length before ``now_ns`` or earlier."""
        for key in list(self._scores):
            scores = self._scores[key]
            while scores and scores[0][0] <= now_ns - self._length_ns:
                scores.popleft()
            if not scores:
                del self._scores[key], self._against[key]

    def add(self, person: int, evidence: str, against: Against, pts_ns: int, score: float) -> None:
        """Take a score in."""
        key = person, evidence
        if self._against.get(key) != against:
            self._scores[key], self._against[key] = deque(maxlen=MAX_SCORES), against
        self._scores[key].append((pts_ns, score))

    def mean(self, person: int, evidence: str, least: int) -> float | None:
        """The mean of a window; None where it holds fewer than ``least`` scores."""
        scores = self._scores.get((person, evidence), ())
        # fsum: the same mean whatever the scores' order, and so after a merge of two people.
        return math.fsum(map(_SCORE, scores)) / len(scores) if len(scores) >= max(least, 1) else None

    def forget(self, person: int) -> None:
        """Empty a person's windows."""
        for evidence in EVIDENCES:
            self._scores.pop((person, evidence), None)
            self._against.pop((person, evidence), None)

    def merge(self, gone: int, survivor: int, *, takes_over: bool) -> None:
        """Two persons were one: their windows are joined where they can be; else those of one of them stay."""
        for evidence in EVIDENCES:
            old, new = (gone, evidence), (survivor, evidence)
            if old in self._scores and self._against[old] == self._against.get(new):
                self._scores[new] = deque(sorted([*self._scores[old], *self._scores[new]]), maxlen=MAX_SCORES)
            elif old in self._scores and (takes_over or new not in self._scores):
                self._scores[new], self._against[new] = self._scores[old], self._against[old]
        self.forget(gone)

    def to_arrays(self) -> Arrays:
        """The whole state, but for the length."""
        keys = sorted(self._scores, key=lambda key: (key[0], EVIDENCES.index(key[1])))
        heads = [(p, EVIDENCES.index(e), *self._against[p, e], len(self._scores[p, e])) for p, e in keys]
        scores = [row for key in keys for row in self._scores[key]]
        return {
            "windows": np.array(heads, np.int64).reshape(-1, 5),
            "windows_pts_ns": np.array([pts_ns for pts_ns, _ in scores], np.int64),
            "windows_score": np.array([score for _, score in scores], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, length_s: float) -> Windows:
        """The windows of `to_arrays`.

        Raises:
            DataError: arrays that are missing, of another type or length, or that hold impossible numbers.
        """
        heads, times, scores = (arrays.get(name) for name in ("windows", "windows_pts_ns", "windows_score"))
        for array, dtype, shape in ((heads, np.int64, (5,)), (times, np.int64, ()), (scores, np.float64, ())):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or not array.ndim or array.shape[1:] != shape:
                raise DataError("damaged windows: an array is missing, or of another type or shape", hint=_HINT)
        table, pts_ns = np.asarray(heads, np.int64), np.asarray(times, np.int64)
        score = np.asarray(scores, np.float64)
        person, evidence, count = table[:, 0], table[:, 1], table[:, 4]
        sound = len(pts_ns) == len(score) and bool(((count >= 1) & (count <= MAX_SCORES)).all())
        sound = sound and int(count.sum()) == len(score) and len(np.unique(table[:, :2], axis=0)) == len(table)
        sound = sound and bool(((person >= 0) & (evidence >= 0) & (evidence < len(EVIDENCES))).all())
        if not sound or not np.isfinite(score).all():
            raise DataError("damaged windows: scores that cannot be", hint=_HINT)
        windows, rows = cls(length_s), iter(zip(pts_ns.tolist(), score.tolist(), strict=True))
        for one, what, kind, since, many in table.tolist():
            for at_ns, value in islice(rows, many):
                windows.add(one, EVIDENCES[what], (kind, since), at_ns, value)
        return windows
