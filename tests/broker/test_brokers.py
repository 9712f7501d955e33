"""What both brokers do alike: the in-memory twin, and a real Apache Kafka (marker `kafka`)."""

from __future__ import annotations

import re
import threading
import time

import pytest
from broker_harness import (
    LOSS_S,
    MAX_BYTES,
    TRANSACTION_S,
    Harness,
    Told,
    offsets,
    publish,
    settle,
    take,
    topic,
)

from stream.broker.contract import Broker, TopicPartition, TopicSpec
from stream.broker.errors import (
    BrokerError,
    FencedError,
    MessageTooLargeError,
    TopicNotFoundError,
)


class TestRecords:
    def test_everything_comes_back_as_it_was_sent(self, broker: Broker) -> None:
        name = topic(broker)
        producer = broker.plain_producer()
        headers = [("content-type", b"image/jpeg"), ("pts-ns", b"\x00\x01"), ("pts-ns", b"")]
        producer.send(name, key=b"stream", value=b"\x00\xff", headers=headers, timestamp_ms=1_700_000_000_123)
        producer.send(name, key=b"stream", value=None)
        producer.flush(10)
        consumer = broker.consumer(name)
        consumer.subscribe([name], Told())
        first, tombstone = take(consumer, 2)
        assert (first.key, first.value, first.headers) == (b"stream", b"\x00\xff", tuple(headers))
        assert (first.timestamp_ms, first.offset, first.source) == (1_700_000_000_123, 0, TopicPartition(name, 0))
        assert (tombstone.value, tombstone.headers, tombstone.offset) == (None, (), 1)
        assert abs(tombstone.timestamp_ms / 1000 - time.time()) < 60

    def test_keys_choose_partitions_as_every_kafka_client_does(self, broker: Broker) -> None:
        name = topic(broker, 12)
        # The hashes of Kafka's own tests (UtilsTest.testMurmur2).
        hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
        keys = {key: (value & 0x7FFFFFFF) % 12 for key, value in hashes.items()}
        producer = broker.plain_producer()
        for key in keys:
            producer.send(name, key=key, value=key)
        producer.send(name, key=b"21", value=b"given", partition=7)
        producer.flush(10)
        consumer = broker.consumer(name)
        consumer.subscribe([name], Told())
        found = {record.value: record.partition for record in take(consumer, 4)}
        assert found == {**keys, b"given": 7}

    def test_a_poll_gives_no_more_than_asked_and_keeps_the_order(self, broker: Broker) -> None:
        name = topic(broker)
        publish(broker, name, [b"%d" % i for i in range(25)])
        consumer = broker.consumer(name)
        consumer.subscribe([name], Told())
        take(consumer, 1)
        assert len(consumer.poll(5, 7)) <= 7
        rest = take(consumer, 25 - consumer.position(TopicPartition(name, 0)))
        assert [int(record.value or b"") for record in rest] == list(range(25 - len(rest), 25))

    def test_seek_pause_resume(self, broker: Broker) -> None:
        name = topic(broker, 2)
        first, second = TopicPartition(name, 0), TopicPartition(name, 1)
        publish(broker, name, [b"0", b"1", b"2"], partition=0)
        publish(broker, name, [b"x"], partition=1)
        consumer = broker.consumer(name)
        consumer.subscribe([name], Told())
        take(consumer, 4)
        assert consumer.position(first) == 3
        consumer.pause([first])
        consumer.seek(first, 1)
        consumer.seek(second, 0)
        assert [record.value for record in take(consumer, 1)] == [b"x"]
        assert consumer.poll(0.5, 10) == []
        assert consumer.assignment() == {first, second}
        consumer.resume([first])
        assert [record.value for record in take(consumer, 2)] == [b"1", b"2"]

    def test_polls_that_never_wait_find_the_same(self, broker: Broker) -> None:
        name = topic(broker, 2)
        first, second = TopicPartition(name, 0), TopicPartition(name, 1)
        consumer, other = broker.consumer(name), broker.consumer(name)
        consumer.subscribe([name], Told())
        settle([consumer], [2], wait_s=0.0)
        publish(broker, name, [b"%d" % i for i in range(5)], partition=0)
        assert [record.value for record in take(consumer, 2, wait_s=0.0)] == [b"0", b"1"]
        assert [record.value for record in take(consumer, 3, wait_s=0.0)] == [b"2", b"3", b"4"]
        consumer.pause([first])
        consumer.seek(first, 3)
        publish(broker, name, [b"x"], partition=1)
        assert [record.value for record in take(consumer, 1, wait_s=0.0)] == [b"x"]
        consumer.resume([first])
        assert [record.value for record in take(consumer, 2, wait_s=0.0)] == [b"3", b"4"]
        other.subscribe([name], Told())
        settle([consumer, other], [1, 1], wait_s=0.0)
        assert consumer.assignment() | other.assignment() == {first, second}

    def test_moving_what_is_not_ours_is_an_error(self, broker: Broker) -> None:
        name = topic(broker)
        consumer = broker.consumer(name)
        consumer.subscribe([name], Told())
        for move in (consumer.position, lambda part: consumer.seek(part, 0), lambda part: consumer.pause([part])):
            with pytest.raises(BrokerError, match="not ours"):
                move(TopicPartition(name, 0))

    def test_a_pattern_takes_in_topics_that_come_later(self, broker: Broker) -> None:
        first = topic(broker)
        consumer = broker.consumer(first)
        consumer.subscribe(re.compile(f"{first}.*"), Told())
        publish(broker, first, [b"old"])
        assert take(consumer, 1)[0].value == b"old"
        broker.ensure_topics([TopicSpec(f"{first}-later", 1, max_message_bytes=MAX_BYTES)])
        publish(broker, f"{first}-later", [b"new"])
        assert take(consumer, 1, within_s=30)[0].topic == f"{first}-later"


