"""What only a real Apache Kafka can show: wrong addresses, wrong passwords, brokers that die and come back."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from apache_kafka import ApacheKafka, free_ports
from broker_harness import KafkaHarness, Told, offsets, publish, take, topic
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaConnectionError, UnknownBrokerIdError, UnsupportedCodecError
from kafka.net.inet import KafkaNetSocket
from kafka.producer.sender import Sender
from kafka.record import util as kafka_checksums

from difffake.errors import MissingExtraError
from stream.broker.contract import Broker, Consumer, TopicPartition, TopicSpec
from stream.broker.errors import AuthenticationError, BrokerError, BrokerUnavailableError, FencedError
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.broker.kafka_client import retried, translated

pytestmark = pytest.mark.kafka


@pytest.fixture
def harness(apache_kafka: ApacheKafka) -> Iterator[KafkaHarness]:
    real = KafkaHarness(apache_kafka.bootstrap)
    yield real
    real.close()


def test_where_nobody_listens_it_says_so_within_seconds() -> None:
    (port,) = free_ports(1)
    started = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match=f"127.0.0.1:{port}") as refused:
        KafkaBroker(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", connect_timeout_s=1.0))
    assert time.monotonic() - started < 10
    assert "port" in refused.value.hint
    assert refused.value.exit_code == BrokerUnavailableError.exit_code


def test_passwords(apache_kafka: ApacheKafka) -> None:
    settings = KafkaSettings(
        bootstrap_servers=apache_kafka.sasl_bootstrap,
        connect_timeout_s=10.0,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username=apache_kafka.sasl_username,
        sasl_password=apache_kafka.sasl_password,
    )
    right = KafkaBroker(settings)
    assert topic(right)
    right.close()
    started = time.monotonic()
    with pytest.raises(AuthenticationError, match="Authentication") as refused:
        KafkaBroker(replace(settings, sasl_password="guessed"))  # noqa: S106
    assert "password" in refused.value.hint
    assert time.monotonic() - started < settings.connect_timeout_s  # told, not timed out
    assert "guessed" not in f"{refused.value} {settings!r} {refused.value.hint}"


def test_a_missing_tls_file_is_named() -> None:
    with pytest.raises(BrokerError, match=r"nowhere\.pem"):
        KafkaBroker(KafkaSettings(security_protocol="SSL", tls_ca=Path("nowhere.pem")))


def test_without_the_c_checksums_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_checksums, "crc32c_c", None)
    with pytest.raises(MissingExtraError) as refused:
        KafkaBroker(KafkaSettings())
    assert "crc32c" in refused.value.hint


def test_the_records_of_a_transaction_wake_nobody_before_its_commit(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time, kafka-python would tell the coordinator of the partitions so far: a request for each of them."""
    broker = harness.broker()
    name = topic(broker, partitions=6)
    producer, woken = broker.producer("all-at-once"), 0
    wake = Sender.wakeup

    def woke(self: Sender) -> None:
        nonlocal woken
        woken += 1
        wake(self)

    monkeypatch.setattr(Sender, "wakeup", woke)
    for number in range(3):
        producer.begin()
        before = woken
        for partition in range(6):
            producer.send(name, key=b"k", value=b"%d" % number, partition=partition)
        # In the first one it is asked where the topic's partitions are.
        assert (woken == before) == (number > 0)
        producer.commit({}, None)
        assert woken > before
    reader = broker.reader()
    for partition in range(6):
        part = TopicPartition(name, partition)
        assert [r.value for r in reader.read(part, None, reader.end_offset(part))] == [b"0", b"1", b"2"]
    reader.close()
    producer.close(5.0)


def test_a_compacted_topic_is_one(harness: KafkaHarness) -> None:
    broker = harness.broker()
    assert isinstance(broker, KafkaBroker)
    name = topic(broker, compacted=True, max_message_bytes=123_456)
    described = str(broker._admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)]))
    assert "compact" in described
    assert "123456" in described
    with pytest.raises(BrokerError):  # the broker's own limits speak too
        broker.ensure_topics([TopicSpec(f"{name}-bad", 1, replicas=9)])


