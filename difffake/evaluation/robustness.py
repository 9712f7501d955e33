"""``robustness``: the same footage under condition after condition, and what each does to scores and false alarms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difffake.bundle import Bundle
from difffake.errors import BundleError, DataError
from difffake.evaluation.alarms import Alarms, count_alarms
from difffake.evaluation.bootstrap import Difference, Estimate, Resampling, paired_difference, performance
from difffake.evaluation.conditions import AS_RECORDED, Condition
from difffake.evaluation.layouts import FAKE, REAL, Item, Layout, Listing, list_items
from difffake.evaluation.outcome import EvaluationSettings, LeftOut
from difffake.evaluation.protocol import EvaluationProtocol, Level, pool
from difffake.evaluation.run import BundledDetector, Collected, Stores, collect, rows_of
from difffake.evaluation.seen import taught_notes
from difffake.folder import VIDEO_SUFFIXES
from difffake.scoring import Scorer
from difffake.settings import ScanSettings

F64 = NDArray[np.float64]

#: Shown beside a bundle's own readings, because no label touched them.
UNSUPERVISED = ("logit", "distance_nearest", "signed_anchor", "identity_stream")
EVIDENCES = ("artifact", "anchor", "identity")
DEFAULT_FPS = 2.0
DEFAULT_MAX_FRAMES = 20

Progress = Callable[[int, int, str], None]
"""Called with videos looked at, videos in all under all conditions, and the condition and video at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessSettings:
    """What to judge, and under which conditions.

    Args:
        evaluation: data set, sampling, anchors, bootstrap; its ``condition`` is set here, one after the other.
        conditions: `AS_RECORDED` first: all others are held against it.
        scores: the scores that are judged; not given: those of the evidences, and `UNSUPERVISED`.
        clips: a folder of real videos; every alarm on them is a false one.
        clips_conditions: the conditions under which they are judged.
    """

    evaluation: EvaluationSettings
    conditions: tuple[Condition, ...]
    scores: tuple[str, ...] = ()
    clips: Path | None = None
    clips_conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        first = {chosen[0] for chosen in (self.conditions, self.clips_conditions) if chosen}
        if not self.conditions or first != {AS_RECORDED}:
            raise DataError("the first condition is not the footage as recorded", hint="take conditions_named()")
        if self.evaluation.recompression is not None or self.evaluation.protocol is not EvaluationProtocol.CLIP:
            raise DataError(
                "conditions encode by themselves, and judge whole clips", hint="leave out recompression and protocol"
            )

    def under(self, condition: Condition) -> EvaluationSettings:
        """The settings of one condition."""
        return replace(self.evaluation, condition=condition)


@dataclass(frozen=True, slots=True)
class ScoreUnder:
    """One score under one condition.

    ``rows`` are the scored frames of real and fake videos, ``coverage`` their share of those scored as recorded.
    ``shift``: how far the means of genuine videos moved, in standard deviations of genuine frames as recorded.
    ``frames_below``, ``suspicious`` and ``strong`` are shares: of genuine frames below the level of suspicion, and of
    ``windows`` genuine windows of 5 s below either level. NaN where there is no figure.
    """

    rows: tuple[int, int]
    coverage: float
    frame: Estimate
    video: Estimate
    against_recorded: Difference
    shift: float
    frames_below: float
    suspicious: float
    strong: float
    windows: int


@dataclass(frozen=True, slots=True)
class UnderCondition:
    """All scores under one condition; ``coverage`` is of frames with a face good enough to be scored."""

    condition: Condition
    coverage: float
    left_out: tuple[LeftOut, ...]
    scores: dict[str, ScoreUnder]


@dataclass(frozen=True, slots=True)
class ClipsUnder:
    """Alarms of one evidence on real clips: runs of windows of 5 s below either level, in ``footage_s`` of scored
    frames."""

    condition: Condition
    evidence: str
    score: str
    footage_s: float
    suspicious: Alarms
    strong: Alarms


@dataclass(frozen=True, slots=True)
class RobustnessReport:
    """What the page and its JSON say."""

    settings: RobustnessSettings
    levels: tuple[float, float]  # p-values below which evidence is suspicious, and strong
    model_id: str
    evidence: dict[str, str]
    listing: Listing
    videos: tuple[int, int]
    people: int
    under: tuple[UnderCondition, ...]
    clips: tuple[ClipsUnder, ...]
    clip_names: tuple[str, ...]
    notes: tuple[str, ...]