class TestTransactions:
    def test_all_of_a_commit_is_visible_and_nothing_of_an_abort(self, broker: Broker) -> None:
        name = topic(broker, 2)
        producer = broker.producer(name)
        reader = broker.reader()
        for word, ends in ((b"kept", True), (b"dropped", False), (b"kept too", True)):
            producer.begin()
            producer.send(name, key=None, value=word, partition=0)
            producer.send(name, key=None, value=word, partition=1)
            if ends:
                producer.commit({}, None)
            else:
                producer.abort()
        for number in range(2):
            part = TopicPartition(name, number)
            found = list(reader.read(part, None, reader.end_offset(part)))
            assert [record.value for record in found] == [b"kept", b"kept too"]
            assert found[-1].offset + 2 == reader.end_offset(part)  # behind it, the marker of its commit

    def test_a_reader_of_committed_records_waits_for_what_is_open(self, broker: Broker) -> None:
        name = topic(broker)
        part = TopicPartition(name, 0)
        producer = broker.producer(name)
        producer.begin()
        producer.send(name, key=b"k", value=b"pending")
        dirty, clean = broker.reader(committed=False), broker.reader()
        until = time.monotonic() + 10
        while dirty.end_offset(part) < 1:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert [record.value for record in dirty.read(part, 0, 1)] == [b"pending"]
        found: list[bytes | None] = []
        waiting = threading.Thread(target=lambda: found.extend(record.value for record in clean.read(part, 0, 1)))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        producer.commit({}, None)
        waiting.join(LOSS_S)
        assert found == [b"pending"]

    def test_a_reader_gets_past_a_tail_of_aborted_records(self, broker: Broker) -> None:
        name = topic(broker)
        part = TopicPartition(name, 0)
        producer = broker.producer(name)
        for _ in range(3):
            producer.begin()
            producer.send(name, key=b"k", value=b"dropped")
            time.sleep(0.05)  # so that it is written, not only buffered
            producer.abort()
        reader = broker.reader()
        assert list(reader.read(part, None, reader.end_offset(part))) == []
        assert reader.end_offset(part) > 0

    def test_offsets_become_the_groups_with_the_commit_only(self, broker: Broker) -> None:
        source, target = topic(broker), topic(broker)
        publish(broker, source, [b"0", b"1", b"2"])
        consumer = broker.consumer(source)
        consumer.subscribe([source], Told())
        producer = broker.producer(source)
        records = take(consumer, 3)
        part = TopicPartition(source, 0)
        producer.begin()
        producer.send(target, key=b"k", value=b"v")
        producer.abort()
        assert consumer.committed(part) is None
        producer.begin()
        producer.send(target, key=b"k", value=b"v")
        producer.commit(offsets(records[:2]), consumer.group())
        assert consumer.committed(part) == 2
        consumer.close(5)
        again = broker.consumer(source)
        again.subscribe([source], Told())
        assert [record.value for record in take(again, 1)] == [b"2"]

    def test_a_new_producer_with_the_same_id_fences_the_old_one(self, broker: Broker) -> None:
        name = topic(broker)
        part = TopicPartition(name, 0)
        old = broker.producer(name)
        old.begin()
        old.send(name, key=b"k", value=b"zombie")
        new = broker.producer(name)
        new.begin()
        new.send(name, key=b"k", value=b"heir")
        new.commit({}, None)
        old.send(name, key=b"k", value=b"zombie again")
        with pytest.raises(FencedError):
            old.commit({}, None)
        with pytest.raises(FencedError):
            old.begin()
        new.begin()  # the zombie did not hurt its heir
        new.send(name, key=b"k", value=b"heir again")
        new.commit({}, None)
        reader = broker.reader()
        found = reader.read(part, None, reader.end_offset(part))
        assert [record.value for record in found] == [b"heir", b"heir again"]

    def test_a_transaction_open_for_too_long_is_aborted_and_its_commit_refused(
        self, broker: Broker, harness: Harness
    ) -> None:
        name = topic(broker)
        part = TopicPartition(name, 0)
        producer = broker.producer(name)
        producer.begin()
        producer.send(name, key=b"k", value=b"late")
        time.sleep(0.2)
        harness.pass_time(TRANSACTION_S + 2.5)
        with pytest.raises(FencedError):
            producer.commit({}, None)
        reader = broker.reader()
        assert list(reader.read(part, None, reader.end_offset(part))) == []

    def test_misuse_is_an_error(self, broker: Broker) -> None:
        name = topic(broker)
        producer = broker.producer(name)
        with pytest.raises(BrokerError, match="no transaction is open"):
            producer.send(name, key=b"k", value=b"v")
        producer.abort()
        producer.begin()
        with pytest.raises(BrokerError, match="a transaction is open"):
            producer.begin()
        producer.close(5)
        producer.close(5)
        with pytest.raises(BrokerError, match="closed"):
            producer.begin()


