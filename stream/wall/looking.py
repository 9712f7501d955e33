"""One stream as the wall sees it: what was said of it lately, and whether anybody looked.

"Clean" is a claim. It is made only where a face was scored within the last seconds and nothing was found; in every
other case the wall says that nobody is looking, and why.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import StrEnum

from difffake.results import Level
from stream.broker.contract import TopicPartition
from stream.messages import UNKNOWN, Face, ScoreRecord, Source, Status
from stream.metrics.coverage import Coverage, ratio_now
from stream.tail import Worst, lag_s

_S = 1_000_000_000
_MAX_PEOPLE = 32
#: Score records whose place is remembered, so that an alert's frames can be replayed: minutes at the usual rates.
_MAX_PLACES = 512


class State(StrEnum):
    """What a tile says of its stream."""

    CLEAN = "clean"
    NOT_LOOKING = "not-looking"
    SUSPICIOUS = "suspicious"
    ALERT = "alert"


class Why(StrEnum):
    """Why nobody is looking."""

    DISCONNECTED = "disconnected"
    NO_FRAMES = "no-frames"
    WORKER_GONE = "worker-gone"
    SILENT = "silent"
    BEHIND = "behind"
    SHED = "shed"
    DAMAGED = "damaged"
    STALE = "stale"
    NO_FACE = "no-face"
    UNUSABLE = "no-usable-face"
    WARMING_UP = "warming-up"

    @property
    def is_trouble(self) -> bool:
        """Whether somebody must do something about it."""
        return self not in (Why.NO_FACE, Why.UNUSABLE, Why.WARMING_UP)


class Input(StrEnum):
    """What is known of an input partition from which no scores come: `idle`, nothing is published to it; `unserved`,
    records come and nobody scores them; `unknown`, nobody may look."""

    IDLE = "idle"
    UNSERVED = "unserved"
    UNKNOWN = "unknown"


#: Nobody looked at these frames. They are told beside what is worked on, or after it: their times say nothing of where
#: the stream is.
_NOT_LOOKED_AT = frozenset({Status.DECODE_ERROR, Status.SHED, Status.STALE})
_WHY_OF = {
    Status.SHED: (Why.SHED, "more work than the workers have time for"),
    Status.DECODE_ERROR: (Why.DAMAGED, "damaged video"),
    Status.STALE: (Why.STALE, "frames arrive out of order"),
    Status.NO_FACE: (Why.NO_FACE, "no face in the picture"),
    Status.LOW_QUALITY: (Why.UNUSABLE, "no usable face"),
    Status.WARMING_UP: (Why.WARMING_UP, "warming up: the anchor is being collected"),
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is said of a stream at a moment.

    Args:
        state: in one word.
        why: nobody looks; None where somebody does.
        reason: that in words, or what is unusual.
        worst: what was last said, by evidence.
    """

    state: State
    why: Why | None = None
    reason: str = ""
    worst: tuple[tuple[str, Worst], ...] = ()