def robustness(
    settings: RobustnessSettings, detector: BundledDetector, progress: Progress | None = None
) -> RobustnessReport:
    """Judge a data set, and real clips if there are any, under every condition.

    What was looked at is kept in the cache, video by video and condition by condition: a run that was broken off goes
    on where it stopped.

    Raises:
        DataError: the folder does not hold the layout, or as recorded not one real and one fake video could be scored.
        BundleError: the bundle lacks a score that was asked for.
    """
    scorer, bundle = Scorer(detector.bundle), detector.bundle
    names = shown_scores(bundle, settings.scores)
    listing = list_items(
        settings.evaluation.layout,
        settings.evaluation.root,
        compression=settings.evaluation.compression,
        split=settings.evaluation.split,
    )
    clips = None if settings.clips is None else clip_listing(settings.clips)
    tell = _Telling(progress, settings, len(listing.items), 0 if clips is None else len(clips.items))
    judge = _Judge(settings, scorer, names, detector.settings)
    for condition in settings.conditions:
        found = _look(settings.under(condition), listing, detector, scorer, tell.of(condition))
        judge.add(condition, found)
    alarms: list[ClipsUnder] = []
    if clips is not None:
        for condition in settings.clips_conditions:
            told = replace(settings.under(condition), layout=clips.layout)
            found = _look(told, clips, detector, scorer, tell.of(condition))
            alarms += clip_alarms(condition, found, scorer, bundle, detector.settings, settings.evaluation.fps)
    items = [*judge.recorded.items, *(clips.items if clips is not None else ())]
    labels = [item.label for item in judge.recorded.items]
    return RobustnessReport(
        settings=settings,
        levels=(detector.settings.suspicious_p, detector.settings.strong_p),
        model_id=detector.model_id,
        evidence={name: scorer.spec(name).evidence for name in names},
        listing=listing,
        videos=(labels.count(REAL), labels.count(FAKE)),
        people=len({item.person for item in judge.recorded.items}),
        under=tuple(judge.under),
        clips=tuple(alarms),
        clip_names=() if clips is None else tuple(item.video for item in clips.items),
        notes=(*listing.notes, *taught_notes(bundle, (item.path for item in items))),
    )


def shown_scores(bundle: Bundle, asked: Sequence[str] = ()) -> list[str]:
    """The scores to judge: those asked for, else those that stand for an evidence and those that no label touched.

    Raises:
        BundleError: the bundle lacks one that was asked for.
    """
    manifest = bundle.manifest
    if missing := [name for name in asked if name not in manifest.scores]:
        raise BundleError(
            f"the bundle has no score {', '.join(missing)}", hint=f"choose from {', '.join(manifest.scores)}"
        )
    own = [manifest.evidence[kind] for kind in EVIDENCES if kind in manifest.evidence]
    found = list(dict.fromkeys(asked or [*own, *(name for name in UNSUPERVISED if name in manifest.scores)]))
    return sorted(found, key=lambda name: EVIDENCES.index(manifest.scores[name].evidence))


