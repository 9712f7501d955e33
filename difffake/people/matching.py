"""Which face is which known person, at most one of each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from difffake.people.ledger import UNKNOWN
from difffake.people.sightings import F32, F64, I64, PeopleSettings

Mask = npt.NDArray[np.bool_]


def assign(distance: F64, cost: F64, final: Mask, taken: Mask, twins: I64, settings: PeopleSettings) -> I64:
    """Columns ``(m,) int64`` of the people that m faces are, -1 where none; nobody twice.

    A pair needs a small distance. Before the decision is final it needs a very small one, and no second person about
    as near: more faces will tell. Among the pairs left the cheapest goes first.

    Args:
        distance: ``(m, P)`` to the people's centres.
        cost: ``(m, P)``: the order in which pairs are taken.
        final: ``(m,)``: now or never.
        taken: ``(P,)``: seen elsewhere in the same picture.
        twins: ``(P,)``: people of one number cannot be told apart by their faces; `UNKNOWN` is no number.
        settings: the thresholds.
    """
    pair = np.full(len(distance), UNKNOWN, np.int64)
    if not distance.size:
        return pair
    limit = np.where(final, settings.accept, settings.sure)
    nearest = distance.argmin(axis=1)
    best = distance.min(axis=1)
    alike = (twins[None] == twins[nearest][:, None]) & (twins[None] != UNKNOWN)
    alike[np.arange(len(distance)), nearest] = True
    second = np.where(alike, np.inf, distance).min(axis=1)
    clear = final | (second - best >= settings.margin)
    allowed = (distance < limit[:, None]) & ~taken[None] & clear[:, None]
    price = np.where(allowed, cost, np.inf)
    free = ~taken
    for flat in np.argsort(price, axis=None, kind="stable"):
        row, column = np.unravel_index(flat, price.shape)
        if not np.isfinite(price[row, column]):
            break
        if pair[row] < 0 and free[column]:
            pair[row], free[column] = column, False
    return pair


def costs(distance: F64, twins: I64, people_px: F32, faces_px: F32, margin: float) -> F64:
    """``(m, P)``: the distances, except among twins that are about as near: there place and size decide.

    Args:
        distance: ``(m, P)``.
        twins: ``(P,)``, see `assign`.
        people_px: ``(P, 4)`` boxes where the people were seen last; NaN if never.
        faces_px: ``(m, 4)`` boxes of the faces.
        margin: distances of twins that differ by less are the same; the place weighs no more than this either.
    """
    cost = distance.copy()
    for group in np.unique(twins[twins != UNKNOWN]):
        of = np.flatnonzero(twins == group)
        near = distance[:, of].min(axis=1, keepdims=True)
        away = _away(faces_px, people_px[of])
        cost[:, of] = np.where(distance[:, of] < near + margin, near + margin * away / (1 + away), distance[:, of])
    return cost


def _away(a: F32, b: F32) -> F64:
    """``(m, P)``: how far boxes are apart, in face sizes, and how their sizes differ; large where unknown."""
    size_a, size_b = (np.sqrt(np.prod(np.maximum(x[:, 2:] - x[:, :2], 1e-3), axis=1)) for x in (a, b))
    centre_a, centre_b = ((x[:, :2] + x[:, 2:]) / 2 for x in (a, b))
    apart = np.linalg.norm(centre_a[:, None] - centre_b[None], axis=2) / size_a[:, None]
    away = apart + np.abs(np.log(size_a[:, None] / size_b[None]))
    return np.asarray(np.nan_to_num(away, nan=1e6, posinf=1e6), np.float64)
