"""The input partitions that are ours: restored when they come, held back while enough of them is in memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

import structlog

from stream.broker.contract import Consumer, Reader, TopicPartition
from stream.broker.errors import TopicNotFoundError
from stream.checkpoint import restore
from stream.live import LiveModels, OtherModelError
from stream.messages import MessageError
from stream.metrics.instruments import Metrics
from stream.partition import Partition, StreamSettings
from stream.settings import WorkerSettings

log = structlog.get_logger()


class Assignment:
    """What a worker holds of its inputs. In memory is a copy of what the state topic says, and the work since.

    Args:
        consumer, reader: of the inputs; of the state topic.
        state_partitions: of the state topic.
        settings: of the worker; ``streams``: of the rooms that a stream is made of.
        models: the networks.
        counts, metrics: what happened.

    Attributes:
        partitions: those that are ours.
        paused: those of them that are not read on.
    """

    def __init__(
        self,
        consumer: Consumer,
        reader: Reader,
        state_partitions: int,
        settings: WorkerSettings,
        streams: StreamSettings,
        models: LiveModels,
        counts: Counter[str],
        metrics: Metrics,
    ) -> None:
        self._consumer, self._reader, self._state_partitions = consumer, reader, state_partitions
        self._settings, self._streams, self._models = settings, streams, models
        self._counts, self._metrics = counts, metrics
        self.partitions: dict[TopicPartition, Partition] = {}
        self.paused: set[TopicPartition] = set()
        #: Where each partition stood when it became ours.
        self._starts: dict[TopicPartition, int] = {}
        #: Up to where what is gone of an input has been told.
        self._told: dict[TopicPartition, int] = {}

    def begin(self, source: TopicPartition) -> None:
        """A partition becomes ours."""
        self.paused.discard(source)
        self._starts[source] = self._consumer.position(source)
        self.open(source)

    def open(self, source: TopicPartition) -> None:
        """Read what the state topic says of a partition, and go on reading from there.

        Raises:
            MessageError: the state was written by a newer version.
        """
        began_s = time.monotonic()
        topic_id, first = self._input(source)
        restored = restore(self._reader, self._settings.topics, self._state_partitions, source, topic_id)
        for stream, error in restored.damaged.items():
            self._tell_lost(stream, error)
        position, gone = restored.resume_offset, 0
        if restored.is_remade:
            log.error("input topic made again", source=tuple(source), streams=len(restored.streams),
                      hint="it is read from its beginning; people, anchors and alerts are kept")  # fmt: skip
            self._counts["inputs_remade"] += 1
            self._metrics.input_remade()
            self._told.pop(source, None)
            position = first
        elif position is None:
            # Nothing was ever committed for it: back to where the group began to read.
            position = self._starts[source]
            if position > first and source not in self._told:
                gone, self._told[source] = 1, first
                log.error("state gone", source=tuple(source), position=position,
                          hint="the group has committed offsets, the state topic knows nothing of this partition "
                          "(deleted, given a retention, another --prefix?): all its streams begin anew")  # fmt: skip
                self._counts["state_gone"] += 1
        elif restored.next_offset is not None:
            self._tell_gone(source, restored.next_offset, first)
            position = max(position, first)
        self._consumer.seek(source, position)
        topic_id = topic_id or restored.topic_id
        self.partitions[source] = Partition(
            source, position, restored, self._models, self._streams, topic_id, self._tell_lost
        )
        took_s = time.monotonic() - began_s
        self._counts["restored_streams"] += len(restored.streams)
        self._metrics.restored(took_s, len(restored.streams))
        self._metrics.state_lost(gone)
        self._metrics.health.turn()
        log.info("partition", source=tuple(source), position=position, streams=len(restored.streams),
                 seconds=round(took_s, 3))  # fmt: skip

    def passed_over(self, part: Partition, offset: int) -> None:
        """The next record of a partition is not the one that was due: what lies between was compacted, aborted, or
        deleted before anybody came to it."""
        self._tell_gone(part.source, part.position, min(self._input(part.source)[1], offset))

    def is_remade(self, parts: Iterable[Partition]) -> bool:
        """Whether the topic of any of these partitions is another one by now."""
        before = {part.source.topic: part.topic_id for part in parts if part.topic_id}
        now = self._reader.topic_ids(before) if before else {}
        return any(now.get(topic, one) not in (one, "") for topic, one in before.items())

    def _input(self, source: TopicPartition) -> tuple[str, int]:
        """The id of a partition's topic, and its first offset; of one that is deleted by now, nothing."""
        try:
            return self._reader.topic_ids([source.topic])[source.topic], self._reader.beginning_offset(source)
        except (KeyError, TopicNotFoundError):
            return "", 0

    def _tell_lost(self, stream: str, error: MessageError) -> None:
        """A stream whose state cannot be used begins anew."""
        if isinstance(error, OtherModelError):  # as whoever changed the bundle wants it
            log.info("state of other networks", stream=stream, error=str(error), hint=error.hint)
            self._counts["state_of_other_networks"] += 1
            return
        log.warning("state lost", stream=stream, error=str(error), hint=error.hint)
        self._counts["state_lost"] += 1
        self._metrics.state_lost(1)

    def _tell_gone(self, source: TopicPartition, due: int, first: int) -> None:
        """Records from ``due`` up to ``first`` are gone unread: nobody looked at them, and nobody will."""
        due = max(due, self._told.get(source, 0))
        if first <= due:
            return
        self._told[source] = first
        log.error("input gone unread", source=tuple(source), records=first - due,
                  hint="keep input for longer (retention.ms, retention.bytes), or start more workers")  # fmt: skip
        self._counts["records:gone_unread"] += first - due
        self._metrics.gone_unread(first - due)

    def hold_back(self, waiting: Counter[TopicPartition], size: Counter[TopicPartition]) -> None:
        """Partitions with their share of memory in use are not read on.

        Args:
            waiting, size: records of a partition that wait, and their bytes.
        """
        share = self._settings.waiting_bytes / max(1, len(self.partitions))
        most = self._settings.waiting_records
        full = {p for p in self.partitions if size[p] >= share or waiting[p] >= most}
        freed = {p for p in self.paused if size[p] < share / 2 and waiting[p] < most / 2}
        if new := full - self.paused:
            self._consumer.pause(new)
            self._counts["pauses"] += len(new)
        if old := (self.paused & self.partitions.keys()) & freed:
            self._consumer.resume(old)
        self.paused = (self.paused | new) - freed