def clip_listing(folder: Path) -> Listing:
    """The videos of a folder, all taken for real; each is its own stream.

    Raises:
        DataError: no folder, or no video in it.
    """
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [path for path in found if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    if not paths:
        raise DataError(f"no video in {folder}", hint="give a folder of real video files to --clips")
    items = tuple(Item(path, REAL, path.name, path.name, pair=path.name) for path in paths)
    return Listing(Layout.FOLDERS, items, (), {}, ())


def _look(
    settings: EvaluationSettings,
    listing: Listing,
    detector: BundledDetector,
    scorer: Scorer,
    progress: Progress,
) -> Collected:
    return collect(settings, listing, Stores.of(settings, detector), scorer, progress)


class _Telling:
    """One progress over all conditions."""

    def __init__(self, progress: Progress | None, settings: RobustnessSettings, videos: int, clips: int) -> None:
        self._progress, self._before = progress, 0
        self._total = videos * len(settings.conditions) + clips * len(settings.clips_conditions)

    def of(self, condition: Condition) -> Progress:
        start = self._before

        def tell(done: int, total: int, video: str) -> None:
            self._before = start + total
            if self._progress is not None:
                self._progress(start + done, self._total, f"{condition.name} {video}")

        return tell


class _Judge:
    """Turns scored videos into figures, condition by condition, against the first."""

    def __init__(self, settings: RobustnessSettings, scorer: Scorer, names: list[str], levels: ScanSettings) -> None:
        self._scorer, self._names, self._levels = scorer, names, levels
        self._resampling = Resampling(settings.evaluation.draws, settings.evaluation.seed)
        self.under: list[UnderCondition] = []
        self.recorded = Collected()

    def add(self, condition: Condition, found: Collected) -> None:
        """Raises DataError where the footage as recorded lacks a class."""
        if not self.under:
            labels = {item.label for item in found.items}
            if labels != {REAL, FAKE}:
                reasons = sorted({out.reason for out in found.left_out})
                raise DataError(
                    f"as recorded not one {'fake' if REAL in labels else 'real'} video could be scored: "
                    f"{'; '.join(reasons)}",
                    hint="look at one of them with: difffake scan FILE",
                )
            self.recorded = found
        scores = {name: self._score(found, name) for name in self._names}
        coverage = sum(len(clip.time_s) for clip in found.clips) / sum(len(c.time_s) for c in self.recorded.clips)
        self.under.append(UnderCondition(condition, coverage, tuple(found.left_out), scores))

    def _score(self, found: Collected, name: str) -> ScoreUnder:
        frames = rows_of(found, self._scorer, Level.FRAME)
        label, values = frames.label, frames.scores[name]
        known = np.isfinite(values)
        recorded = rows_of(self.recorded, self._scorer, Level.FRAME)
        before = int(np.isfinite(recorded.scores[name]).sum())
        windows = rows_of(found, self._scorer, Level.WINDOW_5S)
        genuine = self._p(name, windows.scores[name][windows.label == REAL])
        video, against, shift = self._videos(found, name, recorded.scores[name][recorded.label == REAL])
        return ScoreUnder(
            rows=(int((known & (label == REAL)).sum()), int((known & (label == FAKE)).sum())),
            coverage=float(known.sum()) / before if before else float("nan"),
            frame=performance(label, values, frames.person, self._resampling).auc,
            video=video,
            against_recorded=against,
            shift=shift,
            frames_below=_share(self._p(name, values[label == REAL]), self._levels.suspicious_p),
            suspicious=_share(genuine, self._levels.suspicious_p),
            strong=_share(genuine, self._levels.strong_p),
            windows=len(genuine),
        )

    def _p(self, name: str, values: F64) -> F64:
        """p-values of the scores that are there; none without a calibration."""
        try:
            return self._scorer.p_value(name, values[np.isfinite(values)])
        except BundleError:
            return np.zeros(0)

    def _videos(self, found: Collected, name: str, genuine: F64) -> tuple[Estimate, Difference, float]:
        """AUC over videos, its difference to that as recorded, and how far genuine videos moved."""
        now, before = (self._means(which, name) for which in (found, self.recorded))
        items = {item.video: item for item in (*self.recorded.items, *found.items)}
        label = np.array([item.label for item in items.values()])
        person = np.array([item.person for item in items.values()])
        a, b = (np.array([means.get(video, np.nan) for video in items]) for means in (now, before))
        moved = (a - b)[label == REAL]
        moved = moved[np.isfinite(moved)]
        known = genuine[np.isfinite(genuine)]
        spread = float(known.std()) if len(known) > 1 else 0.0
        shift = float(moved.mean()) / spread if len(moved) and spread > 0 else float("nan")
        return (
            performance(label, a, person, self._resampling).auc,
            paired_difference(label, a, b, person, self._resampling),
            shift,
        )

    def _means(self, found: Collected, name: str) -> dict[str, float]:
        values = rows_of(found, self._scorer, Level.VIDEO).scores[name]
        return {item.video: float(value) for item, value in zip(found.items, values, strict=True)}


def _share(p_values: F64, level: float) -> float:
    return float(np.mean(p_values < level)) if len(p_values) else float("nan")


def clip_alarms(
    condition: Condition, found: Collected, scorer: Scorer, bundle: Bundle, levels: ScanSettings, fps: float
) -> Iterator[ClipsUnder]:
    """False alarms on real clips: of each evidence of the bundle, windows of 5 s as a verdict judges them."""
    told = {kind: name for kind, name in bundle.manifest.evidence.items() if kind in EVIDENCES}
    clip, means = pool(found.clips, scorer.names, Level.WINDOW_5S)
    for evidence, name in told.items():
        frames = sum(int(np.isfinite(one.scores[name]).sum()) for one in found.clips)
        p = scorer.p_value(name, means[name])
        counted = (count_alarms(p, clip, level) for level in (levels.suspicious_p, levels.strong_p))
        yield ClipsUnder(condition, evidence, name, frames / fps, *counted)


def files_of(listing: Listing) -> Iterable[tuple[Item, ...]]:
    """The items of each file, together: they share what is decoded."""
    by_path: dict[Path, list[Item]] = {}
    for item in sorted(listing.items, key=lambda item: (item.pair or item.video, item.label, item.video)):
        by_path.setdefault(item.path, []).append(item)
    return (tuple(items) for items in by_path.values())