class TestRefusals:
    def test_a_large_record_is_refused_at_once_by_the_client(self, broker: Broker) -> None:
        name = topic(broker)
        producer = broker.producer(name)
        producer.begin()
        producer.send(name, key=b"k", value=b"small")
        with pytest.raises(MessageTooLargeError) as refused:
            producer.send(name, key=b"k", value=bytes(MAX_BYTES + 1))
        assert "max_message_bytes" in refused.value.hint
        producer.commit({}, None)  # the transaction goes on
        reader = broker.reader()
        assert [record.value for record in reader.read(TopicPartition(name, 0), 0, 1)] == [b"small"]

    def test_a_record_too_large_for_its_topic_spoils_the_transaction(self, broker: Broker) -> None:
        small, wide = topic(broker, max_message_bytes=1000), topic(broker)
        producer = broker.producer(small)
        producer.begin()
        producer.send(wide, key=b"k", value=b"beside it")
        producer.send(small, key=b"k", value=bytes(5000))
        with pytest.raises(MessageTooLargeError):
            producer.commit({}, None)
        producer.begin()
        producer.send(wide, key=b"k", value=b"next")
        producer.commit({}, None)
        reader = broker.reader()
        part = TopicPartition(wide, 0)
        assert [record.value for record in reader.read(part, None, reader.end_offset(part))] == [b"next"]

    def test_what_is_too_large_together_goes_in_parts(self, broker: Broker) -> None:
        name = topic(broker, max_message_bytes=2000)
        producer = broker.producer(name)
        values = [b"%d" % number + bytes(800) for number in range(9)]
        producer.begin()
        for value in values:
            producer.send(name, key=b"k", value=value)
        producer.commit({}, None)
        reader = broker.reader()
        part = TopicPartition(name, 0)
        assert [record.value for record in reader.read(part, None, reader.end_offset(part))] == values

    def test_a_record_too_large_among_others_is_named(self, broker: Broker) -> None:
        name = topic(broker, max_message_bytes=2000)
        producer = broker.producer(name)
        producer.begin()
        for size in (100, 100, 5000, 100):
            producer.send(name, key=b"k", value=bytes(size))
        with pytest.raises(MessageTooLargeError):
            producer.commit({}, None)
        reader = broker.reader()
        part = TopicPartition(name, 0)
        assert not list(reader.read(part, None, reader.end_offset(part)))

    def test_a_plain_producer_says_at_flush_what_was_refused(self, broker: Broker) -> None:
        name = topic(broker, max_message_bytes=1000)
        producer = broker.plain_producer()
        producer.send(name, key=b"k", value=bytes(5000))
        with pytest.raises(MessageTooLargeError):
            producer.flush(10)
        producer.send(name, key=b"k", value=b"small")
        producer.flush(10)

    def test_an_unknown_topic_is_named_everywhere(self, broker: Broker) -> None:
        producer, reader, consumer = broker.producer("nobody"), broker.reader(), broker.consumer("nobody")
        producer.begin()
        for call in (
            lambda: broker.partitions("no-such-topic"),
            lambda: producer.send("no-such-topic", key=b"k", value=b"v"),
            lambda: broker.plain_producer().send("no-such-topic", key=b"k", value=b"v"),
            lambda: consumer.subscribe(["no-such-topic"], Told()),
            lambda: list(reader.read(TopicPartition("no-such-topic", 0), None, 1)),
            lambda: reader.end_offset(TopicPartition("no-such-topic", 0)),
        ):
            started = time.monotonic()
            with pytest.raises(TopicNotFoundError, match="no-such-topic") as refused:
                call()
            assert refused.value.hint
            assert time.monotonic() - started < LOSS_S / 2  # an answer, not a timeout

    def test_a_partition_beyond_the_last(self, broker: Broker) -> None:
        name = topic(broker)
        reader, producer = broker.reader(), broker.plain_producer()
        with pytest.raises(TopicNotFoundError):
            list(reader.read(TopicPartition(name, 1), None, 1))
        with pytest.raises(BrokerError, match="partition"):
            producer.send(name, key=b"k", value=b"v", partition=1)

    def test_neither_key_nor_value(self, broker: Broker) -> None:
        name = topic(broker)
        with pytest.raises(BrokerError, match="key"):
            broker.plain_producer().send(name, key=None, value=None)


