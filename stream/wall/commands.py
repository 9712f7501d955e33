"""Reads the commands on the enrolments topic, for what the wall must know of them."""

from __future__ import annotations

import time

import structlog

from stream.broker.contract import Reader, Record, TopicPartition
from stream.broker.errors import AuthenticationError, TopicNotFoundError
from stream.messages import CommandRecord, MessageError, decode_enrolment
from stream.wall.model import Wall

log = structlog.get_logger()

#: Records read in one go: the topic also holds anchors, of which some are large. And how long one look may take: a wall
#: that has just been opened must know soon who is muted.
_LOOK_RECORDS = 200
_LOOK_S = 0.5
_COMMAND = b"/#"


class CommandWatch:
    """Reads the enrolments topic for mutes; where that is not allowed, or there is none yet, the wall goes without.

    Args:
        wall: who is told.
        reader: of the cluster.
        topic: of enrolments and commands.
    """

    def __init__(self, wall: Wall, reader: Reader, topic: str) -> None:
        self._wall, self._reader = wall, reader
        self._partition, self._next = TopicPartition(topic, 0), 0
        self._is_told = False

    def look(self) -> None:
        """Read what has come, as far as that takes no longer than `_LOOK_S`.

        Raises:
            BrokerError: Kafka does not answer.
        """
        try:
            until_s = time.monotonic() + _LOOK_S
            start = max(self._next, self._reader.beginning_offset(self._partition))
            last = self._reader.end_offset(self._partition)
            while start < last and time.monotonic() < until_s:
                end = min(last, start + _LOOK_RECORDS)
                for record in self._reader.read(self._partition, start, end):
                    self._take(record)
                self._next = start = end
        except (AuthenticationError, TopicNotFoundError) as error:
            if not self._is_told:
                self._is_told = True
                log.warning("the wall cannot read commands, and so does not know of mutes", problem=str(error))

    def _take(self, record: Record) -> None:
        if record.value is None or _COMMAND not in (record.key or b"") or len(record.value) > CommandRecord.MAX_BYTES:
            return
        try:
            command = decode_enrolment(record.value)
        except MessageError as error:
            log.warning("a command that the wall cannot read", offset=record.offset, error=str(error), hint=error.hint)
            return
        if isinstance(command, CommandRecord):
            self._wall.take_command(command)
