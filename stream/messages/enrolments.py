"""Trusted anchors and operator commands, on the compacted topic ``difffake.enrolments``; every worker reads it whole.

A null value (tombstone) takes an enrolment back. Keys are made so that compaction drops a record only where a later
one makes it void: commands of different kinds, or about different people, all stay.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import msgspec

from stream.messages.codec import Message, MessageError, Name, Nanoseconds, StreamId, decode

MAX_ANCHOR_BYTES = 8 << 20


class Command(StrEnum):
    """What an operator can do: to anchors, and to how closely a stream is looked at."""

    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    RESET = "reset"
    FORGET = "forget"
    GEAR_WATCH = "gear-watch"
    GEAR_ANALYSE = "gear-analyse"
    GEAR_SCRUTINISE = "gear-scrutinise"
    GEAR_DEFAULT = "gear-default"


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
    """An operator's command about a stream: its anchors, or how closely it is looked at.

    Args:
        version: of this schema.
        stream: the stream's id.
        command: what to do.
        person: an enrolled name, or the number of a person in this stream's scores; null: everybody. Gears are the
            stream's, not a person's.
        issued_ns: when, nanoseconds since the epoch.
        by: the operator.
        id: unique to this command.
    """

    NAME: ClassVar[str] = "command"
    MAX_BYTES: ClassVar[int] = 64 << 10

    version: Literal[2] = 2
    stream: StreamId
    command: Command
    person: Annotated[int, msgspec.Meta(ge=0)] | Name | None
    issued_ns: Nanoseconds
    by: Name
    id: Name

    @property
    def key(self) -> bytes:
        """Of the Kafka record: ``stream/#command/person``, ``#3`` for a number, ``#all`` for everybody."""
        who = "#all" if self.person is None else f"#{self.person}" if isinstance(self.person, int) else None
        name = who or _escaped(str(self.person))
        return f"{_escaped(self.stream)}/#{self.command.value}/{name}".encode()


class _Type(msgspec.Struct):
    type: Literal["enrolment", "command"]


def enrolment_key(stream: str, person: str) -> bytes:
    """``stream/person``, for an enrolment or its tombstone; ``%``, ``/`` and ``#`` inside names are percent-encoded."""
    return f"{_escaped(stream)}/{_escaped(person)}".encode()


def decode_enrolment(value: bytes) -> EnrolmentRecord | CommandRecord:
    """The record of the enrolments topic with this value.

    Raises:
        MessageError: as `decode`.
    """
    try:
        kind = msgspec.json.decode(value[: EnrolmentRecord.MAX_BYTES + 1], type=_Type).type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        kind = "enrolment"  # whose decoder says what is wrong
    return decode(value, CommandRecord) if kind == "command" else decode(value, EnrolmentRecord)


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
