"""Streams in real time through Apache Kafka and worker processes: when each score can be read, and what that costs."""

from __future__ import annotations

import bisect
import heapq
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from stream.bench.clips import Footage, headers
from stream.bench.clock import Moment, Spent, process_s, resident_mib
from stream.broker.contract import TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.messages import ScoreRecord, decode

WORKER = Path(__file__).with_name("pipeline_worker.py")
PARTITIONS = 4
_START_S, _END_S = 120.0, 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A score, when it could be read."""

    at_s: float
    stream: str
    pts_ns: int
    status: str
    latency_s: float


class Ignore:
    """Partitions come and go: nothing is to be done."""

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""

    revoked = lost = assigned


@dataclass(slots=True)
class Stream:
    """One stream that is published: ``speed`` times as fast as it plays, from ``phase_s`` after the start."""

    name: str
    source: Footage
    number: int
    speed: float = 1.0
    phase_s: float = 0.0
    stop_s: float = float("inf")
    loops: int = 1 << 30
    #: PTS of each record, and when it was sent.
    pts_ns: list[int] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)


class Live:
    """Publishes streams and reads their scores, on threads of its own; use as a context manager."""

    def __init__(self, bootstrap: str, topic: str, scores: str, partitions: int = PARTITIONS) -> None:
        self._broker = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap))
        self._broker.ensure_topics([TopicSpec(topic, partitions), TopicSpec(scores, partitions)])
        self._topic, self._scores, self._partitions = topic, scores, partitions
        self._streams: dict[str, Stream] = {}
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self.seen: list[Seen] = []
        #: How late the publisher was, s.
        self.late_s = 0.0
        self.error: BaseException | None = None

    def publish(self, streams: Sequence[Stream]) -> None:
        """Publish more streams from now on."""
        self._streams |= {stream.name: stream for stream in streams}
        self._begin(self._publish, streams)

    def __enter__(self) -> Self:
        self._begin(self._read)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._broker.close()

    def check(self) -> None:
        """Raise what ended one of the threads."""
        if self.error is not None:
            raise self.error

    def _begin(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=self._guarded, args=(target, *arguments)))
        self._threads[-1].start()

    def _guarded(self, target: Callable[..., None], *arguments: object) -> None:
        try:
            target(*arguments)
        except BaseException as error:
            self.error = error

    def _publish(self, streams: Sequence[Stream]) -> None:
        producer = self._broker.plain_producer()
        start_s = time.time()
        due: list[tuple[float, int, Iterator[tuple[float, int, Any]], int, Any, Stream]] = []

        def push(rest: Iterator[tuple[float, int, Any]], stream: Stream) -> None:
            at_s, base_ns, record = next(rest, (float("inf"), 0, None))
            if record is not None and at_s <= stream.stop_s:
                heapq.heappush(due, (at_s, stream.number, rest, base_ns, record, stream))

        for stream in streams:
            push(_schedule(stream), stream)
        while due and not self._done.is_set():
            at_s, _, rest, base_ns, record, stream = heapq.heappop(due)
            wait_s = start_s + at_s - time.time()
            if wait_s > 0:
                time.sleep(wait_s)
            self.late_s = max(self.late_s, -wait_s)
            now = time.time()
            stream.sent_s.append(now)
            stream.pts_ns.append(base_ns + record.pts_ns)
            producer.send(
                self._topic,
                key=stream.name.encode(),
                value=record.value,
                headers=headers(record, base_ns),
                partition=stream.number % self._partitions,
                timestamp_ms=round(now * 1e3),
            )
            push(rest, stream)
        producer.close(30.0)

    def _read(self) -> None:
        consumer = self._broker.consumer(f"{self._scores}.bench.{time.monotonic_ns()}")
        consumer.subscribe([self._scores], Ignore())
        while not self._done.is_set():
            # It comes back as soon as there is a record: a longer wait costs no latency, and leaves the cores alone.
            for record in consumer.poll(0.25, 1000):
                now = time.time()
                score = decode(record.value or b"", ScoreRecord)
                stream = self._streams.get(score.stream)
                if stream is None:
                    continue
                self.seen.append(Seen(now, score.stream, score.pts_ns, score.status.value,
                                      now - _sent_s(stream, score.pts_ns)))  # fmt: skip
        consumer.close(5.0)


def _schedule(stream: Stream) -> Iterator[tuple[float, int, Any]]:
    """When each record is due, s; what is added to its times; the record."""
    for base_ns, record in stream.source.rounds(stream.loops):
        yield stream.phase_s + (base_ns + record.due_ns) / 1e9 / stream.speed, base_ns, record


def _sent_s(stream: Stream, pts_ns: int) -> float:
    """When the record was sent that holds a picture. Access units come in decoding order: their own time is looked
    for first among the last ones."""
    times = stream.pts_ns
    if len(stream.source.records) > 2 and stream.source.records[0].pictures == 1:
        for back in range(len(times) - 1, max(-1, len(times) - 400), -1):
            if times[back] == pts_ns:
                return stream.sent_s[back]
    return stream.sent_s[max(0, min(bisect.bisect_right(times, pts_ns), len(stream.sent_s)) - 1)]


@contextmanager
def beside(cpus: set[int], *pids: int) -> Iterator[None]:
    """These processes keep to some cores for as long as it lasts; Linux only."""
    tasks = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    before = {}
    for task in tasks:
        with suppress(ProcessLookupError):
            before[task] = os.sched_getaffinity(task)
            os.sched_setaffinity(task, cpus)
    try:
        yield
    finally:
        for task, had in before.items():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(task, had)


@contextmanager
def workers(count: int, given: dict[str, Any]) -> Iterator[Workers]:
    """So many worker processes, ended in order."""
    command = [sys.executable, str(WORKER), json.dumps(given)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    ours = Workers(processes)
    try:
        yield ours
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                out = process.communicate(timeout=_END_S)[0]
            except subprocess.TimeoutExpired:
                process.kill()
                out = process.communicate()[0]
            if out.strip():
                ours.counts.update(json.loads(out.strip().splitlines()[-1]))


class Workers:
    """Worker processes; ``counts`` once they have ended."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes
        self.counts: Counter[str] = Counter()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of those that run."""
        if any(process.poll() is not None for process in self._processes):
            raise RuntimeError("a worker has ended")
        return tuple(process.pid for process in self._processes)

    @property
    def resident_mib(self) -> float:
        """Memory of all."""
        return sum(map(resident_mib, self.pids))


def streams_of(source: Footage, count: int, prefix: str = "s", first: int = 0, **more: Any) -> list[Stream]:
    """So many streams, not in step, nor their key frames: as of independent cameras."""
    step_s = key_interval_s(source)
    return [Stream(f"{prefix}{i:03d}", source, first + i, phase_s=step_s * i / count, **more) for i in range(count)]


def key_interval_s(source: Footage) -> float:
    """Time from one key frame of a stream to the next: segments are of a second, access units have one in two."""
    return source.records[0].end_ns / 1e9 if source.records[0].pictures > 1 else 2.0


def wait_for_scores(live: Live, streams: Sequence[str], running: Workers) -> None:
    """Until every stream has a score."""
    limit = time.monotonic() + _START_S
    while not {seen.stream for seen in live.seen} >= set(streams):
        live.check()
        if time.monotonic() > limit:
            raise TimeoutError("the workers did not begin to score every stream")
        _ = running.pids
        time.sleep(0.1)


def settle(live: Live, running: Workers, within_s: float) -> bool:
    """Until the work that piled up before the workers were there is done; False where it never is."""
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        live.check()
        _ = running.pids
        now = time.time()
        latest = [seen.latency_s for seen in live.seen[-2000:] if now - seen.at_s < 2.0]
        if latest and max(latest) < 1.0:
            return True
        time.sleep(0.25)
    return False


def watched(live: Live, running: Workers, seconds: float) -> tuple[list[Seen], Spent]:
    """Let them work for some time: the scores that came, what the workers spent."""
    begin, before = len(live.seen), Moment.now(running.pids)
    time.sleep(seconds)
    spent = Moment.now(running.pids).since(before)
    return live.seen[begin:], spent


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the longest, s."""
    if not latencies:
        return dict.fromkeys(("p50_s", "p95_s", "p99_s", "max_s"), float("nan"))
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    return {"p50_s": float(p50), "p95_s": float(p95), "p99_s": float(p99), "max_s": max(latencies)}


