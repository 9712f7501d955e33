"""Many live streams for the wall: what a worker really said of some clips, told again and again as if it were now."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from difffake.demo.broadcast import cut_together, shot
from difffake.demo.clips import fetch_clips
from difffake.demo.swap import make_demo_clips, pick_donor
from stream.broker.contract import Broker, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.demo import Deployment
from stream.live import LiveModels, LiveSettings
from stream.media_records import frames
from stream.messages import AlertEnd, AlertRecord, AlertState, ScoreRecord, Source, Status, decode, encode
from stream.packets import SourceReport
from stream.topics import Topics

FPS = 2.0
PARTITIONS = 4


@dataclass(slots=True)
class Template:
    """What was said of one clip.

    Args:
        scores: frame by frame.
        jpegs: the same frames.
        alerts: index of the score with which each was told -> records.
    """

    scores: list[ScoreRecord]
    jpegs: list[bytes]
    alerts: dict[int, list[AlertRecord]] = field(default_factory=dict)

    @property
    def first(self) -> int:
        """The first frame that was scored; 0 where none was."""
        return next((i for i, score in enumerate(self.scores) if score.status is Status.SCORED), 0)


def record(clips: Path, scratch: Path) -> dict[str, Template]:
    """Score the demo's clips once, through a worker; by name."""
    found = fetch_clips(clips)
    made = make_demo_clips(found["woman"], pick_donor(found["man"]), scratch)
    sources = {"genuine": made.genuine, "swapped": made.swapped}
    # Short clips, one after the other: long enough for anchors.
    for name, parts in {
        "man": [shot(found["man"], 0, 2.4) for _ in range(10)],
        "guests": [shot(found[name], 0, 6.0) for _ in range(2) for name in ("face_noface", "noface_face")],
        "no_face": [shot(found["no_face"], 0, 3.9)],
    }.items():
        sources[name] = scratch / f"{name}.mp4"
        cut_together(sources[name], parts)
    broker, live = MemoryBroker(), LiveSettings()
    templates = {name: Template([], []) for name in sources}
    with LiveModels.load(None, live) as models:
        deployment = Deployment(lambda: broker, models, live, sources, prefix="show", speed=50.0, fps=FPS)
        with deployment:
            told: list[AlertRecord] = []
            for records in deployment.records():
                for item in records:
                    if item.topic == deployment.topics.alerts:
                        told.append(decode(item.value or b"", AlertRecord))
                    else:
                        score = decode(item.value or b"", ScoreRecord)
                        templates[score.stream].scores.append(score)
    for name, template in templates.items():
        template.scores.sort(key=lambda score: score.pts_ns)
        pictures = [(picture.pts_ns, picture.value) for picture in _pictures(sources[name])]
        template.jpegs = [
            min(pictures, key=lambda picture: abs(picture[0] - score.pts_ns))[1] for score in template.scores
        ]
    for alert in told:
        template = templates[alert.stream]
        index = next((i for i, score in enumerate(template.scores) if score.source == alert.last), None)
        if index is not None:
            template.alerts.setdefault(index, []).append(alert)
    return templates


def _pictures(path: Path) -> Iterator:  # type: ignore[type-arg]
    return frames(path, SourceReport(), fps=FPS, quality=80)


@dataclass(slots=True)
class _Cast:
    """One stream of the show."""

    name: str
    template: Template
    partition: int
    first_offset: int
    step: int
    #: What becomes of its frames: None, as recorded.
    fate: Status | None = None
    ends_s: float = float("inf")
    open: dict[str, AlertRecord] = field(default_factory=dict)


