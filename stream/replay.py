"""A frame that was scored, scored again: from the last state before it that is left, over the input since then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from difffake.errors import DiffFakeError
from stream.broker.contract import Broker, Reader, Record, TopicPartition
from stream.checkpoint import Restored
from stream.commands_log import CommandsLog
from stream.decode import DecodeSettings, InputError, Payload
from stream.gears import GearSettings
from stream.live import LiveModels, LiveSettings
from stream.messages import (
    AnchorsRecord,
    MessageError,
    ScoreRecord,
    Source,
    StateKey,
    StateRecord,
    Status,
    decode_state,
)
from stream.partition import Partition, StreamSettings, StreamState, believed_ns
from stream.topics import Topics

_BATCH = 16
#: Fields that tell who scored, not what came out.
_WHO = frozenset({"version", "model_id", "difffake"})
_NOT_ANALYSED = frozenset({Status.STALE, Status.DECODE_ERROR, Status.SHED})


class ReplayError(DiffFakeError, ValueError):
    """A score that cannot be made again."""

    exit_code = 42


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a score that came out otherwise; ``what`` is its path, as in ``faces[0].evidence.anchor.score``."""

    what: str
    before: Any
    after: Any

    @property
    def size(self) -> float:
        """Of two numbers, how far they are apart; else infinite."""
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (self.before, self.after))
        return abs(self.before - self.after) if numbers else math.inf


@dataclass(slots=True)
class Replay:
    """What came out.

    Args:
        score: the new one.
        differences: to the old one, in the order of the record's fields.
        began_at: input offset that the replay began at.
        frames: analysed on the way, this one included.
        notes: what may explain a difference.
    """

    score: ScoreRecord
    differences: list[Difference]
    began_at: int
    frames: int
    notes: list[str] = field(default_factory=list)

    @property
    def max_difference(self) -> float:
        """0 where both are the same; infinite where more than numbers differ."""
        return max((d.size for d in self.differences), default=0.0)


@dataclass(slots=True)
class _Beginning:
    """Where to begin: a state before the frame, and the offset of the first command that came after the frame."""

    state: StateRecord | None = None
    commands_end: int | None = None


def replay(
    broker: Broker,
    models: LiveModels,
    score: ScoreRecord,
    *,
    topics: Topics | None = None,
    decode: DecodeSettings | None = None,
    live: LiveSettings | None = None,
    gears: GearSettings | None = None,
) -> Replay:
    """Score a frame again. With the worker's models and settings the difference is 0, as long as the input and a state
    before it, or the stream's beginning, are still there; `Replay.notes` say where they are not.

    Nothing is written. Commands and enrolments are applied where the worker applied them: right after a state.

    Raises:
        ReplayError: the input is gone, the frame was never analysed, or it does not come out with these settings.
        BrokerError: and its leaves.
        MessageError: a state of a newer version.
    """
    if score.status in _NOT_ANALYSED:
        raise ReplayError(
            f"the frame was not analysed ({score.status.value}): there is nothing to make again",
            hint="choose a score with another status",
        )
    topics, decode, live = topics or Topics(), decode or DecodeSettings(), live or LiveSettings()
    reader, notes = broker.reader(), list[str]()
    try:
        beginning = _beginning(reader, broker, topics, score)
        settings = StreamSettings(decode, live, gears=gears or GearSettings())
        stream = _stream(beginning, models, score, settings, notes)
        commands = CommandsLog(reader, topics.enrolments, 0.0)
        commands.refresh()
        start = _start(reader, beginning.state, score, notes)
        source = TopicPartition(score.source.topic, score.source.partition)
        began_ns = _began_ns(reader, beginning.state, start, score) if stream.begins_anew else None
        _apply(commands, stream, score.stream, beginning, began_ns, notes)
        records = reader.read(source, start, reader.end_offset(source))
        found, frames = _find(records, stream, score)
    finally:
        reader.close()
    if found.model_id != score.model_id:
        notes.append(f"model: the score is by {score.model_id}, the replay by {found.model_id}")
    return Replay(found, differences(score, found), start, frames, notes)


def differences(before: ScoreRecord, after: ScoreRecord) -> list[Difference]:
    """Every field that is not the same in two scores of a frame, but for who made them."""
    old, new = (dict(_flat("", msgspec.to_builtins(record))) for record in (before, after))
    names = [name for name in [*old, *(n for n in new if n not in old)] if name not in _WHO]
    return [
        Difference(name, old.get(name), new.get(name))
        for name in names
        if name not in old or name not in new or old[name] != new[name]
    ]


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, list | tuple) and value:
        for number, inner in enumerate(value):
            yield from _flat(f"{path}[{number}]", inner)
    else:
        yield path, value


