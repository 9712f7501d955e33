"""A whole deployment in one process, for `difffake demo`: a publisher and a worker in threads, and what comes out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from stream.broker.contract import Broker, Record, TopicSpec
from stream.decode import DecodeSettings
from stream.live import LiveModels, LiveSettings
from stream.publish import Form, Publisher, PublishSettings
from stream.settings import WorkerSettings
from stream.tail import Follower
from stream.topics import Topics
from stream.worker import Worker

_POLL_S = 0.25
_IDLE_S = 0.5
#: After the worker has left, the last records are waited for so long.
_TAIL_S = 10.0


class Deployment:
    """Files published side by side as streams, and a worker that scores them; use as a context manager.

    Leaving it ends both threads, whatever they were doing.

    Args:
        connect: opens a broker; every thread opens and closes one of its own.
        models: the networks; the caller closes them.
        live: settings that these were loaded with.
        streams: id -> video in H.264, H.265 or AV1.
        prefix: begins the names of all topics, and is the worker's group.
        speed: stream time per time on the clock.
        fps: frames analysed per second of stream time.

    Attributes:
        topics: where scores and alerts go.

    Raises:
        BrokerError: and its leaves, on entering and from `records`.
    """

    def __init__(
        self,
        connect: Callable[[], Broker],
        models: LiveModels,
        live: LiveSettings,
        streams: Mapping[str, Path],
        *,
        prefix: str,
        speed: float,
        fps: float,
    ) -> None:
        self.topics = Topics.under(prefix)
        self._connect, self._models, self._live = connect, models, live
        self._streams, self._speed = dict(streams), speed
        self._decode = DecodeSettings(fps=fps)
        self._settings = WorkerSettings(
            inputs=[f"{prefix}.video"],
            group=prefix,
            topics=self.topics,
            commit_interval_s=0.25,
            poll_timeout_s=0.1,
        )
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._ready, self._stop = threading.Event(), threading.Event()
        self._worker: Worker | None = None
        #: Records sent; None until all of them are.
        self._sent: int | None = None

    def __enter__(self) -> Self:
        with closing(self._connect()) as broker:
            broker.ensure_topics([TopicSpec(topic, len(self._streams)) for topic in self._settings.inputs])
        try:
            self._start(self._work)
            self._ready.wait()
            self._start(self._publish)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End both threads and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def records(self) -> Iterator[list[Record]]:
        """Committed records of scores and alerts as they come, at least every quarter of a second, until all are told.

        Raises:
            DiffFakeError: whatever ended a thread.
        """
        seen, last_s = 0, time.monotonic()
        with closing(self._connect()) as broker:
            self._raise()
            with Follower(broker, [self.topics.scores, self.topics.alerts], from_beginning=True) as follower:
                while True:
                    records = follower.poll(_POLL_S)
                    self._raise()
                    seen += len(records)
                    if records or self._threads[0].is_alive():
                        last_s = time.monotonic()
                    yield records
                    if not self._threads[0].is_alive() and (seen >= self._told or time.monotonic() - last_s > _TAIL_S):
                        return

    @property
    def _told(self) -> int:
        """Scores and alerts that the worker sent."""
        counts = {} if self._worker is None else self._worker.counts
        return sum(n for name, n in counts.items() if name.startswith(("frames:", "alerts:")))

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # raised again by whoever reads
                self._errors.append(error)
                self._stop.set()
            finally:
                self._ready.set()

        thread = threading.Thread(target=run, name=f"difffake-demo{work.__name__}")
        self._threads.append(thread)
        thread.start()

    def _raise(self) -> None:
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        with closing(self._connect()) as broker:
            worker = Worker(broker, self._models, self._settings, name="worker", decode=self._decode, live=self._live)
            self._worker = worker
            self._ready.set()
            is_idle = worker.idle_for(_IDLE_S)

            def is_done() -> bool:
                quiet = is_idle()
                everything = self._sent is not None and worker.counts["polled"] >= self._sent
                return self._stop.is_set() or (quiet and everything)

            worker.run(is_done)

    def _publish(self) -> None:
        """Access units: they come one by one, as from a camera, and keep the bytes of the file."""
        with (
            closing(self._connect()) as broker,
            Publisher(broker, self._settings.inputs[0], PublishSettings(form=Form.UNITS)) as publisher,
            closing(publisher.publish_many({stream: [path] for stream, path in self._streams.items()})) as sending,
        ):
            begin_s = time.monotonic()
            for sent in sending:
                if self._stop.wait(max(0.0, begin_s + sent.pts_ns / 1e9 / self._speed - time.monotonic())):
                    return
            if publisher.failures:
                raise publisher.failures[0].error
        self._sent = sum(counts.records for counts in publisher.counts.values())
