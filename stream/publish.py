"""Video files, folders and addresses -> records on a topic, each stream in order and on its own clock."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from difffake.errors import DiffFakeError, LimitExceededError
from difffake.media import without_secrets
from stream.broker.contract import DEFAULT_MAX_MESSAGE_BYTES, Broker
from stream.broker.errors import BrokerError, MessageTooLargeError
from stream.media_records import MediaRecord, frames, segments, units
from stream.packets import SourceReport, is_address

CONTENT_TYPE, PTS_NS = "content-type", "pts-ns"
_S = 1_000_000_000
_FLUSH_S = 30.0
#: How often to look whether what was sent has arrived, s: a broker that is gone takes nothing, and says nothing.
_LOOK_S = 5.0
#: How long it may take to come back meanwhile, s.
_PATIENCE_S = 60.0
#: Headers, key and framing of a record.
_OVERHEAD_BYTES = 4096
#: Kept of failures and of warnings: a loop without an end meets the same ones again and again.
_MAX_NOTES = 1000


class Form(StrEnum):
    """What one record holds."""

    SEGMENTS = "segments"
    FRAMES = "frames"
    UNITS = "units"


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """How video is published.

    Args:
        form: what one record holds.
        segment_s: least length of a segment, seconds; it ends at the next key frame.
        fps: pictures per second, for `Form.FRAMES`.
        paced: at the speed of the video, each record when a live source would have it; else as fast as it goes.
        loops: how often the sources of a stream are published, one after the other; 0: until stopped.
        start_pts_ns: PTS of each stream's first picture; what follows goes on from there, over files and loops.
        max_bytes: of a record.
    """

    form: Form = Form.SEGMENTS
    segment_s: float = 2.0
    fps: float = 5.0
    paced: bool = False
    loops: int = 1
    start_pts_ns: int = 0
    max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES

    def __post_init__(self) -> None:
        if not (self.segment_s > 0 and self.fps > 0 and self.loops >= 0 and self.start_pts_ns >= 0):
            raise ValueError(f"out of range: {self}")


@dataclass(frozen=True, slots=True)
class Published:
    """One record that was sent. ``pts_ns`` of its first picture, ``end_ns`` where its last one ends."""

    stream: str
    pts_ns: int
    end_ns: int
    bytes: int
    pictures: int


@dataclass(frozen=True, slots=True)
class PublishFailure:
    """A source that could not be read; the others of its stream went on."""

    stream: str
    source: str
    error: DiffFakeError


@dataclass(slots=True)
class Counts:
    """What was sent so far; ``left_out``: see `SourceReport`."""

    records: int = 0
    bytes: int = 0
    pictures: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    """A record on its stream's own time from the start of publishing."""

    due_ns: int
    order: int
    record: MediaRecord = field(compare=False)
    base_ns: int = field(compare=False)
    rest: Iterator[tuple[MediaRecord, int]] = field(compare=False)
    stream: str = field(compare=False)


