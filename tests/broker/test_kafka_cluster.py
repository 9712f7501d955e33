"""Three brokers of which one at a time dies: the others go on, and nothing is lost or comes twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_kafka import ApacheKafkaCluster, KafkaMissing
from broker_harness import KafkaHarness, Told, offsets, publish, topic

from stream.broker.contract import Broker, Consumer, Producer, TopicPartition
from stream.broker.errors import BrokerError

pytestmark = pytest.mark.kafka

PARTITIONS = 6


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ApacheKafkaCluster]:
    try:
        cluster = ApacheKafkaCluster(tmp_path)
    except KafkaMissing as missing:
        pytest.skip(str(missing))
    with cluster:
        yield cluster


def test_clients_outlive_each_broker_of_three(cluster: ApacheKafkaCluster) -> None:
    harness = KafkaHarness(cluster.bootstrap)
    broker = harness.broker(loss_timeout_s=60.0, session_timeout_s=10.0, transaction_timeout_s=60.0)
    source, target = topic(broker, PARTITIONS), topic(broker, PARTITIONS)
    consumer, producer = broker.consumer(source), broker.producer(f"{source}.1")
    consumer.subscribe([source], Told())
    sent: list[bytes] = []
    # Among them are leaders of partitions, and who coordinates the group and the transactions.
    for node in cluster.nodes:
        for is_away in (False, True):
            if is_away:
                node.kill()
            new = [b"%d" % number for number in range(len(sent), len(sent) + 12)]
            publish(broker, source, new, within_s=60)
            sent += new
            copy(consumer, producer, target, len(new))
        node.start()
    assert sorted(copied(broker, target)) == sorted(sent)
    harness.close()


def copy(consumer: Consumer, producer: Producer, target: str, count: int) -> None:
    """As a worker does it: what could not be committed is read again."""
    done, until = 0, time.monotonic() + 60.0
    while done < count:
        assert time.monotonic() < until, f"only {done} of {count} were copied"
        records = consumer.poll(0.2, 100)
        if not records:
            continue
        producer.begin()
        for record in records:
            producer.send(target, key=record.key, value=record.value)
        try:
            producer.commit(offsets(records), consumer.group())
            done += len(records)
        except BrokerError:
            for partition in consumer.assignment():
                consumer.seek(partition, consumer.committed(partition) or 0)


def copied(broker: Broker, target: str) -> list[bytes]:
    """What a reader of committed records finds."""
    reader = broker.reader()
    parts = [TopicPartition(target, p) for p in range(PARTITIONS)]
    return [record.value or b"" for part in parts for record in reader.read(part, None, reader.end_offset(part))]
