"""What both brokers do alike for members of a group: the in-memory twin, and Apache Kafka (marker `kafka`)."""

from __future__ import annotations

import time

import pytest
from broker_harness import (
    SESSION_S,
    Harness,
    Told,
    offsets,
    publish,
    settle,
    take,
    topic,
)

from stream.broker.contract import Broker, TopicPartition
from stream.broker.errors import (
    StaleGroupError,
)


class TestGroups:
    def test_two_members_share_and_only_what_moves_is_named(self, broker: Broker) -> None:
        name = topic(broker, 4)
        every = {TopicPartition(name, number) for number in range(4)}
        told, other_told = Told(), Told()
        first = broker.consumer(name)
        first.subscribe([name], told)
        settle([first], [4])
        assert told.of("assigned") == every
        second = broker.consumer(name)
        second.subscribe([name], other_told)
        settle([first, second], [2, 2])
        assert first.assignment() | second.assignment() == every
        assert told.of("revoked") == second.assignment() == other_told.of("assigned")
        assert not told.of("lost")
        second.close(5)
        settle([first], [4])
        assert other_told.of("revoked") == told.of("revoked")
        assert [kind for kind, _ in told.events].count("revoked") == 1  # what stayed was never taken away

    def test_what_is_revoked_can_still_be_committed(self, broker: Broker) -> None:
        """The listener commits from inside `poll`; the new owner starts exactly there."""
        source, target = topic(broker, 2), topic(broker)
        for number in range(2):
            publish(broker, source, [b"%d" % i for i in range(5)], partition=number)
        first, told = broker.consumer(source), Told()
        producer = broker.producer(source)
        first.subscribe([source], told)
        done = offsets(take(first, 10))

        def flush(partitions: list[TopicPartition]) -> None:
            producer.begin()
            producer.send(target, key=b"k", value=b"flushed")
            producer.commit({part: done[part] for part in partitions}, first.group())

        told.on_revoked = flush
        second, other_told = broker.consumer(source), Told()
        starts: dict[TopicPartition, int] = {}
        other_told.on_assigned = lambda parts: starts.update({part: second.position(part) for part in parts})
        second.subscribe([source], other_told)
        settle([first, second], [1, 1])
        (moved,) = second.assignment()
        assert starts == {moved: 5}
        (kept,) = first.assignment()
        assert first.committed(kept) is None
        told.on_revoked = None

    def test_what_is_being_revoked_may_be_moved_as_before_and_nothing_comes_of_it(self, broker: Broker) -> None:
        """A worker whose last commit fails goes back to what is committed, whichever partitions it still has."""
        source = topic(broker, 2)
        for number in range(2):
            publish(broker, source, [b"%d" % i for i in range(5)], partition=number)
        first, told = broker.consumer(source), Told()
        first.subscribe([source], told)
        assert len(take(first, 10)) == 10
        moved: list[TopicPartition] = []

        def go_back(partitions: list[TopicPartition]) -> None:
            moved.extend(partitions)
            first.pause(partitions)
            for partition in partitions:
                first.seek(partition, 0)
            first.resume(partitions)

        told.on_revoked = go_back
        second, other_told = broker.consumer(source), Told()
        second.subscribe([source], other_told)
        settle([first, second], [1, 1])
        assert set(moved) == second.assignment()
        assert not set(moved) & first.assignment()
        told.on_revoked = None

    def test_a_listener_can_seek_before_the_first_record(self, broker: Broker) -> None:
        name = topic(broker)
        publish(broker, name, [b"%d" % i for i in range(10)])
        consumer, told = broker.consumer(name), Told()
        told.on_assigned = lambda parts: consumer.seek(parts[0], 8)
        consumer.subscribe([name], told)
        assert [record.value for record in take(consumer, 2)] == [b"8", b"9"]

    def test_a_listeners_error_leaves_poll(self, broker: Broker) -> None:
        name = topic(broker)
        consumer, told = broker.consumer(name), Told()

        def fail(partitions: list[TopicPartition]) -> None:
            raise KeyError(partitions[0].topic)

        told.on_assigned = fail
        consumer.subscribe([name], told)
        with pytest.raises(KeyError, match=name):
            take(consumer, 1)

    def test_a_silent_member_loses_its_work_and_cannot_commit(self, broker: Broker, harness: Harness) -> None:
        source, target = topic(broker), topic(broker)
        part = TopicPartition(source, 0)
        publish(broker, source, [b"%d" % i for i in range(6)])
        zombie, told = broker.consumer(source), Told()
        zombie.subscribe([source], told)
        records = take(zombie, 4)
        producer = broker.producer(f"{source}-zombie")
        harness.silence(zombie)
        harness.pass_time(SESSION_S + 0.5)
        producer.begin()
        producer.send(target, key=b"k", value=b"by the zombie")
        heir = broker.consumer(source)
        heir.subscribe([source], Told())
        again = take(heir, 6)
        assert [record.offset for record in again] == list(range(6))  # nothing was committed
        with pytest.raises(StaleGroupError):
            producer.commit(offsets(records), zombie.group())
        heirs = broker.producer(f"{source}-heir")
        heirs.begin()
        heirs.send(target, key=b"k", value=b"by the heir")
        heirs.commit(offsets(again[:5]), heir.group())
        harness.wake(zombie)
        until = time.monotonic() + 20
        while told.of("lost") != {part}:
            assert time.monotonic() < until
            zombie.poll(0.1, 10)  # what it had fetched before may still come; its commit would be refused
        assert not told.of("revoked")
        heir.close(5)
        assert [record.offset for record in take(zombie, 1)] == [5]  # from the heir's commit, not its own memory
        producer.begin()
        producer.send(target, key=b"k", value=b"honest again")
        producer.commit({part: 6}, zombie.group())
        reader = broker.reader()
        found = reader.read(TopicPartition(target, 0), None, reader.end_offset(TopicPartition(target, 0)))
        assert [record.value for record in found] == [b"by the heir", b"honest again"]

    def test_a_membership_from_before_a_rebalance_is_refused(self, broker: Broker) -> None:
        source, target = topic(broker, 2), topic(broker)
        first = broker.consumer(source)
        first.subscribe([source], Told())
        settle([first], [2])
        old = first.group()
        second = broker.consumer(source)
        second.subscribe([source], Told())
        settle([first, second], [1, 1])
        producer = broker.producer(source)
        producer.begin()
        producer.send(target, key=b"k", value=b"v")
        with pytest.raises(StaleGroupError):
            producer.commit({TopicPartition(source, 0): 1}, old)
        producer.begin()  # the producer itself is well
        producer.commit({TopicPartition(source, 0): 0}, first.group())

    def test_who_never_joined_commits_nothing(self, broker: Broker) -> None:
        source = topic(broker)
        consumer = broker.consumer(source)
        producer = broker.producer(source)
        producer.begin()
        with pytest.raises(StaleGroupError):
            producer.commit({TopicPartition(source, 0): 1}, consumer.group())
        assert consumer.committed(TopicPartition(source, 0)) is None

    def test_a_static_member_comes_back_to_its_partitions(self, broker: Broker) -> None:
        name = topic(broker, 2)
        told = Told()
        stays = broker.consumer(name, instance_id="stays")
        stays.subscribe([name], told)
        goes = broker.consumer(name, instance_id="goes")
        goes.subscribe([name], Told())
        settle([stays, goes], [1, 1])
        before, events = goes.assignment(), len(told.events)
        goes.close(5)
        back = broker.consumer(name, instance_id="goes")
        back.subscribe([name], Told())
        settle([stays, back], [1, 1])
        assert back.assignment() == before
        assert len(told.events) == events
