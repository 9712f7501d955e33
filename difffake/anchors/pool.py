"""Anchor pools: the K reference embeddings that a stream's faces are held against. Pure logic.

A self-anchor comes from the stream itself (Stamnas & Sanchez 2025: 8 of 40 frames spread over the clip); an
enrolled one from footage known to show the real person.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difffake.density import as_rows, require_finite
from difffake.errors import DataError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MAX_ANCHORS = 1024


class Origin(StrEnum):
    """Where an anchor comes from, and so what a difference to it can mean."""

    SELF = "self"
    ENROLLED = "enrolled"


@dataclass(frozen=True, slots=True, eq=False)
class AnchorPool:
    """K anchors, aligned arrays: ``embeddings (K, D) float32``, ``logits (K,) float32``, ``times_s (K,)``.

    Raises `DataError` for an empty or oversized pool, shapes that differ, NaN or infinity.
    """

    embeddings: F32
    logits: F32
    times_s: F64
    origin: Origin

    def __post_init__(self) -> None:
        embeddings = as_rows(self.embeddings, name="embeddings").astype(np.float32)
        logits = np.array(self.logits, np.float32)
        times_s = np.array(self.times_s, np.float64)
        count = len(embeddings)
        if not 1 <= count <= MAX_ANCHORS or logits.shape != (count,) or times_s.shape != (count,):
            raise DataError(
                f"not an anchor pool: embeddings {embeddings.shape}, logits {logits.shape}, times {times_s.shape}",
                hint=f"give one logit and one time per embedding, and 1 to {MAX_ANCHORS} of them",
            )
        fields: dict[str, NDArray[Any]] = {"embeddings": embeddings, "logits": logits, "times_s": times_s}
        for name, array in fields.items():
            require_finite(array, name)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "origin", Origin(self.origin))

    def __len__(self) -> int:
        return len(self.embeddings)
