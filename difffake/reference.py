"""Which anchor stands behind each evidence of a person: enrolled, taken from the stream itself, or none, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPool
from difffake.anchors.file import EnrolledPerson
from difffake.results import AnchorInfo, Level

F64 = npt.NDArray[np.float64]

NOT_IN_BUNDLE = "not available in this bundle"

_ARTIFACT = {
    Level.NOTHING: "nothing unusual: the face shows no more traces than real footage does",
    Level.SUSPICIOUS: "suspicious: the face looks manufactured in a way that real footage rarely does",
    Level.STRONG: "strong evidence that the face looks manufactured",
}


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An anchor from trusted footage."""

    pool: AnchorPool
    info: AnchorInfo

    @classmethod
    def of(cls, person: EnrolledPerson) -> Enrolled:
        """What an anchor file says of a person."""
        pool = person.pool
        info = AnchorInfo(
            origin=pool.origin.value,
            name=person.name,
            frames=len(pool),
            start_s=round(float(pool.times_s.min()), 3),
            end_s=round(float(pool.times_s.max()), 3),
            source=", ".join(footage.name for footage in person.footage) or None,
            created=person.created,
        )
        return cls(pool, info)


@dataclass(frozen=True, slots=True)
class Reference:
    """What one evidence of one person is held against.

    ``pool`` is None for `artifact`, which needs no anchor; frames up to ``from_s`` belong to a self-anchor and are no
    test of it.
    """

    score: str
    sentences: dict[Level, str]
    pool: AnchorPool | None = None
    info: AnchorInfo | None = None
    from_s: float = -np.inf


@dataclass(frozen=True, slots=True)
class References:
    """Evidence -> its reference, or why there is none."""

    found: dict[str, Reference] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def references(
    scores: Mapping[str, str],
    *,
    own: AnchorPool | None,
    why_none: str,
    enrolled: Enrolled | None,
    stranger_to: Enrolled | None,
    guests: bool,
) -> References:
    """Choose for every evidence.

    Args:
        scores: evidence -> name of its score, see `difffake.bundle.Manifest.readings`; ``identity_enrolled`` is the
            score of identity against other footage.
        own: the person's self-anchor; ``why_none`` says why there is none.
        enrolled: the enrolled anchor of this very person.
        stranger_to: for somebody who is not enrolled where others are: the enrolled person who is nearest.
        guests: whether people who are not enrolled are expected.
    """
    result = References()
    if "artifact" in scores:
        result.found["artifact"] = Reference(scores["artifact"], _ARTIFACT)
    else:
        result.missing["artifact"] = NOT_IN_BUNDLE
    itself = _self(own)
    anchors = {"anchor": itself, "identity": itself}
    if enrolled is not None:
        anchors = {"anchor": enrolled if enrolled.pool.has_artifact else itself, "identity": enrolled}
    elif stranger_to is not None and not guests:
        anchors["identity"] = stranger_to
    for evidence, against in anchors.items():
        name = scores.get(evidence)
        if evidence == "identity" and against is not None and against.info.name is not None:
            name = scores.get("identity_enrolled", name)
        if name is None:
            result.missing[evidence] = NOT_IN_BUNDLE
        elif against is None:
            result.missing[evidence] = why_none
        elif evidence == "identity" and not against.pool.has_identity:
            result.missing[evidence] = "the anchor holds no identity embeddings"
        elif evidence == "anchor" and not against.pool.has_artifact:
            result.missing[evidence] = "the anchor holds no artifact embeddings"
        else:
            is_own = against.info.name is None
            result.found[evidence] = Reference(
                name,
                _sentences(evidence, against.info.name, is_stranger=enrolled is None),
                against.pool,
                against.info,
                float(against.pool.times_s.max()) if is_own else -np.inf,
            )
    return result


def _self(pool: AnchorPool | None) -> Enrolled | None:
    if pool is None:
        return None
    start_s, end_s = (round(float(t), 3) for t in (pool.times_s.min(), pool.times_s.max()))
    return Enrolled(
        pool, AnchorInfo(origin=pool.origin.value, name=None, frames=len(pool), start_s=start_s, end_s=end_s)
    )


def _sentences(evidence: str, name: str | None, *, is_stranger: bool) -> dict[Level, str]:
    if evidence == "anchor":
        against = "its own beginning" if name is None else f"the enrolled footage of {name}"
        return {
            Level.NOTHING: f"nothing unusual: the face changes no more against {against} than a real one does",
            Level.SUSPICIOUS: f"suspicious: the face changed against {against} as real ones rarely do",
            Level.STRONG: f"strong evidence that the face changed unnaturally against {against}",
        }
    if name is None:
        return {
            Level.NOTHING: "nothing unusual: still the person of its own beginning",
            Level.SUSPICIOUS: "suspicious: less like its own beginning than one person usually is",
            Level.STRONG: "strong evidence that this is no longer the person of its own beginning",
        }
    if is_stranger:
        return {
            Level.NOTHING: f"nothing unusual: cannot be told from {name}",
            Level.SUSPICIOUS: f"suspicious: less like {name} than {name} usually is",
            Level.STRONG: f"strong evidence that this is not {name}, nor anybody else who is enrolled",
        }
    return {
        Level.NOTHING: f"nothing unusual: still {name}",
        Level.SUSPICIOUS: f"suspicious: less like {name} than {name} usually is",
        Level.STRONG: f"strong evidence that this is not {name} all the time",
    }
