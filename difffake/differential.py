"""Differences between an embedding and its anchor, their log density, and per-stream offsets.

Stamnas & Sanchez 2025: a manipulated face changes unnaturally against reference images of the same person.
The natural changes are differences between real images of one person; the score of an embedding is the mean,
over the K anchor embeddings, of the log density of its difference to each.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.density import (
    Covariance,
    Floats,
    GaussianMixture,
    as_rows,
    log_sum_exp,
    require_finite,
    squared_distances,
)
from difffake.errors import DataError

I64 = NDArray[np.int64]

_CHUNK_BYTES = 1 << 24
# Makes the median absolute deviation estimate the standard deviation of a normal distribution.
_MAD_TO_SD = 1.4826


class Combination(StrEnum):
    """What is done to the difference of two embeddings, element by element."""

    SIGNED = "signed"
    ABS = "abs"
    SQUARE = "square"
    CUBE = "cube"


def differences(embeddings: ArrayLike, anchors: ArrayLike, combination: Combination | str, l2: bool = False) -> Floats:
    """Every embedding against every anchor: ``(N, D), (K, D) -> (N, K, D)`` in the dtype of the embeddings.

    ``l2`` scales each combined difference to length 1; a difference of zero stays zero. The published method
    is ``SQUARE`` with ``l2``. Raises `DataError` for shapes that do not fit.
    """
    rows, pool = _rows_and_anchors(embeddings, anchors)
    return _combine(rows[:, None, :], pool, Combination(combination), l2)


def pair_differences(embeddings: ArrayLike, pairs: I64, combination: Combination | str, l2: bool = False) -> Floats:
    """First minus second row of each pair, combined: ``(N, D), (M, 2) -> (M, D)``.

    With `natural_pairs` this is what a differential density is fitted on.
    """
    rows = as_rows(embeddings, name="embeddings")
    return _combine(rows[pairs[:, 0]], rows[pairs[:, 1]], Combination(combination), l2)


def differential_log_density(
    mixture: GaussianMixture,
    embeddings: ArrayLike,
    anchors: ArrayLike,
    combination: Combination | str,
    l2: bool = False,
) -> Floats:
    """Mean over the anchors of the log density of each difference: ``(N, D), (K, D) -> (N,)``.

    Memory is bounded: rows are worked off in chunks, and signed differences under diagonal components are
    never formed (equal to the plain way within 1e-6 relative in float64). Raises `DataError` for shapes that
    do not fit, for NaN or infinity, and for differences that overflow when squared or cubed.
    """
    combination = Combination(combination)
    rows, pool = _rows_and_anchors(embeddings, anchors)
    if rows.shape[1] != mixture.dim:
        raise DataError(
            f"embeddings have {rows.shape[1]} dimensions, the density {mixture.dim}",
            hint="use the density that was fitted for this extractor",
        )
    require_finite(pool, "anchors")
    signed_diagonal = combination is Combination.SIGNED and not l2 and mixture.covariance is Covariance.DIAG
    if signed_diagonal:
        return _signed_diagonal(mixture, rows, pool)
    out = np.empty(len(rows), rows.dtype)
    step = max(1, _CHUNK_BYTES // (pool.size * rows.itemsize))
    for start in range(0, len(rows), step):
        changes = _combine(rows[start : start + step, None, :], pool, combination, l2)
        density = mixture.log_density(changes.reshape(-1, mixture.dim))
        out[start : start + step] = density.reshape(-1, len(pool)).mean(axis=1)
    return out


def natural_pairs(
    times_s: ArrayLike,
    groups: ArrayLike,
    rng: np.random.Generator,
    *,
    min_gap_s: float = 0.5,
    max_pairs_per_group: int = 200,
    clips: ArrayLike | None = None,
) -> I64:
    """Pairs of rows of one person that are at least ``min_gap_s`` apart: ``(N,), (N,) -> (M, 2)``.

    At most ``max_pairs_per_group`` per person, drawn without replacement, so that nobody outweighs the others
    by the length of their footage. ``clips (N,)`` keeps pairs inside one clip, where times can be compared.
    The order inside a pair is random: natural changes have no direction. People with fewer than two frames
    far enough apart give no pair.
    """
    times, people = np.asarray(times_s, np.float64), np.asarray(groups)
    inside = people if clips is None else np.asarray(clips)
    if times.ndim != 1 or times.shape != people.shape or times.shape != inside.shape:
        raise DataError(
            f"times {times.shape}, groups {people.shape} and clips {inside.shape} do not match",
            hint="give one time, one person (and one clip) per embedding",
        )
    require_finite(times, "times_s")
    if min_gap_s < 0 or max_pairs_per_group < 1:
        raise DataError(
            f"no pairs with min_gap_s={min_gap_s}, max_pairs_per_group={max_pairs_per_group}",
            hint="use a gap of 0 or more and at least one pair per person",
        )
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    by_person = np.split(np.argsort(person, kind="stable"), np.cumsum(counts)[:-1])
    drawn = [
        _draw_pairs(members, times, inside, rng, min_gap_s, max_pairs_per_group)
        for members in by_person
        if len(members) > 1
    ]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *drawn])
    return rng.permuted(pairs, axis=1)


def minus_anchor_mean(values: ArrayLike, anchor_values: ArrayLike, *, scale_floor: float | None = None) -> Floats:
    """Values without the stream's own offset: ``(N,)`` minus the mean of ``(K,)`` anchor values.

    With ``scale_floor`` the result is also divided by the anchor's spread, 1.4826 times its median absolute
    deviation but at least the floor: few anchors can lie close together by chance.
    """
    offset_free = np.asarray(values)
    if offset_free.dtype != np.float32:
        offset_free = offset_free.astype(np.float64)
    reference = np.asarray(anchor_values, np.float64)
    if reference.ndim != 1 or reference.size == 0:
        raise DataError("the anchor has no values", hint="choose an anchor of at least two frames first")
    require_finite(reference, "anchor_values")
    shifted: Floats = offset_free - offset_free.dtype.type(reference.mean())
    if scale_floor is None:
        return shifted
    if not scale_floor > 0:
        raise DataError(f"scale_floor is {scale_floor}", hint="give a positive floor, in units of the value")
    spread = _MAD_TO_SD * float(np.median(np.abs(reference - np.median(reference))))
    return shifted / shifted.dtype.type(max(spread, scale_floor))


def _rows_and_anchors(embeddings: ArrayLike, anchors: ArrayLike) -> tuple[Floats, Floats]:
    rows = as_rows(embeddings, name="embeddings")
    pool = as_rows(anchors, name="anchors", dim=rows.shape[1]).astype(rows.dtype, copy=False)
    if len(pool) == 0:
        raise DataError("the anchor is empty", hint="choose an anchor of at least two frames first")
    return rows, pool


def _combine(left: Floats, right: Floats, combination: Combination, l2: bool) -> Floats:
    """Combine ``left - right``; what overflows becomes infinity, without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        change: Floats = left - right
        if l2:
            # Direction does not depend on scale: with the largest entry at 1 no square or cube gets lost.
            largest = np.abs(change).max(axis=-1, keepdims=True, initial=0.0)
            np.divide(change, largest, out=change, where=largest > 0)
        if combination is Combination.ABS:
            np.abs(change, out=change)
        elif combination is Combination.SQUARE:
            np.square(change, out=change)
        elif combination is Combination.CUBE:
            np.multiply(change, np.square(change), out=change)
        if l2:
            length = np.sqrt(np.einsum("...d,...d->...", change, change))[..., None]
            np.divide(change, length, out=change, where=length > 0)
    return change


