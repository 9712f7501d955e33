"""What exactly-once costs, what kafka-python costs, how long a takeover and a restore take; on a real Apache Kafka.

    python benchmarks/worker.py --clip .cache/clips/WolfgangLanger_Pexels.mp4 --out benchmarks/results/worker
    python benchmarks/worker.py --clip ... --out ... --only takeover --kills 20

Starts a node of its own (needs Java 17 and Maven). ``--only`` measures some parts and keeps the others' last figures.
Machine and load are written down with each part, since other work on the machine changes every figure here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import kafka
import msgspec
import structlog
from kafka.structs import OffsetAndMetadata

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from apache_kafka import ApacheKafka
from tiny import write_tiny_bundle
from worker_takeover import takeover

from stream.broker.contract import Headers, TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.broker.kafka_consumer import theirs
from stream.broker.memory import MemoryBroker
from stream.checkpoint import restore
from stream.decode import DecoderState, DecodeSettings
from stream.live import LiveModels, LiveSettings
from stream.messages import PartitionRecord, StateRecord, encode
from stream.publish import Form, Publisher, PublishSettings
from stream.settings import WorkerSettings
from stream.topics import Topics
from stream.worker import Worker

STREAMS, PARTITIONS = 12, 6
KAFKA_FILES = str(Path(kafka.__file__).parent)


class WithoutTransactions:
    """A producer for the worker's checkpoint that flushes and commits offsets where the real one commits both at once:
    at least once."""

    def __init__(self, broker: AtLeastOnceBroker) -> None:
        self._broker, self._producer = broker, broker.plain_producer()

    def begin(self) -> None:
        """Nothing is opened."""

    def send(self, topic: str, *, key: bytes | None, value: bytes | None, headers: Headers = (),
             partition: int | None = None, timestamp_ms: int | None = None) -> None:  # fmt: skip
        """Visible as soon as it is there."""
        self._producer.send(
            topic, key=key, value=value, headers=headers, partition=partition, timestamp_ms=timestamp_ms
        )

    def commit(self, offsets: Mapping[TopicPartition, int], group: Any) -> None:  # noqa: ARG002
        """All that was sent has arrived, then the offsets."""
        self._producer.flush(60.0)
        consumer: Any = self._broker.last_consumer
        consumer._kafka.commit(
            {theirs(source): OffsetAndMetadata(offset, "", -1) for source, offset in offsets.items()}
        )

    def abort(self) -> None:
        """What was sent stays."""

    def close(self, timeout_s: float) -> None:
        """See the contract."""
        self._producer.close(timeout_s)


class AtLeastOnceBroker(KafkaBroker):
    """Apache Kafka without transactions."""

    last_consumer: Any = None

    def consumer(self, group: str, *, instance_id: str | None = None) -> Any:
        """Kept for its commits."""
        self.last_consumer = super().consumer(group, instance_id=instance_id)
        return self.last_consumer

    def producer(self, transactional_id: str) -> Any:  # noqa: ARG002
        """See `WithoutTransactions`."""
        return WithoutTransactions(self)


class Share:
    """CPU seconds by whose code ran: kafka-python's own threads, its code on the calling thread, all else.

    The calling thread is sampled every few milliseconds; the CPU time it used since the last sample goes to
    kafka-python if one of its functions is on the stack.
    """

    def __init__(self, every_s: float = 0.004) -> None:
        self._every_s, self._main = every_s, threading.get_ident()
        self.main_kafka_s = self.threads_kafka_s = self.total_s = self.main_s = 0.0
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self._began_s = time.process_time()
        self._main_began_s = self._last_s = _thread_s(self._main)
        self._threads = self._kafka_threads()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._sampler.join()
        self.total_s = time.process_time() - self._began_s - self._sampler_s
        self.main_s = _thread_s(self._main) - self._main_began_s
        after = self._kafka_threads()
        self.threads_kafka_s = sum(used - self._threads.get(ident, 0.0) for ident, used in after.items())

    @staticmethod
    def _kafka_threads() -> dict[int, float]:
        found = {}
        for thread in threading.enumerate():
            target = getattr(thread, "_target", None)
            if thread.ident and target is not None and target.__module__.startswith("kafka"):
                found[thread.ident] = _thread_s(thread.ident)
        return found

    def _sample(self) -> None:
        while not self._done.wait(self._every_s):
            now_s = _thread_s(self._main)
            frame = sys._current_frames().get(self._main)
            while frame is not None and not frame.f_code.co_filename.startswith(KAFKA_FILES):
                frame = frame.f_back
            if frame is not None:
                self.main_kafka_s += now_s - self._last_s
            self._last_s = now_s
        self._sampler_s = time.thread_time()


def _thread_s(ident: int) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


def encoded(source: Path, seconds: float, width: int, height: int, out: Path) -> Path:
    """The beginning of the clip at another size, H.264, a key frame every two seconds."""
    with av.open(str(source)) as given, av.open(str(out), "w") as made:
        rate = Fraction(given.streams.video[0].average_rate or 25).limit_denominator(1001)
        stream = made.add_stream("libx264", rate=rate, options={"preset": "veryfast", "g": str(round(2 * rate))})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, frame in enumerate(given.decode(video=0)):
            if number >= seconds * rate:
                break
            larger = frame.reformat(width, height, "yuv420p")
            larger.pts, larger.time_base = number, 1 / rate
            made.mux(stream.encode(larger))
        made.mux(stream.encode(None))
    return out


def publish(broker: KafkaBroker, topic: str, clip: Path, form: Form, loops: int) -> int:
    """12 streams; the number of records."""
    broker.ensure_topics([TopicSpec(topic, PARTITIONS)])
    options = PublishSettings(form=form, fps=5.0, segment_s=2.0, loops=loops)
    with Publisher(broker, topic, options) as publisher:
        return sum(1 for _ in publisher.publish_many({f"s{i:02d}": [clip] for i in range(STREAMS)}))


def work_off(
    broker: KafkaBroker, models: LiveModels, topic: str, records: int, live: LiveSettings, commit_s: float
) -> dict[str, float]:
    """One worker, from its first record to the commit of its last; CPU by `Share`."""
    name = f"bench-{time.monotonic_ns()}"
    settings = WorkerSettings(inputs=[topic], group=name, topics=Topics.under(name), commit_interval_s=commit_s)
    worker = Worker(broker, models, settings, name="w", decode=DecodeSettings(fps=2.0), live=live)
    while len(worker._partitions) < PARTITIONS:
        worker._consumer.poll(0.1, 1)
    # Whatever a poll gave out before all partitions were ours comes again.
    for part in worker._partitions.values():
        worker._consumer.seek(part.source, part.position)
    began_s = time.perf_counter()
    with Share() as share:
        while worker.counts["records"] < records:
            worker.step()
        worker._flush()
    wall_s = time.perf_counter() - began_s
    frames = sum(n for what, n in worker.counts.items() if what.startswith("frames:"))
    commits = worker.counts["commits"]
    worker.run(lambda: True)
    return {
        "records": records,
        "frames": frames,
        "commits": commits,
        "wall_s": wall_s,
        "cpu_s": share.total_s,
        "kafka_threads_s": share.threads_kafka_s,
        "kafka_main_s": share.main_kafka_s,
    }


def exactly_once(kafka_node: ApacheKafka, models: Mapping[str, LiveModels], live: LiveSettings, clip: Path,
                 small: Path, repeats: int) -> list[dict[str, Any]]:  # fmt: skip
    """The same input with and without transactions, turn and turn about."""
    settings = KafkaSettings(bootstrap_servers=kafka_node.bootstrap)
    rows = []
    with _closing(KafkaBroker(settings)) as with_them, _closing(AtLeastOnceBroker(settings)) as without:
        inputs = {
            "720p segments": ("segments", publish(with_them, "segments", clip, Form.SEGMENTS, 1)),
            "640 x 360 JPEG": ("frames", publish(with_them, "frames", small, Form.FRAMES, 1)),
        }
        for model, what, commit_s in (
            ("shipped", "720p segments", 1.0),
            ("tiny", "720p segments", 1.0),
            ("tiny", "640 x 360 JPEG", 1.0),
            ("tiny", "640 x 360 JPEG", 0.1),
        ):
            topic, records = inputs[what]
            turns = []
            for turn in range(repeats):
                pair: dict[bool, dict[str, float]] = {}
                for once in (True, False) if turn % 2 == 0 else (False, True):
                    broker = with_them if once else without
                    pair[once] = work_off(broker, models[model], topic, records, live, commit_s)
                turns.append(pair)
                _say(f"{model}, {what}, {commit_s} s: {pair}")
            rows.append(_compared(model, what, commit_s, turns))
    return rows


def _compared(model: str, what: str, commit_s: float, turns: list[dict[bool, dict[str, float]]]) -> dict[str, Any]:
    def median(once: bool, key: str) -> float:
        return statistics.median(turn[once][key] for turn in turns)

    shares = {
        key: statistics.median(turn[True][key] / turn[True]["cpu_s"] for turn in turns)
        for key in ("kafka_threads_s", "kafka_main_s")
    }
    first = turns[0][True]
    return {
        "model": model,
        "input": what,
        "commit_s": commit_s,
        "turns": len(turns),
        "records": first["records"],
        "frames": first["frames"],
        "commits": median(True, "commits"),
        "with_frames_per_s": first["frames"] / median(True, "wall_s"),
        "without_frames_per_s": first["frames"] / median(False, "wall_s"),
        "with_records_per_s": first["records"] / median(True, "wall_s"),
        "without_records_per_s": first["records"] / median(False, "wall_s"),
        "wall_ratio": statistics.median(turn[True]["wall_s"] / turn[False]["wall_s"] for turn in turns),
        "cpu_ratio": statistics.median(turn[True]["cpu_s"] / turn[False]["cpu_s"] for turn in turns),
        "cpu_s": median(True, "cpu_s"),
        "kafka_share": sum(shares.values()),
        "kafka_threads_share": shares["kafka_threads_s"],
        "kafka_main_share": shares["kafka_main_s"],
    }


def real_state(models: LiveModels, live: LiveSettings, clip: Path) -> StateRecord:
    """The state of a stream that has an anchor, after a clip."""
    broker = MemoryBroker()
    broker.ensure_topics([TopicSpec("clip", 1)])
    with Publisher(broker, "clip", PublishSettings()) as publisher:
        list(publisher.publish("s", [clip]))
    settings = WorkerSettings(inputs=["clip"], topics=Topics.under("clip"), poll_timeout_s=0.01)
    worker = Worker(broker, models, settings, name="w", decode=DecodeSettings(fps=2.0), live=live)
    worker.run(worker.idle_for(0.5))
    state = restore(broker.reader(), Topics.under("clip"), 1, TopicPartition("clip", 0)).streams["s"]
    # The copies' input begins anew, at offset 0.
    decoder = msgspec.msgpack.decode(state.decoder, type=DecoderState)
    return msgspec.structs.replace(
        state, decoder=msgspec.msgpack.encode(msgspec.structs.replace(decoder, offset=-1)), next_offset=0
    )


def restores(kafka_node: ApacheKafka, models: LiveModels, live: LiveSettings, clip: Path, sizes: list[int],
             repeats: int) -> list[dict[str, Any]]:  # fmt: skip
    """From an assignment to a stream that can go on, by the number of streams of the partition."""
    state = real_state(models, live, clip)
    rows = []
    with _closing(KafkaBroker(KafkaSettings(bootstrap_servers=kafka_node.bootstrap))) as broker:
        for streams in sizes:
            topics = Topics.under(f"restore-{streams}")
            source = TopicPartition(f"restore-{streams}.in", 0)
            broker.ensure_topics([TopicSpec(source.topic, 1), TopicSpec(topics.state, 1, compacted=True)])
            producer = broker.plain_producer()
            sizes_bytes: list[int] = []
            for i in range(streams):
                one = msgspec.structs.replace(state, topic=source.topic, partition=0, stream=f"stream-{i:05d}")
                records = one.apart()[::-1]  # the anchors first, as a worker writes them
                values = [encode(record) for record in records]
                sizes_bytes = [len(value) for value in values]
                for record, value in zip(records, values, strict=True):
                    producer.send(topics.state, key=record.key, value=value, partition=0)
            end = PartitionRecord(topic=source.topic, partition=0, next_offset=0)
            producer.send(topics.state, key=end.key, value=encode(end), partition=0)
            producer.flush(120.0)
            producer.close(10.0)
            read_s, first_s = [], []
            for _ in range(repeats):
                reader = broker.reader()
                began_s = time.perf_counter()
                found = restore(reader, topics, 1, source)
                read_s.append(time.perf_counter() - began_s)
                reader.close()
                if len(found.streams) != streams:
                    raise RuntimeError(f"{len(found.streams)} streams came back, not {streams}")
                first_s.append(_first_score_s(broker, models, live, topics, source, clip))
            row = {"streams": streams, "state_bytes": sum(sizes_bytes), "commit_bytes": min(sizes_bytes),
                   "restore_s": read_s, "first_score_s": first_s}  # fmt: skip
            rows.append(row)
            _say(str(row))
    return rows


def _first_score_s(broker: KafkaBroker, models: LiveModels, live: LiveSettings, topics: Topics,
                   source: TopicPartition, clip: Path) -> float:  # fmt: skip
    """Seconds from the assignment to the first score: reads the state, brings one stream back, decodes a record."""
    settings = WorkerSettings(inputs=[source.topic], group=f"g{time.monotonic_ns()}", topics=topics)
    worker = Worker(broker, models, settings, name="w", decode=DecodeSettings(fps=2.0), live=live)
    began_s: list[float] = []
    opened: Callable[[list[TopicPartition]], None] = worker.assigned

    def assigned(partitions: list[TopicPartition]) -> None:
        began_s.append(time.perf_counter())
        opened(partitions)

    worker.assigned = assigned  # type: ignore[method-assign]
    options = PublishSettings(form=Form.FRAMES, fps=1.0, start_pts_ns=3_600_000_000_000)
    with Publisher(broker, source.topic, options) as publisher:
        next(publisher.publish("stream-00000", [clip]))
    while not any(name.startswith("frames:") for name in worker.counts):
        worker.step()
    done_s = time.perf_counter()
    # Nothing is committed: the next turn finds the state as it was.
    worker._checkpoint.abort()
    worker._consumer.close(5.0)
    worker._reader.close()
    return done_s - began_s[0]


@contextmanager
def _closing(broker: Any) -> Iterator[Any]:
    try:
        yield broker
    finally:
        broker.close()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def page(figures: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "One worker with one thread a network, 12 streams, 2 frames analysed a second; Apache Kafka on the same",
        "machine. `tiny`: networks of one matrix, so that the broker's part is as large as it can be.",
    ]
    if rows := figures.get("exactly_once"):
        lines += ["", "## Exactly once against at least once, the same input turn and turn about", "", _load(rows), ""]
        lines += ["| model | input | commit every | frames/s with | without | records/s with | without | "
                  "wall ratio | CPU ratio |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += [
            f"| {r['model']} | {r['input']} | {r['commit_s']} s | {r['with_frames_per_s']:.1f} | "
            f"{r['without_frames_per_s']:.1f} | {r['with_records_per_s']:.1f} | {r['without_records_per_s']:.1f} | "
            f"{r['wall_ratio']:.2f} | {r['cpu_ratio']:.2f} |"
            for r in rows["rows"]
        ]
        lines += ["", "## kafka-python's share of the worker's CPU (with transactions)", ""]
        lines += ["| model | input | commit every | CPU s | share | its threads | on the worker's thread |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += [
            f"| {r['model']} | {r['input']} | {r['commit_s']} s | {r['cpu_s']:.1f} | {r['kafka_share']:.1%} | "
            f"{r['kafka_threads_share']:.1%} | {r['kafka_main_share']:.1%} |"
            for r in rows["rows"]
        ]
    if found := figures.get("takeover"):
        lines += ["", "## Takeover after SIGKILL", "", _load(found), "", found["how"], ""]
        lines += ["| kills | partitions | p50 s | p95 s | longest s |", "|---|---|---|---|---|"]
        lines += [f"| {found['kills']} | {len(found['seconds'])} | {found['p50']:.1f} | {found['p95']:.1f} | "
                  f"{max(found['seconds']):.1f} |"]  # fmt: skip
    if rows := figures.get("restore"):
        lines += ["", "## State restored", "", _load(rows), ""]
        lines += ["| streams of the partition | state of each, KiB | of it with every commit | read, s | "
                  "assignment to first score, s |", "|---|---|---|---|---|"]  # fmt: skip
        lines += [f"| {r['streams']} | {r['state_bytes'] / 1024:.0f} | "
                  f"{r.get('commit_bytes', r['state_bytes']) / 1024:.0f} | {statistics.median(r['restore_s']):.2f} | "
                  f"{statistics.median(r['first_score_s']):.2f} |" for r in rows["rows"]]  # fmt: skip
    return "\n".join(lines) + "\n"


def _load(part: dict[str, Any]) -> str:
    return f"{part['cores']} cores, load {part['load'][0]:.1f} before and {part['load'][1]:.1f} after."


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="one face, 10 s or longer")
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    parser.add_argument("--only", nargs="+", choices=["exactly_once", "takeover", "restore"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of the clip")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    live = LiveSettings(threads=1)
    document = options.out.with_suffix(".json")
    figures: dict[str, Any] = json.loads(document.read_text()) if document.exists() else {}
    with tempfile.TemporaryDirectory() as scratch, ApacheKafka(Path(scratch) / "kafka") as node:
        folder = Path(scratch)
        clip = encoded(options.clip, options.seconds, 1280, 720, folder / "720p.mp4")
        small_clip = encoded(options.clip, options.seconds, 640, 360, folder / "360p.mp4")
        tiny = write_tiny_bundle(folder / "tiny", identity=True).path
        with LiveModels.load(None, live) as shipped, LiveModels.load(tiny, live) as small:
            models = {"shipped": shipped, "tiny": small}
            parts: dict[str, Callable[[], dict[str, Any]]] = {
                "restore": lambda: {
                    "rows": restores(node, shipped, live, options.clip, options.sizes, options.repeats)
                },
                "exactly_once": lambda: {"rows": exactly_once(node, models, live, clip, small_clip, options.repeats)},
                "takeover": lambda: takeover(node, folder, tiny, options.clip, options.kills),
            }
            for name in options.only or parts:
                before = os.getloadavg()[0]
                found = parts[name]()
                figures[name] = found | {"cores": os.cpu_count(), "load": [before, os.getloadavg()[0]]}
                options.out.parent.mkdir(parents=True, exist_ok=True)
                document.write_text(json.dumps(figures, indent=1, default=float) + "\n")
                options.out.with_suffix(".md").write_text(page(figures))
    print(page(figures))


if __name__ == "__main__":
    main()
