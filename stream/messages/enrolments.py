"""Trusted anchors, operator commands, and how batches are put together, on the compacted topic
``difffake.enrolments``; every worker reads it whole.

A null value (tombstone) takes an enrolment back. Keys are made so that compaction drops a record only where a later
one makes it void: commands of different kinds, or about different people, all stay.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import msgspec

from stream.messages.codec import (
    FOREIGN,
    UNREADABLE,
    EvidenceName,
    Message,
    MessageError,
    Name,
    Nanoseconds,
    StreamId,
    decode,
)

MAX_ANCHOR_BYTES = 8 << 20
#: The one key of `BatchRecord`. No stream has it: a ``#`` in the name of one is percent-encoded.
BATCH_KEY = b"#workers/batch"
_BEFORE_ALERTS = 2
_NS = 1_000_000_000


class Command(StrEnum):
    """What an operator can do: to anchors, to how closely a stream is looked at, and to its alerts."""

    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    RESET = "reset"
    FORGET = "forget"
    GEAR_WATCH = "gear-watch"
    GEAR_ANALYSE = "gear-analyse"
    GEAR_SCRUTINISE = "gear-scrutinise"
    GEAR_DEFAULT = "gear-default"
    ALERT_BUDGET = "alert-budget"
    ALERT_MUTE = "alert-mute"
    ALERT_UNMUTE = "alert-unmute"
    ALERT_ACKNOWLEDGE = "alert-acknowledge"


#: These are a stream's. A person whom any other command names by a number is one of a stream's scores.
_OF_STREAMS = frozenset(
    {Command.GEAR_WATCH, Command.GEAR_ANALYSE, Command.GEAR_SCRUTINISE, Command.GEAR_DEFAULT, Command.ALERT_BUDGET}
)


class EnrolmentRecord(
    Message, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="enrolment"
):
    """A person's anchor from trusted footage.

    Args:
        version: of this schema.
        stream: the stream's id.
        person: the enrolled name.
        anchors: an `anchors.msgpack` with this one person, as `difffake enroll` writes it; base64.
        issued_ns: when, nanoseconds since the epoch.
        by: the operator.
        id: unique to this enrolment.
    """

    NAME: ClassVar[str] = "enrolment"
    MAX_BYTES: ClassVar[int] = 12 << 20

    version: Literal[1] = 1
    stream: StreamId
    person: Name
    anchors: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_ANCHOR_BYTES)]
    issued_ns: Nanoseconds
    by: Name
    id: Name

    @property
    def key(self) -> bytes:
        """Of the Kafka record."""
        return enrolment_key(self.stream, self.person)


class CommandRecord(Message, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="command"):
    """An operator's command about a stream: its anchors, how closely it is looked at, or its alerts.

    Args:
        version: of this schema.
        stream: the stream's id.
        command: what to do.
        person: an enrolled name, or the number of a person in this stream's scores; null: everybody. Gears are the
            stream's, not a person's, and so are budgets.
        evidence: of a command about alerts: which; null: all of them, and for other commands.
        value: `alert-budget`: false alerts per stream-day, null: as the workers are set; `alert-mute`: seconds of
            stream time, null: until it is taken back; null for other commands.
        alert: `alert-acknowledge`: the id of the alert; null for other commands.
        issued_ns: when, nanoseconds since the epoch.
        by: the operator.
        id: unique to this command.
    """

    NAME: ClassVar[str] = "command"
    MAX_BYTES: ClassVar[int] = 64 << 10

    version: Literal[3] = 3
    stream: StreamId
    command: Command
    person: Annotated[int, msgspec.Meta(ge=0)] | Name | None
    evidence: EvidenceName | None = None
    value: Annotated[float, msgspec.Meta(gt=0)] | None = None
    alert: Name | None = None
    issued_ns: Nanoseconds
    by: Name
    id: Name

    @property
    def key(self) -> bytes:
        """Of the Kafka record: ``stream/#command/person``, ``#3`` for a number, ``#all`` for everybody; about one
        evidence alone ``stream/#command:evidence/person``."""
        who = "#all" if self.person is None else f"#{self.person}" if isinstance(self.person, int) else None
        name = who or _escaped(str(self.person))
        what = self.command.value if self.evidence is None else f"{self.command.value}:{self.evidence}"
        return f"{_escaped(self.stream)}/#{what}/{name}".encode()

    def left(self, began_ns: int) -> CommandRecord | None:
        """What is left of it where a stream begins anew, at ``began_ns`` since the epoch; None: nothing.

        A mute lasts for the rest of its time. Numbers of people are of one life of a stream: now they name others.
        """
        if self.issued_ns >= began_ns:
            return self
        if isinstance(self.person, int) and self.command not in _OF_STREAMS:
            return None
        if self.command is not Command.ALERT_MUTE or self.value is None:
            return self
        left_s = self.value - (began_ns - self.issued_ns) / _NS
        return msgspec.structs.replace(self, value=left_s) if left_s > 0 else None


