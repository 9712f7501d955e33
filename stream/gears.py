"""How closely a stream is looked at: more while there is suspicion, as usual when it has passed.

Pure, and a function of the stream's scores in their order alone, so that a worker that takes over looks as closely as
the one before.
"""

from __future__ import annotations

import msgspec

from difffake.results import Level
from stream.decode import Gear
from stream.messages import FaceEvidence, ScoreRecord, Status

#: Nobody looked at the picture: it says nothing, neither that suspicion goes on nor that it has passed.
_UNSEEN = frozenset({Status.DECODE_ERROR, Status.SHED, Status.STALE})


class GearSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a stream changes gear.

    Args:
        base: gear of streams without suspicion; an operator may set another one for a stream.
        hold_s: seconds of stream time that a closer look lasts after the last suspicious face. It must be longer than
            key frames lie apart, or a suspicion in `Gear.WATCH` ends before it was looked at.
    """

    base: Gear = Gear.ANALYSE
    hold_s: float = 10.0

    def __post_init__(self) -> None:
        if self.base is Gear.SHED or not 0 < self.hold_s <= 3600:
            raise ValueError(f"a base gear other than shed and 0 < hold_s <= 3600, not {self.base}, {self.hold_s}")


class GearState(msgspec.Struct, frozen=True):
    """What `Gears` remembers of a stream: an operator's choice; when it was suspicious last, ns of stream time;
    the last frame that was looked at."""

    base: Gear | None = None
    suspicious_ns: int | None = None
    seen_ns: int | None = None


class Gears:
    """The gear of one stream.

    Args:
        settings: of the worker.
        state: where another one stopped.
    """

    def __init__(self, settings: GearSettings, state: GearState | None = None) -> None:
        self._settings, self.state = settings, state or GearState()

    @property
    def gear(self) -> Gear:
        """For the next record. A worker that is too busy may take `Gear.SHED` instead."""
        base = self.state.base or self._settings.base
        return Gear.SCRUTINISE if self.is_urgent else base

    @property
    def is_urgent(self) -> bool:
        """Whether the stream is under suspicion: what is shed last, and looked at first."""
        state = self.state
        if state.suspicious_ns is None or state.seen_ns is None:
            return False
        return state.seen_ns - state.suspicious_ns < self._settings.hold_s * 1e9

    def observe(self, score: ScoreRecord) -> None:
        """Take a score in: of every frame of the stream, in order.

        Alerts have no say: the clock of the machine may close one, and what is analysed must follow from scores alone.
        """
        if score.status in _UNSEEN:
            return
        is_suspicious = any(_is_suspicious(one) for face in score.faces for one in face.evidence.values())
        self.state = msgspec.structs.replace(
            self.state,
            seen_ns=score.pts_ns,
            suspicious_ns=score.pts_ns if is_suspicious else self.state.suspicious_ns,
        )

    def set_base(self, gear: Gear | None) -> None:
        """An operator's choice for this stream; None: as the settings say.

        Raises:
            ValueError: nobody sheds by choice.
        """
        if gear is Gear.SHED:
            raise ValueError("a stream cannot be told to be shed: pause it at its source")
        self.state = msgspec.structs.replace(self.state, base=gear)


def _is_suspicious(evidence: FaceEvidence) -> bool:
    """Over the running window, or of the frame while that is too short to tell, as in `Gear.WATCH`.

    Only strong evidence is worth five times the work: windows of real footage are often "suspicious", p < .05.
    """
    return evidence.level is Level.STRONG
