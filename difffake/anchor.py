"""Anchor pools: the K reference embeddings that a stream's faces are held against. Pure logic.

A self-anchor comes from the stream itself (Stamnas & Sanchez 2025: 8 of 40 frames spread over the clip); an
enrolled one from footage known to show the real person.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.density import as_rows, require_finite
from difffake.errors import DataError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MAX_ANCHORS = 1024
_MIN_ANCHORS = 2


class Origin(StrEnum):
    """Where an anchor comes from, and so what a difference to it can mean."""

    SELF = "self"
    ENROLLED = "enrolled"


class AnchorProtocol(StrEnum):
    """Which frames become a self-anchor: the first good ones (live), or some spread over the clip (files)."""

    FIRST = "first"
    SPREAD = "spread"


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


def choose_self_anchor(
    times_s: ArrayLike,
    embeddings: ArrayLike,
    logits: ArrayLike,
    *,
    k: int = 8,
    quality: ArrayLike | None = None,
    min_gap_s: float = 0.25,
    until_s: float | None = None,
    protocol: AnchorProtocol | str = AnchorProtocol.FIRST,
) -> I64 | None:
    """Indices, in order of time, of the frames that become the self-anchor; up to ``k``, or None.

    ``times_s (N,)``, ``embeddings (N, D)``, ``logits (N,)``, ``quality (N,) bool`` (True: good enough). Only
    good frames with finite values, before ``until_s`` when given, count; any two chosen ones are at least
    ``min_gap_s`` apart. ``FIRST`` takes the earliest, ``SPREAD`` an even choice over the clip. Fewer than
    ``k`` are taken as they are; fewer than two are no anchor: None.
    """
    times = np.asarray(times_s, np.float64)
    rows, values = as_rows(embeddings, name="embeddings"), np.asarray(logits)
    good = np.ones(len(rows), bool) if quality is None else np.asarray(quality)
    if not times.shape == values.shape == good.shape == (len(rows),) or good.dtype != np.bool_:
        raise DataError(
            f"frames do not match: times {times.shape}, embeddings {rows.shape}, logits {values.shape}, "
            f"quality {good.dtype} {good.shape}",
            hint="give one time, embedding, logit and (boolean) quality per frame",
        )
    if k < _MIN_ANCHORS or k > MAX_ANCHORS or not min_gap_s >= 0:
        raise DataError(
            f"no anchor with k={k}, min_gap_s={min_gap_s}",
            hint=f"use {_MIN_ANCHORS} to {MAX_ANCHORS} anchors and a gap of 0 s or more",
        )
    usable = good & np.isfinite(times) & np.isfinite(rows).all(axis=1) & np.isfinite(values)
    if until_s is not None:
        usable &= times < until_s
    candidates = np.flatnonzero(usable)
    candidates = candidates[np.argsort(times[candidates], kind="stable")]
    spread = AnchorProtocol(protocol) is AnchorProtocol.SPREAD
    apart = candidates[_with_gap(times[candidates], min_gap_s, len(candidates) if spread else k)]
    if spread and len(apart) > k:
        apart = apart[((np.arange(k) + 0.5) * len(apart) / k).astype(np.int64)]
    return apart if len(apart) >= _MIN_ANCHORS else None


def _with_gap(sorted_times: F64, gap_s: float, limit: int) -> I64:
    """Greedily, the first positions that are ``gap_s`` apart: no choice holds more of them."""
    chosen: list[int] = []
    at = 0
    while at < len(sorted_times) and len(chosen) < limit:
        chosen.append(at)
        at = max(at + 1, int(np.searchsorted(sorted_times, sorted_times[at] + gap_s, side="left")))
    return np.array(chosen, np.int64)
