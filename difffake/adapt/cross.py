"""Cross-validation by groups, and one within it that chooses how to fit: no head judges a clip whose group it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difffake.adapt.clips import FOOTAGE, PSEUDO_FAKES, LabelledClip, rows_of
from difffake.adapt.heads import CANDIDATES, Candidate, fit_heads
from difffake.errors import DataError
from difffake.evaluation.metrics import auc
from difffake.head import LinearHead

F64 = NDArray[np.float64]

#: Of candidates that differ by no more than this in AUC the more regularised one is taken.
_EQUAL = 0.005

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How heads are fitted: see `rows_of`, `fit_heads` and `CANDIDATES`; within ``inner_folds`` one is chosen."""

    frames_per_clip: int = 24
    pseudo_share: float = 0.5
    towards_logit: float = 0.0
    towards_length: float = 0.0
    folds: int = 10
    inner_folds: int = 5
    seed: int = 0
    candidates: tuple[Candidate, ...] = CANDIDATES


@dataclass(frozen=True, slots=True)
class CrossFit:
    """``heads[fold_of[group]]`` was fitted without that group, as ``chosen[fold]``."""

    fold_of: dict[str, int]
    chosen: tuple[Candidate, ...]
    heads: tuple[LinearHead, ...]

    def head_for(self, clip: LabelledClip) -> LinearHead:
        """The head that has not seen this clip's group."""
        return self.heads[self.fold_of[clip.group]]


def divide(groups: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Groups -> folds of about equally many groups, by seed.

    Raises:
        DataError: a single group.
    """
    names = sorted(set(groups))
    if len(names) < 2:
        raise DataError("all clips are of one group: nothing is left to judge a head on", hint="give more people")
    order = np.random.default_rng(seed).permutation(len(names))
    return {name: int(place % min(folds, len(names))) for name, place in zip(names, order, strict=True)}


def fit(clips: Sequence[LabelledClip], recipe: Recipe, candidates: Sequence[Candidate]) -> list[LinearHead]:
    """Heads on all of the clips."""
    rows = rows_of(clips, recipe.frames_per_clip, recipe.pseudo_share)
    return fit_heads(rows, candidates, recipe.towards_logit, recipe.towards_length)


def choose(clips: Sequence[LabelledClip], recipe: Recipe, seed: int) -> tuple[Candidate, dict[str, float]]:
    """The candidate with the best mean AUC over videos of left-out groups, and the AUC of each."""
    fold_of = divide([clip.group for clip in clips], recipe.inner_folds, seed)
    scores = np.full((len(clips), len(recipe.candidates)), np.nan)
    for fold in sorted(set(fold_of.values())):
        kept = [clip for clip in clips if fold_of[clip.group] != fold]
        heads = fit(kept, recipe, recipe.candidates)
        for i, clip in enumerate(clips):
            if fold_of[clip.group] == fold and len(clip.features):
                scores[i] = [head(clip.features.embedding, clip.features.logit).mean() for head in heads]
    found = {str(c): video_auc(clips, scores[:, k], recipe.pseudo_share) for k, c in enumerate(recipe.candidates)}
    best = max(found.values())
    return next(c for c in recipe.candidates if found[str(c)] >= best - _EQUAL), found


def video_auc(clips: Sequence[LabelledClip], scores: F64, pseudo_share: float) -> float:
    """AUC over clips' mean scores ``(C,)``, in each domain apart, weighed as the domains are in the fit."""
    total, weight = 0.0, 0.0
    for domain, share in ((FOOTAGE, 1.0 - pseudo_share), (PSEUDO_FAKES, pseudo_share)):
        own = np.array([clip.domain == domain for clip in clips]) & np.isfinite(scores)
        labels = np.array([clip.is_fake for clip in clips])[own]
        if share > 0 and len(np.unique(labels)) == 2:
            total += share * auc(labels.astype(np.int64), scores[own])
            weight += share
    return total / weight if weight else float("nan")


def cross_fit(clips: Sequence[LabelledClip], recipe: Recipe, progress: Progress | None = None) -> CrossFit:
    """A head for every fold of groups, chosen and fitted on the others alone."""
    fold_of = divide([clip.group for clip in clips], recipe.folds, recipe.seed)
    folds = sorted(set(fold_of.values()))
    chosen, heads = [], []
    for done, fold in enumerate(folds):
        kept = [clip for clip in clips if fold_of[clip.group] != fold]
        candidate, _ = choose(kept, recipe, recipe.seed + 1 + fold)
        (head,) = fit(kept, recipe, [candidate])
        chosen.append(candidate)
        heads.append(head)
        if progress is not None:
            progress((done + 1) / len(folds))
    return CrossFit(fold_of, tuple(chosen), tuple(heads))


def without_source(
    clips: Sequence[LabelledClip], source: str, candidate: Candidate, recipe: Recipe, fold_of: dict[str, int]
) -> F64:
    """Mean score of each clip ``(C,)`` by heads that saw neither its group nor any fake of ``source``; NaN for fakes
    of other sources and for real clips of other domains."""
    of_source = [clip for clip in clips if clip.is_fake and clip.source == source]
    domains = {clip.domain for clip in of_source}
    judged = [clip.source == source if clip.is_fake else clip.domain in domains for clip in clips]
    scores = np.full(len(clips), np.nan)
    for fold in sorted(set(fold_of.values())):
        rest = [c for c in clips if fold_of[c.group] != fold and not (c.is_fake and c.source == source)]
        if not any(clip.is_fake for clip in rest):
            continue
        (head,) = fit(rest, recipe, [candidate])
        for i, clip in enumerate(clips):
            if judged[i] and fold_of[clip.group] == fold and len(clip.features):
                scores[i] = head(clip.features.embedding, clip.features.logit).mean()
    return scores
