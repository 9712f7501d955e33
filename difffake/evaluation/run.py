"""``evaluate``: a data set, a detector -> how well each score separates fakes from real videos, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from difffake import __version__
from difffake.bundle import EXTRACTOR, IDENTITY, Bundle
from difffake.errors import BundleError, DataError, DiffFakeError, NoFaceError
from difffake.evaluation.bootstrap import FPRS, Difference, Performance, Resampling, paired_difference, performance
from difffake.evaluation.conditions import AS_RECORDED, TreatedFile
from difffake.evaluation.features import FeatureStore, Observer, Sampling
from difffake.evaluation.layouts import FAKE, REAL, Item, Listing, list_items
from difffake.evaluation.outcome import CROWDED, EvaluationReport, EvaluationSettings, LeftOut, VideoScores
from difffake.evaluation.protocol import (
    ClipScores,
    EvaluationProtocol,
    GenuineAnchor,
    Level,
    Subject,
    genuine_anchor,
    pool,
    score_clip,
)
from difffake.evaluation.seen import readings_note, taught_notes
from difffake.networks import ModelName
from difffake.scoring import Scorer
from difffake.settings import ScanSettings

BASELINE = "logit"
ENOUGH_PEOPLE = 10
NO_ANCHOR = "no anchor: no genuine video of the same stream, or too few good faces in its first third"

Progress = Callable[[int, int, str], None]
"""Called with items done, items in all, and the id of the video at hand."""


class BundledDetector(Observer, Protocol):
    """A detector that knows its model: a ``difffake.Detector``."""

    settings: ScanSettings

    @property
    def bundle(self) -> Bundle: ...
    @property
    def model_id(self) -> str: ...


@dataclass(slots=True)
class Collected:
    """Scored videos, aligned; those without a score; and the anchors of genuine videos, by pair."""

    items: list[Item] = field(default_factory=list)
    clips: list[ClipScores] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    anchors: dict[str, GenuineAnchor] = field(default_factory=dict)


def evaluate(
    settings: EvaluationSettings, detector: BundledDetector, progress: Progress | None = None
) -> EvaluationReport:
    """Score a data set and say how well each of the bundle's scores separates its fakes.

    A file that cannot be read, or in which no face can be scored, is left out, counted and named in the
    report.

    Raises:
        DataError: the folder does not hold the layout, or not one real and one fake video could be scored.
        BundleError: the protocol asks for scores that the bundle does not have.
    """
    scorer = Scorer(detector.bundle)
    names = _asked_for(settings, scorer)
    listing = list_items(settings.layout, settings.root, compression=settings.compression, split=settings.split)
    stores = Stores.of(settings, detector)
    collected = collect(settings, listing, stores, scorer, progress)
    _require_both(settings, collected)
    report = _judge(settings, listing, scorer, names, detector.model_id, collected)
    return replace(
        report,
        notes=(
            *report.notes,
            readings_note(detector.bundle),
            *taught_notes(detector.bundle, (item.path for item in collected.items)),
        ),
    )


def features_id(detector: BundledDetector) -> str:
    """What decides over embeddings besides the video: not the densities, which can be refitted on the same ones."""
    manifest, told, name = detector.bundle.manifest, detector.settings, ModelName.parse(detector.model_id)
    identity = manifest.files.get(IDENTITY)
    return " ".join(
        (
            manifest.files[EXTRACTOR].sha256,
            f"identity {identity.sha256 if identity else None}",
            f"eyes {manifest.eye_distance}",
            f"side {told.analysis_side_px}",
            f"faces {told.max_faces}",
            f"difffake {__version__}",
            # Of ONNX Runtime there is nothing to say: what was kept before there were other engines stays good.
            *([f"engines {str(name)[len(name.model) :]}"] if str(name) != name.model else ()),
        )
    )


def _asked_for(settings: EvaluationSettings, scorer: Scorer) -> list[str]:
    if settings.protocol is EvaluationProtocol.CLIP:
        return list(scorer.names)
    names = [name for name in scorer.names if scorer.spec(name).anchor == "given"]
    if not names:
        raise BundleError(
            "the bundle has no score against a given anchor",
            hint="take a bundle with anchor or identity evidence, or evaluate with --protocol clip",
        )
    return names


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the faces that are judged come from, and those of anchors."""

    judged: FeatureStore
    anchors: FeatureStore

    @classmethod
    def of(cls, settings: EvaluationSettings, detector: BundledDetector, treated: TreatedFile | None = None) -> Stores:
        """The stores that the settings ask for: one and the same unless anchors come from the files as recorded."""
        model = features_id(detector)
        sampling = Sampling(settings.fps, settings.max_frames, settings.recompression, settings.condition)
        judged = FeatureStore(settings.cache, detector, model, sampling, treated)
        as_recorded = replace(sampling, recompression=None, condition=settings.condition and AS_RECORDED)
        if not settings.anchor_as_recorded or as_recorded == sampling:
            return cls(judged, judged)
        return cls(judged, FeatureStore(settings.cache, detector, model, as_recorded))


