"""Silence and backlog are told apart: a stream has ended when everything that was there has been read."""

from __future__ import annotations

from stream.broker.contract import TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.ended import EndedStreams

SOURCE = TopicPartition("video.in", 0)


class Input:
    """A partition that grows."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.ensure_topics([TopicSpec(SOURCE.topic, 1)])
        self.ended = EndedStreams(self.broker.reader())

    def grow(self, count: int) -> None:
        producer = self.broker.plain_producer()
        for _ in range(count):
            producer.send(SOURCE.topic, key=b"other", value=b"x")
        producer.flush(1.0)


def test_a_silent_stream_whose_partition_is_read_to_its_end_has_ended() -> None:
    source = Input()
    source.grow(5)
    assert source.ended.among(SOURCE, 5, ["b", "a"]) == ["a", "b"]


def test_a_backlog_is_waited_for_and_what_came_later_is_not() -> None:
    source = Input()
    source.grow(5)
    assert source.ended.among(SOURCE, 2, ["a"]) == []
    source.grow(100)  # a busy partition is never read to its end
    assert source.ended.among(SOURCE, 4, ["a"]) == []
    assert source.ended.among(SOURCE, 5, ["a"]) == ["a"]


def test_a_stream_that_was_heard_of_in_between_begins_to_be_silent_anew() -> None:
    source = Input()
    source.grow(5)
    assert source.ended.among(SOURCE, 2, ["a"]) == []
    source.grow(5)
    assert source.ended.among(SOURCE, 5, []) == []
    assert source.ended.among(SOURCE, 6, ["a"]) == []
    assert source.ended.among(SOURCE, 10, ["a"]) == ["a"]


def test_partitions_are_apart() -> None:
    source = Input()
    source.broker.ensure_topics([TopicSpec("other", 1)])
    source.grow(5)
    assert source.ended.among(SOURCE, 2, ["a"]) == []
    assert source.ended.among(TopicPartition("other", 0), 0, []) == []
    source.grow(5)
    assert source.ended.among(SOURCE, 5, ["a"]) == ["a"]
