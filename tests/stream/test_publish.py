"""Publishing: what arrives on the topic decodes to the pictures of the source, on the right times."""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from media_files import png, write_audio, write_encrypted, write_video

from difffake.errors import LimitExceededError, MediaEncryptedError, MediaFormatError, MediaNotFoundError, NoVideoError
from stream.broker.contract import Broker, Record, TopicPartition, TopicSpec
from stream.broker.errors import BrokerUnavailableError, MessageTooLargeError, TopicNotFoundError
from stream.broker.memory import MemoryBroker, MemorySettings
from stream.decode import DecodeSettings, Payload, StreamDecoder
from stream.publish import Form, Publisher, PublishSettings

TOPIC = "video.in"
MS, S = 1_000_000, 1_000_000_000
PICTURE = np.kron(np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
H264 = {"codec": "libx264", "codec_options": {"g": "10", "bf": "2"}}
VIDEOS: dict[str, dict[str, object]] = {
    "h264.mp4": H264,
    "h264.ts": H264,
    "h264.mkv": H264,
    "h264.flv": H264,
    "irregular.mp4": H264 | {"pts": [i * 40 + (i % 3) * 7 for i in range(50)]},
    "intra-refresh-points.mp4": {
        "codec": "libx264",
        "codec_options": {"x264-params": "open-gop=1:keyint=10:scenecut=0:bframes=2"},
    },
    "h265.ts": {"codec": "libx265", "codec_options": {"x265-params": "keyint=10:open-gop=0:log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9", "codec_options": {"g": "10", "deadline": "realtime"}},
    "vp8.webm": {"codec": "libvpx", "codec_options": {"g": "10", "deadline": "realtime"}},
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
}


def video(folder: Path, name: str, frames: int = 50) -> Path:
    return write_video(folder / name, frames=frames, image=PICTURE, **VIDEOS[name])  # type: ignore[arg-type]


@pytest.fixture
def broker() -> Broker:
    one = MemoryBroker()
    one.ensure_topics([TopicSpec(TOPIC, 1)])
    return one


def records(broker: Broker) -> list[Record]:
    partition, reader = TopicPartition(TOPIC, 0), broker.reader()
    return list(reader.read(partition, None, reader.end_offset(partition)))


def decoded_ms(broker: Broker) -> list[int]:
    """Times of all pictures, in milliseconds; nothing may be lost or warned of."""
    decoder, times = StreamDecoder(DecodeSettings(fps=None)), []
    for record in records(broker):
        assert record.value is not None
        decoded = decoder.decode(Payload(record.value, record.headers, record.timestamp_ms, record.offset))
        times += [round(frame.pts_ns / MS) for frame in decoded.frames]
        assert (decoded.lost, decoded.warnings, decoded.damage) == ([], [], None)
    last = decoder.drain()
    times += [round(frame.pts_ns / MS) for frame in last.frames]
    assert last.lost == []
    return times


def publish(broker: Broker, sources: list[Path], **settings: object) -> Publisher:
    with Publisher(broker, TOPIC, PublishSettings(**settings)) as publisher:  # type: ignore[arg-type]
        for _ in publisher.publish("studio", sources):
            pass
    return publisher


@pytest.mark.parametrize("name", VIDEOS)
def test_segments_stand_alone_and_keep_every_picture(name: str, broker: Broker, tmp_path: Path) -> None:
    publisher = publish(broker, [video(tmp_path, name)], segment_s=0.4, loops=2, start_pts_ns=7 * S)
    once = [i * 40 + (i % 3) * 7 if name.startswith("irregular") else i * 40 for i in range(50)]
    length = decoded_ms(broker)[50] - 7000
    assert decoded_ms(broker) == [7000 + t for t in once] + [7000 + length + t for t in once]
    assert abs(length - 2000) <= 40
    counts = publisher.counts["studio"]
    sent = records(broker)
    assert (counts.records, counts.bytes) == (len(sent), sum(len(r.value or b"") for r in sent))
    assert (counts.pictures, counts.left_out, publisher.failures) == (100, 0, [])
    assert {r.key for r in sent} == {b"studio"}
    for record in sent:  # each by itself, by a decoder that knows nothing else
        pictures = StreamDecoder(DecodeSettings(fps=None)).decode(Payload(record.value or b"", record.headers))
        first = next(pictures.frames)
        assert first.pts_ns == int(dict(record.headers)["pts-ns"])
        assert 9 <= sum(1 for _ in pictures.frames) < 30
        assert pictures.lost == []


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "h264.mkv", "intra-refresh-points.mp4", "h265.ts"])
def test_access_units_go_one_by_one_in_decoding_order(name: str, broker: Broker, tmp_path: Path) -> None:
    publisher = publish(broker, [video(tmp_path, name)], form=Form.UNITS, loops=2)
    assert decoded_ms(broker) == [i * 40 for i in range(100)]
    assert publisher.counts["studio"].records == publisher.counts["studio"].pictures == 100
    times = [int(dict(record.headers)["pts-ns"]) for record in records(broker)]
    assert sorted(times) != times  # B-frames
    # Whoever begins at a later key frame needs nothing from before it.
    later = StreamDecoder(DecodeSettings(fps=None))
    frames = [
        frame
        for record in records(broker)[50:]
        for frame in later.decode(Payload(record.value or b"", record.headers, -1, record.offset)).frames
    ]
    assert frames[0].pts_ns == times[50]


