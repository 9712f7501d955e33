"""Every clip by the heads that have not seen its group: figures per level, and real scores to calibrate on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from difffake.adapt.clips import FOOTAGE, PSEUDO_FAKES, LabelledClip, against_anchor
from difffake.adapt.cross import CrossFit
from difffake.bundle import Bundle, ScoreSpec
from difffake.evaluation.bootstrap import Difference, Performance, Resampling, paired_difference, performance
from difffake.evaluation.metrics import auc
from difffake.evaluation.protocol import ClipScores, GenuineAnchor, Level, Subject, genuine_anchor, pool, score_clip
from difffake.head import LinearHead
from difffake.scoring import ANCHOR_SIZE, Scorer

F64 = NDArray[np.float64]

#: Heads by the names that the bundle keeps them under: of the embedding, of its difference to the anchor.
ARTIFACT, DIFFERENCE = "artifact", "difference"
SUPERVISED, MINUS_ANCHOR, OF_DIFFERENCE = "supervised", "supervised_minus_anchor", "supervised_difference"
#: The scores that heads give.
SPECS = {
    SUPERVISED: ScoreSpec(evidence="artifact", kind="supervised", head=ARTIFACT),
    MINUS_ANCHOR: ScoreSpec(
        evidence="anchor", kind="supervised", head=ARTIFACT, anchor="given", minus_anchor_mean=True
    ),
    OF_DIFFERENCE: ScoreSpec(
        evidence="anchor", kind="supervised_difference", head=DIFFERENCE, anchor="given", frames="nearest"
    ),
}
_COMPARED = ("logit", "logit_minus_anchor", "distance_anchor", "distance_nearest")
#: Two encodes of one recording give frame times that differ a little.
_TOLERANCE_S = 0.125

Anchors = dict[tuple[str, str, str], GenuineAnchor]


@dataclass(frozen=True, slots=True)
class Judged:
    """Clips with their scores, each by heads that have not seen its group."""

    clips: tuple[LabelledClip, ...]
    scores: tuple[ClipScores, ...]
    names: tuple[str, ...]

    def of(self, domain: str, variant: str | None = None) -> Judged:
        """The clips of one domain, and of one variant if given."""
        rows = [
            i
            for i, clip in enumerate(self.clips)
            if clip.domain == domain and (variant is None or clip.variant == variant)
        ]
        return Judged(tuple(self.clips[i] for i in rows), tuple(self.scores[i] for i in rows), self.names)

    def videos(self) -> Judged:
        """The clips of more than one face: a picture gives no more."""
        rows = [i for i, clip in enumerate(self.clips) if len(clip.features) > 1]
        return Judged(tuple(self.clips[i] for i in rows), tuple(self.scores[i] for i in rows), self.names)

    @property
    def variants(self) -> tuple[str, ...]:
        """How the footage was delivered, in the order in which it was looked at."""
        return tuple(dict.fromkeys(clip.variant for clip in self.clips if clip.domain == FOOTAGE))

    def rows(self, level: Level) -> tuple[NDArray[np.int64], NDArray[np.str_], dict[str, F64]]:
        """Labels, people and scores of one level, ``(M,)`` each."""
        clip, scores = pool(self.scores, self.names, level)
        label = np.array([int(c.is_fake) for c in self.clips], np.int64)
        person = np.array([c.item.person for c in self.clips], np.str_)
        return label[clip], person[clip], scores


def anchors_of(clips: Sequence[LabelledClip]) -> Anchors:
    """``(domain, pair, variant)`` -> the anchor from the genuine clip of that stream, where it is long enough."""
    found: Anchors = {}
    for clip in clips:
        if clip.is_fake or clip.item.pair is None:
            continue
        anchor = genuine_anchor(clip.features, ANCHOR_SIZE)
        if anchor is not None:
            found[_stream(clip)] = anchor
    return found


def anchored_clips(clips: Sequence[LabelledClip], anchors: Anchors) -> list[LabelledClip]:
    """The clips whose stream has an anchor, as differences to its nearest frame; the anchor's stretch is left out."""
    return [
        against_anchor(clip, anchor.pool.embeddings, anchor.until_s + _TOLERANCE_S)
        for clip in clips
        if (anchor := anchors.get(_stream(clip))) is not None
    ]


