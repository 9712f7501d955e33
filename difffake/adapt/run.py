"""``adapt``: labelled footage and a bundle -> the bundle with a supervised head, and what can be expected of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from difffake.adapt.clips import AS_RECORDED, FOOTAGE, LabelledClip, counts_of
from difffake.adapt.cross import CrossFit, Recipe, choose, cross_fit, divide, fit, without_source
from difffake.adapt.heads import Candidate
from difffake.adapt.judging import (
    ARTIFACT,
    DIFFERENCE,
    MINUS_ANCHOR,
    OF_DIFFERENCE,
    SPECS,
    SUPERVISED,
    Judged,
    anchored_clips,
    anchors_of,
    differences,
    footage_figures,
    judge,
    pseudo_figures,
    real_scores,
)
from difffake.adapt.listing import Labelled, list_labelled
from difffake.adapt.outcome import MIN_PEOPLE, MIN_VIDEOS, AdaptReport, AdaptSettings, Transfer, Use
from difffake.adapt.probe import probe_files
from difffake.adapt.report import record
from difffake.bundle import ARTIFACT_STILL, IDENTITY, Bundle, save_bundle
from difffake.calibration import Calibration
from difffake.errors import DataError, DiffFakeError
from difffake.evaluation.bootstrap import Resampling
from difffake.evaluation.features import FeatureStore, Sampling
from difffake.evaluation.metrics import auc
from difffake.evaluation.protocol import Level, main_subject
from difffake.evaluation.recompress import Recompression
from difffake.evaluation.run import BundledDetector, features_id
from difffake.evaluation.seen import file_digest
from difffake.head import LinearHead

F64 = NDArray[np.float64]
#: Called with a word for what is done and the share done.
Progress = Callable[[str, float], None]


def adapt(
    settings: AdaptSettings,
    detector: BundledDetector,
    out: Path,
    pseudo_fakes: Sequence[LabelledClip] = (),
    progress: Progress | None = None,
) -> AdaptReport:
    """Fit a head on the detector's embeddings of labelled footage, judge it by cross-validation and write a bundle.

    Args:
        settings: the footage, and how to learn from it.
        detector: its bundle is the one that is adapted; what it had of heads is replaced.
        out: the bundle to write.
        pseudo_fakes: more to learn from, see `difffake.adapt.pseudo.pseudo_clips`.
        progress: called while this goes on.

    Raises:
        DataError: too few videos or people on a side, or folders that cannot be read.
    """
    tell = progress or (lambda _what, _share: None)
    videos, notes = list_labelled(settings.real, settings.fake, settings.data, series=settings.series)
    footage, left_out = _collect(settings, videos, detector, tell)
    _require_enough(counts_of(footage))
    recipe = settings.recipe if pseudo_fakes else replace(settings.recipe, pseudo_share=0.0)
    clips = [*footage, *pseudo_fakes]
    anchors = anchors_of(clips)
    against = anchored_clips(clips, anchors)
    fits: dict[str, CrossFit] = {}
    heads: dict[str, LinearHead] = {}
    chosen: dict[str, Candidate] = {}
    fits[ARTIFACT] = cross_fit(clips, recipe, lambda share: tell("cross-validation", share))
    heads[ARTIFACT], chosen[ARTIFACT] = _fit_on_all(clips, recipe)
    if _can_be_divided(against):
        # Direction and size of a change, in equal parts; the logit's own change is another score.
        share = settings.anchor_pseudo_share if pseudo_fakes else None
        alone = replace(
            recipe,
            towards_logit=0.0,
            towards_length=settings.towards_length,
            pseudo_share=recipe.pseudo_share if share is None else share,
        )
        fits[DIFFERENCE] = cross_fit(against, alone, lambda share: tell("against anchors", share))
        heads[DIFFERENCE], chosen[DIFFERENCE] = _fit_on_all(against, alone)
    old = _without_heads(detector.bundle)
    judged = judge(old, clips, anchors, fits)
    resampling = Resampling(settings.draws)
    # Heads that do not read pictures must not take from pictures how real faces score.
    calibrating = judged if settings.stills or not _enough_people(judged.videos()) else judged.videos()
    candidate = chosen[ARTIFACT]
    pseudo = pseudo_figures(judged)
    transfer = {"artifact": _artifact(old, clips, judged, calibrating, candidate, recipe, resampling, tell)}
    if anchor := _anchor(old, judged, calibrating, pseudo, resampling):
        transfer["anchor"] = anchor
    calibrations = _calibrations(calibrating)
    stands = {
        evidence: found.score
        for evidence, found in transfer.items()
        if found.score in calibrations and (settings.use is Use.ALWAYS or (settings.use is Use.AUTO and found.helps))
    }
    if "artifact" in stands and not settings.stills:
        # What labels of video teach is no guide to composites and retouching.
        stands[ARTIFACT_STILL] = transfer["artifact"].baseline
    report = AdaptReport(
        bundle=old,
        settings=settings,
        counts=counts_of(footage),
        groups=len({clip.group for clip in footage}),
        figures=footage_figures(judged, resampling),
        over_baseline={
            name: differences(judged, name, "logit", resampling) for name in judged.names if name != "logit"
        },
        pseudo_fakes=pseudo,
        transfer=transfer,
        probe=probe_files(videos, resampling),
        chosen={name: str(c) for name, c in chosen.items()},
        chosen_in_folds={name: tuple(map(str, fit.chosen)) for name, fit in fits.items()},
        stands=stands,
        left_out=left_out,
        notes=tuple(notes),
    )
    bundle = _write(old, out, heads, calibrations, report, _digests(videos))
    return replace(report, bundle=bundle)


def _collect(
    settings: AdaptSettings, videos: Sequence[Labelled], detector: BundledDetector, tell: Progress
) -> tuple[list[LabelledClip], dict[str, str]]:
    clips: list[LabelledClip] = []
    left_out: dict[str, str] = {}
    encodes = [None, *(Recompression(crf=crf) for crf in settings.crfs)]
    for done, encode in enumerate(encodes):
        sampling = Sampling(settings.fps, settings.max_frames, encode)
        store = FeatureStore(settings.cache, detector, features_id(detector), sampling)
        variant = AS_RECORDED if encode is None else f"CRF {encode.crf}"
        for i, one in enumerate(videos):
            tell(f"looking, {variant}", (done * len(videos) + i) / (len(encodes) * len(videos)))
            try:
                features = main_subject(store.features(one.item))
            except DiffFakeError as error:
                left_out[f"{one.item.video}, {variant}"] = f"unreadable ({type(error).__name__})"
                continue
            if not len(features):
                left_out[f"{one.item.video}, {variant}"] = "no face that can be scored"
                continue
            clips.append(LabelledClip(one.item, one.group, one.source, variant, FOOTAGE, features))
    return clips, left_out


def _require_enough(counts: dict[str, int]) -> None:
    few = [
        f"{counts[f'{side}_{what}']} {side} {what}"
        for side in ("real", "fake")
        for what, least in (("videos", MIN_VIDEOS), ("people", MIN_PEOPLE))
        if counts[f"{side}_{what}"] < least
    ]
    if few:
        raise DataError(
            f"too little to learn from: {', '.join(few)} with a face",
            hint=f"give at least {MIN_VIDEOS} videos of {MIN_PEOPLE} people on either side",
        )


def _can_be_divided(clips: Sequence[LabelledClip]) -> bool:
    groups = [{c.group for c in clips if c.is_fake is label and len(c.features)} for label in (False, True)]
    return min(map(len, groups)) >= MIN_PEOPLE


def _fit_on_all(clips: Sequence[LabelledClip], recipe: Recipe) -> tuple[LinearHead, Candidate]:
    candidate, _ = choose(clips, recipe, recipe.seed)
    (head,) = fit(clips, recipe, [candidate])
    return head, candidate


def _artifact(
    bundle: Bundle,
    clips: Sequence[LabelledClip],
    judged: Judged,
    calibrating: Judged,
    candidate: Candidate,
    recipe: Recipe,
    resampling: Resampling,
    tell: Progress,
) -> Transfer:
    baseline = bundle.manifest.evidence.get("artifact", "logit")
    _, _, by_video = judged.rows(Level.VIDEO)
    sources: dict[str, dict[str, tuple[float, float]]] = {}
    found = sorted({(clip.domain, clip.source) for clip in clips if clip.is_fake})
    groups_of = {one: {c.group for c in clips if c.is_fake and (c.domain, c.source) == one} for one in found}
    fold_of = divide([clip.group for clip in clips], recipe.inner_folds, recipe.seed)
    for done, (domain, source) in enumerate(found):
        tell("fakes not seen", done / len(found))
        alone = domain == FOOTAGE and sum(1 for d, _ in found if d == FOOTAGE) < 2
        # A source that is a group is left out by the cross-validation as it is.
        if alone or len(groups_of[domain, source]) < 2:
            continue
        scores = without_source(clips, source, candidate, recipe, fold_of)
        known = np.isfinite(scores)
        labels = np.array([int(clip.is_fake) for clip in clips])[known]
        if len(np.unique(labels)) == 2:
            pair = auc(labels, scores[known]), auc(labels, by_video[baseline][known])
            sources.setdefault(domain, {})[source] = pair
    footage = sources.pop(FOOTAGE, {})
    return Transfer(
        score=SUPERVISED,
        baseline=baseline,
        over_baseline=differences(judged, SUPERVISED, baseline, resampling),
        sources=footage,
        families=next(iter(sources.values()), {}),
        families_are_unseen=True,
        across=_sources(judged) > 1,
        false_windows=_false_windows(calibrating, SUPERVISED),
    )


def _anchor(
    bundle: Bundle, judged: Judged, calibrating: Judged, pseudo: dict[str, dict[str, float]], resampling: Resampling
) -> Transfer | None:
    """The better of the heads' two readings of `anchor` against the one so far; None where neither can be judged."""
    baseline = bundle.manifest.evidence.get("anchor")
    candidates = [name for name in (MINUS_ANCHOR, OF_DIFFERENCE) if _can_be_calibrated(calibrating, name)]
    if baseline is None or not candidates:
        return None

    def gain(name: str) -> float:
        over = differences(judged, name, baseline, Resampling(0))
        footage = [levels[Level.VIDEO].difference.value for levels in over.values()]
        fakes = [pseudo[name][f] - pseudo[baseline][f] for f in pseudo.get(name, {}) if f in pseudo.get(baseline, {})]
        return float(np.mean(footage)) + (float(np.mean(fakes)) if fakes else 0.0)

    best = max(candidates, key=gain)
    shared = [f for f in pseudo.get(best, {}) if f in pseudo.get(baseline, {})]
    return Transfer(
        score=best,
        baseline=baseline,
        over_baseline=differences(judged, best, baseline, resampling),
        sources={},
        families={family: (pseudo[best][family], pseudo[baseline][family]) for family in shared},
        families_are_unseen=False,
        across=_sources(judged) > 1,
        false_windows=_false_windows(calibrating, best),
    )


