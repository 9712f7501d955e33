"""Frames that may become anchors: aligned arrays, cut out of observations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from difffake.errors import DataError

if TYPE_CHECKING:
    from difffake.observe import Observations

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_WIDE = ("embedding", "identity")
_TYPES: dict[str, Any] = {"time_s": np.float64, "artifact_p": np.float64, "good": np.bool_}


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """N faces of one person of one stream, aligned arrays, in any order.

    Args:
        time_s: ``(N,) float64``, seconds in the stream.
        embedding: ``(N, D) float32`` of the extractor; D is 0 without one.
        logit: ``(N,) float32``.
        identity: ``(N, I) float32`` of the identity network; I is 0 without one.
        yaw_deg, pitch_deg, luma, sharpness: ``(N,) float32``, see `difffake.faces.Quality`; NaN where not known.
        artifact_p: ``(N,) float64``, the p-value of each face's own `artifact` evidence; NaN where not known.
        good: ``(N,) bool``, fit for scoring.

    Raises:
        DataError: shapes that differ.
    """

    time_s: F64
    embedding: F32
    logit: F32
    identity: F32
    yaw_deg: F32
    pitch_deg: F32
    luma: F32
    sharpness: F32
    artifact_p: F64
    good: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.time_s)
        for name in _NAMES:
            array = np.asarray(getattr(self, name), _TYPES.get(name, np.float32))
            if array.shape[:1] != (count,) or array.ndim != 1 + (name in _WIDE):
                raise DataError(
                    f"candidates of {count} times have {name} {array.shape}",
                    hint="give one row or number per face in each field",
                )
            object.__setattr__(self, name, array)

    @classmethod
    def of(cls, seen: Observations, rows: NDArray[Any], artifact_p: F64) -> Self:
        """The faces ``rows`` (indices or a mask) of observations, with the p-value of each of them."""
        return cls(
            time_s=seen.time_s[rows],
            embedding=seen.embedding[rows],
            logit=seen.logit[rows],
            identity=seen.identity[rows],
            yaw_deg=seen.yaw_deg[rows],
            pitch_deg=seen.pitch_deg[rows],
            luma=seen.luma[rows],
            sharpness=seen.sharpness[rows],
            artifact_p=artifact_p,
            good=seen.scored[rows],
        )

    def __len__(self) -> int:
        return len(self.time_s)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Self:
        """Select faces by slice, indices or mask."""
        return self._of([getattr(self, name)[rows] for name in _NAMES])

    def joined(self, more: Self) -> Self:
        """These faces, then ``more`` with embeddings of the same sizes."""
        return self._of([np.concatenate([getattr(self, name), getattr(more, name)]) for name in _NAMES])

    @classmethod
    def _of(cls, arrays: list[NDArray[Any]]) -> Self:
        """Of arrays that were checked before: a live stream selects from its candidates several times a frame."""
        faces = cls.__new__(cls)
        for name, array in zip(_NAMES, arrays, strict=True):
            object.__setattr__(faces, name, array)
        return faces

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Mask ``(N,)``: good, every embedding known, and alone in its frame.

        Two faces of one person in one frame are an ambiguity (a picture in the picture), and none of them a candidate.
        """
        known = np.isfinite(self.time_s) & self.good
        known &= np.isfinite(self.embedding).all(axis=1) & np.isfinite(self.identity).all(axis=1)
        if self.embedding.shape[1]:
            known &= np.isfinite(self.logit)
        return known & ~self.ambiguous

    @property
    def ambiguous(self) -> NDArray[np.bool_]:
        """Mask ``(N,)`` of good faces that share their time with another good one."""
        if len(self) < 2:
            return np.zeros(len(self), bool)
        _, inverse, counts = np.unique(self.time_s, return_inverse=True, return_counts=True)
        together = np.bincount(inverse, weights=self.good, minlength=len(counts))
        return np.asarray(self.good & (together[inverse] > 1), bool)


_NAMES = tuple(field.name for field in fields(Candidates))
