"""What the wall reads off Kafka, and how it tells why nothing comes."""

from __future__ import annotations

import time
import uuid

import pytest
from wall_world import TOPICS, Told, alert, make_topics, publish, score, until

from stream.broker.contract import Broker, TopicPartition
from stream.broker.kafka import KafkaBroker
from stream.broker.memory import MemoryBroker
from stream.messages import AlertRecord, AlertState, ScoreRecord, decode, encode
from stream.operate import mute_alerts, unmute_alerts
from stream.topics import Topics
from stream.wall.commands import CommandWatch
from stream.wall.feed import Feed
from stream.wall.inputs import InputWatch
from stream.wall.model import Wall
from stream.wall.settings import WallSettings


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """New ones, of two partitions."""
    topics = Topics.under(f"wall-{uuid.uuid4().hex[:12]}")
    make_topics(broker, 2, topics)
    return topics


class TestFeed:
    def test_a_wall_that_has_just_been_opened_knows_the_last_minute_and_the_alerts_of_the_day(
        self, broker: Broker, topics: Topics
    ) -> None:
        now_ms = int(time.time() * 1000)
        producer = broker.plain_producer()
        for name, ago_s in (("long ago", 3600), ("lately", 30)):
            record = score(name, time.time() - ago_s)
            producer.send(topics.scores, key=record.key, value=encode(record), timestamp_ms=now_ms - 1000 * ago_s)
        old = alert(stream="of this morning")
        producer.send(topics.alerts, key=old.key, value=encode(old), timestamp_ms=now_ms - 1000 * 3 * 3600)
        producer.close(10)
        wall = Wall(WallSettings(topics=topics))
        with Feed(wall, lambda: broker_of(broker)):
            until(lambda: wall.has("lately") and wall.alert_of("1"))
            publish(broker, score("now"), topics=topics)
            until(lambda: wall.has("now"))
            assert not wall.has("long ago")

    def test_an_alert_of_before_is_given_the_place_of_its_first_score(self, broker: Broker, topics: Topics) -> None:
        ago_ms = int((time.time() - 2 * 3600) * 1000)
        producer = broker.plain_producer()
        for offset in range(40):
            for name in ("a", "b"):
                record = score(name, offset, offset=offset)
                written_ms = ago_ms + 500 * offset
                producer.send(topics.scores, key=record.key, value=encode(record), timestamp_ms=written_ms)
        old = alert(stream="a", offset=30)
        producer.send(topics.alerts, key=old.key, value=encode(old), timestamp_ms=ago_ms + 500 * 31)
        producer.close(10)
        wall = Wall(WallSettings(topics=topics, commands_s=0.1))
        with Feed(wall, lambda: broker_of(broker)):
            place = until(lambda: next((a["replay"] for a in wall.changes(None).body["alerts"]), ""))
        topic, partition, offset = place.rsplit(":", 2)
        source = TopicPartition(topic, int(partition))
        reader = broker.reader()
        (found,) = reader.read(source, int(offset), int(offset) + 1)
        reader.close()
        said = decode(found.value or b"", ScoreRecord)
        assert (said.stream, said.source) == ("a", old.first)

    def test_mutes_are_known_whenever_they_were_said(self, broker: Broker, topics: Topics) -> None:
        mute_alerts(broker, topics.enrolments, stream="a", by="ada")
        publish(broker, score("a"), topics=topics)
        wall = Wall(WallSettings(topics=topics, commands_s=0.1))

        def muted() -> list[str]:
            return [tile["muted"] for tile in wall.changes(None).body["streams"]]

        with Feed(wall, lambda: broker_of(broker)):
            until(lambda: muted() == ["everybody until unmuted, by ada"])
            unmute_alerts(broker, topics.enrolments, stream="a", by="ada")
            until(lambda: muted() == [""])

    def test_after_kafka_was_away_the_alerts_of_the_day_are_not_told_anew(self) -> None:
        broker = MemoryBroker()
        make_topics(broker)
        publish(
            broker, *(alert(n, state, stream="a") for n in (1, 2) for state in (AlertState.OPENED, AlertState.CLOSED))
        )
        publish(broker, alert(3, stream="b"), score("a"))
        wall = Wall(WallSettings(retry_s=0.1))
        told: list[str] = []
        take = wall.take_alert

        def taken(record: AlertRecord, written_ms: int) -> None:
            told.append(record.id)
            take(record, written_ms)

        with pytest.MonkeyPatch.context() as patch, Feed(wall, lambda: broker):
            patch.setattr(wall, "take_alert", taken)
            until(lambda: wall.has("a") and wall.alert_of("3"))
            told.clear()
            broker.disconnect()
            until(lambda: not wall.is_connected)
            broker.reconnect()
            publish(broker, alert(4, stream="b"), score("c"))
            until(lambda: wall.alert_of("4") and wall.has("c"))
            assert told == ["4"]
            assert {tile["id"]: tile["alerts"] for tile in wall.changes(None).body["streams"]}["a"] == 0

    def test_who_is_muted_is_known_soon_however_much_operators_have_said(self) -> None:
        broker = MemoryBroker()
        make_topics(broker)
        for number in range(1_000):
            mute_alerts(broker, TOPICS.enrolments, stream=f"broadcast-{number}", seconds=60.0, by="ada")
        mute_alerts(broker, TOPICS.enrolments, stream="a", by="ada")
        told = Told()
        told.score("a")
        watch = CommandWatch(told.wall, broker.reader(), TOPICS.enrolments)
        looks = 0
        while not told.tiles()["a"]["muted"]:
            looks += 1
            watch.look()
        assert looks < 5, "200 records at a time"

    def test_every_alert_that_is_open_is_known_however_many_records_came_since(self) -> None:
        broker = MemoryBroker()
        make_topics(broker)
        producer, now_ms = broker.plain_producer(), int(time.time() * 1000)
        told = [(1, 5 * 3600), (2, 3500), *((3, 3000 - number) for number in range(50))]
        for number, ago_s in told:
            record = alert(number, AlertState.UPDATED, stream=f"s{number}")
            producer.send(TOPICS.alerts, key=record.key, value=encode(record), timestamp_ms=now_ms - 1000 * ago_s)
        producer.close(10)
        wall = Wall(WallSettings(back_records=10))
        with Feed(wall, lambda: broker):
            until(lambda: wall.alert_of("3"))
            assert wall.alert_of("2"), "told within the hour"
            assert not wall.alert_of("1"), "beyond the records that are read back"

    def test_topics_that_come_later_are_waited_for(self, broker: Broker) -> None:
        topics = Topics.under(f"wall-{uuid.uuid4().hex[:12]}")
        wall = Wall(WallSettings(topics=topics, retry_s=0.2))
        with Feed(wall, lambda: broker_of(broker)):
            until(lambda: topics.scores in wall.changes(None).body["wall"]["problem"])
            make_topics(broker, 1, topics)
            publish(broker, score("a"), alert(state=AlertState.OPENED), topics=topics)
            until(lambda: wall.has("a"))
            assert wall.is_connected

    def test_with_no_time_for_everything_it_goes_on_with_the_newest_scores(self) -> None:
        broker = MemoryBroker()
        make_topics(broker)
        wall = Wall(WallSettings(back_records=100))
        with Feed(wall, lambda: broker):
            until(lambda: wall.is_connected)
            late_ms = int((time.time() - 3600) * 1000)
            producer = broker.producer("worker")
            producer.begin()
            for number in range(2000):
                record = score("a", number)
                producer.send(TOPICS.scores, key=b"a", value=encode(record), timestamp_ms=late_ms)
            producer.commit({}, None)
            producer.close(5)
            until(lambda: wall.has("a") and wall.changes(None).body["streams"][0]["to"] == 1999)
            assert wall.changes(None).body["wall"]["skipped"] > 1000, "left out, and counted"


