"""Alerts of one stream out of its scores: they open, are updated, and close.

This is the simple rule: a level held for a while, with hysteresis and a cool-down. It keeps no budget of false alarms
and accumulates no statistic over time beyond the running window of the scores, so that nothing is guaranteed about
false alerts per day: neighbouring frames are alike, and a p-value that stays below a threshold for a second is far
more frequent than the threshold suggests.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

import difffake
from difffake.results import EVIDENCES, Level
from stream.messages import (
    AlertEnd,
    AlertKind,
    AlertRecord,
    AlertState,
    EvidenceName,
    Face,
    HeldAgainst,
    MessageError,
    ScoreRecord,
    Source,
    alert_id,
    bounded,
)
from stream.messages.codec import Name, Nanoseconds, Probability

_HINT = "delete this stream's state: it then warms up again"
#: What an alert says of a person's face, by evidence.
_FINDINGS: dict[str, str] = {
    "artifact": "looks manufactured",
    "anchor": "has changed unnaturally against its anchor",
    "identity": "is not the anchor's person",
}
_IS_STRANGER = "is none of those enrolled"
_Count = Annotated[int, msgspec.Meta(ge=0)]


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When alerts open and close; all times in seconds of stream time.

    Args:
        open_s, min_frames: accumulated evidence must be strong in every frame for so long, and in so many frames.
        update_s: an open alert is told again so often, and whenever its p-value has fallen by a factor of ten.
        close_s: it is closed when evidence was below suspicious for so long.
        gone_s: or when nothing was heard of the person's evidence for so long.
        cooldown_s: after the last frame of an alert no other one of that person and evidence opens for so long.
        ended_s: or when no record of the stream came for so long by the machine's clock, and none waits to be read.
        max_watched: persons and evidences watched at once; the longest unheard of is given up beyond.
    """

    open_s: float = 1.0
    min_frames: int = 3
    update_s: float = 10.0
    close_s: float = 3.0
    gone_s: float = 10.0
    cooldown_s: float = 30.0
    ended_s: float = 60.0
    max_watched: int = 256

    def __post_init__(self) -> None:
        if wrong := {n: v for n in self.__struct_fields__ if not (math.isfinite(v := getattr(self, n)) and v > 0)}:
            raise ValueError(f"settings of alerts must be positive: {wrong}")


class _Told(msgspec.Struct, forbid_unknown_fields=True):
    """What was last said about an open alert."""

    p_value: Probability
    pts_ns: Nanoseconds


