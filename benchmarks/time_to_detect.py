"""How long after a swap begins is a stream looked at more closely, and when is its alert: in each gear, in stream time.

    python benchmarks/time_to_detect.py CLIP CLIP ... --out benchmarks/results/time_to_detect

Each clip (one face, 7 s or more) becomes a stream: played forwards and backwards without a cut, after ``--clean``
seconds with the face of the next clip's person laid on, as in the demonstration. H.264 with a key frame a second,
records of a second, a worker on the in-memory broker with its default budget of alerts. A record is scored when all of
it is there: on the wall its length and the latency (`benchmarks/pipeline.py`) come on top. Nothing is tuned here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain, count, islice, pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import cv2
import numpy as np
import numpy.typing as npt
import structlog

from difffake.demo.broadcast import swapped_from
from difffake.demo.swap import pick_donor
from difffake.networks import EngineChoice
from stream.batcher import BatchSettings
from stream.bench.clips import Footage, footage, headers
from stream.broker.contract import TopicPartition, TopicSpec
from stream.broker.memory import MemoryBroker
from stream.decode import DecodeSettings, Gear
from stream.gears import GearSettings
from stream.live import LiveModels, LiveSettings
from stream.messages import AlertRecord, AlertState, ScoreRecord, decode
from stream.pipeline import PipelineSettings
from stream.publish import Form
from stream.settings import WorkerSettings
from stream.topics import Topics
from stream.worker import Worker

U8 = npt.NDArray[np.uint8]
FPS = 25
GEARS = (Gear.WATCH, Gear.ANALYSE, Gear.SCRUTINISE)
TOPICS = Topics.under("ttd")
#: Longer side of the streams' pictures, px.
SIDE_PX = 640


def to_and_fro(clip: Path) -> Iterator[U8]:
    """Its pictures forwards and backwards, for ever: no cut ever comes."""
    with av.open(str(clip)) as opened:
        stream = opened.streams.video[0]
        rate = float(stream.average_rate or FPS)
        every = [frame.to_ndarray(format="rgb24") for frame in islice(opened.decode(stream), round(20 * rate))]
    pictures = [every[int(number * rate / FPS)] for number in range(int(len(every) * FPS / rate))]
    scale = SIDE_PX / max(pictures[0].shape[:2])
    size = tuple(int(side * scale) // 2 * 2 for side in pictures[0].shape[1::-1])
    small = [np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8) for picture in pictures]
    while True:
        yield from chain(small, reversed(small))


def make_stream(clip: Path, donor: Path, clean_s: float, seconds: float, folder: Path) -> Footage:
    """A stream with a swap from ``clean_s`` on."""
    alter, path = swapped_from(pick_donor(donor), clean_s), folder / "stream.mp4"
    with av.open(str(path), "w") as made:
        options = {"preset": "veryfast", "crf": "23", "g": str(FPS), "sc_threshold": "0"}
        stream = made.add_stream("libx264", rate=FPS, options=options)
        for number, picture in zip(range(round(seconds * FPS)), to_and_fro(clip), strict=False):
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(alter(picture, number / FPS)), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return footage(path, Form.SEGMENTS)


def score(streams: Sequence[Footage], models: LiveModels, live: LiveSettings, gear: Gear) -> MemoryBroker:
    """Let a worker score all of the streams in a gear; the broker holds what it told."""
    broker = MemoryBroker()
    broker.ensure_topics([TopicSpec("ttd.in", 4)])
    producer = broker.plain_producer()
    for number, one in enumerate(streams):
        for record in one.records:
            producer.send("ttd.in", key=b"%d" % number, value=record.value, headers=headers(record, 0))
    producer.close(10.0)
    settings = WorkerSettings(
        inputs=["ttd.in"],
        group="ttd",
        topics=TOPICS,
        poll_timeout_s=0.01,
        pipeline=PipelineSettings.for_cores(0, BatchSettings()),
    )
    worker = Worker(
        broker, models, settings, name="ttd", decode=DecodeSettings(), live=live, gears=GearSettings(base=gear)
    )
    total, idle = sum(len(one.records) for one in streams), count()
    worker.run(lambda: worker.counts["records"] >= total and not worker.is_busy and next(idle) > 5)
    return broker


def records(broker: MemoryBroker, topic: str) -> list[bytes]:
    reader = broker.reader()
    parts = [TopicPartition(topic, number) for number in range(broker.partitions(topic))]
    return [found.value or b"" for part in parts for found in reader.read(part, None, reader.end_offset(part))]


def times(broker: MemoryBroker, streams: int, clean_s: float) -> list[dict[str, Any]]:
    """Of every stream: seconds from the swap to the closer look and to the alert; alerts before it."""
    scores = [decode(value, ScoreRecord) for value in records(broker, TOPICS.scores)]
    alerts = [decode(value, AlertRecord) for value in records(broker, TOPICS.alerts)]
    found = []
    for number in range(streams):
        own = sorted((s for s in scores if s.stream == str(number)), key=lambda s: s.pts_ns)
        when = {s.source: s.pts_ns / 1e9 for s in own}
        pts_s = np.array([s.pts_ns / 1e9 for s in own])
        # A closer look: ten frames a second, the next one less than .15 s away.
        close = [float(a) for a, b in pairwise(pts_s) if b - a < 0.15 and a >= clean_s]
        opened = [
            (when[a.last], a.evidence) for a in alerts if a.stream == str(number) and a.state is AlertState.OPENED
        ]
        late = sorted(one for one in opened if one[0] >= clean_s)
        found.append(
            {
                "stream": number,
                "closer_s": round(close[0] - clean_s, 2) if close else None,
                "alert_s": round(late[0][0] - clean_s, 2) if late else None,
                "evidence": late[0][1] if late else None,
                "before": sum(at_s < clean_s for at_s, _ in opened),
            }
        )
    return found


def markdown(result: dict[str, Any]) -> str:
    def spread(values: list[float]) -> str:
        return f"{np.median(values):.1f} / {np.percentile(values, 95):.1f}" if values else "never"

    lines = [
        f"{result['streams']} streams of {result['seconds']:g} s, a swap from {result['clean_s']:g} s on; model "
        f"{result['model_id']}; seconds of stream time after the swap began, median / 95th percentile of those "
        "that were found.",
        "",
        f"Clips, each with the face of the next one's person laid on: {', '.join(result['clips'])}.",
        "",
        "| base gear | looked at more closely | alert | streams without an alert | streams with one before the swap |",
        "|---|---|---|---|---|",
    ]
    for gear, rows in result["gears"].items():
        closer = [row["closer_s"] for row in rows if row["closer_s"] is not None]
        alert = [row["alert_s"] for row in rows if row["alert_s"] is not None]
        told = spread(closer) + f" ({len(closer)} of {len(rows)})" if gear != Gear.SCRUTINISE else "always"
        lines.append(
            f"| {gear} | {told} | {spread(alert)} | {len(rows) - len(alert)} of {len(rows)} | "
            f"{sum(row['before'] > 0 for row in rows)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="of one face each")
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    parser.add_argument("--clean", type=float, default=15.0, help="seconds before the swap")
    parser.add_argument("--seconds", type=float, default=45.0, help="of each stream")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    streams = []
    for number, clip in enumerate(options.clips):
        donor = options.clips[(number + 1) % len(options.clips)]
        with tempfile.TemporaryDirectory() as folder:
            streams.append(make_stream(clip, donor, options.clean, options.seconds, Path(folder)))
        print(f"made {clip.name}", flush=True)
    live = LiveSettings(threads=1)
    models = LiveModels.load(None, live, EngineChoice())
    result: dict[str, Any] = {
        "streams": len(streams),
        "clips": [clip.name for clip in options.clips],
        "seconds": options.seconds,
        "clean_s": options.clean,
        "model_id": models.model_id,
        "gears": {gear.value: times(score(streams, models, live, gear), len(streams), options.clean) for gear in GEARS},
    }
    models.close()
    text = markdown(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
