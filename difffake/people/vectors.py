"""Lengths of a few short vectors, and which of a few numbers are among others: a live stream asks for them a dozen
times a frame, and `numpy.linalg.norm` and `numpy.isin` take longer to find out what they were asked for than to answer.
The answers are the same, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]


def lengths(vectors: Floats) -> Floats:
    """Euclidean lengths over the last axis, ``(..., D) -> (...)``, in the dtype of the vectors."""
    found: Floats = np.sqrt(np.add.reduce(vectors * vectors, axis=-1))
    return found


def length(vector: npt.NDArray[np.float32]) -> np.float32:
    """Euclidean length of one vector ``(D,) float32``."""
    found: np.float32 = np.sqrt(vector.dot(vector))
    return found


def among(values: I64, others: I64) -> npt.NDArray[np.bool_]:
    """Which of ``(N,)`` are among ``(M,)``: ``(N,) bool``. For few: it holds ``N * M``."""
    found: npt.NDArray[np.bool_] = (values[:, None] == others).any(axis=1)
    return found