class _Watch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One evidence of one person, from its first strong frame on.

    Args:
        first, start_ns: the first frame of the run of strong ones that goes on, or that opened the alert.
        frames: in that run; 0 where there is none.
        last, last_ns: the last frame that was suspicious at least.
        heard_ns: the last frame that said anything.
        p_value: the smallest of the run or alert.
        is_stranger: held against other people's anchors when the run began: nobody switched.
        told: of the open alert; None where there is none.
        quiet_until_ns: end of the cool-down.
    """

    person: _Count
    evidence: EvidenceName
    name: Name | None
    first: Source
    start_ns: Nanoseconds
    frames: _Count
    last: Source
    last_ns: Nanoseconds
    heard_ns: Nanoseconds
    p_value: Probability
    is_stranger: bool = False
    told: _Told | None = None
    quiet_until_ns: int | None = None


class _State(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    watches: list[_Watch]


_Key = tuple[int, EvidenceName]


class Alerts:
    """The alerts of one stream: the same scores in the same order give the same records, wherever the state was saved
    and restored in between. Memory is bounded.

    Args:
        settings: see there.
    """

    def __init__(self, settings: AlertSettings | None = None) -> None:
        self._settings = settings or AlertSettings()
        self._watches: dict[_Key, _Watch] = {}

    def observe(self, score: ScoreRecord) -> list[AlertRecord]:
        """What the next record of the stream changes, in a fixed order; frames without a face let time pass."""
        found: list[AlertRecord] = []
        for face in score.faces:
            for evidence in EVIDENCES:
                found += self._look(score, face, evidence)  # type: ignore[arg-type]
        for key in sorted(self._watches):
            watch = self._watches[key]
            if score.pts_ns - watch.heard_ns >= _ns(self._settings.gone_s):
                found += self._close(watch, score.stream, score.model_id, AlertEnd.GONE)
                if watch.quiet_until_ns is None or score.pts_ns >= watch.quiet_until_ns:
                    del self._watches[key]
        while len(self._watches) > self._settings.max_watched:
            key = min(self._watches, key=lambda k: (self._watches[k].heard_ns, k))
            found += self._close(self._watches.pop(key), score.stream, score.model_id, AlertEnd.CROWDED)
        return found

    @property
    def is_open(self) -> bool:
        """Whether any alert is."""
        return any(watch.told is not None for watch in self._watches.values())

    def end(self, stream: str, model_id: str) -> list[AlertRecord]:
        """Close what is open: the stream ended. Should it go on, cool-downs hold as after any other end.

        Args:
            stream: its id.
            model_id: of the worker.
        """
        return [
            record
            for key in sorted(self._watches)
            for record in self._close(self._watches[key], stream, model_id, AlertEnd.STREAM_ENDED)
        ]

    def _look(self, score: ScoreRecord, face: Face, evidence: EvidenceName) -> list[AlertRecord]:
        """One evidence of one face in a frame."""
        said = face.evidence.get(evidence)
        if said is None or said.accumulated is None or face.person < 0:
            return []
        key, p_value = (face.person, evidence), said.accumulated
        watch = self._watches.get(key)
        if watch is None:
            if said.level is not Level.STRONG:
                return []
            watch = self._watches[key] = _Watch(
                person=face.person,
                evidence=evidence,
                name=face.name,
                first=score.source,
                start_ns=score.pts_ns,
                frames=0,
                last=score.source,
                last_ns=score.pts_ns,
                heard_ns=score.pts_ns,
                p_value=p_value,
            )
        # One person can have two faces in a frame: on a screen behind them.
        is_another_frame = watch.frames == 0 or score.pts_ns != watch.heard_ns
        watch.name, watch.heard_ns = face.name, score.pts_ns
        if watch.told is None and said.level is not Level.STRONG:
            watch.frames = 0
            if watch.quiet_until_ns is None or score.pts_ns >= watch.quiet_until_ns:
                del self._watches[key]
            return []
        if watch.told is None and watch.frames == 0:
            watch.first, watch.start_ns, watch.p_value = score.source, score.pts_ns, p_value
            watch.is_stranger = said.against is HeldAgainst.OTHERS
        watch.frames += is_another_frame
        watch.p_value = min(watch.p_value, p_value)
        if said.level is not Level.NOTHING:
            watch.last, watch.last_ns = score.source, score.pts_ns
        if watch.told is None:
            return self._open(watch, score)
        if score.pts_ns - watch.last_ns >= _ns(self._settings.close_s):
            return self._close(watch, score.stream, score.model_id, AlertEnd.CALM)
        return self._update(watch, score)

    def _open(self, watch: _Watch, score: ScoreRecord) -> list[AlertRecord]:
        is_long = score.pts_ns - watch.start_ns >= _ns(self._settings.open_s)
        is_quiet = watch.quiet_until_ns is not None and score.pts_ns < watch.quiet_until_ns
        if not is_long or watch.frames < self._settings.min_frames or is_quiet:
            return []
        watch.told = _Told(watch.p_value, score.pts_ns)
        return [_record(AlertState.OPENED, watch, score.stream, score.model_id)]

    def _update(self, watch: _Watch, score: ScoreRecord) -> list[AlertRecord]:
        told = watch.told
        is_worse = told is not None and watch.p_value < told.p_value / 10
        is_time = told is not None and score.pts_ns - told.pts_ns >= _ns(self._settings.update_s)
        if not is_worse and not is_time:
            return []
        watch.told = _Told(watch.p_value, score.pts_ns)
        return [_record(AlertState.UPDATED, watch, score.stream, score.model_id)]

    def _close(self, watch: _Watch, stream: str, model_id: str, why: AlertEnd) -> list[AlertRecord]:
        """Close what is open, and end the run."""
        watch.frames = 0
        if watch.told is None:
            return []
        closed = _record(AlertState.CLOSED, watch, stream, model_id, why)
        watch.told, watch.quiet_until_ns = None, watch.last_ns + _ns(self._settings.cooldown_s)
        return [closed]

    def to_state(self) -> bytes:
        """The whole state, exact: the same bytes for the same state."""
        return msgspec.msgpack.encode(_State(watches=[self._watches[key] for key in sorted(self._watches)]))

    @classmethod
    def from_state(cls, data: bytes, settings: AlertSettings | None = None) -> Alerts:
        """The alerts of `to_state`; those of a stream never seen where ``data`` is empty.

        Raises:
            MessageError: damaged, or of another version.
        """
        alerts = cls(settings)
        if not data:
            return alerts
        try:
            state = _STATE.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MessageError(f"the alerts of a stream are damaged: {error}", hint=_HINT) from error
        alerts._watches = {(watch.person, watch.evidence): watch for watch in state.watches}
        if len(alerts._watches) != len(state.watches):
            raise MessageError("the alerts of a stream are damaged: one is there twice", hint=_HINT)
        return alerts


_STATE = msgspec.msgpack.Decoder(_State)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _record(state: AlertState, watch: _Watch, stream: str, model_id: str, why: AlertEnd | None = None) -> AlertRecord:
    kind, finding = AlertKind.SUSTAINED, _FINDINGS[watch.evidence]
    if watch.evidence == "identity" and watch.is_stranger:
        kind, finding = AlertKind.STRANGER, _IS_STRANGER
    elif watch.evidence == "identity":
        kind = AlertKind.IDENTITY_SWITCH
    who = watch.name if watch.name is not None else f"person {watch.person}"
    lasting_s = (watch.last_ns - watch.start_ns) / 1e9
    return AlertRecord(
        id=alert_id(stream, watch.person, kind, watch.evidence, watch.first),
        state=state,
        kind=kind,
        evidence=watch.evidence,
        stream=stream,
        person=watch.person,
        name=watch.name,
        start_ns=watch.start_ns,
        end_ns=watch.last_ns if state is AlertState.CLOSED else None,
        end_reason=why,
        p_value=watch.p_value,
        # The smallest p-value of an alert was strong: else it would not have opened.
        level=Level.STRONG,
        first=watch.first,
        last=watch.last,
        sentence=bounded(
            f"the face of {who} {finding}: strong evidence, p = {watch.p_value:.2g} over the running "
            f"window, for {lasting_s:.1f} s"
        ),
        thumbnail_jpeg=None,
        model_id=model_id,
        difffake=difffake.__version__,
    )
