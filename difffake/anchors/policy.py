"""The rules of an anchor that a stream keeps: when frames become one, and how far it may ever move."""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

from difffake.anchors.choose import IDENTITY_RADIUS
from difffake.anchors.pool import MAX_ANCHORS, Origin


class AnchorMode(StrEnum):
    """Whether an anchor follows its person (a new light, glasses) or stays as it is."""

    FROZEN = "frozen"
    BOUNDED = "bounded"


class AnchorState(StrEnum):
    """Where an anchor is: none yet; there and following; there and fixed; given up."""

    COLLECTING = "COLLECTING"
    READY = "READY"
    FROZEN = "FROZEN"
    EXPIRED = "EXPIRED"


class AnchorPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one person's anchor is found and kept. All times are those of the stream, s.

    Distances of identity embeddings are Euclidean. In 44 real clips (dlib's network) the frames of a person lie 0.12 to
    0.42 (median of a clip) from the centre of the first ones; of other people's frames 0.2 % come within 0.3. Distances
    of artifact embeddings are in spreads: the root mean square distance of the first anchor's members from their
    centre, so that they mean the same for every network; later frames of a person lie 1 to 2 from it.

    Args:
        size: K, members of the anchor (8: Stamnas & Sanchez 2025).
        gap_s: least time between two members: neighbouring frames say the same twice.
        min_frames: unsuspicious frames, ``gap_s`` apart, from which the K most diverse are taken. More than K make
            the anchor more diverse and later: 12 come together in 3 to 5 s.
        patience_s: these frames must come within this time; older ones are forgotten.
        suspicious_p: a frame whose own `artifact` p-value lies below is no candidate (unknown, NaN, is one). Strong
            evidence, not merely suspicious: by its meaning one genuine frame in twenty lies below .05, and of a few
            genuine people and cameras most do; their streams would never have an anchor, and nobody would see that
            another face takes over.
        max_suspicious: no anchor while more than this share of the frames collected is suspicious: what looks
            manufactured from the start on must not become its own reference.
        identity_radius: members lie within this of their medoid; see `difffake.anchors.agreeing`.
        min_agreeing: no anchor while less than this share of the frames lies within that radius.
        mode: ``frozen`` (never changes once found) or ``bounded``.
        updates_per_minute: bounded: one member is replaced at most so often.
        update_identity, update_artifact: bounded: how near to the anchor's centre a frame must be to enter it.
        max_drift_identity, max_drift_artifact: bounded: how far the centre, and every member that enters, may ever
            be from the centre of the first anchor. As half of the members stay, the centre moves about half of it at
            the most, and still tells its person from others.
        expire_after_s: given up when the person was not seen for so long; ``None``: never.
        max_age_s: given up at this age; ``None``: never.
    """

    size: int = 8
    gap_s: float = 0.25
    min_frames: int = 12
    patience_s: float = 20.0
    suspicious_p: float = 0.01
    max_suspicious: float = 0.5
    identity_radius: float = IDENTITY_RADIUS
    min_agreeing: float = 0.75
    mode: AnchorMode = AnchorMode.FROZEN
    updates_per_minute: float = 2.0
    update_identity: float = 0.35
    update_artifact: float = 2.0
    max_drift_identity: float = 0.3
    max_drift_artifact: float = 2.0
    expire_after_s: float | None = 12 * 3600.0
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        numbers = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        del numbers["mode"]
        # One policy is one row of bytes, whether it was given 60 or 60.0.
        exact = {name: value if name in ("size", "min_frames") else float(value) for name, value in numbers.items()}
        for name, value in {"mode": AnchorMode(self.mode), **exact}.items():
            msgspec.structs.force_setattr(self, name, value)
        shares = {name: numbers[name] for name in ("suspicious_p", "max_suspicious", "min_agreeing")}
        wrong = {n: v for n, v in numbers.items() if not (math.isfinite(v) and v > 0) and n not in ("gap_s", *shares)}
        wrong |= {n: v for n, v in shares.items() if not 0 <= v <= 1}
        if not (math.isfinite(self.gap_s) and self.gap_s >= 0):
            wrong["gap_s"] = self.gap_s
        if wrong:
            raise ValueError(f"an anchor's policy needs positive numbers and shares from 0 to 1, not {wrong}")
        if not self.size <= self.min_frames <= MAX_ANCHORS // MAX_KEPT:
            raise ValueError(f"need size <= min_frames <= {MAX_ANCHORS // MAX_KEPT}")
        if (self.min_frames - 1) * self.gap_s > self.patience_s:
            raise ValueError(f"{self.min_frames} frames {self.gap_s} s apart never come within {self.patience_s} s")


#: Frames that wait are at most this many times ``min_frames``: suspicious ones are among them.
MAX_KEPT = 4


class AnchorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say about an anchor; ``reason`` is a text for people."""

    state: AnchorState
    reason: str
    origin: Origin | None
    frames: int
    since_s: float | None
    age_s: float | None
