"""An anchor keeper's state as a record: whole, or in two parts. What changes with every frame is a hundredth of it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

import msgspec

from difffake.anchors.candidates import Candidates
from difffake.anchors.policy import AnchorPolicy
from difffake.anchors.record import ArrayRecord, PoolRecord
from difffake.errors import AnchorError, DataError

STATE_KIND, STATE_VERSION = "difffake-anchor-state", 1
HEAD_KIND, ARRAYS_KIND, PARTS_VERSION = "difffake-anchor-head", "difffake-anchor-arrays", 1
BAD_STATE = "reset this person's anchor"
_KINDS: dict[str, Literal["<f8", "|b1"]] = {"time_s": "<f8", "artifact_p": "<f8", "good": "|b1"}
_WIDE = ("embedding", "identity")


class KeeperHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `difffake.anchors.AnchorKeeper` knows without its arrays."""

    policy: AnchorPolicy
    frozen: bool
    enrolled: bool
    expired: Literal["", "unseen", "old"]
    last_ambiguous_s: float
    offered_s: float
    since_s: float
    updated_s: float


class KeeperArrays(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The anchor itself, where it began, and frames that wait."""

    pool: PoolRecord | None
    original: ArrayRecord | None
    home: tuple[ArrayRecord, ArrayRecord, float] | None
    samples: dict[str, ArrayRecord] | None


class KeeperRecord(KeeperHead, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that it knows."""

    pool: PoolRecord | None
    original: ArrayRecord | None
    home: tuple[ArrayRecord, ArrayRecord, float] | None
    samples: dict[str, ArrayRecord] | None

    @classmethod
    def of(cls, head: KeeperHead, arrays: KeeperArrays) -> KeeperRecord:
        """The whole of two parts."""
        return cls(**(msgspec.structs.asdict(head) | msgspec.structs.asdict(arrays)))


def write_samples(samples: Candidates) -> dict[str, ArrayRecord]:
    """Waiting frames, array by array; exact."""
    return {field.name: ArrayRecord.of(getattr(samples, field.name)) for field in fields(samples)}


def read_samples(record: dict[str, ArrayRecord]) -> Candidates:
    """Frames from `write_samples`.

    Raises:
        AnchorError: they are none.
    """
    if set(record) != {field.name for field in fields(Candidates)}:
        raise AnchorError("an anchor state whose waiting frames lack fields", hint=BAD_STATE)
    try:
        arrays: dict[str, Any] = {
            n: a.matrix() if n in _WIDE else a.vector(_KINDS.get(n, "<f4")) for n, a in record.items()
        }
        return Candidates(**arrays)
    except DataError as error:
        raise AnchorError(f"an anchor state whose waiting frames do not fit: {error}", hint=BAD_STATE) from error
