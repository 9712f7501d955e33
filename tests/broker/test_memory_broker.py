"""What the in-memory broker has besides the contract: faults to order, compaction, a clock."""

from __future__ import annotations

import threading

import pytest
from broker_harness import MemoryHarness, Told, offsets, publish, settle, take, topic
from hypothesis import given
from hypothesis import strategies as st

from stream.broker.contract import TopicPartition
from stream.broker.errors import BrokerError, BrokerUnavailableError
from stream.broker.memory import MemoryBroker
from stream.broker.memory_group import balance


@pytest.fixture
def harness() -> MemoryHarness:
    return MemoryHarness()


@pytest.fixture
def broker(harness: MemoryHarness) -> MemoryBroker:
    return harness.twin


def test_compaction_keeps_the_newest_of_every_key(broker: MemoryBroker) -> None:
    name = topic(broker, compacted=True)
    part = TopicPartition(name, 0)
    producer = broker.producer(name)
    for value, kept in ((b"1", True), (b"aborted", False), (b"2", True)):
        producer.begin()
        producer.send(name, key=b"a", value=value)
        producer.send(name, key=b"gone", value=b"x" if value == b"1" else None)
        if kept:
            producer.commit({}, None)
        else:
            producer.abort()
    producer.begin()
    producer.send(name, key=b"a", value=b"open")
    broker.compact(name)
    reader = broker.reader()
    found = [(record.key, record.value) for record in reader.read(part, None, broker.log(part).stable)]
    assert found == [(b"a", b"2"), (b"gone", None)]
    broker.compact(name, drop_tombstones=True)
    producer.commit({}, None)
    found = [(record.key, record.value) for record in reader.read(part, None, reader.end_offset(part))]
    assert found == [(b"a", b"2"), (b"a", b"open")]
    with pytest.raises(BrokerError, match="not compacted"):
        broker.compact(topic(broker))


def test_retention_moves_the_beginning(broker: MemoryBroker) -> None:
    name = topic(broker)
    part = TopicPartition(name, 0)
    publish(broker, name, [b"%d" % i for i in range(5)])
    broker.delete_before(part, 3)
    reader = broker.reader()
    assert reader.beginning_offset(part) == 3
    assert [record.value for record in reader.read(part, None, 5)] == [b"3", b"4"]


def test_an_ordered_fault_aborts_the_next_commit_only(broker: MemoryBroker) -> None:
    name = topic(broker)
    producer = broker.producer(name)
    broker.fail_next_commit(BrokerError("ordered", hint="none"))
    producer.begin()
    producer.send(name, key=b"k", value=b"aborted")
    with pytest.raises(BrokerError, match="ordered"):
        producer.commit({}, None)
    producer.begin()
    producer.send(name, key=b"k", value=b"kept")
    producer.commit({}, None)
    reader = broker.reader()
    part = TopicPartition(name, 0)
    assert [record.value for record in reader.read(part, None, reader.end_offset(part))] == [b"kept"]


def test_an_answer_that_got_lost_leaves_everything_written(broker: MemoryBroker) -> None:
    source, target = topic(broker), topic(broker)
    publish(broker, source, [b"0"])
    consumer = broker.consumer(source)
    consumer.subscribe([source], Told())
    records = take(consumer, 1)
    producer = broker.producer(source)
    broker.fail_next_commit(BrokerUnavailableError("no answer", hint="none"), after=True)
    producer.begin()
    producer.send(target, key=b"k", value=b"written")
    with pytest.raises(BrokerUnavailableError):
        producer.commit(offsets(records), consumer.group())
    assert consumer.committed(TopicPartition(source, 0)) == 1
    with pytest.raises(BrokerUnavailableError):
        producer.begin()


def test_a_lost_connection_fails_everything_until_it_is_back(broker: MemoryBroker) -> None:
    name = topic(broker)
    consumer = broker.consumer(name)
    consumer.subscribe([name], Told())
    broker.disconnect()
    for call in (lambda: consumer.poll(0.1, 1), lambda: broker.partitions(name), lambda: broker.producer("p")):
        with pytest.raises(BrokerUnavailableError):
            call()
    broker.reconnect()
    publish(broker, name, [b"0"])
    assert take(consumer, 1)[0].value == b"0"


def test_who_does_not_poll_for_too_long_is_out(broker: MemoryBroker, harness: MemoryHarness) -> None:
    name = topic(broker)
    idle, told = broker.consumer(name), Told()
    idle.subscribe([name], told)
    settle([idle], [1])
    harness.pass_time(broker.settings.max_poll_interval_s + 1)
    heir = broker.consumer(name)
    heir.subscribe([name], Told())
    settle([heir], [1])
    idle.poll(0.0, 1)
    assert told.of("lost") == heir.assignment()


def test_threads_share_one_broker(broker: MemoryBroker) -> None:
    name, count = topic(broker, 3), 200

    def write(number: int) -> None:
        producer = broker.producer(f"{name}-{number}")
        for i in range(count):
            producer.begin()
            producer.send(name, key=b"%d" % i, value=b"%d-%d" % (number, i))
            if i % 3:
                producer.commit({}, None)
            else:
                producer.abort()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for one in writers:
        one.start()
    consumer = broker.consumer(name)
    consumer.subscribe([name], Told())
    expected = {b"%d-%d" % (number, i) for number in range(3) for i in range(count) if i % 3}
    values = [record.value for record in take(consumer, len(expected))]
    for one in writers:
        one.join()
    assert set(values) == expected
    assert len(values) == len(expected)


@given(
    members=st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from(["t", "u"]), min_size=1), max_size=5),
    counts=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_balance(members: dict[str, set[str]], counts: tuple[int, int]) -> None:
    """Each partition that anybody reads goes to exactly one of its readers; equals differ by one at most."""
    partitions = [TopicPartition(name, i) for name, count in zip("tu", counts, strict=True) for i in range(count)]
    readers = {name: topics.__contains__ for name, topics in members.items()}
    owners = {part: sorted(members)[part.partition % len(members)] for part in partitions if members}
    shares = balance(readers, partitions, owners)
    given_out = [part for share in shares.values() for part in share]
    assert sorted(given_out) == sorted(part for part in partitions if any(part.topic in t for t in members.values()))
    for name, share in shares.items():
        assert all(part.topic in members[name] for part in share)
    for name in members:
        for other in members:
            if members[name] == members[other]:
                assert abs(len(shares[name]) - len(shares[other])) <= 1
    again = balance(readers, partitions, {part: name for name, share in shares.items() for part in share})
    assert again == shares  # nothing moves without a reason