def _signed_diagonal(mixture: GaussianMixture, rows: Floats, pool: Floats) -> Floats:
    """Signed differences under diagonal components, without the (N, K, D) array.

    log N(e - a; mu, s) = log N(e; a + mu, s): K anchors and M components are K * M shifted components that
    share M sets of precisions, so the squares cost one product with (D, M), the rest one with (D, K * M).
    Everything is centred on the mean of the shifted components, against cancellation.
    """
    dtype, (anchors, dim), components = rows.dtype, pool.shape, mixture.components
    out = np.empty(len(rows), dtype)
    step = max(16, _CHUNK_BYTES // ((2 * dim + anchors * components) * rows.itemsize))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # huge values end as -inf
        precisions = np.square(mixture.precisions_cholesky)
        shifted = pool.astype(np.float64)[:, None, :] + mixture.means
        centre = (mixture.centre + pool.mean(axis=0, dtype=np.float64)).astype(dtype)
        shifted -= centre.astype(np.float64)
        weighted = shifted * precisions
        offsets = np.einsum("kmd,kmd->km", shifted, weighted).astype(dtype)
        squares_matrix = np.ascontiguousarray(precisions.T, dtype)
        linear_matrix = np.ascontiguousarray(-2.0 * weighted.reshape(-1, dim).T, dtype)
        constants = mixture.log_constants.astype(dtype)
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            centred = chunk - centre
            distances = (centred @ linear_matrix).reshape(-1, anchors, components) + offsets
            distances += (np.square(centred) @ squares_matrix)[:, None, :]
            terms = constants - 0.5 * squared_distances(distances, chunk)
            out[start : start + step] = log_sum_exp(terms).mean(axis=1)
    return out


def _draw_pairs(
    members: I64,
    times: Floats,
    clips: NDArray[np.generic],
    rng: np.random.Generator,
    gap_s: float,
    limit: int,
) -> I64:
    """Draw up to ``limit`` of one person's allowed pairs, by their number, without listing them all."""
    order = members[np.lexsort((times[members], clips[members]))]
    sorted_times, sorted_clips = times[order], clips[order]
    ends = np.searchsorted(sorted_clips, sorted_clips, side="right")
    starts = np.empty(len(order), np.int64)
    for first in np.flatnonzero(np.r_[True, sorted_clips[1:] != sorted_clips[:-1]]):
        clip = slice(first, ends[first])
        starts[clip] = first + np.searchsorted(sorted_times[clip], sorted_times[clip] + gap_s, side="left")
    starts = np.maximum(starts, np.arange(len(order)) + 1)
    through = np.cumsum(np.maximum(ends - starts, 0))
    total = int(through[-1])
    numbers = rng.choice(total, size=min(limit, total), replace=False) if total else np.empty(0, np.int64)
    left = np.searchsorted(through, numbers, side="right")
    right = ends[left] - (through[left] - numbers)
    return np.stack([order[left], order[right]], axis=1).astype(np.int64)
