"""Broken records through a whole worker on the broker in memory: nothing crashes, nothing is lost, nobody else notices.

    python tests/fuzz_worker.py 10000 --seed 1 --clip .cache/clips/single_face.mp4

Streams of every kind carry records with flipped bits, cut ends, spliced kinds, sizes and headers that lie, impossible
times, odd keys, no value, or 20 MB of zeros. Among them three good streams go on: pictures, segments, access units.
Every so often the worker leaves and another one restores what it left. Checked:

- crashes: exceptions that end a worker; bugs: records buried because of an error that no bad input should raise;
- lost: records that are neither scored, nor a dead letter, nor counted under a reason;
- the good streams' scores equal those of a run without the broken records;
- resident memory: the median of the last third of the run against that of the first.

Prints ``records=N crashes=0 lost=0 doubled=0 bugs=0 differing=0 resident_growth=...`` last; ends with 1 if anything is
not 0, or memory has grown by more than a tenth. The same seed gives the same records.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import statistics
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import fuzz_decode
from tiny import write_tiny_bundle

import stream.decode
from stream.broker.contract import Record, TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker, MemorySettings
from stream.decode import Decoded, DecodeSettings, Gear
from stream.live import LiveModels, LiveSettings
from stream.messages import DeadLetter, ScoreRecord, decode
from stream.outcome import Outcome as RecordOutcome
from stream.outcome import Teller
from stream.partition import StreamIdError, StreamState
from stream.publish import Form, Publisher, PublishSettings
from stream.settings import WorkerSettings
from stream.worker import Worker

TOPIC, PARTITIONS = "video.in", 3
CHUNK, SHIFT = 100, 1000
#: What whoever publishes may send; the worker keeps to the default, as one whose operator did not think of it.
PUBLISHED_BYTES = 32 << 20
ZEROS = bytes(20_000_000)
SETTINGS = WorkerSettings(commit_interval_s=1e6, commit_records=40, poll_records=20, poll_timeout_s=0.01)
#: Pictures of hostile size are refused early; their time is no part of the question.
DECODE = DecodeSettings(fps=5.0, max_pixels=1920 * 1088, max_frames=500)
LIVE = LiveSettings(threads=1, analysis_side_px=320)
ODD_KEYS: tuple[bytes | None, ...] = (
    None,
    b"",
    b"\xff\xfe\xfd",
    b"x" * 2000,
    b"\x00",
    b"a/b/../c\n",
    "клю́ч 🎥".encode(),
    b"y" * 1024,
)
ODD_TIMES = (
    b"-1",
    b"-9223372036854775808",
    b"9" * 18,
    b"9223372036854775807",
    b"9" * 400,
    b"1e9",
    b"nan",
    b"",
    b"\xff",
)
#: What bad input may raise; a dead letter of any other class is a bug of ours.
EXPECTED = {c.__name__ for c in vars(stream.decode).values() if isinstance(c, type) and issubclass(c, Exception)} | {
    StreamIdError.__name__
}


@dataclass(frozen=True, slots=True)
class Sent:
    """One record to publish; ``good``: of a stream that carries nothing broken."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int
    good: bool