def by_stream(seen: Sequence[Seen]) -> dict[str, list[Seen]]:
    """Scores of each stream."""
    found: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        found[one.stream].append(one)
    return found


def jain(shares: Sequence[float]) -> float:
    """Jain, Chiu and Hawe (1984): 1 where all have the same, 1/n where one has everything."""
    x = np.asarray(shares, np.float64)
    return float(x.sum() ** 2 / (len(x) * (x**2).sum())) if (x > 0).any() else float("nan")


def fair_shares(demands: Sequence[float], capacity: float) -> list[float]:
    """Max-min fair: nobody gets more than they ask for; what is left is divided among those who ask for more."""
    shares, left = [0.0] * len(demands), capacity
    order = sorted(range(len(demands)), key=lambda i: demands[i])
    for position, i in enumerate(order):
        shares[i] = min(demands[i], left / (len(order) - position))
        left -= shares[i]
    return shares


@dataclass(frozen=True, slots=True)
class Backlog:
    """What workers did with records that lay there when they began. ``resident_mib`` is of all of them."""

    streams: int
    frames: int
    spent: Spent
    resident_mib: float
    broker_cpu_s: float
    counts: Counter[str]

    @property
    def fps(self) -> float:
        """Frames whose scores became readable, per second."""
        return self.frames / self.spent.wall_s

    @property
    def cpu_ms(self) -> float:
        """Of the processor, the workers' alone, for a frame."""
        return 1e3 * self.spent.cpu_s / self.frames


