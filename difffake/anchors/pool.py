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
QUALITIES = ("yaw_deg", "pitch_deg", "luma", "sharpness")


class Origin(StrEnum):
    """Where an anchor comes from, and so what a difference to it can mean."""

    SELF = "self"
    ENROLLED = "enrolled"


@dataclass(frozen=True, slots=True, eq=False)
class AnchorPool:
    """K anchors, aligned arrays, all read-only.

    Args:
        embeddings: ``(K, D) float32`` of the extractor; D is 0 in an anchor for identity alone.
        logits: ``(K,) float32``; NaN where D is 0.
        times_s: ``(K,) float64``, seconds in the footage that they were taken from.
        origin: where they come from.
        identity: ``(K, I) float32`` of the identity network; I is 0 where there was none.
        yaw_deg, pitch_deg, luma, sharpness: ``(K,) float32``, see `difffake.faces.Quality`; NaN where not known.

    Raises:
        DataError: an empty or oversized pool, one without any embedding, shapes that differ, NaN or infinity.
    """

    embeddings: F32
    logits: F32
    times_s: F64
    origin: Origin
    identity: F32 | None = None
    yaw_deg: F32 | None = None
    pitch_deg: F32 | None = None
    luma: F32 | None = None
    sharpness: F32 | None = None

    def __post_init__(self) -> None:
        embeddings = as_rows(self.embeddings, name="embeddings").astype(np.float32)
        count = len(embeddings)
        unknown = np.full(count, np.nan, np.float32)
        given = {
            "embeddings": embeddings,
            "logits": self.logits,
            "times_s": np.asarray(self.times_s, np.float64),
            "identity": np.zeros((count, 0), np.float32) if self.identity is None else self.identity,
            **{name: unknown if getattr(self, name) is None else getattr(self, name) for name in QUALITIES},
        }
        fields: dict[str, NDArray[Any]] = {
            name: np.array(array, np.float64 if name == "times_s" else np.float32) for name, array in given.items()
        }
        shapes = {name: array.shape for name, array in fields.items()}
        flat = all(shape == (count,) for name, shape in shapes.items() if name not in ("embeddings", "identity"))
        identity = fields["identity"]
        if not 1 <= count <= MAX_ANCHORS or not flat or identity.ndim != 2 or len(identity) != count:
            raise DataError(
                f"not an anchor pool: {shapes}",
                hint=f"give one row or number per anchor in each field, and 1 to {MAX_ANCHORS} anchors",
            )
        if not embeddings.shape[1] and not identity.shape[1]:
            raise DataError("an anchor pool without any embedding", hint="give embeddings, identity, or both")
        for name, array in fields.items():
            if name not in QUALITIES and (name != "logits" or embeddings.shape[1]):
                require_finite(array, name)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "origin", Origin(self.origin))

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def has_artifact(self) -> bool:
        """Whether the extractor's embeddings are there: `anchor` evidence needs them."""
        return bool(self.embeddings.shape[1])

    @property
    def identities(self) -> F32:
        """``(K, I) float32``: ``identity`` for a type checker; I may be 0."""
        assert self.identity is not None  # noqa: S101  (filled in __post_init__)
        return self.identity

    @property
    def has_identity(self) -> bool:
        """Whether identity embeddings are there: `identity` evidence needs them."""
        return bool(self.identities.shape[1])