def rewind(consumer: Consumer) -> None:
    """To the beginning. Who is out of the group joins anew and is given everything again; who is not, is not."""
    for part in consumer.assignment():
        consumer.seek(part, 0)


@pytest.mark.slow
def test_a_broker_that_is_killed_and_comes_back_is_waited_for(harness: KafkaHarness, apache_kafka: ApacheKafka) -> None:
    """In mid-transaction: the commit goes through once it is back, and everything is there once."""
    # A busy machine takes a while to start one. What the coordinator knows of already is aborted when its time is over,
    # and its producer is fenced: the test after this one.
    broker = harness.broker(loss_timeout_s=90.0, transaction_timeout_s=90.0)
    source, target = topic(broker), topic(broker)
    part = TopicPartition(target, 0)
    publish(broker, source, [b"%d" % i for i in range(10)])
    consumer = broker.consumer(source)
    consumer.subscribe([source], Told())
    producer = broker.producer(source)
    first = take(consumer, 5)
    producer.begin()
    for record in first:
        producer.send(target, key=record.key, value=record.value)
    apache_kafka.kill()
    apache_kafka.start()
    try:
        producer.commit(offsets(first), consumer.group())
    except BrokerError:  # refused in whole (the session or the transaction ran out meanwhile): the work is done again
        first = []
        rewind(consumer)
    while consumer.committed(TopicPartition(source, 0)) != 10:
        records = [record for record in consumer.poll(0.5, 10) if record.offset >= len(first)]
        if records:
            producer.begin()
            for record in records:
                producer.send(target, key=record.key, value=record.value)
            try:
                producer.commit(offsets(records), consumer.group())
            except BrokerError:
                rewind(consumer)
    reader = broker.reader()
    found = [record.value for record in reader.read(part, None, reader.end_offset(part))]
    assert found == [b"%d" % i for i in range(10)]


@pytest.mark.slow
def test_a_transaction_that_outlives_its_time_while_the_broker_is_away_fences_its_producer(
    harness: KafkaHarness, apache_kafka: ApacheKafka
) -> None:
    """Nothing of it is seen, and nothing of what this producer would send: a new process goes on."""
    broker = harness.broker(loss_timeout_s=90.0)
    target = topic(broker)
    producer = broker.producer(target)
    producer.begin()
    producer.send(target, key=b"k", value=b"lost")
    transactions = producer._sender._kafka._transaction_manager  # type: ignore[attr-defined]
    until = time.monotonic() + 20
    while not transactions._partitions_in_transaction:  # the coordinator knows of it
        producer._sender._kafka._sender.wakeup()  # type: ignore[attr-defined]
        assert time.monotonic() < until
        time.sleep(0.05)
    apache_kafka.kill()
    apache_kafka.start()
    time.sleep(harness.settings.transaction_timeout_s + 2)  # and the coordinator looks for it once a second
    with pytest.raises(FencedError):
        producer.commit({}, None)
    with pytest.raises(FencedError):
        producer.begin()
    again = broker.producer(target)
    again.begin()
    again.send(target, key=b"k", value=b"kept")
    again.commit({}, None)
    part, reader = TopicPartition(target, 0), broker.reader()
    assert [record.value for record in reader.read(part, None, reader.end_offset(part))] == [b"kept"]


def member(broker: Broker) -> tuple[Consumer, str]:
    """The only member of a group that reads a topic of one record, and the topic's name."""
    name = topic(broker)
    publish(broker, name, [b"0"])
    consumer = broker.consumer(name)
    consumer.subscribe([name], Told())
    return consumer, name


