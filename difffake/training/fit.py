"""From a trained extractor to a bundle: densities of natural change, calibration, figures on held-out people.

Everything here runs on people whom the extractor has never seen. They are divided into folds: what calibrates or
judges a density is never what it was fitted on. The densities that are shipped are then fitted on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPool, Origin, choose_self_anchor
from difffake.bundle import Bundle, Manifest, ScoreSpec, save_bundle
from difffake.calibration import Calibration
from difffake.density import GaussianMixture, fit_density
from difffake.differential import Combination, differences, natural_pairs, pair_differences
from difffake.errors import DataError
from difffake.evaluation.metrics import auc
from difffake.faces import CROP_SIDE_PX, EYE_DISTANCE
from difffake.pseudofake import FaceBank, degrade_pairs, make_fake, shares_of
from difffake.scoring import ANCHOR_SIZE, Scorer
from difffake.training.batches import centre_view
from difffake.training.companions import number_clips
from engines.contract import Engine

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Progress = Callable[[float], None]

#: Added to every variance, in units of the mean variance.
_REGULARISATION = 1e-3

#: The scores of a bundle. The published method is `differential_self`.
SCORES: dict[str, ScoreSpec] = {
    "logit": ScoreSpec(evidence="artifact", kind="logit"),
    "density": ScoreSpec(evidence="artifact", kind="density", density="single"),
    "differential_self": ScoreSpec(
        evidence="artifact",
        kind="differential",
        anchor="self",
        density="square_l2",
        combination=Combination.SQUARE,
        l2=True,
    ),
    "signed_self": ScoreSpec(evidence="artifact", kind="differential", anchor="self", density="signed"),
    "signed_anchor": ScoreSpec(evidence="anchor", kind="differential", anchor="given", density="signed"),
    "logit_minus_anchor": ScoreSpec(evidence="anchor", kind="logit", anchor="given", minus_anchor_mean=True),
    "distance_anchor": ScoreSpec(evidence="anchor", kind="distance", anchor="given"),
    "signed_nearest": ScoreSpec(
        evidence="anchor", kind="differential", anchor="given", frames="nearest", density="signed"
    ),
    "distance_nearest": ScoreSpec(evidence="anchor", kind="distance", anchor="given", frames="nearest"),
}


class FitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a bundle is fitted. ``max_photos`` bounds the people with a single picture each."""

    name: str = "difffake"
    components: int = 3
    covariance: str = "diag"
    shrinkage: float = 0.0
    folds: int = 5
    min_gap_s: float = 0.5
    pairs_per_person: int = 200
    max_photos: int = 1500
    max_frames_per_clip: int = 60
    seed: int = 0
    licence: str = "Apache-2.0"


