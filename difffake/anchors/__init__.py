"""Anchors: the reference embeddings of a person that a stream's faces are held against. Pure logic, no Kafka."""

from difffake.anchors.candidates import Candidates
from difffake.anchors.choose import (
    IDENTITY_RADIUS,
    AnchorProtocol,
    agreeing,
    choose_diverse,
    choose_self_anchor,
)
from difffake.anchors.guard import Drift
from difffake.anchors.keeper import AnchorKeeper
from difffake.anchors.policy import AnchorMode, AnchorPolicy, AnchorState, AnchorStatus
from difffake.anchors.pool import MAX_ANCHORS, AnchorPool, Origin

__all__ = [
    "IDENTITY_RADIUS",
    "MAX_ANCHORS",
    "AnchorKeeper",
    "AnchorMode",
    "AnchorPolicy",
    "AnchorPool",
    "AnchorProtocol",
    "AnchorState",
    "AnchorStatus",
    "Candidates",
    "Drift",
    "Origin",
    "agreeing",
    "choose_diverse",
    "choose_self_anchor",
]