class TestInputs:
    def test_a_partition_that_grows_unserved_is_told_from_one_that_is_idle(self) -> None:
        told, broker = Told(looked_s=4.0, inputs_s=1.0), MemoryBroker()
        make_topics(broker)
        watch = InputWatch(told.wall, broker.reader(), told.wall.settings, monotonic=told.clock)
        told.score("a")

        def pass_time(*, records: bool) -> None:
            for _ in range(6):
                told.clock.advance(1)
                if records:
                    producer = broker.plain_producer()
                    producer.send("video.in", key=b"a", value=b"frame", partition=0)
                    producer.close(5)
                watch.look()
            told.wall.turn()

        pass_time(records=False)
        assert told.said("a") == ("not-looking", "no-frames")
        pass_time(records=True)
        assert told.said("a") == ("not-looking", "worker-gone")
        told.score("a")
        assert told.said("a") == ("clean", "")
        pass_time(records=False)
        assert told.said("a") == ("not-looking", "no-frames"), "what was before the last score does not count"

    def test_a_topic_that_nobody_may_look_at_leaves_the_reason_open(self) -> None:
        told, broker = Told(looked_s=4.0, inputs_s=1.0), MemoryBroker()
        watch = InputWatch(told.wall, broker.reader(), told.wall.settings, monotonic=told.clock)
        told.score("a")
        for _ in range(6):
            told.clock.advance(1)
            watch.look()
        told.wall.turn()
        assert told.said("a") == ("not-looking", "silent")


def broker_of(broker: Broker) -> Broker:
    """What a feed may close."""
    if isinstance(broker, MemoryBroker):
        return broker
    assert isinstance(broker, KafkaBroker)
    return KafkaBroker(broker.settings)
