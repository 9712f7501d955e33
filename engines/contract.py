"""What every engine promises: aligned faces in, embeddings and logits out.

The graph takes bytes and normalises inside: a quarter of the bytes of float32 cross to a device, and no caller can
normalise wrongly. An engine is opened, asked any number of times, and closed; one thread at a time asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from difffake.errors import EngineError

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


#: Name of the input ``(B, 3, side, side) uint8`` in every graph.
INPUT = "faces"
#: Names of the outputs ``(B, D) float32`` and ``(B,) float32``; an identity network has the first alone.
OUTPUTS = ("embedding", "logit")


class Precision(StrEnum):
    """What the network computes in. Inputs are always uint8, outputs always float32."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What goes in and what comes out.

    Attributes:
        side_px: height and width of a face crop.
        dim: D, the length of an embedding.
        max_batch: the most faces that one run of the network takes; ``infer`` splits longer batches.
        backend: which runtime runs it, for reports ("onnxruntime 1.23 CPU").
        has_logit: whether the network judges faces too (an extractor does, an identity network does not).
        precision: what it computes in.
        depth: batches that may be submitted and not yet collected.
        is_shared: whether several threads may call ``infer`` at once; else one at a time.
    """

    side_px: int
    dim: int
    max_batch: int
    backend: str
    has_logit: bool = True
    precision: Precision = Precision.FP32
    depth: int = 2
    is_shared: bool = False

    @property
    def exact(self) -> bool:
        """Whether its scores are those that the bundle was calibrated with; others carry the engine in the model id."""
        return self.precision is Precision.FP32


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Aligned rows, one a face: ``embedding (B, D) float32``, ``logit (B,) float32`` (high: pseudo-fake; NaN where the
    network has none)."""

    embedding: F32
    logit: F32

    def __len__(self) -> int:
        return len(self.logit)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A batch that was submitted: its number in the order of submission, and how many faces it holds."""

    number: int
    faces: int


class Engine(Protocol):
    """A network that is ready to run. Use as a context manager, or call ``close``.

    ``infer`` waits for its result. ``submit`` and ``collect`` let a caller prepare the next batch meanwhile.
    """

    @property
    def spec(self) -> EngineSpec:
        """Shapes and limits of this engine."""

    def infer(self, faces: U8) -> Embeddings:
        """Embed faces ``(B, 3, side, side) uint8`` RGB; B may be 0 and may exceed ``max_batch``.

        ``faces`` is only read during the call; the result owns its memory and stays valid after ``close``.

        Raises:
            EngineError: wrong shape or dtype, batches are still in flight, or the runtime failed.
            DeviceLostError: the device is out of memory or gone; start the process again.
        """

    def submit(self, faces: U8) -> Ticket:
        """Begin a batch of at most ``max_batch`` faces ``(B, 3, side, side) uint8``; return before it is done.

        ``faces`` is copied before this returns: the caller may overwrite it at once.

        Raises:
            EngineError: as in ``infer``; or ``depth`` batches are in flight already.
        """

    def collect(self, ticket: Ticket) -> Embeddings:
        """Wait for the oldest batch in flight, which must be ``ticket``'s. The result owns its memory.

        Raises:
            EngineError: the ticket is not the oldest in flight, or the batch failed.
        """

    def close(self) -> None:
        """Release the network, drop what is in flight; a later call raises EngineError. May be called twice."""

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
