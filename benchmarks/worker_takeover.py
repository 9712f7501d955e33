"""How long a partition stands still when its worker is killed: the takeover part of `worker.py`."""

from __future__ import annotations

import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apache_kafka import ApacheKafka
from chaos import TOPIC, Fleet

from stream.broker.contract import Record, TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.publish import Form, Publisher, PublishSettings

PARTITIONS, SESSION_S, COMMIT_S = 6, 10.0, 0.5
#: Nothing for so long after a kill: the partition was the dead worker's.
SILENT_S = (1.0, 4.0)
GIVE_UP_S = 90.0


class _Watch:
    """When scores of each stream became visible to a reader of committed records, by its clock."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self.seen_s: dict[str, list[float]] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join(10)

    def last_s(self, stream: str) -> float:
        return self.seen_s.get(stream, [0.0])[-1]

    def _run(self) -> None:
        broker = KafkaBroker(KafkaSettings(bootstrap_servers=self._bootstrap))
        consumer = broker.consumer(f"watch-{time.monotonic_ns()}")
        consumer.subscribe([self._topic], _Nobody())
        while not self._done.is_set():
            for record in consumer.poll(0.1, 500):
                self.seen_s.setdefault((record.key or b"").decode(), []).append(time.monotonic())
        broker.close()


class _Nobody:
    def assigned(self, partitions: list[TopicPartition]) -> None:
        """Nothing to do."""

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """Nothing to do."""

    def lost(self, partitions: list[TopicPartition]) -> None:
        """Nothing to do."""


def _pictures(broker: KafkaBroker, clip: Path) -> Iterator[Record]:
    broker.ensure_topics([TopicSpec("pictures", 1)])
    with Publisher(broker, "pictures", PublishSettings(form=Form.FRAMES, fps=5.0)) as publisher:
        list(publisher.publish("s", [clip]))
    reader, source = broker.reader(), TopicPartition("pictures", 0)
    yield from reader.read(source, None, reader.end_offset(source))


def _publish(bootstrap: str, pictures: list[Record], done: threading.Event) -> None:
    """A picture a second in every partition, each a stream of its own."""
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=bootstrap))
    producer = broker.plain_producer()
    number = 0
    while not done.wait(0.5):
        value = pictures[number % len(pictures)].value
        for p in range(PARTITIONS):
            headers = [("content-type", b"image/jpeg"), ("pts-ns", str(number * 500_000_000).encode())]
            producer.send(TOPIC, key=f"p{p}".encode(), value=value, headers=headers, partition=p)
        producer.flush(30.0)
        number += 1
    broker.close()


def takeover(node: ApacheKafka, folder: Path, bundle: Path, clip: Path, kills: int) -> dict[str, Any]:
    """Kill one of two workers again and again; seconds from each kill to the first score of each of its partitions."""
    rng = random.Random(1)  # noqa: S311
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=node.bootstrap))
    broker.ensure_topics([TopicSpec(TOPIC, PARTITIONS), TopicSpec("takeover.scores", PARTITIONS)])
    pictures = list(_pictures(broker, clip))
    options = ["--threads", "1", "--analysis-side", "320", "--fps", "2", "--bundle", str(bundle)]
    options += ["--commit-interval", str(COMMIT_S), "--session-timeout", str(SESSION_S)]
    fleet = Fleet(node.bootstrap, "takeover", options, folder)
    done = threading.Event()
    publisher = threading.Thread(target=_publish, args=(node.bootstrap, pictures, done), daemon=True)
    watch = _Watch(node.bootstrap, "takeover.scores")
    publisher.start()
    seconds: list[float] = []
    counted = 0
    try:
        fleet.start()
        fleet.start()
        for _ in range(3 * kills):
            if counted == kills:
                break
            _wait_until_all_flow(watch, fleet, broker)
            fleet.end(rng, hard=True)
            killed_s = time.monotonic()
            fleet.start()
            found = _silences(watch, killed_s)
            counted += bool(found)
            seconds += found
            print(f"kill {counted} of {kills}: {[round(s, 1) for s in found]}", file=sys.stderr, flush=True)
    finally:
        fleet.close()
        done.set()
        publisher.join(30)
        watch.close()
        broker.close()
    return {
        "how": f"Two workers, {PARTITIONS} partitions, two pictures a second in each; one is killed and a new one "
        f"started. Seconds from the kill to the first committed score of a partition that was the dead worker's. "
        f"Session timeout {SESSION_S:.0f} s, transaction timeout 15 s, commits every {COMMIT_S} s.",
        "kills": counted,
        "seconds": seconds,
        "p50": statistics.median(seconds),
        "p95": sorted(seconds)[min(round(0.95 * len(seconds)), len(seconds) - 1)],
    }


def _wait_until_all_flow(watch: _Watch, fleet: Fleet, broker: KafkaBroker) -> None:
    """Every partition has given scores of late, and both workers have had partitions for a while."""
    since_s = began_s = time.monotonic()
    while time.monotonic() - since_s < 6.0:
        time.sleep(0.2)
        now_s = time.monotonic()
        if any(now_s - watch.last_s(f"p{p}") > 3.0 for p in range(PARTITIONS)) or not _both_hold(broker):
            since_s = now_s
        if fleet.reap():
            fleet.start()
        if now_s - began_s > 2 * GIVE_UP_S:
            raise RuntimeError("the workers do not settle; see their logs")


def _both_hold(broker: KafkaBroker) -> bool:
    group = broker._admin.describe_groups(["takeover"])["takeover"]
    held = [member["member_assignment"] for member in group["members"]]
    return len(held) == 2 and all(one and any(topic["partitions"] for topic in _topics(one)) for one in held)


def _topics(assignment: Any) -> list[Any]:
    return list(assignment["assigned_partitions"])


def _silences(watch: _Watch, killed_s: float) -> list[float]:
    """How long each partition of the dead worker was silent."""
    time.sleep(SILENT_S[1])
    early, late = killed_s + SILENT_S[0], killed_s + SILENT_S[1]
    dead = [f"p{p}" for p in range(PARTITIONS) if not any(early < t < late for t in list(watch.seen_s[f"p{p}"]))]
    found = []
    for stream in dead:
        while watch.last_s(stream) < late:
            time.sleep(0.05)
            if time.monotonic() - killed_s > GIVE_UP_S:
                raise RuntimeError(f"nobody took {stream} over within {GIVE_UP_S:.0f} s")
        found.append(min(t for t in watch.seen_s[stream] if t >= late) - killed_s)
    return found
