"""Observations -> verdicts: per person, per time window and per frame, each evidence apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorKeeper, AnchorPolicy, AnchorPool, Candidates
from difffake.calibration import combine_windows
from difffake.observe import Observations
from difffake.reference import NOT_IN_BUNDLE, Enrolled, Reference, References, references
from difffake.results import (
    EVIDENCES,
    ORIGINS,
    Band,
    Evidence,
    FrameScores,
    IdentitySwitch,
    Moment,
    Person,
    Span,
    Window,
)
from difffake.scoring import Scorer, distances
from difffake.settings import ScanSettings
from difffake.switches import Run, find_runs
from difffake.windows import combine, level_of, window_evidence

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

WARMING_UP = "warming up"
TOO_FEW = "too few frames"
_ONE_PICTURE = (
    "no anchor: one picture shows no change; give a video, or footage of this person that you trust (--anchor)"
)
#: A moment is no news when one so near has been told, s.
_MOMENT_GAP_S = 1.0
_THUMBNAIL_REACH_S = 2.0


@dataclass(frozen=True, slots=True)
class Findings:
    """What `Judge.judge` found: people by first appearance, the most suspicious moments and the rows of their faces in
    the observations, switches in order of time."""

    people: list[Person]
    moments: list[Moment]
    moment_rows: list[int]
    switches: list[IdentitySwitch]


@dataclass(frozen=True, slots=True)
class _Case:
    """One person's scored rows, and what they are held against."""

    label: str
    rows: I64
    times: F64
    refs: References
    scores: dict[str, F64]
    p_values: dict[str, F64]