def test_pictures_are_sampled_and_photos_go_as_they_are(broker: Broker, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(2, 1, b"\0" + bytes(6)))
    publish(broker, [video(tmp_path, "h264.mp4"), photo, photo], form=Form.FRAMES, fps=5.0)
    assert decoded_ms(broker) == [i * 200 for i in range(12)]
    sent = records(broker)
    assert [dict(r.headers)["content-type"] for r in sent] == [b"image/jpeg"] * 10 + [b"image/png"] * 2
    assert sent[-1].value == photo.read_bytes()


def test_pictures_that_lead_an_open_group_are_left_out_and_counted(broker: Broker, tmp_path: Path) -> None:
    options = {"x265-params": "keyint=10:min-keyint=10:open-gop=1:log-level=none:bframes=3"}
    path = write_video(tmp_path / "open.mp4", frames=50, image=PICTURE, codec="libx265", codec_options=options)
    counts = publish(broker, [path], segment_s=0.4).counts["studio"]
    assert counts.left_out > 0
    assert counts.pictures + counts.left_out == 50
    times = decoded_ms(broker)
    assert len(times) == counts.pictures
    assert set(times) <= {i * 40 for i in range(50)}


def test_a_group_longer_than_the_segment_stays_whole(broker: Broker, tmp_path: Path) -> None:
    path = video(tmp_path, "h264.mp4")
    assert publish(broker, [path], segment_s=0.01).counts["studio"].records == 5
    assert publish(broker, [path], segment_s=0.5).counts["studio"].records == 3


def test_streams_are_interleaved_by_their_times(broker: Broker, tmp_path: Path) -> None:
    path = video(tmp_path, "h264.mp4")
    with Publisher(broker, TOPIC, PublishSettings(form=Form.UNITS, loops=2)) as publisher:
        sent = list(publisher.publish_many({"a": [path], "b": [path, path]}))
    assert {name: counts.pictures for name, counts in publisher.counts.items()} == {"a": 100, "b": 200}
    ahead = 0
    for one in itertools.takewhile(lambda one: one.stream == "b" or one.end_ns < 3 * S, sent):
        ahead += 1 if one.stream == "a" else -1
        assert abs(ahead) <= 1
    assert [r.key for r in records(broker)] == [one.stream.encode() for one in sent]


def test_paced_takes_the_time_of_the_video(broker: Broker, tmp_path: Path) -> None:
    path = video(tmp_path, "h264.mp4", frames=20)
    start = time.monotonic()
    with Publisher(broker, TOPIC, PublishSettings(segment_s=0.3, paced=True)) as publisher:
        seen_s = [time.monotonic() - start for _ in publisher.publish("studio", [path])]
    # Never before its last picture was: later is the machine's business.
    assert len(seen_s) == 2
    assert seen_s[0] >= 0.4
    assert seen_s[1] >= 0.8


def test_a_source_that_cannot_be_read_is_named_and_the_rest_goes_on(broker: Broker, tmp_path: Path) -> None:
    good = video(tmp_path, "h264.mp4")
    empty = tmp_path / "photo.png"
    empty.write_bytes(png(2, 1, b"\0" + bytes(6)))
    prores = write_video(tmp_path / "x.mov", frames=3, codec="prores", pixel_format="yuv422p10le")
    raw = write_video(tmp_path / "raw.h264", frames=10)
    avi = write_video(tmp_path / "old.avi", frames=10)
    bad: list[tuple[Path, type[Exception], str]] = [
        (tmp_path / "gone.mp4", MediaNotFoundError, "path"),
        (write_audio(tmp_path / "sound.m4a"), NoVideoError, "picture"),
        (write_encrypted(tmp_path / "drm.mp4"), MediaEncryptedError, "DRM"),
        (empty, MediaFormatError, "--as frames"),
        (prores, MediaFormatError, "--as frames"),
        (raw, MediaFormatError, "--as frames"),
        (avi, MediaFormatError, "--as frames"),
    ]
    publisher = publish(broker, [good, *(path for path, _, _ in bad), good])
    assert decoded_ms(broker) == [i * 40 for i in range(100)]
    assert [(f.stream, f.source, type(f.error)) for f in publisher.failures] == [
        ("studio", path.name, kind) for path, kind, _ in bad
    ]
    for failure, (path, _, hint) in zip(publisher.failures, bad, strict=True):
        assert hint in failure.error.hint
        assert path.name in str(failure.error)


