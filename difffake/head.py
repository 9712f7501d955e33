"""A linear reading of the embedding that labelled fakes have taught: a weight a dimension, nothing that carries code.

``difffake adapt`` fits it (`difffake.adapt`); a bundle keeps it in ``head.safetensors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from difffake.density import stored_arrays
from difffake.errors import DataError

_NUMBERS = ("bias", "logit_weight", "length_weight")
#: Faces that are worked off together: a long video has tens of thousands, of which copies in float64 fill gigabytes.
_ROWS_AT_ONCE = 1024

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """``e @ weights + logit_weight * logit + length_weight * |e| + bias``, ``weights (D,)``; higher is more suspicious.

    As `difffake adapt` scales it, the weights give real faces that it was fitted on mean 0 and standard deviation 1;
    ``logit_weight`` draws a head that reads faces towards the extractor's own reading, ``length_weight`` one that
    reads differences towards their size.

    Raises:
        DataError: weights that are no vector, not finite, or all zero.
    """

    weights: F64
    bias: float
    logit_weight: float = 0.0
    length_weight: float = 0.0

    def __post_init__(self) -> None:
        weights = np.array(self.weights, np.float64)
        numbers = [self.bias, self.logit_weight, self.length_weight]
        if weights.ndim != 1 or not weights.size or not np.isfinite(weights).all() or not np.isfinite(numbers).all():
            raise DataError(f"not a head: weights {weights.shape}, bias {self.bias}", hint="adapt the bundle again")
        if not weights.any():
            raise DataError("not a head: all its weights are zero", hint="adapt the bundle again, with more clips")
        weights.flags.writeable = False
        object.__setattr__(self, "weights", weights)

    def __call__(self, embedding: F32, logit: F32) -> F64:
        """``(N, D)`` and ``(N,) float32 -> (N,) float64``; the same bits for a face whatever faces stand beside it."""
        score = np.empty(len(embedding))
        for start in range(0, len(embedding), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            # Row by row, not by matmul: BLAS sums in another order for another N, and scores must repeat exactly.
            exact = embedding[rows].astype(np.float64)
            part: F64 = (exact * self.weights).sum(axis=1) + self.bias
            if self.logit_weight:
                part += self.logit_weight * logit[rows].astype(np.float64)
            if self.length_weight:
                part += self.length_weight * np.sqrt((exact**2).sum(axis=1))
            score[rows] = part
        return score

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays; `from_arrays` gives the same head back, bit for bit."""
        return {"weights": self.weights} | {name: np.array(getattr(self, name)) for name in _NUMBERS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LinearHead:
        """A head from `to_arrays`' mapping. Raises `DataError` for anything else."""
        # Bundles of format 3 know no length.
        found = stored_arrays({"length_weight": np.array(0.0), **arrays}, "weights", *_NUMBERS)
        weights, *numbers = found
        if any(array.dtype != np.float64 for array in found) or any(number.shape for number in numbers):
            raise DataError(
                f"not a head: {[(str(array.dtype), array.shape) for array in found]}", hint="adapt the bundle again"
            )
        return cls(weights, *map(float, numbers))
