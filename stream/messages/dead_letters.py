"""Input that could not be used, on the topic ``difffake.deadletters``: the original record and, in headers, why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import msgspec

from difffake.errors import DiffFakeError
from stream.broker.contract import Record
from stream.messages.codec import MessageError, Name, Offset, Partition, Text, Topic, bounded, check_version

PREFIX = "difffake-error-"
VERSION = 1
_UNEXPECTED = "report this as a bug of difffake, with this record"


def _header(field: str) -> str:
    return PREFIX + field.replace("_", "-")


class ErrorHeaders(msgspec.Struct, frozen=True, kw_only=True, rename=_header):
    """The headers that a dead letter has beside the original ones; numbers are written in decimal digits.

    Args:
        version: of this schema.
        topic: of the original record.
        partition: of the original record.
        offset: of the original record.
        timestamp_ms: of the original record, milliseconds since the epoch; -1 where it had none.
        stage: what was being done to it.
        class_name: the kind of failure, to count by.
        message: what was wrong.
        hint: what to do about it.
        value_bytes: the size of the original value; where the dead letter's own value is null and this is not 0, the
            original was too large to be sent again and is found at its offset only.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]
    topic: Topic
    partition: Partition
    offset: Offset
    timestamp_ms: Annotated[int, msgspec.Meta(ge=-1)]
    stage: Name
    class_name: Name = msgspec.field(name=PREFIX + "class")
    message: Text
    hint: Text
    value_bytes: Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An input record that could not be used.

    Args:
        key, value: the original bytes.
        original: the original headers, without those of an earlier failure.
        error: what went wrong.
    """

    key: bytes | None
    value: bytes | None
    original: tuple[tuple[str, bytes], ...]
    error: ErrorHeaders

    @classmethod
    def from_record(cls, record: Record, error: Exception, stage: str) -> DeadLetter:
        """The dead letter of a record that failed.

        Args:
            record: as it was read.
            error: why; one that is no `DiffFakeError` is called a bug.
            stage: what was being done to it, a few words.
        """
        hint = error.hint if isinstance(error, DiffFakeError) else _UNEXPECTED
        headers = ErrorHeaders(
            version=VERSION,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=max(record.timestamp_ms, -1),
            stage=stage,
            class_name=type(error).__name__[:256],
            message=bounded(str(error)),
            hint=bounded(hint),
            value_bytes=len(record.value or b""),
        )
        original = tuple((name, value) for name, value in record.headers if not name.startswith(PREFIX))
        return cls(record.key, record.value, original, headers)

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """Of the Kafka record: the original ones, then ours."""
        ours = msgspec.to_builtins(self.error)
        return (*self.original, *((name, str(value).encode()) for name, value in ours.items()))

    def without_value(self) -> DeadLetter:
        """This one without the original bytes, for those too large to be sent again with more headers."""
        return replace(self, value=None)

    @classmethod
    def parse(cls, record: Record) -> DeadLetter:
        """The dead letter in a record of the dead-letter topic.

        Raises:
            MessageError: it is none, or of a newer version.
        """
        try:
            ours = {name: value.decode() for name, value in record.headers if name.startswith(PREFIX)}
            check_version("dead letter", int(ours.get(PREFIX + "version", "0")), VERSION)
            error = msgspec.convert(ours, ErrorHeaders, strict=False)
        except (msgspec.ValidationError, ValueError) as wrong:
            if isinstance(wrong, MessageError):
                raise
            raise MessageError(
                f"not a dead letter: {wrong}", hint="check that the topic is difffake's dead-letter topic"
            ) from wrong
        original = tuple((name, value) for name, value in record.headers if not name.startswith(PREFIX))
        return cls(record.key, record.value, original, error)
