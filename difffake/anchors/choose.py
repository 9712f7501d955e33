"""Which frames become an anchor."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from difffake.anchors.pool import MAX_ANCHORS
from difffake.density import as_rows
from difffake.errors import DataError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MIN_ANCHORS = 2


class AnchorProtocol(StrEnum):
    """Which frames become a self-anchor: the first good ones (live), or some spread over the clip (files)."""

    FIRST = "first"
    SPREAD = "spread"


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
    if k < MIN_ANCHORS or k > MAX_ANCHORS or not min_gap_s >= 0:
        raise DataError(
            f"no anchor with k={k}, min_gap_s={min_gap_s}",
            hint=f"use {MIN_ANCHORS} to {MAX_ANCHORS} anchors and a gap of 0 s or more",
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
    return apart if len(apart) >= MIN_ANCHORS else None


def _with_gap(sorted_times: F64, gap_s: float, limit: int) -> I64:
    """Greedily, the first positions that are ``gap_s`` apart: no choice holds more of them."""
    chosen: list[int] = []
    at = 0
    while at < len(sorted_times) and len(chosen) < limit:
        chosen.append(at)
        at = max(at + 1, int(np.searchsorted(sorted_times, sorted_times[at] + gap_s, side="left")))
    return np.array(chosen, np.int64)
