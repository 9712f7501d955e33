"""What is remembered of one evidence of one person, and how it is saved."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from difffake.results import Level
from stream.messages import AlertKind, EvidenceName, HeldAgainst, MessageError, Source
from stream.messages.alerts import MAX_THUMBNAIL_BYTES
from stream.messages.codec import Name, Nanoseconds, Probability

_HINT = "delete this stream's state: it then warms up again"
_Count = Annotated[int, msgspec.Meta(ge=0)]
#: What is accumulated stays within this; a millionth of it is beyond any budget.
MAX_LOG = 1e9
_Log = Annotated[float, msgspec.Meta(ge=-MAX_LOG, le=MAX_LOG)]
Thumbnail = Annotated[bytes, msgspec.Meta(max_length=MAX_THUMBNAIL_BYTES)]
MAX_OVERRIDES = 256


class Told(msgspec.Struct, forbid_unknown_fields=True):
    """What was last said about an open alert, and what does not change while it is."""

    p_value: Probability
    pts_ns: Nanoseconds
    kind: AlertKind
    log_level: _Log
    budget_per_day: Annotated[float, msgspec.Meta(gt=0)]
    acknowledged_by: Name | None = None
    #: The next frame of the stream tells it again.
    is_due: bool = False


class Watch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One evidence of one person, from its first frame on.

    Args:
        first, start_ns: the first frame of the run: since then the evidence has, on the whole, spoken for an alert.
        run: natural logarithm of the evidence of the run; 0 where there is none (Page's CUSUM: where it begins is the
            likeliest moment of a change).
        blocks, is_broken: in the run, and whether one of them spoke against it; by their number workers of an earlier
            version tell a spike.
        accumulated: natural logarithm of all evidence (Shiryaev and Roberts); None: nothing yet.
        peak: the largest it was since the run began.
        log_sum, frames: of the block that is not over yet.
        last, last_ns: the last frame that was suspicious at least.
        heard_ns: the last frame that said anything.
        p_value, level: the smallest and the worst of the run or alert.
        against: the anchor.
        picture, picture_p: the most suspicious face of the run or alert, and how suspicious it was.
        told: of the open alert; None where there is none.
        quiet_until_ns: end of the cool-down.
    """

    person: _Count
    evidence: EvidenceName
    name: Name | None
    against: HeldAgainst | None
    first: Source
    start_ns: Nanoseconds
    last: Source
    last_ns: Nanoseconds
    heard_ns: Nanoseconds
    run: _Log = 0.0
    blocks: _Count = 0
    is_broken: bool = False
    accumulated: _Log | None = None
    peak: _Log | None = None
    log_sum: _Log = 0.0
    frames: _Count = 0
    p_value: Probability = 1.0
    level: Level = Level.NOTHING
    picture: Thumbnail | None = None
    picture_p: Probability = 1.0
    told: Told | None = None
    quiet_until_ns: Nanoseconds | None = None

    def begin(self, source: Source, pts_ns: int) -> None:
        """A run may begin here; one that was there is over."""
        self.first = self.last = source
        self.start_ns = self.last_ns = pts_ns
        self.run, self.blocks, self.is_broken, self.peak = 0.0, 0, False, None
        self.p_value, self.level = 1.0, Level.NOTHING
        self.picture, self.picture_p = None, 1.0

    def forget(self) -> None:
        """Nothing is accumulated any more, and nothing of the block that is not over."""
        self.accumulated, self.run, self.log_sum, self.frames = None, 0.0, 0.0, 0

    def is_quiet(self, pts_ns: int) -> bool:
        """Whether the cool-down lasts."""
        return self.quiet_until_ns is not None and pts_ns < self.quiet_until_ns


class Mute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Alerts that an operator does not want to hear of: of one person or all, of one evidence or all; until a moment,
    for so long from the stream's first frame on, or for good."""

    person: _Count | Name | None
    evidence: EvidenceName | None
    until_ns: Nanoseconds | None = None
    for_ns: Nanoseconds | None = None

    def covers(self, watch: Watch) -> bool:
        """Whether it is about this person and evidence."""
        is_whom = self.person is None or self.person == (watch.person if isinstance(self.person, int) else watch.name)
        return is_whom and self.evidence in (None, watch.evidence)

    @property
    def words(self) -> str:
        """Whom it is about, for people."""
        who = "everybody" if self.person is None else f"#{self.person}" if isinstance(self.person, int) else self.person
        return who if self.evidence is None else f"{who} ({self.evidence})"


class State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All that is remembered of the alerts of a stream.

    Args:
        watches: in order of person and evidence.
        now_ns: PTS of the last frame that was looked at.
        budgets: false alerts per stream-day that an operator set, by evidence; ``""`` for all.
        mutes: those in force.
    """

    version: Literal[2] = 2
    watches: list[Watch]
    now_ns: Nanoseconds | None = None
    budgets: Annotated[dict[str, Annotated[float, msgspec.Meta(gt=0)]], msgspec.Meta(max_length=4)] = {}
    mutes: Annotated[list[Mute], msgspec.Meta(max_length=MAX_OVERRIDES)] = []


class _OldTold(msgspec.Struct):
    p_value: Probability
    pts_ns: Nanoseconds


class _OldWatch(msgspec.Struct, kw_only=True):
    person: _Count
    evidence: EvidenceName
    name: Name | None
    first: Source
    start_ns: Nanoseconds
    last: Source
    last_ns: Nanoseconds
    heard_ns: Nanoseconds
    p_value: Probability
    is_stranger: bool = False
    told: _OldTold | None = None
    quiet_until_ns: int | None = None


class _OldState(msgspec.Struct, kw_only=True):
    version: Literal[1]
    watches: list[_OldWatch]


class _Version(msgspec.Struct):
    version: int


_VERSION, _STATE = msgspec.msgpack.Decoder(_Version), msgspec.msgpack.Decoder(State)
_OLD = msgspec.msgpack.Decoder(_OldState)


def read_state(data: bytes) -> State:
    """The state in ``data``. Of version 1 the open alerts and cool-downs are taken over: everything else begins anew.

    Raises:
        MessageError: damaged, or of another version.
    """
    try:
        state = _upgraded(_OLD.decode(data)) if _VERSION.decode(data).version == 1 else _STATE.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"the alerts of a stream are damaged: {error}", hint=_HINT) from error
    if len({(watch.person, watch.evidence) for watch in state.watches}) != len(state.watches):
        raise MessageError("the alerts of a stream are damaged: one is there twice", hint=_HINT)
    return state


def _upgraded(old: _OldState) -> State:
    return State(watches=[_watch(one) for one in old.watches if one.told is not None or one.quiet_until_ns is not None])


def _watch(old: _OldWatch) -> Watch:
    told = None
    if old.told is not None:
        kind = AlertKind.SUSTAINED
        if old.evidence == "identity":
            kind = AlertKind.STRANGER if old.is_stranger else AlertKind.IDENTITY_SWITCH
        # There was no budget: a false alert in every frame is what anything keeps to.
        told = Told(old.told.p_value, old.told.pts_ns, kind, 0.0, 86_400.0)
    return Watch(
        person=old.person,
        evidence=old.evidence,
        name=old.name,
        against=HeldAgainst.OTHERS if old.is_stranger else None,
        first=old.first,
        start_ns=old.start_ns,
        last=old.last,
        last_ns=old.last_ns,
        heard_ns=old.heard_ns,
        p_value=old.p_value,
        level=Level.STRONG,
        told=told,
        quiet_until_ns=old.quiet_until_ns,
    )