#: Share of the expected scores between which a backlog is measured: what comes before is start, what follows the end.
#: Scores come in commits, up to two seconds apart: with the end too near, the last one that counts is that of a worker
#: that has nothing to do any more.
_FROM, _TO = 0.25, 0.8
#: Between two looks at how far it is: who looks takes of the cores that are measured.
_LOOK_S = 0.1


def backlog(
    bootstrap: str,
    broker_pid: int,
    source: Footage,
    name: str,
    *,
    streams: int,
    loops: int,
    count: int = 1,
    partitions: int = PARTITIONS,
    **more: Any,
) -> Backlog:
    """Publish everything, then let ``count`` workers work it off. From commit to commit, as its readers see them."""
    speed = 1000.0
    seconds = loops * source.length_ns / 1e9
    given = {"bootstrap": bootstrap, "topic": f"{name}.in", "group": name, "commit_s": 1.0, "fps": 2.0,
             "gear": "analyse"} | more  # fmt: skip
    published = [Stream(f"s{i:03d}", source, i, speed, loops=loops) for i in range(streams)]
    expected = streams * seconds * given["fps"]
    with Live(bootstrap, given["topic"], f"{name}.scores", partitions) as live:
        live.publish(published)
        while sum(len(stream.sent_s) for stream in published) < streams * loops * len(source.records):
            live.check()
            time.sleep(0.05)
        with workers(count, given) as running:
            limit_s, frames_before, before, broker_s = time.monotonic() + 3600, 0, None, 0.0
            while before is None or len(live.seen) < _TO * expected:
                live.check()
                _ = running.pids
                if before is None and len(live.seen) >= _FROM * expected:
                    _burst_over(live)
                    before, frames_before = Moment.now(running.pids), len(live.seen)
                    broker_s = process_s(broker_pid)
                if time.monotonic() > limit_s:
                    raise TimeoutError("the backlog was not worked off within an hour")
                time.sleep(_LOOK_S)
            _burst_over(live)
            spent = Moment.now(running.pids).since(before)
            frames, memory = len(live.seen) - frames_before, running.resident_mib
            broker_s = process_s(broker_pid) - broker_s
    return Backlog(streams, frames, spent, memory, broker_s, running.counts)


def _burst_over(live: Live) -> None:
    """All scores of a commit have come."""
    seen = -1
    while seen != len(live.seen):
        seen = len(live.seen)
        time.sleep(0.03)