class BatchRecord(Message, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="batch"):
    """How workers put the batches of their networks together, from now on; the last one counts, as a whole.

    Args:
        version: of this schema.
        size: the most frames in one; null: as each worker was started.
        deadline_s: longest wait of a frame for company, s; null: as each worker was started.
        issued_ns: when, nanoseconds since the epoch.
        by: the operator.
        id: unique to this record.
    """

    NAME: ClassVar[str] = "batch"
    MAX_BYTES: ClassVar[int] = 64 << 10

    version: Literal[1] = 1
    size: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None
    deadline_s: Annotated[float, msgspec.Meta(ge=0, le=10)] | None
    issued_ns: Nanoseconds
    by: Name
    id: Name

    @property
    def key(self) -> bytes:
        """Of the Kafka record."""
        return BATCH_KEY


class _Head(msgspec.Struct):
    type: Literal["enrolment", "command", "batch"]
    version: int = 0


def enrolment_key(stream: str, person: str) -> bytes:
    """``stream/person``, for an enrolment or its tombstone; ``%``, ``/`` and ``#`` inside names are percent-encoded."""
    return f"{_escaped(stream)}/{_escaped(person)}".encode()


def decode_enrolment(value: bytes) -> EnrolmentRecord | CommandRecord | BatchRecord:
    """The record of the enrolments topic with this value. Commands of version 2 are read too: the topic keeps them for
    years, and a freeze must outlive an upgrade.

    Raises:
        MessageError: as `decode`.
    """
    try:
        head = msgspec.json.decode(value[: EnrolmentRecord.MAX_BYTES + 1], type=_Head)
    except UNREADABLE:
        head = _Head("enrolment")  # whose decoder says what is wrong
    if head.type == "enrolment":
        return decode(value, EnrolmentRecord)
    if head.type == "batch":
        return decode(value, BatchRecord)
    if head.version == _BEFORE_ALERTS and len(value) <= CommandRecord.MAX_BYTES:
        # The head passes over whatever else there is; here it is read.
        try:
            old: dict[str, object] = msgspec.json.decode(value)
            value = msgspec.json.encode({**old, "version": 3})
        except UNREADABLE as error:
            raise MessageError(f"not a {CommandRecord.NAME}: {error}", hint=FOREIGN) from error
    return decode(value, CommandRecord)


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")


def parse_enrolment_key(key: bytes | None) -> tuple[str, str]:
    """Stream and person (empty for a command) of a key of the enrolments topic.

    Raises:
        MessageError: it is none.
    """
    try:
        stream, person, *more = (key or b"").decode().split("/")
        if not stream or len(more) > 1 or bool(more) != person.startswith("#"):
            raise ValueError("not stream/person, nor stream/#command/person")
    except ValueError as error:
        raise MessageError(
            f"not the key of an enrolment: {(key or b'')[:80]!r}", hint="publish it with `difffake enroll`"
        ) from error
    return _plain(stream), "" if more else _plain(person)


def _plain(name: str) -> str:
    return name.replace("%23", "#").replace("%2F", "/").replace("%25", "%")
