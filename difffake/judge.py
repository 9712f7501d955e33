"""Observations -> verdicts: per person, per time window and per frame, each evidence apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPool, Origin, choose_self_anchor
from difffake.calibration import combine_windows
from difffake.observe import Observations
from difffake.results import (
    Band,
    Evidence,
    FrameScores,
    Level,
    Moment,
    Person,
    Verdict,
    Window,
)
from difffake.scoring import Scorer
from difffake.settings import ScanSettings

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

EVIDENCES = ("artifact", "anchor")
NOT_IN_BUNDLE = "not available in this bundle"
WARMING_UP = "warming up"
#: A moment is no news when one so near has been told, s.
_MOMENT_GAP_S = 1.0
_THUMBNAIL_REACH_S = 2.0

_SENTENCES = {
    ("artifact", Level.NOTHING): "nothing unusual: the face shows no more traces than real footage does",
    ("artifact", Level.SUSPICIOUS): "suspicious: the face looks manufactured in a way that real footage rarely does",
    ("artifact", Level.STRONG): "strong evidence that the face looks manufactured",
    ("anchor", Level.NOTHING): "nothing unusual: the face changes no more than a real one does",
    ("anchor", Level.SUSPICIOUS): "suspicious: the face changed against its own beginning as real ones rarely do",
    ("anchor", Level.STRONG): "strong evidence that the face changed unnaturally against its own beginning",
}


class Judge:
    """Turns observations into verdicts with the scores that a bundle names for each evidence."""

    def __init__(self, scorer: Scorer, evidence: dict[str, str], settings: ScanSettings) -> None:
        self._scorer, self._names, self._settings = scorer, evidence, settings

    def people(self, seen: Observations) -> tuple[list[Person], list[Moment]]:
        """Verdicts per track, by first appearance, and the most suspicious moments of all of them."""
        tracks, counts = np.unique(seen.track[seen.scored], return_counts=True)
        longest = np.sort(tracks[np.argsort(-counts, kind="stable")[: self._settings.max_people]])
        people: list[Person] = []
        moments: list[Moment] = []
        for number, track in enumerate(longest, start=1):
            person, found = self._person(seen, int(track), f"person {number}")
            people.append(person)
            moments.extend(found)
        return people, self._worst(moments)

    def _person(self, seen: Observations, track: int, label: str) -> tuple[Person, list[Moment]]:
        rows = np.flatnonzero((seen.track == track) & seen.scored)
        times = seen.time_s[rows]
        anchor, anchor_end_s = self._anchor(seen, rows)
        all_scores = self._scorer.score(seen.embedding[rows], seen.logit[rows], times, anchor)
        scores = {e: all_scores[n] for e, n in self._names.items() if e in EVIDENCES and n in all_scores}
        if anchor_end_s is not None and "anchor" in scores:
            scores["anchor"] = np.where(times > anchor_end_s, scores["anchor"], np.nan)
        p_values = {e: self._scorer.p_value(self._names[e], s) for e, s in scores.items()}
        windows = self._windows(times, scores)
        verdicts, missing = {}, {"identity": NOT_IN_BUNDLE}
        for evidence in EVIDENCES:
            verdict = self._verdict(evidence, windows)
            if verdict is not None:
                verdicts[evidence] = verdict
            else:
                missing[evidence] = self._why_missing(evidence, anchor is not None)
        thumbnails = {int(row): seen.thumbnails[int(row)] for row in rows if int(row) in seen.thumbnails}
        everywhere = seen.time_s[seen.track == track]
        person = Person(
            label=label,
            track=track,
            start_s=_round(everywhere[0]),
            end_s=_round(everywhere[-1]),
            faces_seen=len(everywhere),
            faces_scored=len(rows),
            anchor_end_s=None if anchor_end_s is None else _round(anchor_end_s),
            verdicts=verdicts,
            missing=missing,
            windows=windows,
            frames=FrameScores(
                time_s=[_round(t) for t in times],
                artifact_p=_optional(p_values.get("artifact"), len(rows)),
                anchor_p=_optional(p_values.get("anchor"), len(rows)),
            ),
            thumbnail_jpeg=next(iter(thumbnails.values()), None),
        )
        return person, self._moments(label, seen, rows, scores, p_values, thumbnails)

    def _anchor(self, seen: Observations, rows: I64) -> tuple[AnchorPool | None, float | None]:
        """The first good frames of this face, and when the last of them was."""
        size = self._settings.anchor_size
        chosen = choose_self_anchor(
            seen.time_s[rows],
            seen.embedding[rows],
            seen.logit[rows],
            k=size,
            min_gap_s=self._settings.anchor_gap_s,
        )
        if chosen is None or len(chosen) < size:
            return None, None
        own = rows[chosen]
        pool = AnchorPool(seen.embedding[own], seen.logit[own], seen.time_s[own], Origin.SELF)
        return pool, float(seen.time_s[own].max())

    def _windows(self, times: F64, scores: dict[str, F64]) -> list[Window]:
        length = self._settings.window_s
        starts, _, _ = combine_windows(times, np.zeros(len(times)), length)
        found = {e: self._window_evidence(e, times, s) for e, s in scores.items()}
        windows = []
        for start in starts:
            at = {e: by_start.get(float(start)) for e, by_start in found.items()}
            missing = {"identity": NOT_IN_BUNDLE}
            missing |= {e: self._why_missing(e, "anchor" in scores) for e in EVIDENCES if at.get(e) is None}
            windows.append(
                Window(
                    start_s=_round(start),
                    end_s=_round(start + length),
                    artifact=at.get("artifact"),
                    anchor=at.get("anchor"),
                    identity=None,
                    missing=missing,
                )
            )
        return windows

    def _window_evidence(self, evidence: str, times: F64, scores: F64) -> dict[float, Evidence]:
        known = np.isfinite(scores)
        if not known.any():
            return {}
        name = self._names[evidence]
        starts, means, counts = combine_windows(times[known], scores[known], self._settings.window_s)
        p_values = self._scorer.p_value(name, means)
        spec = self._scorer.spec(name)
        is_density = spec.kind in ("density", "differential") and not spec.minus_anchor_mean
        return {
            float(start): Evidence(
                score=float(mean),
                log_density=-float(mean) if is_density else None,
                p_value=float(p),
                level=self.level(float(p)),
                frames=int(count),
            )
            for start, mean, p, count in zip(starts, means, p_values, counts, strict=True)
        }

    def _verdict(self, evidence: str, windows: Sequence[Window]) -> Verdict | None:
        have = [(w.start_s, e) for w in windows if (e := getattr(w, evidence)) is not None]
        if not have:
            return None
        p = simes(np.array([e.p_value for _, e in have]))
        level = self.level(p)
        worst_start_s = min(have, key=lambda item: item[1].p_value)[0]
        return Verdict(
            p_value=p,
            level=level,
            worst_start_s=worst_start_s,
            sentence=f"{_SENTENCES[evidence, level]} (p = {p:.2g})",
        )

    def _why_missing(self, evidence: str, has_anchor: bool) -> str:
        if evidence not in self._names:
            return NOT_IN_BUNDLE
        if evidence == "anchor":
            return WARMING_UP if has_anchor else "too few frames for an anchor"
        return "too few frames"

    def _moments(
        self,
        label: str,
        seen: Observations,
        rows: I64,
        scores: dict[str, F64],
        p_values: dict[str, F64],
        thumbnails: dict[int, bytes],
    ) -> list[Moment]:
        pictured = np.array(list(thumbnails), np.int64)
        moments = []
        for evidence, values in scores.items():
            told: list[float] = []
            for i in np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable"):
                time_s = float(seen.time_s[rows[i]])
                if not np.isfinite(values[i]) or len(told) == self._settings.moments:
                    break
                if any(abs(time_s - other) < _MOMENT_GAP_S for other in told):
                    continue
                told.append(time_s)
                near = _nearest(seen.time_s, pictured, time_s)
                p = float(p_values[evidence][i])
                moments.append(
                    Moment(
                        evidence=evidence,
                        label=label,
                        time_s=_round(time_s),
                        score=float(values[i]),
                        p_value=p,
                        level=self.level(p),
                        thumbnail_jpeg=None if near is None else thumbnails[near],
                        thumbnail_s=None if near is None else _round(seen.time_s[near]),
                    )
                )
        return moments

    def _worst(self, moments: list[Moment]) -> list[Moment]:
        worst: list[Moment] = []
        for evidence in EVIDENCES:
            of_kind = sorted((m for m in moments if m.evidence == evidence), key=lambda m: (m.p_value, -m.score))
            worst += of_kind[: self._settings.moments]
        return worst

    def level(self, p_value: float) -> Level:
        """The p-value in words."""
        if p_value < self._settings.strong_p:
            return Level.STRONG
        return Level.SUSPICIOUS if p_value < self._settings.suspicious_p else Level.NOTHING


def simes(p_values: F64) -> float:
    """Combine the p-values of m windows: the least of ``m p_(k) / k`` (Simes 1986), in (0, 1].

    It holds for independent and for positively dependent windows, as those of one face are.

    >>> simes(np.array([0.02, 0.02, 0.02])), round(simes(np.array([0.001, 0.5, 0.9])), 6)
    (0.02, 0.003)
    """
    ordered = np.sort(p_values)
    return float(min((ordered * len(ordered) / np.arange(1, len(ordered) + 1)).min(), 1.0))


def bands(seen: Observations, end_s: float) -> list[Band]:
    """Runs of frames with one status and reason, each lasting until the next begins; the last ends at ``end_s``."""
    states = [(s.value, r) for s, r in zip(seen.frame_status, seen.frame_reason, strict=True)]
    found: list[Band] = []
    row = 0
    for (status, reason), run in groupby(states):
        last = row + len(list(run))
        end = seen.frame_time_s[last] if last < len(states) else max(end_s, float(seen.frame_time_s[-1]))
        found.append(Band(start_s=_round(seen.frame_time_s[row]), end_s=_round(end), status=status, reason=reason))
        row = last
    return found


def _nearest(time_s: F64, rows: I64, at_s: float) -> int | None:
    if not len(rows):
        return None
    gaps = np.abs(time_s[rows] - at_s)
    best = int(gaps.argmin())
    return int(rows[best]) if gaps[best] <= _THUMBNAIL_REACH_S else None


def _optional(values: F64 | None, length: int) -> list[float | None]:
    if values is None:
        return [None] * length
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]


def _round(seconds: float | np.floating) -> float:
    return round(float(seconds), 3)