@dataclass(slots=True)
class Second:
    """What one second of stream time held; ``revision``: the wall's when it last changed."""

    frames: int = 0
    scored: int = 0
    revision: int = 0
    worst: dict[str, Worst] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a score record lies, and what it is about."""

    partition: TopicPartition
    offset: int
    source: Source

    @property
    def address(self) -> str:
        """As ``difffake replay --from-score`` takes it."""
        return f"{self.partition.topic}:{self.partition.partition}:{self.offset}"


class StreamView:
    """One stream; its memory is bounded, whatever comes.

    Args:
        key: its number on this wall; no other stream ever has it.
        name: the stream's id.
        window_s: seconds of stream time kept.
    """

    def __init__(self, key: int, name: str, window_s: int) -> None:
        self.key, self.name = key, name
        self.made = self.revision = 0
        #: Whether there was ever anything but what nobody could read.
        self.was_read = False
        #: When it began anew, by the writing of its first score, ns since the epoch; 0: not that the wall knows.
        self.began_ns = 0
        self.judgement = Judgement(State.NOT_LOOKING, Why.SILENT, "nothing was heard yet")
        self.seconds: OrderedDict[int, Second] = OrderedDict()
        self.places: deque[Place] = deque(maxlen=_MAX_PLACES)
        self.last: ScoreRecord | None = None
        self.scored_place: Place | None = None
        self.scored_faces: tuple[Face, ...] = ()
        self.open_alerts = 0
        self._window_s, self._coverage = window_s, Coverage()
        self._people: OrderedDict[str, tuple[int, Face]] = OrderedDict()
        self._written_ms, self._received_s = 0, 0.0
        #: The second of the newest frame that was looked at, and when the last one came that was not STALE.
        self._looked_at: int | None = None
        self._in_order_s = float("-inf")

    def take(self, record: ScoreRecord, place: Place, written_ms: int, now_s: float, revision: int) -> None:
        """Take in a score record.

        Args:
            record: the score.
            place: where it lies.
            written_ms: when it was written, since the epoch.
            now_s: monotonic clock.
            revision: the wall's, for what changes.
        """
        at = record.pts_ns // _S
        if record.status not in _NOT_LOOKED_AT:
            self._go_on(at, written_ms)
        self.was_read |= record.status is not Status.DECODE_ERROR
        if record.status is not Status.STALE:
            self._in_order_s = now_s
        if record.status is not Status.STALE or self.last is None:
            self.last = record
        self.revision = revision
        self._written_ms, self._received_s = written_ms, now_s
        self.places.append(place)
        self._coverage.add(record.pts_ns, record.status)
        if record.status is Status.SCORED:
            self.scored_place, self.scored_faces = place, record.faces
        second = self._second(at)
        if second is None:
            return
        second.revision = revision
        second.frames += 1
        second.scored += record.status is Status.SCORED
        for face in record.faces:
            self._see(face, at, second)
        begin = at - self._window_s
        while next(iter(self.seconds)) <= begin:
            self.seconds.popitem(last=False)
        while self._people and next(iter(self._people.values()))[0] <= begin:
            self._people.popitem(last=False)

    def _go_on(self, at: int, written_ms: int) -> None:
        """The stream is at this second; where that is one before the last, it began anew."""
        if self._looked_at is not None and at < self._looked_at:
            self.seconds.clear()
            self._people.clear()
            self._coverage = Coverage()
            self.began_ns = written_ms * 1_000_000
        while self.seconds and next(reversed(self.seconds)) > at + self._window_s:  # of a lost frame that leapt
            self.seconds.popitem()
            self._coverage = Coverage()  # else no time would pass until then
        self._looked_at = at

    def _second(self, at: int) -> Second | None:
        """That second, in its place; None where it lies before all that is kept."""
        newest = next(reversed(self.seconds), at)
        if at <= newest - self._window_s:
            return None
        if at not in self.seconds:
            self.seconds[at] = Second()
            if at < newest:
                self.seconds = OrderedDict(sorted(self.seconds.items()))
        return self.seconds[at]

    def _see(self, face: Face, at: int, second: Second) -> None:
        for name, said in face.evidence.items():
            worst = Worst(said.level, said.p_value if said.accumulated is None else said.accumulated)
            if said.accumulated is None:
                # One frame alone is no finding: one in twenty genuine ones is this unusual.
                worst = Worst(Level.NOTHING, worst.p_value)
            if worst.is_worse_than(second.worst.get(name)):
                second.worst[name] = worst
        if face.name is None and face.person == UNKNOWN:
            return
        who = face.name if face.name is not None else f"person {face.person}"
        self._people[who] = (at, face)
        self._people.move_to_end(who)
        if len(self._people) > _MAX_PEOPLE:
            self._people.popitem(last=False)

    @property
    def people(self) -> list[tuple[str, Face]]:
        """Who was seen lately and their last face, the latest first."""
        return [(who, face) for who, (_, face) in reversed(self._people.items())]

    def coverage(self, now_ms: int, now_s: float) -> float:
        """Share of about the last minute that was really looked at, as in `stream.metrics.coverage`; 0 before any time
        has passed."""
        return ratio_now(self._coverage.ratio, self.silent_s(now_ms, now_s)) or 0.0

    @property
    def frames(self) -> int:
        """In the window."""
        return sum(second.frames for second in self.seconds.values())

    def silent_s(self, now_ms: int, now_s: float) -> float:
        """Seconds since its last record was written, by whichever clock says more; never negative."""
        return max(0.0, now_s - self._received_s, (now_ms - self._written_ms) / 1000)

    def lag_s(self, now_ms: int) -> float | None:
        """How far its last frame is behind the clock; None where PTS are no times of day."""
        return None if self.last is None else lag_s(self.last, now_ms)

    def place_of(self, source: Source) -> Place | None:
        """Where the score of a frame lies, if it is recent."""
        return next((place for place in reversed(self.places) if place.source == source), None)

    def judge(
        self, now_ms: int, now_s: float, *, looked_s: float, behind_s: float, disconnected: str, silence: Input | None
    ) -> Judgement:
        """What is to be said of the stream now.

        Args:
            now_ms, now_s: the clock since the epoch, and the monotonic one.
            looked_s, behind_s: see `WallSettings`.
            disconnected: since when Kafka is gone, in words; empty where it is not.
            silence: what is known of the stream's input partition, if no scores come from it at all.
        """
        worst, looked = self._recent(looked_s)
        why, reason = self._blind(now_ms, now_s, looked_s, behind_s, disconnected, silence, looked=looked)
        if self.open_alerts:
            return Judgement(State.ALERT, why, reason, worst)
        if why is not None:
            return Judgement(State.NOT_LOOKING, why, reason, worst)
        said = [f"{name}: {found.level.value}" for name, found in worst if found.level is not Level.NOTHING]
        return Judgement(State.SUSPICIOUS if said else State.CLEAN, reason=", ".join(said), worst=worst)

    def _recent(self, looked_s: float) -> tuple[tuple[tuple[str, Worst], ...], bool]:
        """What was last said within the last seconds, by evidence, and whether any face was scored in them.

        The newest, not the worst: evidence is accumulated over a window already.
        """
        worst, looked = dict[str, Worst](), False
        newest = next(reversed(self.seconds), 0)
        for at, second in reversed(self.seconds.items()):
            if at <= newest - looked_s:
                break
            looked = looked or second.scored > 0
            worst = second.worst | worst
        return tuple(sorted(worst.items())), looked

    def _blind(
        self,
        now_ms: int,
        now_s: float,
        looked_s: float,
        behind_s: float,
        disconnected: str,
        silence: Input | None,
        *,
        looked: bool,
    ) -> tuple[Why | None, str]:
        if disconnected:
            return Why.DISCONNECTED, disconnected
        last = self.last
        if last is None:
            return Why.SILENT, "nothing was heard yet"
        if self.silent_s(now_ms, now_s) > looked_s:
            if silence is Input.UNSERVED:
                return Why.WORKER_GONE, "records come, and no scores: the worker is gone or stuck"
            if silence is Input.UNKNOWN:
                return Why.SILENT, "no scores: no frames come, or the worker is gone"
            return Why.NO_FRAMES, "no frames come"
        behind = self.lag_s(now_ms)
        if behind is not None and behind > behind_s:
            return Why.BEHIND, "the workers are behind"
        if now_s - self._in_order_s > looked_s:
            return Why.STALE, _WHY_OF[Status.STALE][1]
        if looked:
            return None, ""
        why, reason = _WHY_OF.get(last.status, (Why.SILENT, "no face was scored lately"))
        return why, f"{reason} ({last.reason})" if last.reason and why is not Why.WARMING_UP else reason
