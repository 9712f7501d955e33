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

GROUP = "takeover"
PARTITIONS, SESSION_S, COMMIT_S = 6, 10.0, 0.5
#: What a worker had committed when it was killed is seen within this; nobody takes over so early.
GRACE_S = 5.0
#: How long both workers must have had partitions before the next kill, each with a score not older than the second.
SETTLED_S, LATE_S = 3.0, 10.0
GIVE_UP_S = 90.0
HOW = (
    f"Two workers, {PARTITIONS} partitions, two pictures a second in each; one is killed and a new one started. "
    "Seconds from the kill to the first committed score of each partition that was the dead worker's. "
    f"Session timeout {SESSION_S:.0f} s, commits every {COMMIT_S} s. A transaction that was open at the kill is waited "
    "for: its timeout is 15 s, and this broker looks for such every second (Kafka's default: every 10 s)."
)


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
    fleet = Fleet(node.bootstrap, GROUP, options, folder)
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
            held = _settled(watch, fleet, broker)
            fleet.end(rng, hard=True)
            killed_s = time.monotonic()
            fleet.start()
            found = [_silent_s(watch, p, killed_s) for p in _left(broker, held)]
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
        "how": HOW,
        "kills": counted,
        "seconds": seconds,
        "p50": statistics.median(seconds),
        "p95": sorted(seconds)[min(round(0.95 * len(seconds)), len(seconds) - 1)],
    }


def _held(broker: KafkaBroker) -> dict[str, list[int]]:
    """Member of the group -> its partitions."""
    members = broker._admin.describe_groups([GROUP])[GROUP]["members"]
    held = {}
    for member in members:
        topics = member["member_assignment"]["assigned_partitions"] if member["member_assignment"] else []
        held[member["member_id"]] = [p for topic in topics for p in topic["partitions"]]
    return held


def _settled(watch: _Watch, fleet: Fleet, broker: KafkaBroker) -> dict[str, list[int]]:
    """Waits until two workers share the partitions and all of them give scores."""
    since_s = began_s = time.monotonic()
    while True:
        time.sleep(0.5)
        held, now_s = _held(broker), time.monotonic()
        flows = all(now_s - watch.last_s(f"p{p}") < LATE_S for p in range(PARTITIONS))
        if not flows or len(held) != 2 or not all(held.values()):
            since_s = now_s
        if fleet.reap():
            fleet.start()
        if now_s - since_s > SETTLED_S:
            return held
        if now_s - began_s > 2 * GIVE_UP_S:
            raise RuntimeError("the workers do not settle; see their logs")


def _left(broker: KafkaBroker, held: dict[str, list[int]]) -> list[int]:
    """The partitions of the member that is no longer there, once the group has noticed."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < GIVE_UP_S:
        time.sleep(0.5)
        if gone := held.keys() - _held(broker).keys():
            return [p for member in gone for p in held[member]]
    raise RuntimeError(f"the group kept a dead member for {GIVE_UP_S:.0f} s")


def _silent_s(watch: _Watch, partition: int, killed_s: float) -> float:
    """Seconds until the partition's first score from somebody else."""
    stream = f"p{partition}"
    while watch.last_s(stream) < killed_s + GRACE_S:
        time.sleep(0.05)
        if time.monotonic() - killed_s > GIVE_UP_S:
            raise RuntimeError(f"nobody took {stream} over within {GIVE_UP_S:.0f} s")
    return min(t for t in list(watch.seen_s[stream]) if t >= killed_s + GRACE_S) - killed_s
