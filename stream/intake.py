"""Records that were read and wait for their turn: each stream in order, every stream its share.

Who has been served least is next, so that a stream that floods waits for itself alone; a stream that was idle does not
save up for later. Streams under suspicion go first.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from stream.broker.contract import Record, TopicPartition

#: A stream: the partition that its records come through, and its id.
StreamKey = tuple[TopicPartition, str]
#: Who is next: what is under suspicion, has been served least, and came first.
_Rank = tuple[bool, float, int, StreamKey]
#: Ranks that hold no more, beyond one for each stream that waits, before they are looked through.
_FEW_OUTDATED = 64
#: Streams of which nothing waits, and of which is known how far they were served: before they are looked through, and
#: at the most afterwards.
_FEW_SERVED, _MOST_SERVED = 1_024, 32_768


@dataclass(slots=True)
class _Queue:
    """What waits of one stream. ``served``: frames it was given, on the scale that all streams share."""

    served: float
    records: deque[Record] = field(default_factory=deque)
    urgent: bool = False

    def rank(self, key: StreamKey) -> _Rank:
        return not self.urgent, self.served, self.records[0].offset, key


class Intake:
    """The records of all partitions that are ours, up to what the owner lets in."""

    def __init__(self) -> None:
        self._queues: dict[StreamKey, _Queue] = {}
        #: A heap: the rank of each queue, among others that it had before.
        self._ranks: list[_Rank] = []
        self._served: dict[StreamKey, float] = {}
        #: Streams under suspicion, whether anything of them waits or not.
        self._urgent: set[StreamKey] = set()
        self._now = 0.0
        self._most_served = _FEW_SERVED
        #: Bytes that wait, by partition.
        self.waiting_bytes: Counter[TopicPartition] = Counter()
        #: Records that wait, by partition.
        self.waiting: Counter[TopicPartition] = Counter()

    def __len__(self) -> int:
        """Records that wait."""
        return sum(self.waiting.values())

    def put(self, stream: str, record: Record) -> None:
        """Let a record wait behind the others of its stream."""
        key = record.source, stream
        queue = self._queues.get(key)
        if queue is None:
            served = max(self._now, self._served.get(key, 0.0))
            queue = self._queues[key] = _Queue(served, urgent=key in self._urgent)
        queue.records.append(record)
        if len(queue.records) == 1:
            self._rank(key, queue)
        self.waiting[key[0]] += 1
        self.waiting_bytes[key[0]] += len(record.value or b"")

    def put_back(self, key: StreamKey, record: Record) -> None:
        """Let a record wait again before the others of its stream."""
        served = self._served.get(key, self._now)
        queue = self._queues.setdefault(key, _Queue(served, urgent=key in self._urgent))
        queue.records.appendleft(record)
        self._rank(key, queue)
        self.waiting[key[0]] += 1
        self.waiting_bytes[key[0]] += len(record.value or b"")

    def pick(self, busy: Container[StreamKey]) -> tuple[StreamKey, Record] | None:
        """The next record, of a stream that is not busy; None where there is none."""
        passed_over, found = [], None
        while self._ranks and found is None:
            rank = heapq.heappop(self._ranks)
            key = rank[-1]
            queue = self._queues.get(key)
            if queue is None or queue.rank(key) != rank:
                continue
            if key in busy:
                passed_over.append(rank)
                continue
            self._now = max(self._now, queue.served)
            found = self._taken(key)
        for rank in passed_over:
            heapq.heappush(self._ranks, rank)
        return found

    def pick_late(
        self, busy: Container[StreamKey], is_late: Callable[[Record, bool], bool]
    ) -> tuple[StreamKey, Record] | None:
        """The next record that is too late to be worked on, out of turn, of a stream that is not busy; None where there
        is none.

        Args:
            busy: see `pick`.
            is_late: of a record, and whether its stream is under suspicion.
        """
        for key, queue in self._queues.items():
            if key not in busy and is_late(queue.records[0], queue.urgent):
                return self._taken(key)
        return None

    def follow(self, key: StreamKey, most: int, most_bytes: int, goes_with: Callable[[Record], bool]) -> list[Record]:
        """What waits next of a stream of which a record was taken, to be worked on in one go with that.

        Args:
            most, most_bytes: so many at most, and together no larger than that.
            goes_with: of a record, whether it may be among them; the first that may not ends them.
        """
        found: list[Record] = []
        queue = self._queues.get(key)
        while queue is not None and len(found) < most:
            most_bytes -= len(queue.records[0].value or b"")
            if most_bytes < 0 or not goes_with(queue.records[0]):
                break
            found.append(self._taken(key)[1])
            queue = self._queues.get(key)
        return found

    def _rank(self, key: StreamKey, queue: _Queue) -> None:
        """A queue has another rank than before."""
        heapq.heappush(self._ranks, queue.rank(key))
        if len(self._ranks) > 2 * len(self._queues) + _FEW_OUTDATED:
            self._ranks = [queue.rank(key) for key, queue in self._queues.items()]
            heapq.heapify(self._ranks)

    def _taken(self, key: StreamKey) -> tuple[StreamKey, Record]:
        queue = self._queues[key]
        record = queue.records.popleft()
        if queue.records:
            self._rank(key, queue)
        else:
            self._served[key] = queue.served
            del self._queues[key]
        self.waiting[key[0]] -= 1
        self.waiting_bytes[key[0]] -= len(record.value or b"")
        return key, record

    def serve(self, key: StreamKey, cost: float, *, urgent: bool) -> None:
        """Records of a stream were worked on, at this cost; it is under suspicion or not."""
        queue = self._queues.get(key)
        if queue is None:
            self._served[key] = self._served.get(key, self._now) + cost
        else:
            queue.served += cost
            queue.urgent = urgent
            self._rank(key, queue)
        (self._urgent.add if urgent else self._urgent.discard)(key)
        if len(self._urgent) > len(self._queues) + _MOST_SERVED:  # of whom nothing ever comes again
            self._urgent.intersection_update(self._queues)
        if len(self._served) > 2 * len(self._queues) + self._most_served:
            self._forget_served()

    def _forget_served(self) -> None:
        """Who lies behind the present may as well be a stranger; of strangers that never come again, as ids that are
        made up for each record, some are made such early. Seldom: it looks at all of them."""
        ahead = {k: s for k, s in self._served.items() if s > self._now}
        if len(ahead) > _MOST_SERVED:
            ahead = dict(heapq.nlargest(_MOST_SERVED // 2, ahead.items(), key=lambda item: item[1]))
        self._served, self._most_served = ahead, _FEW_SERVED + 2 * len(ahead)

    def drop(self, source: TopicPartition) -> None:
        """Forget what waits of a partition."""
        for key in [key for key in self._queues if key[0] == source]:
            del self._queues[key]
        self._urgent = {key for key in self._urgent if key[0] != source}
        del self.waiting[source], self.waiting_bytes[source]
