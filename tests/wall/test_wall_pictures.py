"""Pictures of scored frames, cut from the input records that scores name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from wall_world import TOPICS, face, make_topics

from stream.broker.contract import TopicPartition
from stream.broker.memory import MemoryBroker
from stream.media_records import MediaRecord, frames, segments, units
from stream.messages import Source
from stream.packets import SourceReport
from stream.wall.pictures import Pictures


@pytest.fixture(scope="module")
def clip(clips: dict[str, Path]) -> Path:
    return clips["man"]


def stored(records: Sequence[MediaRecord]) -> MemoryBroker:
    """As a publisher sends them, for the stream ``a``, among those of another one."""
    broker = MemoryBroker()
    make_topics(broker)
    producer = broker.plain_producer()
    for record in records:
        for key, value in ((b"a", record.value), (b"b", b"something else")):
            producer.send(
                "video.in",
                key=key,
                value=value,
                headers=[("content-type", record.content_type.encode()), ("pts-ns", str(record.pts_ns).encode())],
            )
    producer.close(10)
    return broker


def source(offset: int, index: int = 0) -> Source:
    return Source(topic="video.in", partition=0, offset=offset, index=index)


def shown(jpeg: bytes) -> np.ndarray:  # type: ignore[type-arg]
    assert jpeg[:3] == b"\xff\xd8\xff"
    assert len(jpeg) < 32 << 10
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def likeness(a: np.ndarray, b: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.corrcoef(a.ravel().astype(float), cv2.resize(b, a.shape[1::-1]).ravel().astype(float))[0, 1])


def test_of_an_image(clip: Path) -> None:
    sent = [record for record, _ in zip(frames(clip, SourceReport(), fps=2), range(4), strict=False)]
    pictures = Pictures(lambda: broker)
    broker = stored(sent)
    got = shown(pictures.get(1, "a", source(4), ()))
    assert got.shape[1] == 256
    assert likeness(got, cv2.imdecode(np.frombuffer(sent[2].value, np.uint8), cv2.IMREAD_COLOR)) > 0.98


def test_of_a_picture_inside_a_segment(clip: Path) -> None:
    broker = stored(list(segments(clip, SourceReport(), segment_s=1.0))[:2])
    first = shown(Pictures(lambda: broker).get(1, "a", source(0, 0), ()))
    last = shown(Pictures(lambda: broker).get(1, "a", source(0, 20), ()))
    assert first.shape == last.shape
    assert likeness(first, last) < 0.9999, "another picture of it"


def test_of_an_access_unit_in_the_middle_of_its_group(clip: Path) -> None:
    sent = [record for record, _ in zip(units(clip, SourceReport()), range(20), strict=False)]
    broker = stored(sent)
    got = shown(Pictures(lambda: broker).get(1, "a", source(2 * 15), ()))
    wanted = next(iter(frames(clip, SourceReport(), fps=1)))
    assert likeness(got, cv2.imdecode(np.frombuffer(wanted.value, np.uint8), cv2.IMREAD_COLOR)) > 0.9


def test_faces_are_framed(clip: Path) -> None:
    broker = stored([next(iter(frames(clip, SourceReport(), fps=1)))])
    plain = shown(Pictures(lambda: broker).get(1, "a", source(0), ()))
    framed = shown(Pictures(lambda: broker).get(1, "a", source(0), (face(),)))
    assert np.abs(plain.astype(int) - framed.astype(int)).max() > 60


@pytest.mark.parametrize("value", [b"", b"\xff\xd8\xff nonsense", b"\x00\x00\x00\x01\x65 nonsense", b"x" * 100])
def test_what_cannot_be_decoded_has_none(value: bytes) -> None:
    broker = MemoryBroker()
    make_topics(broker)
    producer = broker.plain_producer()
    producer.send("video.in", key=b"a", value=value, headers=[("content-type", b"video/h264")])
    producer.close(10)
    assert Pictures(lambda: broker).get(1, "a", source(0), ()) == b""


def test_another_streams_record_is_not_shown_as_ones_own(clip: Path) -> None:
    broker = stored([next(iter(frames(clip, SourceReport(), fps=1)))])
    assert Pictures(lambda: broker).get(1, "b", source(0), ()) == b""
    assert Pictures(lambda: broker).get(1, "a", source(0), ()) != b""


def test_records_that_are_gone_and_clusters_that_are_have_none_and_come_back(clip: Path) -> None:
    broker, clock = stored([next(iter(frames(clip, SourceReport(), fps=1)))]), iter(range(0, 100_000, 100))
    pictures = Pictures(lambda: broker, monotonic=lambda: float(next(clock)))
    broker.disconnect()
    assert pictures.get(1, "a", source(0), ()) == b""
    broker.reconnect()
    assert pictures.get(1, "a", source(0), ()) != b""
    broker.delete_before(TopicPartition("video.in", 0), 2)
    assert pictures.get(2, "a", source(0), ()) == b""
    assert pictures.get(3, "a", Source(topic=TOPICS.state, partition=0, offset=0, index=0), ()) == b""
    assert pictures.get(1, "a", source(0), ()) != b"", "the old one serves"


def test_many_that_ask_cost_one_picture(clip: Path) -> None:
    connections = []

    def connect() -> MemoryBroker:
        connections.append(1)
        return broker

    broker = stored([next(iter(frames(clip, SourceReport(), fps=1)))])
    pictures = Pictures(connect)
    first = pictures.get(1, "a", source(0), ())
    broker.disconnect()
    assert all(pictures.get(1, "a", source(0), ()) == first for _ in range(100))
    assert len(connections) == 1