def collect(
    settings: EvaluationSettings,
    listing: Listing,
    stores: Stores,
    scorer: Scorer,
    progress: Progress | None,
) -> Collected:
    """Score the listed videos; one that cannot be scored is left out, with the reason."""
    found = Collected()
    # A genuine video comes right before the fakes made from it: its anchor is ready, its file's hash still
    # known.
    items = sorted(listing.items, key=lambda item: (item.pair or item.video, item.label, item.video))
    for done, item in enumerate(items):
        if progress is not None:
            progress(done, len(items), item.video)
        try:
            clip = _score(settings, item, stores, scorer, found.anchors)
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
    stores: Stores,
    scorer: Scorer,
    anchors: dict[str, GenuineAnchor],
) -> ClipScores:
    features = stores.judged.features(item)
    if not len(features):
        raise NoFaceError(
            "no face" if not features.faces else "no face good enough to be scored",
            hint="the video is left out",
        )
    hijack = settings.protocol is EvaluationProtocol.HIJACK
    # A genuine video without fakes can be held against its own beginning all the same.
    stream = item.video if hijack and item.pair is None and item.label == REAL else item.pair
    anchor = None
    if stream is not None and settings.judged_by is Subject.MAIN:
        if item.label == REAL and stream not in anchors:
            found = genuine_anchor(stores.anchors.features(item), settings.anchor_frames, settings.protocol)
            if found is not None:
                anchors[stream] = found
        anchor = anchors.get(stream)
    tolerance_s = 0.5 / settings.fps
    if not hijack:
        return score_clip(features, scorer, subject=settings.judged_by, anchor=anchor, tolerance_s=tolerance_s)
    if anchor is None:
        raise NoFaceError(NO_ANCHOR, hint="the video is left out")
    clip = score_clip(features, scorer, subject=settings.judged_by, anchor=anchor, tolerance_s=tolerance_s)
    clip = clip.after(anchor.until_s + tolerance_s)
    if not len(clip.time_s):
        raise NoFaceError("no face after the anchor's stretch", hint="the video is left out")
    return clip


def _reason(error: DiffFakeError) -> str:
    return str(error) if isinstance(error, NoFaceError) else f"unreadable ({type(error).__name__})"