def judge(bundle: Bundle, clips: Sequence[LabelledClip], anchors: Anchors, fits: Mapping[str, CrossFit]) -> Judged:
    """Score every clip, by the bundle as it is and by the heads of ``fits`` (head -> its cross-fit)."""
    specs = {n: s for n, s in bundle.manifest.scores.items() if n in (*_COMPARED, *_standing(bundle))}
    specs |= {name: spec for name, spec in SPECS.items() if spec.head in fits}
    manifest = msgspec.structs.replace(bundle.manifest, scores=specs)
    scores = []
    for clip in clips:
        heads: dict[str, LinearHead] = {
            name: fit.head_for(clip) for name, fit in fits.items() if clip.group in fit.fold_of
        }
        known = {n: s for n, s in specs.items() if not s.is_taught or s.head in heads}
        scorer = Scorer(replace(bundle, manifest=msgspec.structs.replace(manifest, scores=known), heads=heads))
        anchor = anchors.get(_stream(clip))
        got = score_clip(clip.features, scorer, subject=Subject.MAIN, anchor=anchor, tolerance_s=_TOLERANCE_S)
        nothing = np.full(len(got.time_s), np.nan)
        scores.append(ClipScores(got.time_s, {name: got.scores.get(name, nothing) for name in specs}))
    return Judged(tuple(clips), tuple(scores), tuple(specs))


def _standing(bundle: Bundle) -> list[str]:
    return [name for e, name in bundle.manifest.evidence.items() if e in ("artifact", "anchor")]


def _stream(clip: LabelledClip) -> tuple[str, str, str]:
    return clip.domain, str(clip.item.pair), clip.variant


def footage_figures(judged: Judged, resampling: Resampling) -> dict[str, dict[str, dict[Level, Performance]]]:
    """``[variant][score][level]`` over the footage; scores without both labels are absent."""
    figures: dict[str, dict[str, dict[Level, Performance]]] = {}
    for variant in judged.variants:
        part = judged.of(FOOTAGE, variant)
        of_variant: dict[str, dict[Level, Performance]] = {}
        for level in Level:
            label, person, scores = part.rows(level)
            for name, values in scores.items():
                if len(np.unique(label[~np.isnan(values)])) == 2:
                    of_variant.setdefault(name, {})[level] = performance(label, values, person, resampling)
        figures[variant] = of_variant
    return figures


def differences(judged: Judged, name: str, baseline: str, resampling: Resampling) -> dict[str, dict[Level, Difference]]:
    """``[variant][level]``: AUC of a score minus that of another, paired, people drawn."""
    found: dict[str, dict[Level, Difference]] = {}
    for variant in judged.variants:
        part = judged.of(FOOTAGE, variant)
        found[variant] = {}
        for level in Level:
            label, person, scores = part.rows(level)
            found[variant][level] = paired_difference(label, scores[name], scores[baseline], person, resampling)
    return found


def pseudo_figures(judged: Judged) -> dict[str, dict[str, float]]:
    """``[score][family]``: AUC over frames of pseudo-fakes of people whom the head has not seen."""
    part = judged.of(PSEUDO_FAKES)
    families = sorted({clip.source for clip in part.clips if clip.is_fake})
    figures: dict[str, dict[str, float]] = {}
    for name in part.names if families else ():
        by_source: dict[str, list[F64]] = {}
        for clip, scores in zip(part.clips, part.scores, strict=True):
            values = scores.scores[name]
            by_source.setdefault(clip.source if clip.is_fake else "", []).append(values[np.isfinite(values)])
        real = np.concatenate(by_source[""])
        for family in families:
            fake = np.concatenate(by_source[family])
            if len(real) and len(fake):
                labels = np.repeat([0, 1], [len(real), len(fake)])
                figures.setdefault(name, {})[family] = auc(labels, np.concatenate([real, fake]))
    return figures


def real_scores(judged: Judged, name: str) -> tuple[F64, NDArray[np.str_]]:
    """Scores of real frames and whose they are ``(N,)``, by heads that have not seen these people."""
    values, people = [], []
    for clip, scores in zip(judged.clips, judged.scores, strict=True):
        if not clip.is_fake:
            known = scores.scores[name][np.isfinite(scores.scores[name])]
            values.append(known)
            people += [clip.item.person] * len(known)
    return np.concatenate([np.zeros(0), *values]), np.array(people, np.str_)