@dataclass(frozen=True, slots=True)
class Clip:
    """Faces of one person in one clip, in order of time; a photo is a clip of one face."""

    person: int
    time_s: F64
    embedding: F32
    logit: F32

    def anchor(self) -> AnchorPool | None:
        """The first good frames, as a live stream would anchor itself; None when there are too few."""
        chosen = choose_self_anchor(self.time_s, self.embedding, self.logit, k=ANCHOR_SIZE)
        if chosen is None:
            return None
        return AnchorPool(self.embedding[chosen], self.logit[chosen], self.time_s[chosen], Origin.SELF)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out people: their real clips and photos, and pseudo-fakes of the same frames by family.

    ``fakes[family][i]`` belongs to ``real[i]``.
    """

    real: list[Clip]
    fakes: dict[str, list[Clip]]


@dataclass(frozen=True, slots=True)
class Figures:
    """AUC on pseudo-fakes of held-out people, ``[score][family]``, and how many people and frames stand behind it."""

    auc: dict[str, dict[str, float]]
    people: int
    clips: int
    frames: int
    real_scores: dict[str, tuple[F64, I64]] = field(repr=False)


def embed_held_out(
    bank: FaceBank,
    times_s: F64,
    is_video: npt.NDArray[np.bool_],
    engine: Engine,
    settings: FitSettings,
    progress: Progress | None = None,
) -> HeldOut:
    """Embed real faces and pseudo-fakes of held-out people.

    Args:
        bank: aligned crops with margin, of held-out people alone.
        times_s: ``(N,)`` seconds within the clip; photos have none (NaN).
        is_video: ``(N,)``.
        engine: the extractor.
        settings: bounds and seed.
        progress: called with the share done, 0 to 1.

    Raises:
        DataError: fewer than two people, or no clip among them.
    """
    rng = np.random.default_rng(settings.seed)
    groups = _clips_of(bank.people, times_s, is_video, settings, rng)
    people = {int(bank.people[g[0]]) for g in groups}
    if len(people) < settings.folds or not any(len(g) >= ANCHOR_SIZE for g in groups):
        raise DataError(
            f"{len(people)} held-out people, {sum(len(g) > 1 for g in groups)} of them with a clip, cannot be fitted",
            hint="prepare crops from more people and from clips of several seconds",
        )
    real: list[Clip] = []
    served = list(shares_of(bank))
    fakes: dict[str, list[Clip]] = {family: [] for family in served}
    for done, group in enumerate(groups):
        # One family for a photo (there are many), every family for a clip.
        photo = len(group) == 1
        families = [served[done % len(served)]] if photo else served
        # The same seed for every frame of a clip: one manipulation, not a new one in each frame.
        seed = int(rng.integers(2**31))
        originals = np.stack([bank.crops[i] for i in group])
        stack = [originals] + [
            np.stack([make_fake(bank, int(i), family, np.random.default_rng(seed)) for i in group])
            for family in families
        ]
        if photo:  # a picture as a stream would deliver it, the real and the fake alike
            pair = degrade_pairs(stack[0], stack[1], np.random.default_rng(seed))
            stack = [pair[0], pair[1]]
        views = _embed(np.concatenate(stack), engine)
        parts = [slice(k * len(group), (k + 1) * len(group)) for k in range(len(stack))]
        person, times = int(bank.people[group[0]]), np.nan_to_num(times_s[group].astype(np.float64))
        clips = [Clip(person, times, views[0][part], views[1][part]) for part in parts]
        real.append(clips[0])
        for family in served:
            fakes[family].append(clips[1 + families.index(family)] if family in families else _nobody(clips[0]))
        if progress:
            progress((done + 1) / len(groups))
    return HeldOut(real, fakes)


def fit_densities(clips: list[Clip], settings: FitSettings) -> dict[str, GaussianMixture]:
    """Fit the mixtures that `SCORES` name on real faces: single embeddings and natural changes within clips."""
    rng = np.random.default_rng(settings.seed)
    embedding = np.concatenate([c.embedding for c in clips])
    person = np.concatenate([np.full(len(c.logit), c.person) for c in clips])
    time_s = np.concatenate([c.time_s for c in clips])
    clip = np.concatenate([np.full(len(c.logit), i) for i, c in enumerate(clips)])
    pairs = natural_pairs(
        time_s,
        person,
        rng,
        min_gap_s=settings.min_gap_s,
        max_pairs_per_group=settings.pairs_per_person,
        clips=clip,
    )
    if not len(pairs):
        raise DataError(
            f"{len({c.person for c in clips})} held-out people show no natural changes: with a fifth of them left out "
            "at a time, nobody has a clip of several seconds",
            hint="prepare crops from more clips, or keep more of the filmed people for fitting (--clip-shares)",
        )
    samples = {
        "single": embedding,
        "square_l2": pair_differences(embedding, pairs, Combination.SQUARE, l2=True),
        "signed": pair_differences(embedding, pairs, Combination.SIGNED),
    }
    return {
        name: fit_density(
            x.astype(np.float64),
            components=settings.components,
            covariance=settings.covariance,
            shrinkage=settings.shrinkage,
            reg=_REGULARISATION,
            seed=settings.seed,
        )
        for name, x in samples.items()
    }


def cross_fit(held_out: HeldOut, score_with: Callable[[list[Clip]], Scorer], settings: FitSettings) -> Figures:
    """Score every held-out person with densities fitted on the others.

    Args:
        held_out: real clips and their pseudo-fakes.
        score_with: fits a scorer on real clips.
        settings: folds and seed.
    """
    people = np.unique([c.person for c in held_out.real])
    fold_of = dict(
        zip(people, np.random.default_rng(settings.seed).permutation(len(people)) % settings.folds, strict=True)
    )
    real: dict[str, list[tuple[F64, int]]] = {name: [] for name in SCORES}
    fake: dict[str, dict[str, list[F64]]] = {name: {f: [] for f in held_out.fakes} for name in SCORES}
    for fold in range(settings.folds):
        scorer = score_with([c for c in held_out.real if fold_of[c.person] != fold])
        for i, clip in enumerate(held_out.real):
            if fold_of[clip.person] != fold:
                continue
            anchor = clip.anchor()
            # Frames of the anchor itself are no test of it.
            test = np.ones(len(clip.logit), bool)
            if anchor is not None:
                test[np.isin(clip.time_s, anchor.times_s)] = False
            for name, values in scorer.score(clip.embedding, clip.logit, clip.time_s, anchor).items():
                real[name].append((_usable(values, name, test), clip.person))
            for family, clips in held_out.fakes.items():
                other = clips[i]
                for name, values in scorer.score(other.embedding, other.logit, other.time_s, anchor).items():
                    fake[name][family].append(_usable(values, name, test[: len(values)]))
    real_scores = {name: _with_people(parts) for name, parts in real.items()}
    aucs = {
        name: {
            family: _auc(real_scores[name][0], np.concatenate(parts))
            for family, parts in families.items()
            if sum(map(len, parts)) and len(real_scores[name][0])
        }
        for name, families in fake.items()
    }
    return Figures(
        auc=aucs,
        people=len(people),
        clips=sum(len(c.logit) > 1 for c in held_out.real),
        frames=sum(len(c.logit) for c in held_out.real),
        real_scores=real_scores,
    )


def fit_bundle(
    held_out: HeldOut,
    extractor: Path,
    out: Path,
    settings: FitSettings,
    *,
    backbone: str,
    dim: int,
    training: Mapping[str, Any],
    git_revision: str,
    side_px: int = CROP_SIDE_PX,
) -> tuple[Bundle, Figures]:
    """Fit densities and calibrations and write the bundle of an extractor for faces of ``side_px``.

    Which score stands for an evidence is chosen by `best_score`.
    """
    blank = Manifest(
        format=1, name=settings.name, backbone=backbone, side_px=side_px, dim=dim, eye_distance=EYE_DISTANCE,
        normalisation="inside the graph: uint8 RGB in", scores=SCORES, evidence={}, files={}, created="",
        git_revision=git_revision, licence=settings.licence, training={},
    )  # fmt: skip

    def score_with(clips: list[Clip]) -> Scorer:
        return Scorer(Bundle(extractor, blank, fit_densities(clips, settings), {}))

    figures = cross_fit(held_out, score_with, settings)
    calibrations = {
        name: Calibration.fit(scores, people) for name, (scores, people) in figures.real_scores.items() if len(scores)
    }
    bundle = save_bundle(
        out,
        extractor=extractor.read_bytes(),
        densities=fit_densities(held_out.real, settings),
        calibrations=calibrations,
        name=settings.name,
        backbone=backbone,
        side_px=side_px,
        dim=dim,
        eye_distance=EYE_DISTANCE,
        normalisation=blank.normalisation,
        scores=SCORES,
        evidence={e: best_score(figures, e) for e in ("artifact", "anchor")},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_revision=git_revision,
        licence=settings.licence,
        training={
            **training,
            "fitted_on": {"people": figures.people, "clips": figures.clips, "frames": figures.frames},
            "auc_on_pseudo_fakes_of_held_out_people": figures.auc,
        },
    )
    return bundle, figures


def held_out_differences(held_out: HeldOut, settings: FitSettings) -> dict[str, F32]:
    """Signed differences to compare anomaly models on: natural changes of half of the people (``train``) and of the
    other half (``held_out_real``), and pseudo-fakes of the other half against their real anchor (``pseudo_fake``).

    Each ``(N, D) float32``; anchors are those of `Clip.anchor`.

    Raises:
        DataError: fewer than two people with a clip that is long enough for an anchor.
    """
    people = np.unique([c.person for c in held_out.real if c.anchor() is not None])
    if len(people) < 2:
        raise DataError(
            "differences are compared between people, and fewer than two have a clip long enough for an anchor",
            hint="prepare crops from longer clips of more people, or leave --differences out",
        )
    train = set(np.random.default_rng(settings.seed).permutation(people)[: len(people) // 2].tolist())
    parts: dict[str, list[F32]] = {"train": [], "held_out_real": [], "pseudo_fake": []}
    for i, clip in enumerate(held_out.real):
        anchor = clip.anchor()
        if anchor is None:
            continue
        rest = ~np.isin(clip.time_s, anchor.times_s)
        part = "train" if clip.person in train else "held_out_real"
        parts[part].append(_flat_differences(clip.embedding[rest], anchor))
        if part == "held_out_real":
            parts["pseudo_fake"] += [
                _flat_differences(clips[i].embedding[rest], anchor) for clips in held_out.fakes.values()
            ]
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def best_score(figures: Figures, evidence: str) -> str:
    """The score of this evidence with the best mean AUC over the families of pseudo-fakes."""
    candidates = [name for name, spec in SCORES.items() if spec.evidence == evidence and figures.auc[name]]
    if not candidates:
        raise DataError(
            f"no clip is long enough to choose a score of {evidence} by", hint="prepare crops from longer clips"
        )
    return max(candidates, key=lambda name: float(np.mean(list(figures.auc[name].values()))))


def _flat_differences(embedding: F32, anchor: AnchorPool) -> F32:
    changes = differences(embedding, anchor.embeddings, Combination.SIGNED)
    return np.asarray(changes.reshape(-1, embedding.shape[1]), np.float32)


def _clips_of(
    people: npt.NDArray[np.integer],
    times_s: F64,
    is_video: npt.NDArray[np.bool_],
    settings: FitSettings,
    rng: np.random.Generator,
) -> list[I64]:
    photos = rng.permutation(np.flatnonzero(~is_video))[: settings.max_photos]
    groups = [np.array([row]) for row in np.sort(photos)]
    clips = number_clips(people, is_video, times_s)
    # Clips, not people: another day's light is no change within a clip, and all clips begin at the same second.
    first = {int(clip): int(people[np.argmax(clips == clip)]) for clip in np.unique(clips[is_video])}
    by_person = sorted(first, key=lambda clip: first[clip])
    return groups + [np.flatnonzero(clips == clip)[: settings.max_frames_per_clip] for clip in by_person]


def _embed(crops: U8, engine: Engine) -> tuple[F32, F32]:
    view = centre_view(crops, engine.spec.side_px)
    embedded = engine.infer(np.ascontiguousarray(view.transpose(0, 3, 1, 2)))
    return embedded.embedding, embedded.logit


def _auc(real: F64, fake: F64) -> float:
    return auc(np.r_[np.zeros(len(real)), np.ones(len(fake))], np.r_[real, fake])


def _nobody(like: Clip) -> Clip:
    return Clip(like.person, like.time_s[:0], like.embedding[:0], like.logit[:0])


def _usable(values: F64, name: str, test: npt.NDArray[np.bool_]) -> F64:
    kept = values[test] if SCORES[name].anchor == "given" else values
    return kept[np.isfinite(kept)]


def _with_people(parts: list[tuple[F64, int]]) -> tuple[F64, I64]:
    if not parts:
        return np.empty(0), np.empty(0, np.int64)
    scores = np.concatenate([values for values, _ in parts])
    return scores, np.concatenate([np.full(len(values), person) for values, person in parts])
