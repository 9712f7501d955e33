"""What an engine is built for: sizes, and the card. Plain dataclasses: building needs nothing but TensorRT and onnx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Network = Literal["extractor", "identity", "detector"]
HardwareLevel = Literal["none", "ampere_plus", "same_compute_capability"]


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """Faces (images, for a detector) in a batch: the least, the one the engine was tuned for, the most."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True, slots=True)
class PictureProfile:
    """Height and width in px of a detector's pictures: the least, the ones the engine was tuned for, the most."""

    min: tuple[int, int]
    opt: tuple[int, int]
    max: tuple[int, int]


@dataclass(frozen=True, slots=True)
class GpuKind:
    """The card on which an engine was built: its name and its compute capability ("9.0")."""

    name: str
    compute_capability: str
