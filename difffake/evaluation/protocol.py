"""From the faces of one video to its scores: whose face, which anchor, which frames count, means over time.

- *Subject*: the face with most scored frames (``main``), or at every moment the most suspicious face of all
  (``most-suspicious``), for data sets in which only one of several people is manipulated.
- *Self-anchored* scores take their anchor from the very clip that is scored.
- *Anchored* scores take it from the first third of the genuine video of the same stream. ``clip``: its first K good
  frames; the time up to the last of them counts on neither side. ``hijack``: K good frames spread over the third; all
  of the third counts on neither side. So the genuine video and the fakes made from it are judged on the same
  stretch, and no frame is compared with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from difffake.anchors import AnchorPool, AnchorProtocol, Origin, choose_self_anchor
from difffake.bundle import ScoreSpec
from difffake.evaluation.features import Features

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ANCHOR_SHARE = 1 / 3


class EvaluationProtocol(StrEnum):
    """What is asked of the scores.

    ``clip``: is this clip a fake, all of it? ``hijack``: is the stream still the one of its anchor? Only scores against
    a given anchor can tell: genuine is the rest of the genuine video, fake is the swap over the same stretch.
    """

    CLIP = "clip"
    HIJACK = "hijack"


class Subject(StrEnum):
    """Which of several faces a video is judged by."""

    MAIN = "main"
    MOST_SUSPICIOUS = "most-suspicious"


class Level(StrEnum):
    """Over how much time scores are averaged before they are compared."""

    FRAME = "frame"
    WINDOW_1S = "window_1s"
    WINDOW_2S = "window_2s"
    WINDOW_5S = "window_5s"
    WINDOW_10S = "window_10s"
    VIDEO = "video"


WINDOW_S = {Level.WINDOW_1S: 1.0, Level.WINDOW_2S: 2.0, Level.WINDOW_5S: 5.0, Level.WINDOW_10S: 10.0}


class ScoreSource(Protocol):
    """Computes named scores: a ``difffake.scoring.Scorer``."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def spec(self, name: str) -> ScoreSpec: ...
    def score(
        self,
        embedding: F32,
        logit: F32,
        time_s: F64,
        anchor: AnchorPool | None = None,
        identity: F32 | None = None,
    ) -> Mapping[str, F64]: ...


@dataclass(frozen=True, slots=True)
class ClipScores:
    """Scores of one video: ``time_s (N,)``, and for each name ``(N,)`` NaN where a frame has no score."""

    time_s: F64
    scores: dict[str, F64]

    def after(self, start_s: float) -> ClipScores:
        """The frames later than ``start_s``."""
        keep = self.time_s > start_s
        return ClipScores(self.time_s[keep], {name: values[keep] for name, values in self.scores.items()})


@dataclass(frozen=True, slots=True)
class GenuineAnchor:
    """Faces of the genuine video, and the time up to which nothing is judged by them."""

    pool: AnchorPool
    until_s: float


def who(features: Features) -> I64:
    """``(N,)``: who each face is, across cuts where that is known; a face of nobody known goes by its track."""
    return np.where(features.person >= 0, features.person, -1 - features.track)


def main_subject(features: Features) -> Features:
    """The rows of the person with most faces; all rows if no two faces share a moment (one person, cut tracks)."""
    if len(np.unique(features.time_s)) == len(features):
        return features
    of_face = who(features)
    people, counts = np.unique(of_face, return_counts=True)
    return features.only(of_face == people[np.argmax(counts)])


def genuine_anchor(
    features: Features, frames: int, protocol: EvaluationProtocol = EvaluationProtocol.CLIP
) -> GenuineAnchor | None:
    """Up to ``frames`` good faces of the main person from a genuine clip's first third; None below two.

    ``clip`` takes the first ones, ``hijack`` spreads them over the third.
    """
    if not len(features):
        return None
    features = main_subject(features)
    start, end = features.time_s[0], features.time_s[-1]
    third_s = float(start + (end - start) * ANCHOR_SHARE)
    hijack = protocol is EvaluationProtocol.HIJACK
    chosen = choose_self_anchor(
        features.time_s,
        features.embedding,
        features.logit,
        k=frames,
        quality=np.isfinite(features.identity).all(axis=1),
        # Sampling at a fixed rate already keeps them apart.
        min_gap_s=0.0,
        until_s=third_s,
        protocol=AnchorProtocol.SPREAD if hijack else AnchorProtocol.FIRST,
    )
    if chosen is None:
        return None
    rows = features.only(chosen)
    found = AnchorPool(
        rows.embedding, rows.logit, rows.time_s, Origin.ENROLLED, identity=rows.identity, yaw_deg=rows.yaw_deg
    )
    return GenuineAnchor(found, third_s if hijack else float(rows.time_s.max()))