class Publisher:
    """Publishes to one topic; use as a context manager. Not for two threads at once.

    Attributes:
        counts: what was sent so far, by stream.
        failures: sources that could not be read.
        warnings: ``"source: code: what happened"``.

    >>> with Publisher(broker, "video.in") as publisher:              # doctest: +SKIP
    ...     for sent in publisher.publish("studio-1", ["clip.mp4"]):
    ...         print(sent.pts_ns, sent.bytes)
    """

    def __init__(self, broker: Broker, topic: str, settings: PublishSettings | None = None) -> None:
        self._topic = topic
        self._settings = settings or PublishSettings()
        self._producer = broker.plain_producer()
        self.counts: dict[str, Counts] = {}
        self.failures: list[PublishFailure] = []
        self.warnings: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Returns when the broker has everything."""
        self._producer.close(_FLUSH_S)

    def publish(self, stream: str, sources: Sequence[str | Path]) -> Generator[Published, None, None]:
        """Publish sources one after the other as one stream; sends as it is iterated. See `publish_many`."""
        return self.publish_many({stream: sources})

    def publish_many(self, streams: Mapping[str, Sequence[str | Path]]) -> Generator[Published, None, None]:
        """Publish several streams side by side, interleaved by their times; sends as it is iterated.

        A source that cannot be read is added to `failures` and left out; the rest goes on. When the iteration ends,
        the broker has everything.

        Raises:
            LimitExceededError: an address beside other sources: while one is waited for, the others' time goes by.
            BrokerError: and its leaves: the broker does not take the records.
        """
        everything = [source for sources in streams.values() for source in sources]
        live = any(is_address(source) for source in everything)
        if live and (len(everything) > 1 or self._settings.loops != 1):
            raise LimitExceededError(
                "an address is published alone and once", hint="start one `difffake publish` for each address"
            )
        return self._run(streams, paced=self._settings.paced and not live)

    def _run(self, streams: Mapping[str, Sequence[str | Path]], *, paced: bool) -> Generator[Published, None, None]:
        order = itertools.count()
        waiting: list[_Due] = []
        for stream, sources in streams.items():
            self.counts.setdefault(stream, Counts())
            self._wait_for_next(waiting, stream, self._stream_records(stream, sources), order)
        start = looked = time.monotonic()
        is_lost = False
        try:
            while waiting:
                now = heapq.heappop(waiting)
                if paced:
                    time.sleep(max(0.0, start + now.due_ns / _S - time.monotonic()))
                yield self._send(now.stream, now.record, now.base_ns)
                if time.monotonic() - looked > _LOOK_S:
                    self._producer.flush(_PATIENCE_S)
                    looked = time.monotonic()
                self._wait_for_next(waiting, now.stream, now.rest, order)
        except BrokerError:
            is_lost = True
            raise
        finally:
            if not is_lost:  # else it would be looked for once more
                self._producer.flush(_FLUSH_S)

    def _wait_for_next(
        self, waiting: list[_Due], stream: str, rest: Iterator[tuple[MediaRecord, int]], order: Iterator[int]
    ) -> None:
        found = next(rest, None)
        if found is not None:
            record, base_ns = found
            due_ns = base_ns - self._settings.start_pts_ns + record.due_ns
            heapq.heappush(waiting, _Due(due_ns, next(order), record, base_ns, rest, stream))

    def _stream_records(self, stream: str, sources: Sequence[str | Path]) -> Iterator[tuple[MediaRecord, int]]:
        """All records of a stream, each with the PTS at which its source begins."""
        base_ns = self._settings.start_pts_ns
        for loop in itertools.count(1):
            before_ns = base_ns
            for source in sources:
                end_ns, report = base_ns, SourceReport()
                try:
                    for record in self._records(source, report):
                        end_ns = max(end_ns, base_ns + record.end_ns)
                        yield record, base_ns
                except BrokerError:
                    raise
                except DiffFakeError as error:
                    self._fail(PublishFailure(stream, _name(source), error))
                base_ns = end_ns
                self.counts[stream].left_out += report.left_out
                self._warn(f"{_name(source)}: {warning}" for warning in report.warnings)
            if loop == self._settings.loops or base_ns == before_ns:
                return

    def _fail(self, failure: PublishFailure) -> None:
        if len(self.failures) < _MAX_NOTES:
            self.failures.append(failure)

    def _warn(self, warnings: Iterable[str]) -> None:
        self.warnings += itertools.islice(warnings, _MAX_NOTES - len(self.warnings))

    def _records(self, source: str | Path, report: SourceReport) -> Iterator[MediaRecord]:
        settings = self._settings
        if settings.form is Form.FRAMES:
            return frames(source, report, fps=settings.fps)
        if settings.form is Form.UNITS:
            return units(source, report)
        max_bytes = settings.max_bytes - _OVERHEAD_BYTES
        return segments(source, report, segment_s=settings.segment_s, max_bytes=max_bytes)

    def _send(self, stream: str, record: MediaRecord, base_ns: int) -> Published:
        pts_ns = base_ns + record.pts_ns
        headers = [(CONTENT_TYPE, record.content_type.encode()), (PTS_NS, str(pts_ns).encode())]
        try:
            self._producer.send(self._topic, key=stream.encode(), value=record.value, headers=headers)
        except MessageTooLargeError as error:
            raise MessageTooLargeError(
                f"{stream}: a record of {len(record.value)} bytes at {pts_ns / _S:.1f} s is too large",
                hint="make segments shorter (--segment-seconds), publish --as units, or raise --max-message-bytes here "
                "and max.message.bytes of the topic",
            ) from error
        counts = self.counts[stream]
        counts.records += 1
        counts.bytes += len(record.value)
        counts.pictures += record.pictures
        return Published(stream, pts_ns, base_ns + record.end_ns, len(record.value), record.pictures)


def _name(source: str | Path) -> str:
    return without_secrets(str(source)) if is_address(source) else Path(str(source)).name