class TestOffsets:
    def test_beginning_end_and_time(self, broker: Broker) -> None:
        name = topic(broker)
        part = TopicPartition(name, 0)
        reader = broker.reader()
        assert (reader.beginning_offset(part), reader.end_offset(part)) == (0, 0)
        assert reader.offset_for_time(part, 0) is None
        # Of today: a broker deletes records that are stamped longer ago than it keeps them.
        now_ms = time.time_ns() // 1_000_000
        producer = broker.plain_producer()
        for second in range(5):
            producer.send(name, key=b"k", value=b"%d" % second, timestamp_ms=now_ms + 1000 * second)
        producer.flush(10)
        assert reader.end_offset(part) == 5
        assert reader.offset_for_time(part, now_ms + 1_500) == 2
        assert reader.offset_for_time(part, now_ms + 9_000) is None
        assert [record.offset for record in reader.read(part, 1, 3)] == [1, 2]
        assert list(reader.read(part, 3, 3)) == []

    def test_topics_are_created_once_and_then_left_alone(self, broker: Broker) -> None:
        name = topic(broker, 3)
        broker.ensure_topics([TopicSpec(name, 7)])
        assert broker.partitions(name) == 3

    def test_a_topic_that_was_made_again_has_another_id(self, broker: Broker, harness: Harness) -> None:
        name, other, reader = topic(broker), topic(broker), broker.reader()
        before = reader.topic_ids([name, other, f"no-{name}"])
        harness.delete_topic(name)
        without = reader.topic_ids([name, other])
        broker.ensure_topics([TopicSpec(name, 1)])
        after = reader.topic_ids([name, other])
        assert before.keys() == after.keys() == {name, other}
        assert without == {other: before[other]}
        assert all(before.values())
        assert before[other] == after[other]
        assert before[name] != after[name]