def good_records(clip: Path) -> Iterator[Sent]:
    """Three streams of a clip, in turn and without an end."""
    turns: list[list[Record]] = []
    for form in Form:
        broker = MemoryBroker()
        broker.ensure_topics([TopicSpec(TOPIC, 1)])
        options = PublishSettings(form=form, fps=5.0, segment_s=0.5, loops=2)
        with Publisher(broker, TOPIC, options) as publisher:
            list(publisher.publish(f"good-{form.value}", [clip]))
        reader, source = broker.reader(), TopicPartition(TOPIC, 0)
        turns.append(list(reader.read(source, None, reader.end_offset(source))))
    lap_ns = 1_000_000_000 + max(_pts_ns(r) for turn in turns for r in turn)
    at = [0] * len(turns)
    while True:
        for i, turn in enumerate(turns):
            lap, n = divmod(at[i], len(turn))
            at[i] += 1
            record = turn[n]
            headers = [(k, v) for k, v in record.headers if k != "pts-ns"]
            pts_ns = _pts_ns(record) + lap * lap_ns
            headers.append(("pts-ns", str(pts_ns).encode()))
            yield Sent(record.key, record.value, tuple(headers), pts_ns // 1_000_000, good=True)


def _pts_ns(record: Record) -> int:
    return int(dict(record.headers)["pts-ns"])


def records(count: int, seed: int, clip: Path) -> Iterator[Sent]:
    """``count`` broken records (about a quarter of them whole), and a good one after every third."""
    rng = np.random.default_rng([seed, 1])
    good = good_records(clip)
    for number, (lane, payload) in enumerate(fuzz_decode.records(count, seed)):
        key: bytes | None = f"fuzz-{lane:02d}".encode()
        value: bytes | None = payload.value
        headers = list(payload.headers)
        if rng.random() < 0.03:
            key = ODD_KEYS[int(rng.integers(len(ODD_KEYS)))]
        if rng.random() < 0.02:
            value = None if rng.random() < 0.5 else b""
        if rng.random() < 0.001 or number == count // 2:
            value = ZEROS
        if rng.random() < 0.05:
            headers.append(("pts-ns", ODD_TIMES[int(rng.integers(len(ODD_TIMES)))]))
        if rng.random() < 0.02:
            headers += [(f"x-{i}", rng.bytes(int(rng.integers(50)))) for i in range(int(rng.integers(50)))]
        yield Sent(key, value, tuple(headers), payload.timestamp_ms, good=False)
        if number % 3 == 0:
            yield next(good)


class Watched(Worker):
    """A worker that remembers what it counted for every record; after a rewind the last time holds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.traces: dict[tuple[TopicPartition, int], Counter[str]] = {}
        self._teller = self._settling.teller = WatchedTeller(self, self._teller)  # type: ignore[assignment]


class WatchedTeller:
    """Tells, and writes down what was counted meanwhile."""

    def __init__(self, worker: Watched, teller: Teller) -> None:
        self._worker, self._teller = worker, teller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teller, name)

    def finish(self, stream: StreamState, outcome: RecordOutcome, decoded: Decoded, gear: Gear) -> None:
        with self._traced(outcome.record):
            self._teller.finish(stream, outcome, decoded, gear)

    def bury(self, record: Record, error: Exception, stage: str) -> None:
        with self._traced(record):
            self._teller.bury(record, error, stage)

    @contextmanager
    def _traced(self, record: Record) -> Iterator[None]:
        before = self._worker.counts.copy()
        yield
        trace = self._worker.counts - before
        # One that is read again for a decoder's sake has left its trace before.
        if trace:
            self._worker.traces[record.source, record.offset] = trace


@dataclass
class Outcome:
    """What came of it."""

    records: int = 0
    crashes: int = 0
    accounted: int = 0
    rewinds: int = 0
    traces: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    doubled: int = 0
    #: Stream and time -> a digest of the score: whole ones would be most of what resident memory grows by.
    good_scores: dict[tuple[str, int], bytes] = field(default_factory=dict)
    resident_mib: list[float] = field(default_factory=list)

    @property
    def resident_growth(self) -> float:
        """Median of the last third over that of the first, minus 1."""
        third = max(len(self.resident_mib) // 3, 1)
        return statistics.median(self.resident_mib[-third:]) / statistics.median(self.resident_mib[:third]) - 1


#: Counts that account for a record.
ACCOUNTS = ("frames:", "deadletters:", "lost:", "records:")


class Run:
    """A broker, one worker after the other, and what they wrote: taken in after every chunk, then deleted."""

    def __init__(self, models: LiveModels) -> None:
        self.broker = MemoryBroker()
        self.broker.ensure_topics([TopicSpec(TOPIC, PARTITIONS, max_message_bytes=PUBLISHED_BYTES)])
        self._models, self._shifts = models, 0
        self._producer = self.broker.plain_producer()
        self._reader = self.broker.reader()
        self._read: dict[TopicPartition, int] = {}
        self._seen: set[tuple[int, int, int]] = set()
        self._accounted: set[tuple[TopicPartition, int]] = set()
        self.outcome = Outcome()
        self.worker = self._worker()

    def _worker(self) -> Watched:
        self._shifts += 1
        return Watched(self.broker, self._models, SETTINGS, name=str(self._shifts), decode=DECODE, live=LIVE)

    def feed(self, sent: list[Sent]) -> None:
        """Publish a chunk, work it off, take in what came of it."""
        limits = self.broker.settings
        self.broker.settings = MemorySettings(max_message_bytes=PUBLISHED_BYTES)
        for one in sent:
            self._producer.send(
                TOPIC, key=one.key, value=one.value, headers=one.headers, timestamp_ms=max(one.timestamp_ms, 0)
            )
        self._producer.flush(10.0)
        self.broker.settings = limits
        self.outcome.records += len(sent)
        try:
            quiet = 0
            while quiet < 3:
                polled = self.worker.counts["polled"]
                self.worker.step()
                quiet = 0 if self.worker.is_busy or self.worker.counts["polled"] > polled else quiet + 1
            self.worker._flush()
        except Exception:
            self.outcome.crashes += 1
            traceback.print_exc()
            self.change_shift()
        self._take_in()

    def change_shift(self) -> None:
        """The worker leaves; another one restores what it left."""
        self._account()
        self.worker.run(lambda: True)
        self.worker = self._worker()

    def close(self) -> Outcome:
        """The last shift ends."""
        self._account()
        self.worker.run(lambda: True)
        return self.outcome

    def _account(self) -> None:
        traces, self.worker.traces = self.worker.traces, {}
        for where, trace in traces.items():
            self.outcome.traces.update(trace)
            if any(name.startswith(ACCOUNTS) for name in trace):
                self._accounted.add(where)
        self.outcome.accounted = len(self._accounted)
        self.outcome.rewinds += self.worker.counts["rewinds"]

    def _new(self, topic: str) -> Iterator[Record]:
        for p in range(self.broker.partitions(topic)):
            source = TopicPartition(topic, p)
            end = self._reader.end_offset(source)
            yield from self._reader.read(source, self._read.get(source), end)
            self._read[source] = end
            self.broker.delete_before(source, end)

    def _take_in(self) -> None:
        for record in self._new(SETTINGS.topics.scores):
            score = decode(record.value or b"", ScoreRecord)
            key = (score.source.partition, score.source.offset, score.source.index)
            self.outcome.doubled += key in self._seen
            self._seen.add(key)
            if score.stream.startswith("good-"):
                data = msgspec.to_builtins(score)
                # Offsets count the others' records too.
                data["source"] = score.source.index
                digest = hashlib.sha256(msgspec.msgpack.encode(data)).digest()
                self.outcome.good_scores[score.stream, score.pts_ns] = digest
        for record in self._new(SETTINGS.topics.deadletters):
            error = DeadLetter.parse(record).error
            self.outcome.letters[error.class_name] += 1
            if error.class_name not in EXPECTED:
                self.outcome.unexpected.append(f"{error.class_name}: {error.message} (offset {error.offset})")
        self.broker.compact(SETTINGS.topics.state)
        for p in range(PARTITIONS):
            source = TopicPartition(TOPIC, p)
            committed = self.worker._consumer.committed(source)
            if committed is not None:
                self.broker.delete_before(source, committed)
        self.outcome.resident_mib.append(resident_mib())


def resident_mib() -> float:
    """Of this process now; its peak where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


def work_off(models: LiveModels, sent: Iterator[Sent], *, shift: int = SHIFT, verbose: bool = False) -> Outcome:
    """Everything through workers that change after ``shift`` records."""
    run = Run(models)
    chunk: list[Sent] = []
    since = 0
    for one in sent:
        chunk.append(one)
        if len(chunk) < CHUNK:
            continue
        run.feed(chunk)
        since += len(chunk)
        chunk = []
        if since >= shift:
            run.change_shift()
            since = 0
            if verbose:
                done = run.outcome
                print(f"{done.records} records, {done.resident_mib[-1]:.0f} MiB", file=sys.stderr, flush=True)
    if chunk:
        run.feed(chunk)
    return run.close()


def differing(one: Outcome, other: Outcome) -> int:
    """How many scores of good streams are not in both, or not the same."""
    a, b = one.good_scores, other.good_scores
    return sum(a.get(key) != b.get(key) for key in a.keys() | b.keys())


def main() -> int:
    """Parse, run twice, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="broken records")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clip", type=Path, default=Path(".cache/clips/single_face.mp4"), help="of the good streams")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_tiny_bundle(Path(folder) / "tiny", identity=True).path
        with LiveModels.load(bundle, LIVE) as models:
            fuzzed = work_off(models, records(options.count, options.seed, options.clip), verbose=True)
            good = (one for one in records(options.count, options.seed, options.clip) if one.good)
            calm = work_off(models, good)
    for name, value in sorted((fuzzed.traces | fuzzed.letters).items()):
        print(f"  {name:40} {value}")
    for text in fuzzed.unexpected[:20]:
        print(f"  unexpected: {text}")
    lost = fuzzed.records - fuzzed.accounted
    differ = differing(fuzzed, calm)
    growth = fuzzed.resident_growth
    print(
        f"  rewinds {fuzzed.rewinds}; good scores compared: {len(calm.good_scores)}; "
        f"resident MiB: {_course(fuzzed.resident_mib)}"
    )
    print(
        f"records={fuzzed.records} crashes={fuzzed.crashes} lost={lost} doubled={fuzzed.doubled} "
        f"bugs={len(fuzzed.unexpected)} differing={differ} resident_growth={growth:+.3f}"
    )
    bad = fuzzed.crashes or lost or fuzzed.doubled or fuzzed.unexpected or differ or not calm.good_scores
    return 1 if bad or growth > 0.1 else 0


def _course(mib: list[float]) -> str:
    step = max(len(mib) // 10, 1)
    return " ".join(f"{value:.0f}" for value in mib[::step])


if __name__ == "__main__":
    raise SystemExit(main())
