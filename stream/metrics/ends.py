"""Where input partitions end, and whether Kafka answers at all: asked beside the worker's loop, which must not wait for
answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from stream.broker.contract import Broker, TopicPartition
from stream.broker.errors import BrokerError
from stream.metrics.instruments import Metrics

log = structlog.get_logger()


class EndOffsets:
    """A thread that keeps `Metrics.ends` fresh for the partitions of the last snapshot; use as a context manager.

    Args:
        connect: makes a connection of this thread's own.
        metrics: where ends go.
        every_s: how often to ask.
        topic: asked for where no partition is the worker's, so that there is an answer.
    """

    def __init__(
        self, connect: Callable[[], Broker], metrics: Metrics, every_s: float = 5.0, *, topic: str | None = None
    ) -> None:
        self._connect, self._metrics, self._every_s, self._topic = connect, metrics, every_s, topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="end-offsets", daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception as error:
                # What is known of ends grows old; the worker's own connection decides what happens. Whatever a client
                # raises, this thread goes on: ends that stayed as they were would say "no lag" for ever.
                log.warning(
                    "ends of partitions are not known", error=str(error), exc_info=not isinstance(error, BrokerError)
                )
                self._metrics.ends = {}
                self._stop.wait(self._every_s)

    def _follow(self) -> None:
        broker = self._connect()
        try:
            reader = broker.reader()
            self._metrics.answered()
            while not self._stop.is_set():
                ends: dict[TopicPartition, int] = {}
                for partition in self._metrics.snapshot.backlogs:
                    if self._stop.is_set():
                        break
                    ends[partition] = reader.end_offset(partition)
                    self._metrics.answered()
                self._metrics.ends = ends
                if not ends and self._topic is not None:
                    broker.partitions(self._topic)
                    self._metrics.answered()
                self._stop.wait(self._every_s)
            reader.close()
        finally:
            broker.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(2.0)  # a broker that does not answer holds nobody up: the thread is a daemon
