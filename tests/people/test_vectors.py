"""Lengths of vectors: those of NumPy, bit for bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from difffake.people.vectors import length, lengths

_NUMBERS = {"elements": st.floats(-1e6, 1e6, width=32)}


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=4, max_side=9), **_NUMBERS))
def test_lengths_are_those_of_numpy(vectors: np.ndarray) -> None:
    assert lengths(vectors).tobytes() == np.linalg.norm(vectors, axis=-1).tobytes()


@given(arrays.arrays(np.float32, st.integers(0, 200), **_NUMBERS))
def test_the_length_of_one_is_that_of_numpy(vector: np.ndarray) -> None:
    assert length(vector) == np.linalg.norm(vector)
