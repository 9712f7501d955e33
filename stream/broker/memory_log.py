"""The logs of the in-memory broker: offsets, transactions and compaction as Kafka keeps them (KIP-98).

A commit or an abort leaves a marker in each partition that it wrote to, and the marker takes an offset, so offsets
have the same holes as on Kafka.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from dataclasses import dataclass, field

from stream.broker.contract import Record, TopicPartition

# What a record batch of one record costs on Kafka besides key, value and headers (message format 2).
RECORD_OVERHEAD_BYTES = 82


class State(enum.Enum):
    """Of a transaction."""

    OPEN = enum.auto()
    COMMITTED = enum.auto()
    ABORTED = enum.auto()


@dataclass(eq=False, slots=True)
class Transaction:
    """What one producer wrote since `begin`: partitions touched and, per group, offsets to commit with them."""

    began_s: float
    state: State = State.OPEN
    logs: set[TopicPartition] = field(default_factory=set)
    offsets: dict[str, dict[TopicPartition, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One offset of a log: a record, or the marker that ends a transaction there."""

    record: Record
    transaction: Transaction | None
    marker: bool = False

    @property
    def visible(self) -> bool:
        """To those who read committed records."""
        return not self.marker and (self.transaction is None or self.transaction.state is State.COMMITTED)


def size_bytes(key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> int:
    """What counts against a limit on message size."""
    payload = len(key or b"") + len(value or b"")
    return payload + sum(len(name.encode()) + len(content) for name, content in headers) + RECORD_OVERHEAD_BYTES


class Log:
    """One partition. Not thread-safe by itself: the broker's lock is held around every call."""

    def __init__(self, source: TopicPartition) -> None:
        self.source = source
        self.end = 0
        self.beginning = 0
        self._entries: list[Entry] = []
        self._open: dict[Transaction, int] = {}  # transactions open here -> their first offset

    def append(
        self,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes], ...],
        timestamp_ms: int,
        transaction: Transaction | None,
    ) -> None:
        """One record at the end; it belongs to the transaction from here on."""
        record = Record(self.source.topic, self.source.partition, self.end, key, value, headers, timestamp_ms)
        self._entries.append(Entry(record, transaction))
        if transaction is not None:
            transaction.logs.add(self.source)
            self._open.setdefault(transaction, self.end)
        self.end += 1

    def mark(self, transaction: Transaction) -> None:
        """The transaction has ended: its marker."""
        self._open.pop(transaction, None)
        record = Record(self.source.topic, self.source.partition, self.end, None, None, (), -1)
        self._entries.append(Entry(record, transaction, marker=True))
        self.end += 1

    @property
    def stable(self) -> int:
        """The last stable offset: nobody who reads committed records gets past it."""
        return min(self._open.values(), default=self.end)

    def read(self, position: int, limit: int, *, committed: bool) -> tuple[list[Record], int]:
        """At most `limit` records from `position` on, and the position after them."""
        stop = self.stable if committed else self.end
        found: list[Record] = []
        position = max(position, self.beginning)
        for entry in itertools.islice(self._entries, self._index(position), None):
            if len(found) == limit:
                return found, position
            if entry.record.offset >= stop:
                break
            if entry.visible or (not committed and not entry.marker):
                found.append(entry.record)
            position = entry.record.offset + 1
        return found, max(position, stop)

    def offset_for_time(self, timestamp_ms: int) -> int | None:
        """The first offset whose record is at or after that time."""
        times = ((e.record.offset, e.record.timestamp_ms) for e in self._entries if not e.marker)
        return next((offset for offset, stamp in times if stamp >= timestamp_ms), None)

    def compact(self, *, drop_tombstones: bool) -> None:
        """Keeps the newest committed record of every key below the last stable offset; aborted ones go."""
        stable = self.stable
        newest = {e.record.key: e.record.offset for e in self._entries if e.visible and e.record.offset < stable}
        self._entries = [
            entry
            for entry in self._entries
            if entry.record.offset >= stable
            or (
                entry.visible
                and newest[entry.record.key] == entry.record.offset
                and not (drop_tombstones and entry.record.value is None)
            )
        ]

    def delete_before(self, offset: int) -> None:
        """Retention: what lies before `offset` is gone."""
        self._entries = self._entries[self._index(offset) :]
        self.beginning = max(self.beginning, min(offset, self.end))

    def _index(self, offset: int) -> int:
        return bisect.bisect_left(self._entries, offset, key=lambda entry: entry.record.offset)
