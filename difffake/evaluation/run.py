"""``evaluate``: a data set, a detector -> how well each score separates fakes from real videos, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from difffake import __version__
from difffake.anchors import AnchorPool
from difffake.bundle import EXTRACTOR, Bundle
from difffake.errors import DataError, DiffFakeError, NoFaceError
from difffake.evaluation.bootstrap import Difference, Performance, Resampling, paired_difference, performance
from difffake.evaluation.features import FeatureStore, Observer, Sampling
from difffake.evaluation.layouts import FAKE, REAL, Item, Listing, list_items
from difffake.evaluation.outcome import EvaluationReport, EvaluationSettings, LeftOut, VideoScores
from difffake.evaluation.protocol import (
    ClipScores,
    Level,
    Subject,
    genuine_anchor,
    pool,
    score_clip,
)
from difffake.scoring import Scorer
from difffake.settings import ScanSettings

BASELINE = "logit"

Progress = Callable[[int, int, str], None]
"""Called with items done, items in all, and the id of the video at hand."""


class BundledDetector(Observer, Protocol):
    """A detector that knows its model: a ``difffake.Detector``."""

    settings: ScanSettings

    @property
    def bundle(self) -> Bundle: ...


@dataclass(slots=True)
class _Collected:
    items: list[Item] = field(default_factory=list)
    clips: list[ClipScores] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    anchors: dict[str, AnchorPool] = field(default_factory=dict)


def evaluate(
    settings: EvaluationSettings, detector: BundledDetector, progress: Progress | None = None
) -> EvaluationReport:
    """Score a data set and say how well each of the bundle's scores separates its fakes.

    A file that cannot be read, or in which no face can be scored, is left out, counted and named in the
    report.

    Raises:
        DataError: the folder does not hold the layout, or not one real and one fake video could be scored.
    """
    listing = list_items(settings.layout, settings.root, compression=settings.compression, split=settings.split)
    sampling = Sampling(settings.fps, settings.max_frames, settings.recompression)
    store = FeatureStore(settings.cache, detector, _features_id(detector), sampling)
    scorer = Scorer(detector.bundle)
    collected = _collect(settings, listing, store, scorer, progress)
    _require_both(collected)
    return _judge(settings, listing, scorer, detector.bundle.model_id, collected)


def _features_id(detector: BundledDetector) -> str:
    """What decides over embeddings besides the video: not the densities, which can be refitted on the same ones."""
    manifest, told = detector.bundle.manifest, detector.settings
    return " ".join(
        (
            manifest.files[EXTRACTOR].sha256,
            f"eyes {manifest.eye_distance}",
            f"side {told.analysis_side_px}",
            f"faces {told.max_faces}",
            f"difffake {__version__}",
        )
    )


def _collect(
    settings: EvaluationSettings,
    listing: Listing,
    store: FeatureStore,
    scorer: Scorer,
    progress: Progress | None,
) -> _Collected:
    found = _Collected()
    # A genuine video comes right before the fakes made from it: its anchor is ready, its file's hash still
    # known.
    items = sorted(listing.items, key=lambda item: (item.pair or item.video, item.label, item.video))
    for done, item in enumerate(items):
        if progress is not None:
            progress(done, len(items), item.video)
        try:
            clip = _score(settings, item, store, scorer, found.anchors)
        except DiffFakeError as error:
            found.left_out.append(LeftOut(item, _reason(error)))
        else:
            found.items.append(item)
            found.clips.append(clip)
    if progress is not None:
        progress(len(items), len(items), "")
    return found


def _score(
    settings: EvaluationSettings,
    item: Item,
    store: FeatureStore,
    scorer: Scorer,
    anchors: dict[str, AnchorPool],
) -> ClipScores:
    features = store.features(item)
    if not len(features):
        raise NoFaceError(
            "no face" if not features.faces else "no face good enough to be scored",
            hint="the video is left out",
        )
    anchor = None
    if item.pair is not None and settings.judged_by is Subject.MAIN:
        if item.label == REAL and item.pair not in anchors:
            pool_of_genuine = genuine_anchor(features, settings.anchor_frames)
            if pool_of_genuine is not None:
                anchors[item.pair] = pool_of_genuine
        anchor = anchors.get(item.pair)
    return score_clip(features, scorer, subject=settings.judged_by, anchor=anchor, tolerance_s=0.5 / settings.fps)


def _reason(error: DiffFakeError) -> str:
    return str(error) if isinstance(error, NoFaceError) else f"unreadable ({type(error).__name__})"


def _require_both(collected: _Collected) -> None:
    labels = {item.label for item in collected.items}
    for label, name in ((REAL, "real"), (FAKE, "fake")):
        if label not in labels:
            reasons = sorted({out.reason for out in collected.left_out if out.item.label == label})
            raise DataError(
                f"not one {name} video could be scored: {'; '.join(reasons)}",
                hint="look at one of them with: difffake scan FILE",
            )


@dataclass(frozen=True, slots=True)
class _Rows:
    """All rows of one level: labels, people and scores, (M,) each."""

    label: NDArray[np.int64]
    person: NDArray[np.str_]
    scores: dict[str, NDArray[np.float64]]


def _judge(
    settings: EvaluationSettings,
    listing: Listing,
    scorer: Scorer,
    model_id: str,
    collected: _Collected,
) -> EvaluationReport:
    resampling = Resampling(settings.draws, settings.seed)
    rows = {level: _rows(collected, scorer, level) for level in Level}
    scored = [name for name in scorer.names if _has_both(rows[Level.FRAME], name)]
    videos = rows[Level.VIDEO]
    return EvaluationReport(
        settings=settings,
        model_id=model_id,
        listing=listing,
        evidence={name: scorer.spec(name).evidence for name in scored},
        performance={name: {level: _performance(rows[level], name, resampling) for level in Level} for name in scored},
        over_baseline={
            name: {level: _difference(rows[level], name, resampling) for level in (Level.FRAME, Level.VIDEO)}
            for name in scored
            if name != BASELINE and BASELINE in scored
        },
        methods=_by_method(collected, videos, scored, resampling),
        videos=tuple(
            VideoScores(item, {name: float(videos.scores[name][i]) for name in scored})
            for i, item in enumerate(collected.items)
        ),
        left_out=tuple(collected.left_out),
        frames=tuple(int(np.sum(rows[Level.FRAME].label == label)) for label in (REAL, FAKE)),
        anchored_pairs=_anchored_pairs(collected),
        notes=(*listing.notes, *_notes(settings, scorer, scored)),
    )


def _has_both(rows: _Rows, name: str) -> bool:
    return len(np.unique(rows.label[~np.isnan(rows.scores[name])])) == 2


def _rows(collected: _Collected, scorer: Scorer, level: Level) -> _Rows:
    clip, scores = pool(collected.clips, scorer.names, level)
    label = np.array([item.label for item in collected.items], np.int64)
    person = np.array([item.person for item in collected.items])
    return _Rows(label[clip], person[clip], scores)


def _performance(rows: _Rows, name: str, resampling: Resampling) -> Performance:
    return performance(rows.label, rows.scores[name], rows.person, resampling)


def _difference(rows: _Rows, name: str, resampling: Resampling) -> Difference:
    return paired_difference(rows.label, rows.scores[name], rows.scores[BASELINE], rows.person, resampling)


def _by_method(
    collected: _Collected, videos: _Rows, scored: list[str], resampling: Resampling
) -> dict[str, dict[str, Performance]]:
    """Each manipulation against all real videos, where the layout tells several apart."""
    method = np.array([item.method for item in collected.items])
    found: dict[str, dict[str, Performance]] = {}
    for name in sorted({item.method for item in collected.items if item.label == FAKE} - {""}):
        keep = (videos.label == REAL) | (method == name)
        part = _Rows(videos.label[keep], videos.person[keep], {s: videos.scores[s][keep] for s in scored})
        found[name] = {s: _performance(part, s, resampling) for s in scored}
    return found


def _anchored_pairs(collected: _Collected) -> int:
    fakes = {item.pair for item in collected.items if item.label == FAKE}
    return len(fakes & set(collected.anchors))


def _notes(settings: EvaluationSettings, scorer: Scorer, scored: list[str]) -> list[str]:
    notes = []
    unscored = [name for name in scorer.names if name not in scored]
    anchored = [name for name in unscored if scorer.spec(name).anchor == "given"]
    if anchored:
        why = (
            "nobody knows which of several people is the one of the anchor"
            if settings.judged_by is Subject.MOST_SUSPICIOUS
            else "the fakes have no genuine video of the same stream to take an anchor from"
        )
        notes.append(f"Left out: {', '.join(anchored)}: {why}.")
    if rest := [name for name in unscored if name not in anchored]:
        notes.append(f"Left out: {', '.join(rest)}: too few clips had enough faces for a self-anchor.")
    if settings.judged_by is Subject.MOST_SUSPICIOUS:
        notes.append("Each moment is judged by its most suspicious face: one of several people may be manipulated.")
    return notes