class Judge:
    """Turns observations into verdicts with the scores that a bundle names for each evidence.

    Args:
        scorer: computes scores and p-values.
        evidence: evidence -> score, see `difffake.bundle.Manifest.readings`.
        settings: levels, windows, bounds.
        enrolled: name -> anchor from trusted footage.
    """

    def __init__(
        self,
        scorer: Scorer,
        evidence: Mapping[str, str],
        settings: ScanSettings,
        enrolled: Mapping[str, Enrolled] | None = None,
    ) -> None:
        self._scorer, self._names, self._settings = scorer, evidence, settings
        self._enrolled = dict(enrolled or {})

    def judge(self, seen: Observations) -> Findings:
        """Verdicts for everybody who was scored."""
        scored = seen.scored & (seen.person >= 0)
        ids, counts = np.unique(seen.person[scored], return_counts=True)
        kept = ids[np.argsort(-counts, kind="stable")[: self._settings.max_people]]
        first_s = {int(i): float(seen.time_s[seen.person == i].min()) for i in kept}
        order = sorted(first_s, key=lambda i: (first_s[i], i))
        labels = self._labels(order, seen)
        cases = {i: self._case(seen, i, labels[i]) for i in order}
        people, moments, switches = [], [], []
        for i, case in cases.items():
            pictures = {int(row): seen.thumbnails[int(row)] for row in case.rows if int(row) in seen.thumbnails}
            people.append(self._person(seen, i, case, labels, pictures))
            moments.extend(self._moments(seen, case, pictures))
            switches.extend(self._switches(seen, i, case, cases, pictures))
        worst = self._worst(moments)
        return Findings(
            people, [m for m, _ in worst], [row for _, row in worst], sorted(switches, key=lambda s: s.time_s)
        )

    @staticmethod
    def _labels(people: list[int], seen: Observations) -> dict[int, str]:
        nameless = [i for i in people if i not in seen.names]
        return {i: seen.names[i] if i in seen.names else f"person {nameless.index(i) + 1}" for i in people}

    def _case(self, seen: Observations, person: int, label: str) -> _Case:
        rows = np.flatnonzero((seen.person == person) & seen.scored)
        times = seen.time_s[rows]
        own, why_none = self._self_anchor(seen, rows)
        enrolled = self._enrolled.get(seen.names.get(person, ""))
        has_identity = seen.identity.shape[1] > 0
        refs = references(
            {e: name for e, name in self._names.items() if has_identity or not e.startswith("identity")},
            own=own,
            why_none=why_none,
            enrolled=enrolled,
            stranger_to=self._nearest_enrolled(seen, rows) if enrolled is None else None,
            guests=self._settings.guests,
        )
        scores = {e: self._score(seen, rows, ref) for e, ref in refs.found.items()}
        p_values = {e: self._scorer.p_value(refs.found[e].score, values) for e, values in scores.items()}
        return _Case(label, rows, times, refs, scores, p_values)

    def _score(self, seen: Observations, rows: I64, ref: Reference) -> F64:
        values = self._scorer.score(
            seen.embedding[rows],
            seen.logit[rows],
            seen.time_s[rows],
            ref.pool,
            seen.identity[rows],
            only=(ref.score,),
        )[ref.score]
        return np.where(seen.time_s[rows] > ref.from_s, values, np.nan)

    def _self_anchor(self, seen: Observations, rows: I64) -> tuple[AnchorPool | None, str]:
        """The anchor that this person's own first good frames make, or why they make none."""
        settings = self._settings
        policy = AnchorPolicy(
            size=settings.anchor_size,
            gap_s=settings.anchor_gap_s,
            min_frames=settings.anchor_size,
            suspicious_p=settings.strong_p,
        )
        if len(seen.frame_time_s) == 1:
            return None, _ONE_PICTURE
        keeper = AnchorKeeper(policy)
        keeper.offer(Candidates.of(seen, rows, self._artifact_p(seen, rows)))
        return keeper.pool, "no anchor: " + keeper.status(float(seen.time_s[rows[-1]])).reason

    def _artifact_p(self, seen: Observations, rows: I64) -> F64:
        name = self._names.get("artifact")
        if name is None:
            return np.full(len(rows), np.nan)
        return self._scorer.p_value(name, self._score(seen, rows, Reference(name, {})))

    def _nearest_enrolled(self, seen: Observations, rows: I64) -> Enrolled | None:
        """The enrolled person whom this one resembles most."""
        candidates = [e for e in self._enrolled.values() if e.pool.has_identity]
        faces = seen.identity[rows]
        faces = faces[np.isfinite(faces).all(axis=1)]
        if not candidates or not len(faces) or not faces.shape[1]:
            return None
        apart = [float(distances(faces, e.pool.identities).mean()) for e in candidates]
        return candidates[int(np.argmin(apart))]

    def _person(
        self, seen: Observations, person: int, case: _Case, labels: dict[int, str], pictures: dict[int, bytes]
    ) -> Person:
        everywhere = np.flatnonzero(seen.person == person)
        found = {
            e: window_evidence(self._scorer, ref.score, case.times, case.scores[e], self._settings)
            for e, ref in case.refs.found.items()
        }
        verdicts = {
            e: verdict
            for e, ref in case.refs.found.items()
            if (verdict := combine(found[e], ref.sentences, self._settings)) is not None
        }
        missing = {e: self._why_missing(case.refs, e) for e in EVIDENCES if e not in verdicts}
        return Person(
            label=case.label,
            name=seen.names.get(person),
            start_s=_round(seen.time_s[everywhere[0]]),
            end_s=_round(seen.time_s[everywhere[-1]]),
            spans=_spans(seen, everywhere),
            faces_seen=len(everywhere),
            faces_scored=len(case.rows),
            ambiguous_with=[labels[o] for o in seen.ambiguous.get(person, ()) if o in labels],
            anchors={e: ref.info for e, ref in case.refs.found.items() if ref.info is not None},
            verdicts=verdicts,
            scores={e: case.refs.found[e].score for e in verdicts},
            missing=missing,
            windows=self._windows(case, found),
            frames=FrameScores(
                time_s=[_round(t) for t in case.times],
                artifact_p=_optional(case.p_values.get("artifact"), len(case.rows)),
                anchor_p=_optional(case.p_values.get("anchor"), len(case.rows)),
                identity_p=_optional(case.p_values.get("identity"), len(case.rows)),
            ),
            thumbnail_jpeg=next(iter(pictures.values()), None),
        )

    def _windows(self, case: _Case, found: dict[str, dict[float, Evidence]]) -> list[Window]:
        length = self._settings.window_s
        starts, _, _ = combine_windows(case.times, np.zeros(len(case.times)), length)
        windows = []
        for start in starts.tolist():
            at = {e: by_start[start] for e, by_start in found.items() if start in by_start}
            windows.append(
                Window(
                    start_s=_round(start),
                    end_s=_round(start + length),
                    artifact=at.get("artifact"),
                    anchor=at.get("anchor"),
                    identity=at.get("identity"),
                    missing={e: self._why_missing(case.refs, e) for e in EVIDENCES if e not in at},
                )
            )
        return windows

    @staticmethod
    def _why_missing(refs: References, evidence: str) -> str:
        if evidence in refs.missing:
            return refs.missing[evidence]
        if evidence not in refs.found:
            return NOT_IN_BUNDLE
        return WARMING_UP if np.isfinite(refs.found[evidence].from_s) else TOO_FEW

    def _switches(
        self, seen: Observations, person: int, case: _Case, cases: dict[int, _Case], pictures: dict[int, bytes]
    ) -> list[IdentitySwitch]:
        ref = case.refs.found.get("identity")
        is_stranger = ref is not None and ref.info is not None and ref.info.name not in (None, seen.names.get(person))
        if ref is None or ref.info is None or is_stranger:
            return []
        p_values = case.p_values["identity"]
        known = np.isfinite(p_values)
        other = np.where(known, p_values, 1.0) < self._settings.strong_p
        runs = find_runs(case.times, seen.track[case.rows], other, known, min_s=self._settings.switch_s)
        return [self._switch(seen, person, case, ref, run, cases, pictures) for run in runs]

    def _switch(
        self,
        seen: Observations,
        person: int,
        case: _Case,
        ref: Reference,
        run: Run,
        cases: dict[int, _Case],
        pictures: dict[int, bytes],
    ) -> IdentitySwitch:
        inside = np.arange(run.first, run.last + 1)
        values = case.scores["identity"][inside]
        values = values[np.isfinite(values)]
        p = float(self._scorer.p_value(ref.score, np.array([values.mean()]))[0])
        start_s, end_s = float(case.times[run.first]), float(case.times[run.last])
        now = self._resembles(seen, person, case.rows[inside], cases)
        pictured = np.array(list(pictures), np.int64)
        before = pictured[seen.time_s[pictured] < start_s]
        after = pictured[(seen.time_s[pictured] >= start_s) & (seen.time_s[pictured] <= end_s)]
        origin = "" if ref.info is None else ref.info.origin
        who = "somebody else's" if now is None else f"like that of {now}"
        sentence = (
            f"from {start_s:.1f} to {end_s:.1f} s the face of {case.label} is {who}, without a cut, "
            f"against {ORIGINS[origin]} (p = {p:.2g})"
        )
        return IdentitySwitch(
            label=case.label,
            time_s=_round(start_s),
            end_s=_round(end_s),
            p_value=p,
            level=level_of(p, self._settings),
            frames=len(values),
            origin=origin,
            now=now,
            sentence=sentence,
            before_jpeg=pictures[int(before[-1])] if len(before) else None,
            after_jpeg=pictures[int(after[0])] if len(after) else None,
        )

    def _resembles(self, seen: Observations, person: int, rows: I64, cases: dict[int, _Case]) -> str | None:
        """Label of the other person in this video who passes for the face of these rows."""
        best: tuple[float, str] | None = None
        for other, case in cases.items():
            ref = case.refs.found.get("identity")
            if other == person or ref is None or ref.pool is None:
                continue
            values = self._score(seen, rows, Reference(ref.score, {}, ref.pool))
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            p = float(self._scorer.p_value(ref.score, np.array([values.mean()]))[0])
            if p >= self._settings.suspicious_p and (best is None or p > best[0]):
                best = p, case.label
        return None if best is None else best[1]

    def _moments(self, seen: Observations, case: _Case, pictures: dict[int, bytes]) -> list[tuple[Moment, int]]:
        pictured = np.array(list(pictures), np.int64)
        moments = []
        for evidence, values in case.scores.items():
            told: list[float] = []
            for i in np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable"):
                time_s = float(case.times[i])
                if not np.isfinite(values[i]) or len(told) == self._settings.moments:
                    break
                if any(abs(time_s - other) < _MOMENT_GAP_S for other in told):
                    continue
                told.append(time_s)
                near = _nearest(seen.time_s, pictured, time_s)
                p = float(case.p_values[evidence][i])
                moment = Moment(
                    evidence=evidence,
                    label=case.label,
                    time_s=_round(time_s),
                    score=float(values[i]),
                    p_value=p,
                    level=level_of(p, self._settings),
                    thumbnail_jpeg=None if near is None else pictures[near],
                    thumbnail_s=None if near is None else _round(seen.time_s[near]),
                )
                moments.append((moment, int(case.rows[i])))
        return moments

    def _worst(self, moments: list[tuple[Moment, int]]) -> list[tuple[Moment, int]]:
        worst: list[tuple[Moment, int]] = []
        for evidence in EVIDENCES:
            of_kind = [(moment, row) for moment, row in moments if moment.evidence == evidence]
            of_kind.sort(key=lambda found: (found[0].p_value, -found[0].score))
            worst += of_kind[: self._settings.moments]
        return worst


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


def _spans(seen: Observations, rows: I64) -> list[Span]:
    """Where a person is seen: first and last time in each track, in order of time."""
    tracks, first = np.unique(seen.track[rows], return_index=True)
    spans = [(seen.time_s[rows[seen.track[rows] == track]]) for track in tracks[np.argsort(first)]]
    return sorted((Span(_round(times[0]), _round(times[-1])) for times in spans), key=lambda s: (s.start_s, s.end_s))


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