def test_a_refused_connection_ends_reading_only_where_it_lasts(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, _ = member(harness.broker(loss_timeout_s=1.0))
    step, refused = consumer._kafka._poll_once, 0  # type: ignore[attr-defined]

    def refuse(*_: object) -> None:
        nonlocal refused
        refused += 1
        if refused == 2:
            monkeypatch.setattr(consumer._kafka, "_poll_once", step)  # type: ignore[attr-defined]
        raise KafkaConnectionError("111 ECONNREFUSED")

    monkeypatch.setattr(consumer._kafka, "_poll_once", refuse)  # type: ignore[attr-defined]
    assert [record.value for record in take(consumer, 1)] == [b"0"]
    assert refused == 2
    refused = 2
    monkeypatch.setattr(consumer._kafka, "_poll_once", refuse)  # type: ignore[attr-defined]
    until = time.monotonic() + 20
    with pytest.raises(BrokerUnavailableError, match="ECONNREFUSED"):  # noqa: PT012  (it takes several polls)
        while time.monotonic() < until:
            consumer.poll(0.5, 10)
    assert refused > 3


def test_a_coordinator_that_cannot_be_reached_for_a_moment_is_asked_again(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python forgets the request, and the records of the transaction wait for it until they expire."""
    broker = harness.broker(loss_timeout_s=10.0)
    name = topic(broker)
    producer, asked = broker.producer("away"), 0
    client = producer._sender._kafka._sender._client  # type: ignore[attr-defined]
    is_ready = client.is_ready

    def is_ready_at_the_second_try(node: object) -> bool:
        nonlocal asked
        if str(node).startswith("coordinator-"):
            asked += 1  # before and after it was waited for: not; when it is tried again: yes
            return asked % 3 == 0 and bool(is_ready(node))
        return bool(is_ready(node))

    monkeypatch.setattr(client, "is_ready", is_ready_at_the_second_try)
    producer.begin()
    producer.send(name, key=b"k", value=b"0")
    producer.commit({}, None)
    assert asked >= 6, "partitions were added, and the transaction was ended: each at the second try"
    part, reader = TopicPartition(name, 0), broker.reader()
    assert [record.value for record in reader.read(part, None, reader.end_offset(part))] == [b"0"]
    reader.close()
    producer.close(5.0)


def test_a_poll_without_a_wait_does_not_wait_for_its_thread(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside threads that decode, each wait for another thread takes as long as many records."""
    broker = harness.broker()
    consumer, name = member(broker)
    take(consumer, 1)

    def wait(*_: object) -> None:
        raise AssertionError("it waited")

    monkeypatch.setattr(consumer._kafka._net, "run", wait)  # type: ignore[attr-defined]
    got: list[bytes | None] = []
    for value in (b"1", b"2"):
        until = time.monotonic() + 0.8  # long enough for an answer without records
        while time.monotonic() < until:
            assert consumer.poll(0.0, 10) == []
            time.sleep(0.01)
        publish(broker, name, [value])
        until = time.monotonic() + 20
        while len(got) < int(value) and time.monotonic() < until:
            got += [record.value for record in consumer.poll(0.0, 10)]
            time.sleep(0.01)
    assert got == [b"1", b"2"]


def test_questions_that_cannot_be_sent_are_an_error_of_the_next_poll(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, _ = member(harness.broker(loss_timeout_s=1.0))
    take(consumer, 1)

    def refuse() -> None:
        raise KafkaConnectionError("111 ECONNREFUSED")

    monkeypatch.setattr(consumer._kafka._fetcher, "_create_fetch_requests", refuse)  # type: ignore[attr-defined]
    until = time.monotonic() + 20
    with pytest.raises(BrokerUnavailableError, match="ECONNREFUSED"):  # noqa: PT012  (it takes several polls)
        while time.monotonic() < until:
            consumer.poll(0.0, 10)
            time.sleep(0.01)


@pytest.mark.slow
def test_a_long_loss_ends_reading_and_committing(harness: KafkaHarness, apache_kafka: ApacheKafka) -> None:
    broker = harness.broker(loss_timeout_s=3.0)
    source, target = topic(broker), topic(broker)
    publish(broker, source, [b"0"])
    consumer = broker.consumer(source)
    consumer.subscribe([source], Told())
    records = take(consumer, 1)
    producer = broker.producer(source)
    producer.begin()
    producer.send(target, key=b"k", value=b"lost")
    apache_kafka.kill()
    try:
        with pytest.raises(BrokerUnavailableError):
            producer.commit(offsets(records), consumer.group())
        with pytest.raises(BrokerUnavailableError):
            producer.begin()
        until = time.monotonic() + 20
        with pytest.raises(BrokerUnavailableError):  # noqa: PT012  (it may take several polls)
            while time.monotonic() < until:
                consumer.poll(0.5, 10)
    finally:
        apache_kafka.start()
    again = harness.broker()
    reader = again.reader()
    again.producer(source)  # takes over the transactional id: what was open is aborted
    part = TopicPartition(target, 0)
    assert list(reader.read(part, None, reader.end_offset(part))) == []


def test_a_long_answer_is_read_in_pieces_of_which_few_are_held() -> None:
    """All of 48 MiB in pieces of 64 KiB, and then whole, was what an answer could make the heap grow by."""
    sent = np.random.default_rng(0).bytes(5 << 20)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        ours = KafkaNetSocket.socket(None, socket.AF_INET, socket.SOCK_STREAM)
        with ours:
            ours.connect(server.getsockname())
            theirs, _ = server.accept()
            with theirs:
                sending = pool.submit(theirs.sendall, sent)
                ours.setblocking(False)
                answer = b""
                while len(answer) < len(sent):
                    assert select.select([ours], [], [], 30)[0], "who waits is woken"
                    held = []
                    with contextlib.suppress(BlockingIOError):  # as kafka-python reads on
                        while True:
                            held.append(ours.recv(4096))
                    assert 0 < sum(map(len, held)) <= 1 << 20
                    answer += b"".join(held)
                sending.result(30)
    assert answer == sent


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_what_producers_have_compressed_can_be_read(
    harness: KafkaHarness, codec: Literal["gzip", "lz4", "snappy", "zstd"]
) -> None:
    broker = harness.broker()
    name = topic(broker)
    publish(KafkaBroker(replace(broker.settings, compression=codec)), name, [b"x" * 10_000, b"y"])
    consumer = broker.consumer(name)
    consumer.subscribe([name], Told())
    assert [found.value for found in take(consumer, 2)] == [b"x" * 10_000, b"y"]


def test_a_codec_that_is_not_there_is_told_with_what_to_install() -> None:
    with pytest.raises(BrokerError) as caught, translated("reading"):
        raise UnsupportedCodecError("Libraries for zstd compression codec not found")
    assert "pip install" in caught.value.hint


def test_a_partition_without_a_leader_is_asked_again() -> None:
    answers = iter([UnknownBrokerIdError(-1), KafkaConnectionError("refused")])

    def ask() -> str:
        if (error := next(answers, None)) is not None:
            raise error
        return "here"

    assert retried(ask, within_s=20.0) == "here"


def test_reading_goes_on_where_a_connection_is_refused_for_a_moment(
    harness: KafkaHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = harness.broker()
    name = topic(broker)
    publish(broker, name, [b"%d" % i for i in range(3)])
    reader, partition = broker.reader(), TopicPartition(name, 0)
    inner = reader._kafka  # type: ignore[attr-defined]
    for method, error in (("poll", KafkaConnectionError("refused")), ("position", UnknownBrokerIdError(-1))):
        asked, times = getattr(inner, method), iter(range(2))

        def failing(
            *told: object, asked: Any = asked, times: Any = times, error: Exception = error, **more: object
        ) -> Any:
            if next(times, None) is not None:
                raise error
            return asked(*told, **more)

        monkeypatch.setattr(inner, method, failing)
    assert [record.value for record in reader.read(partition, None, 3)] == [b"0", b"1", b"2"]
