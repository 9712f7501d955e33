"""Input that is no longer what it was: topics made again under the same name, records deleted before anybody came."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from worker_world import PARTITIONS, TOPIC, World

from stream.broker.contract import TopicPartition, TopicSpec
from stream.live import LiveModels
from stream.messages import ScoreRecord
from stream.publish import Form
from stream.worker import Worker


@pytest.fixture
def world(models: LiveModels, clips: dict[str, Path]) -> World:
    return World(models, clips)


def make_again(world: World) -> None:
    world.broker.delete_topic(TOPIC)
    world.broker.ensure_topics([TopicSpec(TOPIC, PARTITIONS)])


def tracks(scores: list[ScoreRecord]) -> set[int]:
    return {face.track for score in scores if score.stream == "a" for face in score.faces}


def records_of(world: World) -> int:
    reader = world.broker.reader()
    return sum(reader.end_offset(TopicPartition(TOPIC, p)) for p in range(PARTITIONS))


@pytest.mark.parametrize("form", [Form.FRAMES, Form.UNITS])
def test_a_topic_that_was_made_again_is_read_from_its_beginning(world: World, form: Form) -> None:
    world.publish(form)
    first = world.worker()
    world.drain(first)
    before = world.scores()
    make_again(world)
    # As many records as before, by offsets all done already; the publisher's clock went on.
    world.publish(form, start_pts_ns=10**12)
    second = world.worker()
    world.drain(second)
    later = [score for score in world.scores() if score.pts_ns >= 10**12]
    assert second.counts["inputs_remade"] > 0
    assert second.counts["records"] == second.counts["polled"] == records_of(world)
    assert len(later) == len(before)
    # What was known of the streams outlived it: their tracks go on.
    assert min(tracks(later)) > max(tracks(before))

    # A third worker finds the second one's state, and nothing to do.
    third = world.worker()
    world.drain(third)
    assert (third.counts["inputs_remade"], third.counts["records"]) == (0, 0)


def test_a_topic_that_is_made_again_under_a_worker(world: World) -> None:
    world.publish()
    worker = world.worker()
    world.work(worker, 10_000)
    done, scores = worker.counts["records"], len(world.scores())
    assert done == records_of(world)
    make_again(world)
    world.publish(start_pts_ns=10**12)
    # Kafka's client goes back to the beginning where it finds its place beyond the end; the one in memory is told to.
    for p in range(PARTITIONS):
        worker._consumer.seek(TopicPartition(TOPIC, p), 0)
    world.drain(worker)
    assert worker.counts["records"] == 2 * done
    assert len(world.scores()) == 2 * scores
    assert worker.counts["inputs_remade"] >= 1


def test_a_topic_that_was_made_again_and_filled_past_our_place_while_nobody_looked(world: World) -> None:
    world.publish()
    worker = world.worker()
    world.work(worker, 10_000)
    scores = len(world.scores())
    make_again(world)
    world.publish(start_pts_ns=10**12)
    world.publish(start_pts_ns=2 * 10**12)
    # The place of before is in the middle of what is there now, and no read tells.
    world.drain(worker)
    assert worker.counts["inputs_remade"] >= 1
    told = Counter((score.stream, score.pts_ns) for score in world.scores())
    assert len(told) == 3 * scores
    assert set(told.values()) == {1}


def test_records_that_were_deleted_before_anybody_came_are_counted(world: World) -> None:
    world.publish()
    world.drain(world.worker())
    world.publish(start_pts_ns=10**12)
    gone = delete_some(world)
    worker = world.worker()
    world.drain(worker)
    assert gone > 0
    assert worker.counts["records:gone_unread"] == gone
    assert value(worker, "difffake_input_gone_records_total") == gone
    assert worker.counts["records"] == records_of(world) // 2 - gone


def test_records_that_are_deleted_while_a_worker_lags_are_counted(world: World) -> None:
    world.publish()
    worker = world.worker()
    world.work(worker, 3)
    read = worker.counts["polled"]
    gone = delete_some(world)
    world.drain(worker)
    assert worker.counts["records"] + worker.counts["records:gone_unread"] == records_of(world)
    assert 0 < worker.counts["records:gone_unread"] <= gone
    assert worker.counts["records"] >= read


def test_a_state_topic_that_is_gone_is_told(world: World) -> None:
    world.publish()
    first = world.worker()
    world.drain(first)
    assert (first.counts["state_gone"], value(first, "difffake_state_lost_total")) == (0, 0)
    world.broker.delete_topic("difffake.state")
    world.publish(start_pts_ns=10**12)
    worker = world.worker()
    world.drain(worker)
    # It goes on where the group has committed, and says that it knows nothing of the streams any more.
    assert worker.counts["records"] == records_of(world) // 2
    used = {score.source.partition for score in world.scores()}
    assert worker.counts["state_gone"] == value(worker, "difffake_state_lost_total") == len(used)


def delete_some(world: World) -> int:
    """Delete all but the last five of each partition; of how many no score is there."""
    reader = world.broker.reader()
    scored = {(score.source.partition, score.source.offset) for score in world.scores()}
    gone = 0
    for p in range(PARTITIONS):
        source = TopicPartition(TOPIC, p)
        upto = max(reader.end_offset(source) - 5, 0)
        gone += sum((p, offset) not in scored for offset in range(upto))
        world.broker.delete_before(source, upto)
    return gone


def value(worker: Worker, name: str) -> float:
    found = worker._metrics.registry.get_sample_value(name)
    assert found is not None
    return found
