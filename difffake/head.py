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

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """``weights (D,)`` and ``bias``: the score of an embedding is ``e @ weights + bias``; higher is more suspicious.

    As `difffake adapt` scales it, real faces that it was fitted on have mean 0 and standard deviation 1.

    Raises:
        DataError: weights that are no vector, not finite, or all zero.
    """

    weights: F64
    bias: float

    def __post_init__(self) -> None:
        weights = np.array(self.weights, np.float64)
        if weights.ndim != 1 or not weights.size or not np.isfinite(weights).all() or not np.isfinite(self.bias):
            raise DataError(f"not a head: weights {weights.shape}, bias {self.bias}", hint="adapt the bundle again")
        if not weights.any():
            raise DataError("not a head: all its weights are zero", hint="adapt the bundle again, with more clips")
        weights.flags.writeable = False
        object.__setattr__(self, "weights", weights)

    def __call__(self, embedding: F32) -> F64:
        """``(N, D) float32 -> (N,) float64``; the same bits for a face whatever faces stand beside it."""
        # Row by row, not by matmul: BLAS sums in another order for another N, and scores must repeat exactly.
        score: F64 = (embedding.astype(np.float64) * self.weights).sum(axis=1) + self.bias
        return score

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays; `from_arrays` gives the same head back, bit for bit."""
        return {"weights": self.weights, "bias": np.array(self.bias)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LinearHead:
        """A head from `to_arrays`' mapping. Raises `DataError` for anything else."""
        weights, bias = stored_arrays(arrays, "weights", "bias")
        if weights.dtype != np.float64 or bias.dtype != np.float64 or bias.shape != ():
            raise DataError(
                f"not a head: weights {weights.dtype}, bias {bias.dtype} {bias.shape}", hint="adapt the bundle again"
            )
        return cls(weights, float(bias))
