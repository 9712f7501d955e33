"""Scores and alerts made up, and a wall served over a broker in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import records_made_up as made_up

from difffake.results import Level
from stream.broker.contract import Broker, TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.messages import AlertRecord, AlertState, Face, FaceEvidence, ScoreRecord, Status, encode
from stream.topics import Topics
from stream.wall.looking import Place
from stream.wall.model import Wall
from stream.wall.server import WallServer
from stream.wall.settings import WallSettings

TOPICS = Topics()
TOKEN = "correct-horse-battery-staple"  # noqa: S105  (of the tests)
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")


def evidence(p_value: float, level: Level = Level.NOTHING, *, accumulated: bool = True) -> FaceEvidence:
    return made_up.evidence(p_value, level, p_value if accumulated else None)


def face(person: int = 0, name: str | None = None, **found: FaceEvidence) -> Face:
    calm = {"artifact": evidence(0.4), "anchor": evidence(0.3), "identity": evidence(0.6)}
    return made_up.face(person, name, **(found or calm))


def score(
    stream: str, pts_s: float | None = None, *faces: Face, status: Status = Status.SCORED, **more: Any
) -> ScoreRecord:
    """By default a calm face, now."""
    if not faces and status is Status.SCORED:
        faces = (face(),)
    return made_up.score(stream, time.time() if pts_s is None else pts_s, *faces, status=status, **more)


def alert(
    number: int | str = 1,
    state: AlertState = AlertState.OPENED,
    *,
    offset: int = 0,
    thumbnail: bytes | None = JPEG,
    **changed: object,
) -> AlertRecord:
    frames = {"first": made_up.source(offset), "last": made_up.source(offset + 1)}
    return made_up.alert(str(number), state, thumbnail_jpeg=thumbnail, **frames, **changed)


class Clock:
    """Both clocks of a wall, which pass when told."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class Told:
    """A wall that is told records as they are written, with a clock that can be moved."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.wall = Wall(WallSettings(**settings), clock=self.clock, monotonic=self.clock)
        self.wall.connected(True)
        self._offset = 0

    def score(self, stream: str, *faces: Face, **more: Any) -> None:
        record = score(stream, more.pop("pts_s", self.clock.now_s), *faces, **more)
        place = Place(TopicPartition(TOPICS.scores, 0), self._offset, record.source)
        self._offset += 1
        self.wall.take_score(record, place, int(self.clock.now_s * 1000))

    def alert(self, *args: Any, **more: Any) -> None:
        self.wall.take_alert(alert(*args, **more), int(self.clock.now_s * 1000))

    def tiles(self) -> dict[str, dict[str, Any]]:
        return {tile["id"]: tile for tile in self.wall.changes(None).body["streams"]}

    def said(self, stream: str) -> tuple[str, str]:
        """State of a tile, and why nobody looks."""
        tile = self.tiles()[stream]
        return tile["state"], tile["why"]


def make_topics(broker: Broker, partitions: int = 1, topics: Topics = TOPICS) -> None:
    broker.ensure_topics(
        [
            TopicSpec("video.in", partitions),
            TopicSpec(topics.scores, partitions),
            TopicSpec(topics.alerts, partitions),
            TopicSpec(topics.enrolments, 1, compacted=True),
        ]
    )


def publish(broker: Broker, *records: ScoreRecord | AlertRecord, topics: Topics = TOPICS) -> None:
    """Written now; returns when the broker has them."""
    producer = broker.plain_producer()
    for record in records:
        topic = topics.alerts if isinstance(record, AlertRecord) else topics.scores
        producer.send(topic, key=record.key, value=encode(record), timestamp_ms=int(time.time() * 1000))
    producer.close(10)


@contextmanager
def served(broker: MemoryBroker | None = None, **more: Any) -> Iterator[tuple[WallServer, MemoryBroker]]:
    """A wall on a free port, and its broker."""
    broker = broker or MemoryBroker()
    make_topics(broker)
    more.setdefault("settings", WallSettings(retry_s=0.1))
    with WallServer(lambda: broker, **more) as server:
        yield server, broker


def until(condition: Any, timeout_s: float = 90.0) -> Any:
    """What a condition gives once it is true; generous, for machines that have other things to do."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")