class Show:
    """Publishes scores and alerts of many streams in real time; use as a context manager.

    Of every sixteen streams one is swapped half of the time, one shows nobody, and of one a third is shed; one of all
    ends after a while.

    Args:
        broker: where to.
        topics: names; the input is ``prefix.video``.
        source: input topic.
        templates: see `record`.
        streams: how many.
    """

    def __init__(
        self, broker: Broker, topics: Topics, source: str, templates: dict[str, Template], streams: int
    ) -> None:
        self._broker, self._topics, self._source = broker, topics, source
        self._producer = broker.plain_producer()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="show")
        self.sent = 0
        broker.ensure_topics(
            [
                TopicSpec(source, PARTITIONS),
                TopicSpec(topics.scores, PARTITIONS),
                TopicSpec(topics.alerts, PARTITIONS),
                TopicSpec(topics.enrolments, 1, compacted=True),
            ]
        )
        offsets = [0] * PARTITIONS
        self._cast: list[_Cast] = []
        for number in range(streams):
            kind = {2: "genuine", 3: "swapped", 6: "guests", 9: "no_face", 13: "genuine"}.get(number % 16, "man")
            template, partition = templates[kind], number % PARTITIONS
            name = f"channel-{number + 1:02}"
            fate = Status.SHED if number % 16 == 14 else None
            ends_s = 5.0 if number == 5 else float("inf")
            self._cast.append(
                _Cast(name, template, partition, offsets[partition], 7 * number % len(template.scores), fate, ends_s)
            )
            # Every frame once; its scores name it again and again.
            for jpeg in template.jpegs:
                self._producer.send(
                    source,
                    key=name.encode(),
                    value=jpeg,
                    headers=[("content-type", b"image/jpeg")],
                    partition=partition,
                )
            offsets[partition] += len(template.jpegs)
        self._producer.flush(120)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._producer.close(30)

    def _run(self) -> None:
        began_s, turn = time.monotonic(), 0
        while not self._stop.is_set():
            for number, cast in enumerate(self._cast):
                # Spread over the half second, as streams are.
                due_s = began_s + (turn + number / len(self._cast)) / FPS
                if self._stop.wait(max(0.0, due_s - time.monotonic())):
                    return
                if time.monotonic() - began_s < cast.ends_s:
                    self._tell(cast)
            turn += 1

    def _tell(self, cast: _Cast) -> None:
        count = len(cast.template.scores)
        at, cast.step = cast.step, cast.step + 1
        if cast.step == count:  # the next time, without warming up
            cast.step = cast.template.first
        now_ns = time.time_ns()
        told = cast.template.scores[at]
        shift_ns = now_ns - told.pts_ns

        def source(of: Source) -> Source:
            index = next((i for i, score in enumerate(cast.template.scores) if score.source == of), at)
            return Source(topic=self._source, partition=cast.partition, offset=cast.first_offset + index, index=0)

        is_lost = cast.fate is not None and at % 3 == 0
        score = msgspec.structs.replace(
            told,
            stream=cast.name,
            pts_ns=now_ns,
            source=source(told.source),
            status=cast.fate if is_lost and cast.fate is not None else told.status,
            faces=() if is_lost else told.faces,
        )
        if at == cast.template.first:
            for alert in cast.open.values():
                self._send(
                    msgspec.structs.replace(
                        alert, state=AlertState.CLOSED, end_ns=now_ns, end_reason=AlertEnd.STREAM_ENDED
                    )
                )
            cast.open.clear()
        self._send(score)
        for alert in cast.template.alerts.get(at, []):
            before = cast.open.pop(alert.id, None)
            if before is None and alert.state is not AlertState.OPENED:
                continue
            new = msgspec.structs.replace(
                alert,
                id=uuid.uuid4().hex if before is None else before.id,
                stream=cast.name,
                start_ns=alert.start_ns + shift_ns if before is None else before.start_ns,
                end_ns=None if alert.end_ns is None else now_ns,
                first=source(alert.first),
                last=source(alert.last),
            )
            if new.state is not AlertState.CLOSED:
                cast.open[alert.id] = new
            self._send(new)

    def _send(self, message: ScoreRecord | AlertRecord) -> None:
        topic = self._topics.scores if isinstance(message, ScoreRecord) else self._topics.alerts
        self._producer.send(topic, key=message.key, value=encode(message), timestamp_ms=time.time_ns() // 1_000_000)
        self.sent += 1
