"""What every engine promises: aligned faces in, embeddings and logits out."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from difffake.errors import EngineError

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What goes in and what comes out.

    Attributes:
        side_px: height and width of a face crop.
        dim: D, the length of an embedding.
        max_batch: the most faces that one run of the network takes; ``infer`` splits longer batches.
        backend: which runtime runs it, for reports ("onnxruntime 1.23 CPU").
        has_logit: whether the network judges faces too (an extractor does, an identity network does not).
    """

    side_px: int
    dim: int
    max_batch: int
    backend: str
    has_logit: bool = True


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Aligned rows, one a face: ``embedding (B, D) float32``, ``logit (B,) float32`` (high: pseudo-fake; NaN where the
    network has none)."""

    embedding: F32
    logit: F32

    def __len__(self) -> int:
        return len(self.logit)


class Engine(Protocol):
    """A network that is ready to run. Use as a context manager, or call ``close``."""

    @property
    def spec(self) -> EngineSpec:
        """Shapes and limits of this engine."""

    def infer(self, faces: U8) -> Embeddings:
        """Embed faces ``(B, 3, side, side) uint8`` RGB; B may be 0. The result owns its memory.

        Raises:
            EngineError: wrong shape or dtype, or the runtime failed.
        """

    def close(self) -> None:
        """Release the network; a later ``infer`` raises EngineError."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_faces(faces: U8, spec: EngineSpec) -> None:
    """Refuse a batch that the network was not built for.

    Raises:
        EngineError: when ``faces`` is not ``(B, 3, side, side) uint8``.
    """
    wanted = (3, spec.side_px, spec.side_px)
    if faces.ndim != 4 or faces.shape[1:] != wanted or faces.dtype != np.uint8:
        raise EngineError(
            f"engine got faces of shape {faces.shape} and type {faces.dtype}, not (B, {wanted}) uint8",
            hint="align faces with difffake.faces.align and move the channels to the front",
        )