def _require_both(settings: EvaluationSettings, collected: Collected) -> None:
    hint = "look at one of them with: difffake scan FILE"
    if settings.protocol is EvaluationProtocol.HIJACK:
        hint = "the hijack protocol needs fakes beside the genuine videos that they were made from"
    labels = {item.label for item in collected.items}
    for label, name in ((REAL, "real"), (FAKE, "fake")):
        if label not in labels:
            reasons = sorted({out.reason for out in collected.left_out if out.item.label == label})
            raise DataError(
                f"not one {name} video could be scored: {'; '.join(reasons)}",
                hint=hint,
            )


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of one level: labels, people and scores, (M,) each."""

    label: NDArray[np.int64]
    person: NDArray[np.str_]
    scores: dict[str, NDArray[np.float64]]


def _judge(
    settings: EvaluationSettings,
    listing: Listing,
    scorer: Scorer,
    names: list[str],
    model_id: str,
    collected: Collected,
) -> EvaluationReport:
    resampling = Resampling(settings.draws, settings.seed)
    rows = {level: rows_of(collected, scorer, level) for level in Level}
    scored = [name for name in names if _has_both(rows[Level.FRAME], name)]
    videos = rows[Level.VIDEO]
    figures = {name: {level: _performance(rows[level], name, resampling) for level in Level} for name in scored}
    return EvaluationReport(
        settings=settings,
        model_id=model_id,
        listing=listing,
        evidence={name: scorer.spec(name).evidence for name in scored},
        performance=figures,
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
        notes=(
            *listing.notes,
            *_notes(settings, scorer, names, scored),
            *_few_negatives(figures),
            *_few_people(videos),
            *_twins(collected),
        ),
    )


def _has_both(rows: Rows, name: str) -> bool:
    return len(np.unique(rows.label[~np.isnan(rows.scores[name])])) == 2


def rows_of(collected: Collected, scorer: Scorer, level: Level) -> Rows:
    """Means over time of all scores at one level."""
    clip, scores = pool(collected.clips, scorer.names, level)
    label = np.array([item.label for item in collected.items], np.int64)
    person = np.array([item.person for item in collected.items])
    return Rows(label[clip], person[clip], scores)


def _performance(rows: Rows, name: str, resampling: Resampling) -> Performance:
    return performance(rows.label, rows.scores[name], rows.person, resampling)


def _difference(rows: Rows, name: str, resampling: Resampling) -> Difference:
    return paired_difference(rows.label, rows.scores[name], rows.scores[BASELINE], rows.person, resampling)


def _by_method(
    collected: Collected, videos: Rows, scored: list[str], resampling: Resampling
) -> dict[str, dict[str, Performance]]:
    """Each manipulation against all real videos, where the layout tells several apart."""
    method = np.array([item.method for item in collected.items])
    found: dict[str, dict[str, Performance]] = {}
    for name in sorted({item.method for item in collected.items if item.label == FAKE} - {""}):
        keep = (videos.label == REAL) | (method == name)
        part = Rows(videos.label[keep], videos.person[keep], {s: videos.scores[s][keep] for s in scored})
        found[name] = {s: _performance(part, s, resampling) for s in scored}
    return found


def _anchored_pairs(collected: Collected) -> int:
    fakes = {item.pair for item in collected.items if item.label == FAKE}
    return len(fakes & set(collected.anchors))


def _few_negatives(performance: dict[str, dict[Level, Performance]]) -> Iterator[str]:
    """Below 1 / FPR real rows no false alarm is allowed at all: the TPR does not mean what its name says."""
    real = {level: min((levels[level].real for levels in performance.values()), default=0) for level in Level}
    for fpr in FPRS:
        few = [f"{level.value} ({count:,})" for level, count in real.items() if count * fpr < 1]
        if few:
            yield (
                f"TPR at FPR {100 * fpr:g} % means 'without a single false alarm' where there are fewer than "
                f"{1 / fpr:,.0f} real rows: {', '.join(few)}."
            )


def _few_people(videos: Rows) -> Iterator[str]:
    """A bootstrap of a handful of people draws hardly anything but what is there: its intervals do not cover."""
    people = {name: len(set(videos.person[videos.label == label])) for label, name in ((REAL, "real"), (FAKE, "fake"))}
    few = [f"{name} videos of {count}" for name, count in people.items() if count < ENOUGH_PEOPLE]
    if few:
        yield f"Intervals over fewer than {ENOUGH_PEOPLE} people are too narrow: {', '.join(few)}."


def _twins(collected: Collected) -> Iterator[str]:
    """Files that score alike to the last bit in every frame: the same footage under two names, or two labels."""
    first: dict[bytes, Item] = {}
    found: dict[bool, list[str]] = {True: [], False: []}
    for item, clip in zip(collected.items, collected.clips, strict=True):
        if BASELINE in clip.scores:
            twin = first.setdefault(clip.time_s.tobytes() + clip.scores[BASELINE].tobytes(), item)
            if twin is not item:
                found[twin.label == item.label].append(f"{twin.video} and {item.video}")
    for alike, why in ((False, "real and fake at once"), (True, "counted twice")):
        if pairs := found[alike]:
            more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
            yield f"The same footage, {why}: {'; '.join(pairs[:3])}{more}."


def _notes(settings: EvaluationSettings, scorer: Scorer, names: list[str], scored: list[str]) -> list[str]:
    notes = []
    if settings.protocol is EvaluationProtocol.HIJACK:
        notes.append(
            f"Question: is the stream still the one of its anchor? Anchor: up to {settings.anchor_frames} good faces "
            "spread over the first third of the genuine video. Genuine: the rest of it. Fake: the swap over the same "
            "stretch. An impersonation of the anchor's own person is another question."
        )
        if settings.layout in CROWDED:
            notes.append("Judged by the face seen most, which need not be the manipulated one.")
    if settings.anchor_as_recorded and settings.recompression is not None:
        notes.append("The anchors come from the files as recorded; only what is judged was encoded again.")
    unscored = [name for name in names if name not in scored]
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
