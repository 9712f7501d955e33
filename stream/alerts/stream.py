"""The alerts of one stream: evidence is accumulated block by block, alerts open where it passes the level that the
budget of false alerts sets, are told again, and close."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from difffake.results import EVIDENCES, Level
from stream.alerts.rarity import Rarity, log_add, log_evidence
from stream.alerts.records import alert_record, kind_of
from stream.alerts.settings import AlertSettings, check_budget
from stream.alerts.watch import MAX_LOG, MAX_OVERRIDES, Mute, State, Told, Watch, read_state
from stream.messages import (
    AlertEnd,
    AlertRecord,
    AlertState,
    Command,
    CommandRecord,
    EvidenceName,
    Face,
    FaceEvidence,
    ScoreRecord,
    Status,
)

#: Pictures kept at once: state must stay small.
MAX_PICTURES = 8
#: A picture gives way to one that is so much more suspicious.
_BETTER = 0.5
_ALL = ""
_LOST = frozenset({Status.DECODE_ERROR, Status.SHED, Status.STALE})

_Key = tuple[int, EvidenceName]
#: A face of the frame -> its picture as JPEG, or None.
Portray = Callable[[Face], bytes | None]


class Alerts:
    """The same scores and commands in the same order give the same records, wherever the state was saved and restored
    in between. Memory is bounded.

    Args:
        settings: see there.
        rarity: what is accumulated; the scores' own p-values by default.
    """

    def __init__(self, settings: AlertSettings | None = None, rarity: Rarity | None = None) -> None:
        self._settings, self._rarity = settings or AlertSettings(), rarity or Rarity()
        self._state = State(watches=[], budgets={}, mutes=[])
        self._watches: dict[_Key, Watch] = {}
        self._block_ns = _ns(self._settings.block_s)

    # -- frames ------------------------------------------------------------------------------------------------------
    def observe(self, score: ScoreRecord, portray: Portray | None = None) -> list[AlertRecord]:
        """What the next record of the stream changes, in a fixed order; frames without a face let time pass.

        Args:
            score: of a frame.
            portray: makes the picture of a face, where it is asked for one.
        """
        found: list[AlertRecord] = []
        before_ns, now_ns = self._state.now_ns, score.pts_ns
        # The clock follows what was looked at: what was lost of a record is told after it, with times of its own.
        if score.status not in _LOST:
            if before_ns is not None and now_ns // self._block_ns > before_ns // self._block_ns:
                found += self._end_block(score)
            self._state.now_ns = now_ns if before_ns is None else max(now_ns, before_ns)
        clock_ns = self._state.now_ns
        self._state.mutes = [
            mute
            for mute in map(self._resolved, self._state.mutes)
            if mute.until_ns is None or clock_ns is None or clock_ns < mute.until_ns
        ]
        for face in score.faces:
            for evidence in EVIDENCES:
                found += self._look(score, face, evidence, portray)  # type: ignore[arg-type]
        return found + self._tidy(score)

    def _look(
        self, score: ScoreRecord, face: Face, evidence: EvidenceName, portray: Portray | None
    ) -> list[AlertRecord]:
        """One evidence of one face in a frame."""
        said = face.evidence.get(evidence)
        if said is None or face.person < 0:
            return []
        watch = self._watch(score, face, evidence, said)
        p_value = self._rarity.p_value(evidence, said)
        log_e = log_evidence(p_value, self._settings.tuning(evidence).kappa)
        watch.name, watch.heard_ns = face.name, score.pts_ns
        if watch.told is None and self._is_muted(watch):
            watch.forget()
            return []
        watch.log_sum, watch.frames = watch.log_sum + log_e, watch.frames + 1
        watch.p_value = min(watch.p_value, said.p_value if said.accumulated is None else said.accumulated)
        watch.level = max(watch.level, said.level, key=lambda level: level.rank)
        if said.level is not Level.NOTHING:
            watch.last, watch.last_ns = score.source, score.pts_ns
        if log_e > 0 and portray is not None and self._settings.thumbnails:
            self._portray(watch, p_value, face, portray)
        if watch.told is None:
            return []
        if score.pts_ns - watch.last_ns >= _ns(self._settings.close_s):
            return self._close(watch, score.stream, score.model_id, AlertEnd.CALM)
        return self._update(watch, score, score.pts_ns)

    def _watch(self, score: ScoreRecord, face: Face, evidence: EvidenceName, said: FaceEvidence) -> Watch:
        key = face.person, evidence
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = Watch(
                person=face.person,
                evidence=evidence,
                name=face.name,
                against=said.against,
                first=score.source,
                start_ns=score.pts_ns,
                last=score.source,
                last_ns=score.pts_ns,
                heard_ns=score.pts_ns,
            )
        if watch.against is not said.against:
            # Another question: what was accumulated answers it no more.
            watch.against = said.against
            if watch.told is None:
                watch.forget()
        if watch.told is None and watch.frames == 0 and watch.run <= 0:
            watch.begin(score.source, score.pts_ns)
        return watch

    def _portray(self, watch: Watch, p_value: float, face: Face, portray: Portray) -> None:
        if watch.picture is None:
            others = sum(other.picture is not None for other in self._watches.values())
            if others >= MAX_PICTURES:
                return
        elif p_value > watch.picture_p * _BETTER:
            return
        picture = portray(face)
        if picture is not None:
            watch.picture, watch.picture_p = picture, p_value

    # -- blocks ------------------------------------------------------------------------------------------------------
    def _end_block(self, score: ScoreRecord) -> list[AlertRecord]:
        """Take in the block that is over: one piece of evidence for everybody who was seen in it."""
        found: list[AlertRecord] = []
        for evidence in EVIDENCES:
            seen = [w for _, w in sorted(self._watches.items()) if w.evidence == evidence and w.frames]
            for watch in seen:
                self._accumulate(watch, 1.0 / len(seen))
                found += self._open(watch, score)
        return found

    def _accumulate(self, watch: Watch, weight: float) -> None:
        """The weights of all people of a block add up to 1: a stream has one budget, however many are in it."""
        settings = self._settings
        # The mean of logarithms: neighbouring frames may depend on each other in any way (Hölder).
        share = min(settings.block_s / settings.tuning(watch.evidence).decorrelation_s, 1.0)
        gained = watch.log_sum / watch.frames * share
        watch.log_sum, watch.frames = 0.0, 0
        watch.accumulated = min(log_add(watch.accumulated, weight) + gained, MAX_LOG)
        watch.run = min(max(watch.run + gained, 0.0), MAX_LOG)
        watch.blocks += 1
        watch.is_broken |= gained < 0
        watch.peak = watch.accumulated if watch.peak is None else max(watch.peak, watch.accumulated)

    def _open(self, watch: Watch, score: ScoreRecord) -> list[AlertRecord]:
        evidence, settings = watch.evidence, self._settings
        if watch.told is not None or watch.accumulated is None:
            return []
        budget = self._budget(evidence)
        log_level = settings.log_level(evidence, budget)
        if watch.accumulated < log_level or watch.is_quiet(score.pts_ns):
            return []
        # By stream time, to the last frame that spoke: in gear watch most seconds have no frame.
        is_burst = watch.heard_ns - watch.start_ns <= _ns(settings.burst_s)
        watch.told = Told(watch.p_value, score.pts_ns, kind_of(watch, is_burst=is_burst), log_level, budget)
        return [alert_record(AlertState.OPENED, watch, score.stream, score.model_id)]

    # -- open alerts -------------------------------------------------------------------------------------------------
    def _update(self, watch: Watch, score: ScoreRecord, now_ns: int) -> list[AlertRecord]:
        told = watch.told
        if told is None:
            return []
        is_worse = watch.p_value < told.p_value / 10
        every_s = self._settings.update_s if told.acknowledged_by is None else self._settings.seen_s
        is_time = now_ns - told.pts_ns >= _ns(every_s)
        if not (is_worse or is_time or told.is_due):
            return []
        told.p_value, told.pts_ns, told.is_due = watch.p_value, now_ns, False
        return [alert_record(AlertState.UPDATED, watch, score.stream, score.model_id)]

    def _close(self, watch: Watch, stream: str, model_id: str, why: AlertEnd) -> list[AlertRecord]:
        """Close what is open; evidence begins anew."""
        if watch.told is None:
            return []
        closed = alert_record(AlertState.CLOSED, watch, stream, model_id, why)
        watch.told, watch.quiet_until_ns = None, watch.last_ns + _ns(self._settings.cooldown_s)
        watch.forget()
        watch.picture = None
        return [closed]

    def _tidy(self, score: ScoreRecord) -> list[AlertRecord]:
        """What time alone, an operator or want of room changes."""
        settings, clock_ns, found = self._settings, self._state.now_ns, list[AlertRecord]()
        for key, watch in sorted(self._watches.items()):
            # By the time that was looked at: who was in a lost frame nobody knows, and its own time may be anywhere.
            now_ns = watch.heard_ns if clock_ns is None else clock_ns
            if watch.told is not None and self._is_muted(watch):
                found += self._close(watch, score.stream, score.model_id, AlertEnd.MUTED)
            elif watch.told is not None and now_ns - watch.heard_ns >= _ns(settings.gone_s):
                found += self._close(watch, score.stream, score.model_id, AlertEnd.GONE)
            elif watch.told is not None and watch.told.is_due:
                found += self._update(watch, score, now_ns)
            elif watch.told is None and self._is_forgotten(watch):
                del self._watches[key]
        while len(self._watches) > settings.max_watched:
            key = min(self._watches, key=lambda k: (self._watches[k].heard_ns, k))
            found += self._close(self._watches.pop(key), score.stream, score.model_id, AlertEnd.CROWDED)
        return found

    def _is_forgotten(self, watch: Watch) -> bool:
        clock_ns = self._state.now_ns or 0
        return clock_ns - watch.heard_ns >= _ns(self._settings.forget_s) and not watch.is_quiet(clock_ns)

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

    # -- operators ---------------------------------------------------------------------------------------------------
    def apply(self, record: CommandRecord) -> list[str]:
        """Do what an operator commands about alerts; it holds from the next frame on.

        Returns:
            Warnings, ``"code: what happened"``.
        """
        if record.command is Command.ALERT_BUDGET:
            return self._set_budget(record.evidence, record.value)
        if record.command is Command.ALERT_ACKNOWLEDGE:
            return self._acknowledge(record)
        mutes = [m for m in self._state.mutes if (m.person, m.evidence) != (record.person, record.evidence)]
        if record.command is Command.ALERT_UNMUTE:
            # Of nobody and nothing in particular: everything, whatever was muted alone.
            self._state.mutes = [] if record.person is None and record.evidence is None else mutes
            return self._still_muted(record)
        for_ns = None if record.value is None else _ns(min(record.value, 1e9))
        mutes.append(self._resolved(Mute(record.person, record.evidence, for_ns=for_ns)))
        self._state.mutes = mutes[-MAX_OVERRIDES:]
        return ["command: alert-mute: the oldest mute is given up"] if len(mutes) > MAX_OVERRIDES else []

    def _still_muted(self, record: CommandRecord) -> list[str]:
        """A warning where other mutes hold for whom an unmute was about."""
        names = {record.person}
        for watch in self._watches.values():
            if record.person is not None and record.person in (watch.person, watch.name):
                names |= {watch.person, watch.name}
        holding = [
            mute
            for mute in self._state.mutes
            if mute.person in names | {None}
            and (None in (mute.evidence, record.evidence) or mute.evidence == record.evidence)
        ]
        who = ", ".join(mute.words for mute in holding)
        return [f"command: alert-unmute: still muted by the mute of {who}"] if holding else []

    def _set_budget(self, evidence: EvidenceName | None, per_day: float | None) -> list[str]:
        name = evidence or _ALL
        if per_day is None:
            self._state.budgets.pop(name, None)
            return []
        try:
            check_budget(per_day, self._settings.block_s)
        except ValueError as error:
            return [f"command: alert-budget: {error}"]
        self._state.budgets[name] = per_day
        return []

    def _acknowledge(self, record: CommandRecord) -> list[str]:
        for watch in self._watches.values():
            if (
                watch.told is not None
                and alert_record(AlertState.UPDATED, watch, record.stream, "-").id == record.alert
            ):
                watch.told.acknowledged_by, watch.told.is_due = record.by, True
                return []
        return [f"command: alert-acknowledge: {record.alert} is not open"]

    def _budget(self, evidence: EvidenceName) -> float:
        budgets = self._state.budgets
        return budgets.get(evidence, budgets.get(_ALL, self._settings.budget_per_day))

    def _is_muted(self, watch: Watch) -> bool:
        return any(mute.covers(watch) for mute in self._state.mutes)

    def _resolved(self, mute: Mute) -> Mute:
        """With its end, once the stream's clock is known."""
        if mute.for_ns is None or self._state.now_ns is None:
            return mute
        return msgspec.structs.replace(mute, until_ns=self._state.now_ns + mute.for_ns, for_ns=None)

    # -- state -------------------------------------------------------------------------------------------------------
    def to_state(self) -> bytes:
        """The whole state, exact: the same bytes for the same state."""
        self._state.watches = [self._watches[key] for key in sorted(self._watches)]
        self._state.budgets = dict(sorted(self._state.budgets.items()))
        return msgspec.msgpack.encode(self._state)

    @classmethod
    def from_state(cls, data: bytes, settings: AlertSettings | None = None, rarity: Rarity | None = None) -> Alerts:
        """The alerts of `to_state`; those of a stream never seen where ``data`` is empty.

        Raises:
            MessageError: damaged, or of another version.
        """
        alerts = cls(settings, rarity)
        if data:
            alerts._state = read_state(data)
            alerts._watches = {(watch.person, watch.evidence): watch for watch in alerts._state.watches}
        return alerts


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