def _enough_people(judged: Judged) -> bool:
    return len({clip.item.person for clip in judged.clips if not clip.is_fake}) >= MIN_PEOPLE


def _sources(judged: Judged) -> int:
    return len({clip.source for clip in judged.clips if clip.is_fake and clip.domain == FOOTAGE})


def _false_windows(judged: Judged, name: str) -> float:
    """Share of genuine 5 s windows below p = .05, by a head and a calibration without their person.

    Of all videos, also those that pseudo-fakes were made from: the genuine side of the footage resembles the lesson.
    """
    values, people = real_scores(judged, name)
    videos = judged.videos()
    label, person, scores = (videos if _enough_people(videos) else judged).rows(Level.WINDOW_5S)
    genuine = (label == 0) & np.isfinite(scores[name])
    shares = []
    for one in np.unique(person[genuine]):
        others = people != one
        p = Calibration.fit(values[others], people[others]).p_value(scores[name][genuine & (person == one)])
        shares.append((p < 0.05).mean())
    return float(np.mean(shares))


def _calibrations(judged: Judged) -> dict[str, Calibration]:
    return {name: Calibration.fit(*real_scores(judged, name)) for name in SPECS if _can_be_calibrated(judged, name)}


def _can_be_calibrated(judged: Judged, name: str) -> bool:
    return name in judged.names and len(set(real_scores(judged, name)[1].tolist())) >= MIN_PEOPLE


