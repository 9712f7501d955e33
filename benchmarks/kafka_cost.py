"""What Kafka costs a worker beside its stages: commits, and asking for records; processor time, on a real Apache Kafka.

    python benchmarks/kafka_cost.py --clip .cache/clips/WolfgangLanger_Pexels.mp4

Starts a node of its own (needs Java 17 and Maven). Each comparison runs turn and turn about; medians over the rounds.

- A commit of so many streams: four scores and a state each, the arrays of its anchors apart (and unchanged, as they are
  once an anchor stands) or within, as states of version 2 had them.
- Asking every 20 ms for records where there are none, as a worker does that has enough to do: without a wait, or with
  one so short that kafka-python takes its full step each time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from apache_kafka import ApacheKafka
from worker import real_state

from stream.bench.clock import process_s
from stream.broker.contract import Consumer, Producer, TopicPartition, TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.live import LiveModels, LiveSettings
from stream.messages import StateRecord, encode
from stream.publish import Publisher, PublishSettings

PARTITIONS, SCORES = 4, 4
_SCORE = b"x" * 1000
_TURN_S = 0.02


class Ignore:
    """Partitions come and go: nothing is to be done."""

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """See `stream.broker.contract.Listener`."""

    revoked = lost = assigned


def commit(producer: Producer, consumer: Consumer, streams: list[StateRecord], *, apart: bool) -> None:
    """One transaction, as a worker's checkpoint makes it."""
    producer.begin()
    for stream in streams:
        for _ in range(SCORES):
            producer.send("scores", key=stream.stream.encode(), value=_SCORE)
    for number, stream in enumerate(streams):
        value = encode(stream.apart()[0] if apart else stream)
        producer.send("state", key=stream.key, value=value, partition=number % PARTITIONS)
    producer.commit({}, consumer.group())


def poll(consumer: Consumer, wait_s: float, seconds: float) -> None:
    """Ask for records that do not come."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        consumer.poll(wait_s, 16)
        time.sleep(_TURN_S)


def compared(ways: dict[str, Callable[[], None]], node: ApacheKafka, rounds: int, each: float) -> None:
    """Print what each way costs: ms of this process and of the broker for one of ``each``."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            ours, theirs = time.process_time(), process_s(node.pid or 0)
            way()
            if number:  # the first round warms up
                cost = time.process_time() - ours, process_s(node.pid or 0) - theirs
                spent[name].append((1e3 * cost[0] / each, 1e3 * cost[1] / each))
    for name, rows in spent.items():
        ours_ms, theirs_ms = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name}: {ours_ms:.2f} ms, of the broker {theirs_ms:.2f} ms")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="one face, 10 s or longer")
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    live = LiveSettings(threads=1)
    with LiveModels.load(None, live) as models:
        state = real_state(models, live, options.clip)
    streams = [msgspec.structs.replace(state, stream=f"stream-{number:03d}") for number in range(options.streams)]
    print(f"state: {len(encode(state)) / 1024:.0f} KiB, without arrays {len(encode(state.apart()[0])) / 1024:.0f} KiB")
    with tempfile.TemporaryDirectory() as scratch, ApacheKafka(Path(scratch) / "kafka") as node:
        broker = KafkaBroker(KafkaSettings(bootstrap_servers=node.bootstrap))
        broker.ensure_topics([TopicSpec(n, PARTITIONS, compacted=n == "state") for n in ("in", "scores", "state")])
        with Publisher(broker, "in", PublishSettings()) as publisher:
            list(publisher.publish("s", [options.clip]))
        consumer, producer = broker.consumer("g"), broker.producer("t")
        consumer.subscribe(["in"], Ignore())
        while not consumer.poll(1.0, 1000):
            pass
        commits = 15

        def made(*, apart: bool) -> Callable[[], None]:
            def way() -> None:
                for _ in range(commits):
                    commit(producer, consumer, streams, apart=apart)

            return way

        ways = {"a commit, anchors within": made(apart=False), "a commit, anchors apart": made(apart=True)}
        compared(ways, node, options.rounds, commits)
        seconds = 2.0
        asks = {
            "a second of asking, each time in full": lambda: poll(consumer, 1e-3, seconds),
            "a second of asking without a wait": lambda: poll(consumer, 0.0, seconds),
        }
        compared(asks, node, options.rounds, seconds)
        producer.close(5.0)
        consumer.close(5.0)
        broker.close()


if __name__ == "__main__":
    main()