def test_a_loop_without_an_end_stops_when_nothing_can_be_read(broker: Broker, tmp_path: Path) -> None:
    assert len(publish(broker, [tmp_path / "gone.mp4"], loops=0).failures) == 1


def test_a_loop_without_an_end_is_left_by_its_caller(broker: Broker, tmp_path: Path) -> None:
    with Publisher(broker, TOPIC, PublishSettings(loops=0)) as publisher:
        sent = list(itertools.islice(publisher.publish("studio", [video(tmp_path, "h264.mp4")]), 7))
    assert [one.pts_ns // MS for one in sent] == [i * 2000 for i in range(7)]


def test_what_is_too_large_says_what_to_do(tmp_path: Path) -> None:
    broker = MemoryBroker(MemorySettings(max_message_bytes=8_000))
    broker.ensure_topics([TopicSpec(TOPIC, 1)])
    path = video(tmp_path, "h264.mp4")
    publisher = publish(broker, [path], max_bytes=8_000)
    assert isinstance(publisher.failures[0].error, LimitExceededError)
    assert "--as units" in publisher.failures[0].error.hint
    with pytest.raises(MessageTooLargeError, match="studio") as caught:
        publish(broker, [path])  # the broker takes less than we were told
    assert "max.message.bytes" in caught.value.hint


def test_a_topic_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TopicNotFoundError):
        publish(MemoryBroker(), [video(tmp_path, "h264.mp4")])


def test_times_that_jump_go_on_without_a_gap(broker: Broker, tmp_path: Path) -> None:
    # A camera that started again in mid-file.
    once = video(tmp_path, "h264.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    publisher = publish(broker, [tmp_path / "twice.ts"], segment_s=0.4)
    assert decoded_ms(broker) == [i * 40 for i in range(100)]
    assert publisher.warnings == ["twice.ts: clock: its times jump at 2.0 s; they go on from there"]


def test_an_address_is_published(broker: Broker, tmp_path: Path) -> None:
    video(tmp_path, "h264.ts")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with Publisher(broker, TOPIC, PublishSettings(segment_s=0.4, paced=True)) as publisher:
                sent = list(publisher.publish("live", [f"http://127.0.0.1:{server.server_port}/h264.ts"]))
        finally:
            server.shutdown()
    assert [one.pictures for one in sent] == [10] * 5
    assert decoded_ms(broker) == [i * 40 for i in range(50)]


def test_an_address_is_published_alone_and_its_secrets_are_not_told(broker: Broker) -> None:
    with Publisher(broker, TOPIC) as publisher:
        with pytest.raises(LimitExceededError, match="alone"):
            publisher.publish_many({"a": ["rtsp://one"], "b": ["rtsp://two"]})
        assert list(publisher.publish("a", ["http://user:secret@127.0.0.1:9/live?key=secret"])) == []
    (failure,) = publisher.failures
    assert isinstance(failure.error, MediaNotFoundError)
    assert "secret" not in failure.source + str(failure.error) + failure.error.hint


@pytest.mark.parametrize("wrong", [{"segment_s": 0.0}, {"fps": -1.0}, {"loops": -1}, {"start_pts_ns": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        PublishSettings(**wrong)  # type: ignore[arg-type]


class Lossy:
    """A producer whose broker goes away after a few records: it takes what is sent, and knows better when asked."""

    def __init__(self, takes: int) -> None:
        self.takes, self.sent, self.asked = takes, 0, 0

    def plain_producer(self) -> Lossy:
        return self

    def send(self, *_: object, **__: object) -> None:
        self.sent += 1

    def flush(self, timeout_s: float) -> None:  # noqa: ARG002
        self.asked += 1
        if self.sent > self.takes:
            raise BrokerUnavailableError("expired", hint="is a broker there?")

    def close(self, timeout_s: float) -> None: ...


def test_what_does_not_arrive_ends_publishing_also_where_it_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop for ever went on through an outage of ten minutes, and nobody was told that all of it was lost."""
    monkeypatch.setattr("stream.publish._LOOK_S", 0.0)
    clip, broker = video(tmp_path, "h264.mp4"), Lossy(7)
    settings = PublishSettings(form=Form.FRAMES, paced=False, loops=0)
    with Publisher(broker, TOPIC, settings) as publisher, pytest.raises(BrokerUnavailableError):  # type: ignore[arg-type]
        list(itertools.islice(publisher.publish("a", [clip]), 100))
    assert broker.asked <= broker.sent, "it is not asked once more for what is lost already"
