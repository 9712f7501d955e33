"""Labelled clips: what a head is fitted on, and how much each of them weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from difffake.errors import DataError
from difffake.evaluation.features import Features
from difffake.evaluation.layouts import FAKE, REAL, Item
from difffake.scoring import difference_to_nearest

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FOOTAGE, PSEUDO_FAKES = "footage", "pseudo-fakes"
AS_RECORDED = "as recorded"


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """The faces of one person in one video, as one chain of encoders delivered them.

    Args:
        item: the video; its ``pair`` names the genuine one that a fake was made from.
        group: clips of one group are never divided between fitting and judging.
        source: which tool or collection a fake comes from; what can be left out to see whether a head transfers.
        variant: `AS_RECORDED`, or how it was encoded again.
        domain: `FOOTAGE` or `PSEUDO_FAKES`.
        features: rows in order of time.
    """

    item: Item
    group: str
    source: str
    variant: str
    domain: str
    features: Features

    @property
    def is_fake(self) -> bool:
        """The label."""
        return self.item.label == FAKE


@dataclass(frozen=True, slots=True)
class Rows:
    """What a head is fitted on: ``x (N, D)`` and ``logit (N,) float32``, ``fake (N,) bool``, and ``weight (N,)``, of
    which each class has 1/2."""

    x: F32
    logit: F32
    fake: NDArray[np.bool_]
    weight: F64


def rows_of(clips: Sequence[LabelledClip], frames_per_clip: int, pseudo_share: float) -> Rows:
    """Faces with weights: in each domain real clips weigh as much as fakes, so that the domain is never the answer.

    Among the fakes of a domain every source weighs the same, in a source every video, however long it is and however
    often it was encoded. No more than ``frames_per_clip`` faces of a clip are taken, evenly spread.

    Raises:
        DataError: not one real or not one fake face.
    """
    labels = {clip.is_fake for clip in clips if len(clip.features)}
    if labels != {False, True}:
        raise DataError("labelled clips of one kind alone teach nothing", hint="give real and fake clips")
    taken = [_evenly(len(clip.features), frames_per_clip) for clip in clips]
    x = np.concatenate([clip.features.embedding[rows] for clip, rows in zip(clips, taken, strict=True)])
    logit = np.concatenate([clip.features.logit[rows] for clip, rows in zip(clips, taken, strict=True)])
    counts = np.array([len(rows) for rows in taken])
    clip_of = np.repeat(np.arange(len(clips)), counts)
    weight = _shares(clips, counts, pseudo_share)[clip_of] / counts[clip_of]
    fake = np.array([clip.is_fake for clip in clips])[clip_of]
    for kind in (fake, ~fake):
        weight[kind] /= 2 * weight[kind].sum()
    return Rows(x, logit, fake, weight)


def _shares(clips: Sequence[LabelledClip], counts: I64, pseudo_share: float) -> F64:
    """The weight of each clip ``(C,)``, before the classes are made equal."""
    present = counts > 0
    video = np.array([f"{clip.domain}\0{clip.source}\0{clip.item.video}" for clip in clips])
    source = np.array([f"{clip.domain}\0{clip.source}" if clip.is_fake else clip.domain for clip in clips])
    share = np.zeros(len(clips))
    for label in (False, True):
        of_label = np.array([clip.is_fake is label for clip in clips]) & present
        for domain, whole in ((FOOTAGE, 1.0 - pseudo_share), (PSEUDO_FAKES, pseudo_share)):
            own = of_label & np.array([clip.domain == domain for clip in clips])
            for name in np.unique(source[own]):
                group = np.flatnonzero(own & (source == name))
                _, place, sizes = np.unique(video[group], return_inverse=True, return_counts=True)
                share[group] = whole / len(np.unique(source[own])) / len(sizes) / sizes[place]
    return share


def _evenly(count: int, limit: int) -> I64:
    if count <= limit:
        return np.arange(count)
    return ((np.arange(limit) + 0.5) * count / limit).astype(np.int64)


def against_anchor(clip: LabelledClip, anchor: F32, after_s: float) -> LabelledClip:
    """The clip's faces later than ``after_s``, each minus the nearest frame of the anchor ``(K, D)``."""
    features = clip.features.only(clip.features.time_s > after_s)
    return replace(clip, features=replace(features, embedding=difference_to_nearest(features.embedding, anchor)))


def counts_of(clips: Sequence[LabelledClip]) -> dict[str, int]:
    """How many videos, and people in them, stand on either side."""
    counts: dict[str, int] = {}
    for label, name in ((REAL, "real"), (FAKE, "fake")):
        items = [clip.item for clip in clips if clip.item.label == label and len(clip.features)]
        counts[f"{name}_videos"] = len({item.video for item in items})
        counts[f"{name}_people"] = len({item.person for item in items})
    return counts
