"""The commit of all partitions that are ours: what goes into it, and what may be let go of around it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import structlog

from stream.broker.contract import TopicPartition
from stream.broker.errors import BrokerError, BrokerUnavailableError, FencedError, StaleGroupError
from stream.checkpoint import Checkpoint
from stream.metrics.instruments import Metrics
from stream.partition import Partition
from stream.settings import WorkerSettings
from stream.settling import Settling
from stream.tracing import Tracing

log = structlog.get_logger()


class Commits:
    """Commits what was settled.

    Args:
        checkpoint: where that waits.
        partitions: those that are ours, as they are when a commit is made.
        settling: knows which streams are busy, and the traces of the records.
        settings: of the worker.
        tracing: follows records.
        counts, metrics: what happened.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        partitions: Mapping[TopicPartition, Partition],
        settling: Settling,
        settings: WorkerSettings,
        tracing: Tracing,
        counts: Counter[str],
        metrics: Metrics,
    ) -> None:
        self._checkpoint, self._partitions, self._settling = checkpoint, partitions, settling
        self._settings, self._tracing, self._counts, self._metrics = settings, tracing, counts, metrics
        #: Commits in a row that failed.
        self._failures = 0

    def commit(self) -> bool:
        """Commit, if there is anything; False where nothing was written, and all is to be read back.

        Raises:
            BrokerError: it is of no use to try again.
        """
        if not self._checkpoint.is_open:
            return True
        parts = [p for p in self._partitions.values() if p.moved or p.has_dirty]
        idle_s, began_s = time.monotonic() - self._settings.idle_s, time.perf_counter()
        outdated_s = time.monotonic() - self._settings.forget_s
        most = max(1, self._settings.kept_streams // max(1, len(self._partitions)))
        for part in parts:
            part.let_go_of_idle(idle_s, self._settling.busy_in(part))
        try:
            with self._tracing.commit(self._settling.traces):
                self._checkpoint.commit(
                    (state for part in parts for state in part.dirty_states()),
                    {part.source: part.next_offset for part in parts},
                    {part.source: part.resume_offset for part in parts},
                    [key for part in parts for key in part.outdated(outdated_s, self._settling.busy_in(part), most)],
                    {part.source.topic: part.topic_id for part in parts},
                )
        except (FencedError, BrokerUnavailableError) as error:
            self._metrics.failed(error)
            raise
        except BrokerError as error:
            self._failures += 1
            self._metrics.failed(error)
            self._counts[f"aborts:{type(error).__name__}"] += 1
            log.warning("commit failed", error=str(error), failures=self._failures)
            if self._failures >= self._settings.retries and not isinstance(error, StaleGroupError):
                raise
            return False
        self._failures = 0
        self._settling.traces.clear()
        self._counts["commits"] += 1
        self._metrics.committed(time.perf_counter() - began_s)
        self._let_go(parts)
        return True

    def _let_go(self, parts: list[Partition]) -> None:
        """What was committed is safe: streams that are gone are forgotten, and no more are kept ready than may be."""
        if gone := sum([part.committed() for part in parts]):
            self._counts["forgotten"] += gone
            log.info("forgotten", streams=gone, silent_s=self._settings.forget_s, most=self._settings.kept_streams)
        live = sum(part.live_count for part in self._partitions.values())
        for part in self._partitions.values():
            live -= part.put_away(live - self._settings.live_streams, self._settling.busy_in(part))
