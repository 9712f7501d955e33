"""What is said about one face in one frame: each evidence against its anchor, in this frame and over the window."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorKeeper, AnchorPool, AnchorState, AnchorStatus
from difffake.faces import Reason
from difffake.judge import WARMING_UP
from difffake.reference import NOT_IN_BUNDLE, Enrolled, Reference, references
from difffake.results import EVIDENCES, AnchorInfo
from difffake.scoring import distances
from difffake.settings import ScanSettings
from difffake.windows import level_of
from stream.live.models import LiveModels, Look
from stream.live.settings import LiveSettings
from stream.live.windows import Against, Windows
from stream.messages.scores import UNKNOWN, Face, FaceAnchor, FaceEvidence, HeldAgainst

F32 = npt.NDArray[np.float32]

UNRECOGNISED = "warming up: nobody can tell yet who it is"
NO_ROOM = "no anchor: too many people at once"
_NEEDS_CLIP = "its score needs a whole clip"
_NO_ARTIFACT = "no anchor: the enrolled one has no embeddings of this bundle's extractor"
_NOTHING, _OWN, _ENROLLED, _OTHERS = range(4)
_TOLD_AGAINST = {_OWN: HeldAgainst.OWN, _ENROLLED: HeldAgainst.ENROLLED, _OTHERS: HeldAgainst.OTHERS}
_STANDS = (AnchorState.READY, AnchorState.FROZEN)


@dataclass(frozen=True, slots=True)
class Held:
    """Who a face is, and what it is held against, as of just before its frame.

    Args:
        person: -1 where nobody can tell.
        name: the enrolled name.
        keeper: the person's anchor; None where there is no room for one.
        since_ns: PTS since which that stands.
        enrolled: the enrolled anchors of this stream, for somebody who is not enrolled.
    """

    person: int
    name: str | None
    keeper: AnchorKeeper | None
    since_ns: int | None
    enrolled: tuple[AnchorPool, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Standing:
    """What a person's faces are held against, as long as anchors are what they are.

    Args:
        pool: the person's own anchor, or the enrolled one; None while there is none.
        nearest: the anchor of the enrolled person whom this stranger resembles most.
        own: which kind of anchor ``pool`` is, and since when.
        why_none: what is said where there is none.
        found, missing: evidence -> what it is held against, or why there is nothing.
    """

    pool: AnchorPool | None
    nearest: AnchorPool | None
    own: Against
    why_none: str
    found: dict[str, tuple[Reference, Against]]
    missing: dict[str, str]

    def holds(self, pool: AnchorPool | None, nearest: AnchorPool | None, own: Against, why_none: str) -> bool:
        """Whether nothing has changed."""
        return self.pool is pool and self.nearest is nearest and self.own == own and self.why_none == why_none


class FaceJudge:
    """Scores the faces of a stream, one after the other, and keeps the running windows."""

    def __init__(self, models: LiveModels, settings: LiveSettings, windows: Windows) -> None:
        self._models, self._settings, self._windows = models, settings, windows
        self._levels = ScanSettings(suspicious_p=settings.suspicious_p, strong_p=settings.strong_p)
        #: Of the people seen last.
        self._standing: dict[int, _Standing] = {}

    def judge(self, look: Look, row: int, track: int, held: Held, pts_ns: int) -> Face:
        """The record of the face in a row of a look."""
        status = None if held.keeper is None else held.keeper.status(pts_ns / 1e9)
        reason = look.quality.reason[row]
        if reason is Reason.OK:
            evidence, missing = self._evidence(look, row, held, status, pts_ns)
        else:
            evidence, missing = {}, dict.fromkeys(EVIDENCES, f"not scored: {reason.value}")
        box = look.faces.boxes_px[row].tolist()
        return Face(
            person=held.person,
            name=held.name,
            track=track,
            box_px=(box[0], box[1], box[2], box[3]),
            confidence=min(max(float(look.faces.confidence[row]), 0.0), 1.0),
            quality=reason,
            evidence=evidence,  # type: ignore[arg-type]
            missing=missing,  # type: ignore[arg-type]
            anchor=None if held.person == UNKNOWN else _told(held, status, pts_ns),
        )

    def _evidence(
        self, look: Look, row: int, held: Held, status: AnchorStatus | None, pts_ns: int
    ) -> tuple[dict[str, FaceEvidence], dict[str, str]]:
        found: dict[str, tuple[Reference, Against]] = {}
        missing: dict[str, str] = {}
        if self._models.artifact is None:
            missing["artifact"] = _NEEDS_CLIP if "artifact" in self._models.evidence else NOT_IN_BUNDLE
        else:
            found["artifact"] = Reference(self._models.artifact, {}), (_NOTHING, 0)
        if held.person == UNKNOWN:
            names = self._models.evidence
            missing |= {e: UNRECOGNISED if e in names else NOT_IN_BUNDLE for e in ("anchor", "identity")}
        else:
            standing = self._against(look.identity[row], held, status)
            found |= standing.found
            missing |= standing.missing
        evidence: dict[str, FaceEvidence] = {}
        for name in EVIDENCES:
            if name in found:
                reference, against_what = found[name]
                score = self._score(look, row, name, reference, pts_ns / 1e9)
                if math.isfinite(score):
                    evidence[name] = self._measure(name, reference.score, score, held.person, against_what, pts_ns)
                else:
                    missing[name] = "no score: it is not finite"
        return evidence, missing

    def _against(self, identity: F32, held: Held, status: AnchorStatus | None) -> _Standing:
        """What the face is held against; the rules are those of a scan."""
        keeper = held.keeper
        is_enrolled = keeper is not None and keeper.is_enrolled
        pool = keeper.pool if keeper is not None and status is not None and status.state in _STANDS else None
        nearest = None
        if held.enrolled and not is_enrolled and held.name is None and not self._settings.guests:
            nearest = _nearest(identity, held.enrolled)
        why_none = NO_ROOM
        if status is not None:
            collecting = status.state is AnchorState.COLLECTING
            why_none = f"{WARMING_UP if collecting else 'no anchor'}: {status.reason}"
        if is_enrolled and pool is not None and not pool.has_artifact:
            why_none = _NO_ARTIFACT
        own: Against = (_ENROLLED if is_enrolled else _OWN), held.since_ns or 0
        standing = self._standing.get(held.person)
        # It changes as seldom as the anchors do.
        if standing is None or not standing.holds(pool, nearest, own, why_none):
            if len(self._standing) >= self._settings.max_faces:
                self._standing.clear()
            standing = self._standing[held.person] = self._stand(pool, nearest, own, why_none)
        return standing

    def _stand(self, pool: AnchorPool | None, nearest: AnchorPool | None, own: Against, why_none: str) -> _Standing:
        is_enrolled = own[0] == _ENROLLED
        refs = references(
            self._models.evidence,
            own=None if is_enrolled else pool,
            why_none=why_none,
            enrolled=_enrolled(pool) if is_enrolled and pool is not None else None,
            stranger_to=None if nearest is None else _enrolled(nearest),
            guests=self._settings.guests,
        )
        found = {
            e: (ref, (_OTHERS, 0) if nearest is not None and ref.pool is nearest else own)
            for e, ref in refs.found.items()
            if e != "artifact"
        }
        missing = {e: why for e, why in refs.missing.items() if e != "artifact"}
        return _Standing(pool, nearest, own, why_none, found, missing)

    def _score(self, look: Look, row: int, evidence: str, reference: Reference, time_s: float) -> float:
        if evidence == "artifact":
            return float(look.artifact[row])
        if not time_s > reference.from_s:
            return float("nan")
        one = slice(row, row + 1)
        scores = self._models.scorer.score(
            look.embedding[one],
            look.logit[one],
            np.array([time_s]),
            reference.pool,
            look.identity[one],
            only=(reference.score,),
        )
        return float(scores[reference.score][0]) if reference.score in scores else float("nan")

    def _measure(
        self, evidence: str, name: str, score: float, person: int, against: Against, pts_ns: int
    ) -> FaceEvidence:
        mean = None
        if person != UNKNOWN:
            self._windows.add(person, evidence, against, pts_ns, score)
            mean = self._windows.mean(person, evidence, self._settings.min_window_frames)
        scorer = self._models.scorer
        p_values = scorer.calibration(name).p_value([score] if mean is None else [score, mean]).tolist()
        spec = scorer.spec(name)
        is_density = spec.kind in ("density", "differential") and not spec.minus_anchor_mean
        return FaceEvidence(
            score=score,
            log_density=-score if is_density else None,
            p_value=p_values[0],
            accumulated=None if mean is None else p_values[1],
            level=level_of(p_values[-1], self._levels),
            against=_TOLD_AGAINST.get(against[0]),
        )


def stands(face: Face) -> bool:
    """Whether the face was held against an anchor."""
    return face.anchor is not None and face.anchor.state in _STANDS


def _told(held: Held, status: AnchorStatus | None, pts_ns: int) -> FaceAnchor:
    there = status is not None and status.state in _STANDS
    since_ns = held.since_ns if there else None
    return FaceAnchor(
        origin=None if status is None else status.origin,
        state=AnchorState.COLLECTING if status is None else status.state,
        frames=0 if status is None else status.frames,
        since_ns=since_ns,
        age_s=None if since_ns is None else (pts_ns - since_ns) / 1e9,
        frozen=held.keeper is not None and held.keeper.is_frozen,
    )


def _enrolled(pool: AnchorPool) -> Enrolled:
    """For `references`, which asks no more than whether there is a name."""
    return Enrolled(pool, AnchorInfo(origin=pool.origin.value, name="", frames=len(pool), start_s=0.0, end_s=0.0))


def _nearest(identity: F32, pools: tuple[AnchorPool, ...]) -> AnchorPool | None:
    """The anchor whose face this one resembles most; None where there is none to compare."""
    known = [pool for pool in pools if pool.has_identity]
    if not known or not len(identity) or not np.isfinite(identity).all():
        return None
    apart = distances(identity[None], np.concatenate([pool.identities for pool in known]))[0]
    starts = np.cumsum([0, *(len(pool) for pool in known[:-1])])
    means = np.add.reduceat(apart, starts) / [len(pool) for pool in known]
    return known[int(means.argmin())]