def _without_heads(bundle: Bundle) -> Bundle:
    """The bundle as it was before it was adapted, if it was."""
    manifest = bundle.manifest
    supervised = {name for name, spec in manifest.scores.items() if spec.is_taught}
    training = {key: value for key, value in manifest.training.items() if key != "adapted"}
    before = manifest.training.get("adapted", {}).get("evidence_before", {})
    return replace(
        bundle,
        heads={},
        calibrations={name: c for name, c in bundle.calibrations.items() if name not in supervised},
        manifest=msgspec.structs.replace(
            manifest,
            scores={name: spec for name, spec in manifest.scores.items() if name not in supervised},
            evidence={e: n for e, n in (manifest.evidence | before).items() if e != ARTIFACT_STILL or e in before},
            training=training,
        ),
    )


def _write(
    old: Bundle,
    out: Path,
    heads: dict[str, LinearHead],
    calibrations: dict[str, Calibration],
    report: AdaptReport,
    digests: list[str],
) -> Bundle:
    manifest = old.manifest
    scores = {name: spec for name, spec in SPECS.items() if spec.head in heads and name in calibrations}
    fields: dict[str, Any] = msgspec.structs.asdict(manifest)
    for name in ("format", "files"):
        del fields[name]
    fields |= {
        "scores": manifest.scores | scores,
        "evidence": manifest.evidence | report.stands,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "training": manifest.training
        | {"adapted": {**record(report), "evidence_before": manifest.evidence, "files": digests}},
    }
    identity = old.path / IDENTITY if IDENTITY in manifest.files else None
    return save_bundle(
        out,
        extractor=old.engine_path.read_bytes(),
        identity=None if identity is None else identity.read_bytes(),
        densities=old.densities,
        calibrations=old.calibrations | calibrations,
        projection=old.projection,
        heads={name: head for name, head in heads.items() if any(s.head == name for s in scores.values())},
        **fields,
    )


def _digests(videos: Sequence[Labelled]) -> list[str]:
    return [file_digest(path) for path in sorted({one.item.path for one in videos})]