def _beginning(reader: Reader, broker: Broker, topics: Topics, score: ScoreRecord) -> _Beginning:
    """The newest state of the stream from before the frame: compaction leaves old ones for a while."""
    key = StateKey(score.source.topic, score.source.partition, score.stream)
    keys = {key.encode(), key.anchors.encode()}
    partition = TopicPartition(topics.state, score.source.partition % broker.partitions(topics.state))
    found, anchors = _Beginning(), None
    for record in reader.read(partition, None, reader.end_offset(partition)):
        if record.key not in keys:
            continue
        if record.value is None:
            found = _Beginning()
            continue
        try:
            state = decode_state(record.key, record.value)
            if isinstance(state, StateRecord):
                state = state.whole(anchors)
        except MessageError as error:
            if error.newer:
                raise
            continue
        if isinstance(state, AnchorsRecord):
            anchors = state
        if not isinstance(state, StateRecord):
            continue
        if state.last_pts_ns is None or state.last_pts_ns < score.pts_ns:
            found = _Beginning(state)
        elif found.commands_end is None:
            found.commands_end = state.commands_offset
    return found


def _stream(
    beginning: _Beginning,
    models: LiveModels,
    score: ScoreRecord,
    settings: StreamSettings,
    notes: list[str],
) -> StreamState:
    source, state = TopicPartition(score.source.topic, score.source.partition), beginning.state
    if state is None:
        notes.append("state: none from before the frame is left; the replay begins with the earliest input")
    restored = Restored() if state is None else Restored(state.next_offset, {score.stream: state})
    partition = Partition(source, 0, restored, models, settings)
    stream = partition.stream(score.stream)
    if state is not None and stream.live.last_pts_ns != state.last_pts_ns:
        notes.append("state: of another model, or damaged; the replay begins anew, with the earliest input")
        beginning.state = None
    return stream


def _began_ns(reader: Reader, state: StateRecord | None, start: int, score: ScoreRecord) -> int | None:
    """When a stream began that begins anew, by the record at which the worker applied commands."""
    source = TopicPartition(score.source.topic, score.source.partition)
    first = start if state is None else max(start, state.next_offset)
    records = reader.read(source, first, reader.end_offset(source))
    return next((believed_ns(record.timestamp_ms) for record in records if record.key == score.key), None)


def _apply(
    commands: CommandsLog, stream: StreamState, name: str, beginning: _Beginning, began_ns: int | None, notes: list[str]
) -> None:
    first, end = 0 if beginning.state is None else beginning.state.commands_offset, beginning.commands_end
    applied = [c for c in commands.since(name, first) if end is None or c.offset < end]
    for command in applied:
        stream_notes = command.apply(stream.live, stream.gears, stream.alerts, began_ns)
        notes += [f"command: {warning}" for warning in stream_notes]
    if applied:
        notes.append(f"command: {len(applied)} enrolments and commands applied where the replay begins")


def _start(reader: Reader, state: StateRecord | None, score: ScoreRecord, notes: list[str]) -> int:
    source = TopicPartition(score.source.topic, score.source.partition)
    earliest = reader.beginning_offset(source)
    if earliest > score.source.offset:
        raise ReplayError(
            f"offset {score.source.offset} of {source.topic}/{source.partition} is gone; the first one is {earliest}",
            hint="keep the input longer (retention.ms of the topic) to replay older scores",
        )
    if state is None:
        return earliest
    wanted = state.next_offset if state.resume_offset is None else min(state.resume_offset, state.next_offset)
    if earliest > wanted:
        notes.append(f"input: offsets {wanted} to {earliest - 1} are gone; what they held is missing in the replay")
    return max(earliest, wanted)


def _find(records: Iterator[Record], stream: StreamState, score: ScoreRecord) -> tuple[ScoreRecord, int]:
    """The frame of the score, analysed; and how many were."""
    frames = 0
    for record in records:
        if record.key != score.key:
            continue
        payload = Payload(record.value or b"", record.headers, record.timestamp_ms, record.offset)
        try:
            decoded = stream.decoder.decode(payload, stream.gears.gear).frames
        except InputError:
            continue  # a dead letter then, and nothing now
        scores: list[ScoreRecord] = []
        while batch := list(islice(decoded, _BATCH)):
            for again in stream.live.process(batch, lambda frame: _source(record, frame)):  # noqa: B023
                frames += 1
                scores.append(again)
                if again.pts_ns == score.pts_ns:
                    return again, frames
                if again.pts_ns > score.pts_ns:
                    raise _missing(score)
        for again in scores:
            stream.gears.observe(again)
    raise _missing(score)


def _source(record: Record, frame: Any) -> Source:
    return Source(topic=record.topic, partition=record.partition, offset=frame.offset, index=frame.index)


def _missing(score: ScoreRecord) -> ReplayError:
    return ReplayError(
        f"no frame of {score.stream} is analysed at {score.pts_ns / 1e9:.3f} s",
        hint="give the --fps that the worker had; or the input around that frame is gone",
    )


def parse_lines(lines: Sequence[bytes], number: int) -> ScoreRecord:
    """The score record in a line, 1 being the first.

    Raises:
        ReplayError: no such line.
        MessageError: not a score record.
    """
    from stream.messages import decode

    filled = [line for line in lines if line.strip()]
    if not 1 <= number <= len(filled):
        raise ReplayError(f"no line {number} of {len(filled)}", hint="give a file as `difffake tail --json` prints it")
    return decode(filled[number - 1].strip(), ScoreRecord)
