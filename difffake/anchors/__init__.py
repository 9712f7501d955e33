"""Anchors: the reference embeddings of a person that a stream's faces are held against. Pure logic, no Kafka."""

from difffake.anchors.choose import AnchorProtocol, choose_self_anchor
from difffake.anchors.pool import MAX_ANCHORS, AnchorPool, Origin

__all__ = ["MAX_ANCHORS", "AnchorPool", "AnchorProtocol", "Origin", "choose_self_anchor"]
