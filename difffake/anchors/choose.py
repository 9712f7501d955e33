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
#: Candidates looked at by `choose_diverse`, which holds a distance for every pair of them.
MAX_CANDIDATES = 2048
#: Identity embeddings of one person in one recording lie within this of their medoid: in 41 of 44 real clips (dlib's
#: network) all frames do, in the others 92 % or more.
IDENTITY_RADIUS = 0.5
#: The same across photos and recordings, whose light and age differ; dlib itself takes 0.6 between two photos.
PHOTO_RADIUS = 0.55
#: What counts as a clear change when anchors are spread: degrees of yaw and pitch, grey levels of brightness.
_YAW_DEG, _PITCH_DEG, _LUMA = 20.0, 15.0, 30.0


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


def agreeing(identity: ArrayLike, radius: float) -> NDArray[np.bool_]:
    """Mask ``(N,)`` of the rows of ``(N, I)`` that lie within ``radius`` of the medoid: one person, without outliers.

    The medoid is the row with the most rows within ``radius``, then the one nearest to all, then the first. Where
    two people are mixed, it is one of the larger group.
    """
    rows = np.asarray(identity, np.float64)
    squared = (rows**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squared[:, None] + squared[None] - 2 * rows @ rows.T, 0))
    if not len(rows):
        return np.zeros(0, bool)
    near = apart <= radius
    medoid = np.lexsort((apart.sum(axis=1), -near.sum(axis=1)))[0]
    return np.asarray(near[medoid], bool)


def choose_diverse(
    times_s: ArrayLike,
    *,
    k: int = 8,
    min_gap_s: float = 0.25,
    identity: ArrayLike | None = None,
    radius: float = IDENTITY_RADIUS,
    yaw_deg: ArrayLike | None = None,
    pitch_deg: ArrayLike | None = None,
    luma: ArrayLike | None = None,
) -> I64:
    """Indices, in order of time, of up to ``k`` of N candidates, as unlike in pose, light and time as can be.

    Only candidates that agree in ``identity (N, I)`` with each other count (see `agreeing`), and any two chosen ones
    are at least ``min_gap_s`` apart. The choice is the greedy k-centre of Gonzalez (1985): the most typical
    candidate first, then always the one farthest from all chosen; ties go to the earlier one. Unknown (NaN) pose or
    light counts as typical. More than `MAX_CANDIDATES` are first thinned evenly.
    """
    times = np.asarray(times_s, np.float64)
    features = pose_and_light(yaw_deg, pitch_deg, luma, len(times))
    if times.shape != (len(features),) or k < 1 or k > MAX_ANCHORS or not min_gap_s >= 0 or not radius > 0:
        raise DataError(
            f"no choice with times {times.shape}, k={k}, min_gap_s={min_gap_s}, radius={radius}",
            hint=f"give a time per candidate, 1 to {MAX_ANCHORS} anchors, a gap of 0 s or more and a positive radius",
        )
    rows = np.argsort(times, kind="stable")
    if len(rows) > MAX_CANDIDATES:
        rows = rows[(np.arange(MAX_CANDIDATES) * len(rows)) // MAX_CANDIDATES]
    if identity is not None:
        rows = rows[agreeing(np.asarray(identity)[rows], radius)]
    rows = rows[_with_gap(times[rows], min_gap_s, len(rows))]
    if len(rows) <= k:
        return rows
    spread = np.concatenate([features[rows], np.linspace(0, 1, len(rows))[:, None]], axis=1)
    return rows[_farthest_points(spread, k)]


def pose_and_light(yaw_deg: ArrayLike | None, pitch_deg: ArrayLike | None, luma: ArrayLike | None, count: int) -> F64:
    """``(N, 3) float64`` in units in which 1 is a clear change; what is not known (NaN, None) is 0."""
    columns = [
        np.full(count, np.nan) if given is None else np.asarray(given, np.float64) / unit
        for given, unit in zip((yaw_deg, pitch_deg, luma), (_YAW_DEG, _PITCH_DEG, _LUMA), strict=True)
    ]
    if any(column.shape != (count,) for column in columns):
        raise DataError(
            f"pose and light have the shapes {[c.shape for c in columns]}, not ({count},)",
            hint="give one yaw, pitch and luma per candidate",
        )
    known = [c[np.isfinite(c)] for c in columns]
    middle = [float(np.median(values)) if len(values) else 0.0 for values in known]
    return np.stack([np.where(np.isfinite(c), c - m, 0.0) for c, m in zip(columns, middle, strict=True)], axis=1)


def _farthest_points(points: F64, k: int) -> I64:
    """Gonzalez' greedy k-centre on ``(N, F)``; sorted positions. Starts at the point nearest to the median of all."""
    chosen = [int(((points - np.median(points, axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < k:
        nearest[chosen[-1]] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.sort(np.array(chosen, np.int64))