def score_clip(
    features: Features,
    scorer: ScoreSource,
    *,
    subject: Subject,
    anchor: GenuineAnchor | None = None,
    tolerance_s: float = 0.0,
) -> ClipScores:
    """All named scores of one clip.

    ``tolerance_s`` widens the stretch that the anchor takes away, for fakes whose frame times differ a little
    from those of the genuine file. Without an anchor, and for ``most-suspicious`` (nobody knows whose face is
    whose), anchored scores are NaN throughout.
    """
    if subject is Subject.MAIN:
        return _score_person(main_subject(features), scorer, anchor, tolerance_s)
    of_face = who(features)
    people = [_score_person(features.only(of_face == one), scorer, None, 0.0) for one in np.unique(of_face)]
    if not people:
        return _score_person(features, scorer, None, 0.0)
    time_s, moment = np.unique(np.concatenate([p.time_s for p in people]), return_inverse=True)
    worst: dict[str, F64] = {}
    for name in scorer.names:
        worst[name] = np.full(len(time_s), np.nan)
        np.fmax.at(worst[name], moment, np.concatenate([p.scores[name] for p in people]))
    return ClipScores(time_s, worst)


def _score_person(
    features: Features, scorer: ScoreSource, anchor: GenuineAnchor | None, tolerance_s: float
) -> ClipScores:
    count = len(features)
    found: Mapping[str, F64] = {}
    if count:
        found = scorer.score(
            features.embedding,
            features.logit,
            features.time_s,
            anchor=None if anchor is None else anchor.pool,
            identity=features.identity if features.identity.shape[1] else None,
        )
    scores = {name: np.array(found.get(name, np.full(count, np.nan)), dtype=np.float64) for name in scorer.names}
    if anchor is not None:
        taken = features.time_s <= anchor.until_s + tolerance_s
        for name in scorer.names:
            if scorer.spec(name).anchor == "given":
                scores[name][taken] = np.nan
    return ClipScores(features.time_s, scores)


def pool(clips: Sequence[ClipScores], names: Sequence[str], level: Level) -> tuple[I64, dict[str, F64]]:
    """Means over time: rows of one level for all clips.

    Windows follow each other from a clip's first scored frame on; a rest shorter than half a window joins the
    window before it. Only scored frames enter a mean; a window without any is NaN.

    Returns:
        ``clip (M,)``, the index of each row's clip, and for each name ``(M,) float64``.
    """
    split = _splitter(level)
    cells = [split(clip.time_s) for clip in clips]
    counts = [int(cell[-1]) + 1 if len(cell) else 0 for cell in cells]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.concatenate([np.zeros(0, np.int64)] + [c + o for c, o in zip(cells, offsets, strict=False)])
    clip = np.repeat(np.arange(len(clips)), counts)
    means: dict[str, F64] = {}
    for name in names:
        values = np.concatenate([np.zeros(0)] + [c.scores[name] for c in clips])
        known = ~np.isnan(values)
        total = np.bincount(rows[known], values[known], minlength=offsets[-1])
        number = np.bincount(rows[known], minlength=offsets[-1])
        means[name] = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    return clip, means


def _splitter(level: Level) -> Callable[[F64], I64]:
    """Times (N,) ascending -> the number of each frame's cell, 0 .. last, at this level."""
    if level is Level.FRAME:
        return lambda time_s: np.arange(len(time_s))
    if level is Level.VIDEO:
        return lambda time_s: np.zeros(len(time_s), np.int64)
    width_s = WINDOW_S[level]

    def windows(time_s: F64) -> I64:
        if not len(time_s):
            return np.zeros(0, np.int64)
        since = time_s - time_s[0]
        last = max(0, int(np.floor(since[-1] / width_s + 0.5)) - 1)
        cells: I64 = np.minimum((since / width_s).astype(np.int64), last)
        return cells

    return windows
