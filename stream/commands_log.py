"""What operators told, as the enrolments topic has it: read whole, and again from time to time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from stream.alerts import Alerts
from stream.batcher import BatchSettings
from stream.broker.contract import Reader, Record, TopicPartition
from stream.decode import Gear
from stream.gears import Gears
from stream.live import LiveStream
from stream.messages import BatchRecord, Command, CommandRecord, EnrolmentRecord, decode_enrolment
from stream.messages.codec import MessageError
from stream.messages.enrolments import BATCH_KEY, parse_enrolment_key

log = structlog.get_logger()

_GEARS = {
    Command.GEAR_WATCH: Gear.WATCH,
    Command.GEAR_ANALYSE: Gear.ANALYSE,
    Command.GEAR_SCRUTINISE: Gear.SCRUTINISE,
    Command.GEAR_DEFAULT: None,
}
_ALERTS = frozenset({Command.ALERT_BUDGET, Command.ALERT_MUTE, Command.ALERT_UNMUTE, Command.ALERT_ACKNOWLEDGE})


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry of the topic. ``record`` is None where an enrolment of ``person`` was taken back."""

    offset: int
    person: str
    record: EnrolmentRecord | CommandRecord | None

    def apply(self, stream: LiveStream, gears: Gears, alerts: Alerts, began_ns: int | None = None) -> list[str]:
        """Do it to a stream; returns warnings.

        Args:
            began_ns: where the stream begins anew, when it did by its first record, ns since the epoch: of a command
                from before then counts what is left of it. None: the stream goes on, or nobody knows when it began.
        """
        record = self.record
        if record is None:
            stream.withdraw(self.person)
            return []
        if isinstance(record, CommandRecord) and began_ns is not None:
            record = record.left(began_ns)
            if record is None:
                return []
        if isinstance(record, CommandRecord) and record.command in _GEARS:
            gears.set_base(_GEARS[record.command])
            return []
        if isinstance(record, CommandRecord) and record.command in _ALERTS:
            return alerts.apply(record)
        return stream.apply(record)


class CommandsLog:
    """What the topic holds, by stream, in order of offsets; a newer record of one key takes the place of the older.

    Args:
        reader: of committed records.
        topic: of one partition: its offsets are the order in which things are applied.
        every_s: how often `refresh` looks.
    """

    def __init__(self, reader: Reader, topic: str, every_s: float) -> None:
        self._reader, self._partition, self._every_s = reader, TopicPartition(topic, 0), every_s
        self._next, self._looked_s, self._topic_id = 0, float("-inf"), ""
        self._entries: dict[str, dict[bytes, Pending]] = {}
        self._batch: BatchRecord | None = None
        self.refused = 0

    def refresh(self) -> None:
        """Read what has come, if it is time to look.

        Raises:
            MessageError: a record of a newer version.
        """
        now = time.monotonic()
        if now - self._looked_s < self._every_s:
            return
        self._looked_s = now
        end = self._reader.end_offset(self._partition)
        if end != self._next:
            self._look_again(end)
        if end > self._next:
            for record in self._reader.read(self._partition, self._next or None, end):
                self._take(record)
            self._next = end

    def _look_again(self, end: int) -> None:
        """Something came: is it the same topic?"""
        topic = self._partition.topic
        topic_id = self._reader.topic_ids([topic]).get(topic, "")
        if end < self._next or (self._topic_id and topic_id != self._topic_id):
            log.error("the topic of enrolments was made again", topic=topic,
                      hint="it is read from its beginning; what was applied before still holds")  # fmt: skip
            self._entries, self._batch, self._next = {}, None, 0
        self._topic_id = topic_id

    def since(self, stream: str, offset: int) -> Sequence[Pending]:
        """The entries of a stream from an offset on, in order; one beyond the end is of a topic that is no more."""
        entries = self._entries.get(stream)
        if not entries:
            return ()
        if offset > self._next:
            self._looked_s = float("-inf")  # another worker may have read on before us
            self.refresh()
            entries, offset = self._entries.get(stream, {}), 0 if offset > self._next else offset
        return sorted((e for e in entries.values() if e.offset >= offset), key=lambda e: e.offset)

    def batch(self, started: BatchSettings) -> BatchSettings:
        """How batches are put together now, by a worker that was started with these settings."""
        told = self._batch
        if told is None:
            return started
        return BatchSettings(
            size=started.size if told.size is None else told.size,
            deadline_s=started.deadline_s if told.deadline_s is None else told.deadline_s,
        )

    def _take(self, record: Record) -> None:
        try:
            stream, person = ("", "") if record.key == BATCH_KEY else parse_enrolment_key(record.key)
            value = None if record.value is None else decode_enrolment(record.value)
            if value is not None and value.key != record.key:
                raise MessageError("an enrolment under the key of another", hint="publish it with `difffake enroll`")
        except MessageError as error:
            if error.newer:
                raise
            self.refused += 1
            log.warning("enrolment refused", offset=record.offset, error=str(error), hint=error.hint)
            return
        if record.key == BATCH_KEY:
            self._batch = value if isinstance(value, BatchRecord) else None
        elif not isinstance(value, BatchRecord):
            self._entries.setdefault(stream, {})[record.key or b""] = Pending(record.offset, person, value)
