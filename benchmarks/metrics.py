"""What metrics cost a scored frame, and a scrape: CPU time of both, and of looking at the frame, turn and turn about.

    python benchmarks/metrics.py --clip .cache/clips/WolfgangLanger_Pexels.mp4 --out benchmarks/results/metrics

``share`` is the CPU of every call that a worker makes into its metrics for one scored frame of one face, over the CPU
of finding, aligning and embedding that face with the shipped model: decoding, scoring, alerts, state and Kafka, which a
worker does too, would make it smaller. Two cases: as dear as it gets (single pictures, batches of one, a commit for
every frame), and segments of a second at 2 frames a second, batches of four, 200 records a commit. Both sides of the
ratio suffer alike when the machine is shared. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from prometheus_client import generate_latest

from difffake.anchors import AnchorState, Origin
from difffake.faces import Reason
from difffake.picture import RgbPicture
from difffake.results import EVIDENCES, Level
from difffake.video import open_video
from stream.broker.contract import Record, TopicPartition
from stream.decode import Gear
from stream.live import LiveModels, LiveSettings
from stream.live.models import FinderState, LookFrame
from stream.messages import Face, FaceAnchor, FaceEvidence, ScoreRecord, Source, Status
from stream.metrics.coverage import Coverage
from stream.metrics.instruments import Metrics
from stream.metrics.settings import MetricsSettings
from stream.stages import Stage

SOURCE = TopicPartition("video.in", 0)
LOOKS = (Stage.FIND, Stage.ALIGN, Stage.EXTRACTOR, Stage.IDENTITY)


def score(stream: str, number: int, p_value: float) -> ScoreRecord:
    """A scored frame of one face, with every evidence."""
    said = FaceEvidence(score=0.0, log_density=None, p_value=p_value, accumulated=p_value, level=Level.NOTHING)
    anchor = FaceAnchor(
        origin=Origin.SELF, state=AnchorState.READY, frames=8, since_ns=0, age_s=float(number), frozen=False
    )
    face = Face(
        person=0,
        name=None,
        track=0,
        box_px=(0.0, 0.0, 9.0, 9.0),
        confidence=1.0,
        quality=Reason.OK,
        evidence=dict.fromkeys(EVIDENCES, said),  # type: ignore[arg-type]
        missing={},
        anchor=anchor,
    )
    return ScoreRecord(
        stream=stream,
        pts_ns=number * 500_000_000,
        source=Source(topic="video.in", partition=0, offset=number, index=0),
        status=Status.SCORED,
        reason="",
        faces=(face,),
        model_id="m",
        difffake="0",
    )


class Frames:
    """All that a worker says to its metrics, for frames of many streams.

    Args:
        per_record: frames in a record.
        batch: frames in a batch of the networks.
        records: in a commit.
    """

    def __init__(self, per_record: int, batch: int, records: int, streams: int = 100) -> None:
        self._per_record, self._batch, self._records = per_record, batch, records
        self._metrics = Metrics()
        self._names = [f"studio-{n}" for n in range(streams)]
        self._coverage = [Coverage() for _ in range(streams)]
        rng = np.random.default_rng(1)
        self._scores = [
            [score(name, n, p) for n, p in enumerate(rng.uniform(0, 1, 400).tolist())] for name in self._names
        ]
        self._done = 0
        self._record = Record("video.in", 0, 0, b"", b"x" * 1000, (), round(time.time() * 1e3))

    def run(self, frames: int) -> None:
        """So many frames, a multiple of all sizes."""
        metrics = self._metrics
        for begin in range(0, frames, self._per_record):
            which, round_ = self._done % len(self._names), self._done // len(self._names)
            self._done += 1
            for _ in range(self._per_record + 1):  # the last one finds the record's end
                metrics.stage(Stage.DECODE, 0.01, 1)
            if begin % self._batch == 0:
                for stage in LOOKS:
                    metrics.stage(stage, 0.01, self._batch)
                metrics.batch(8, [0.001] * self._batch)
            metrics.stage(Stage.SCORE, 0.001, self._per_record)
            of = self._scores[which]
            seen = [of[(round_ * self._per_record + i) % len(of)] for i in range(self._per_record)]
            metrics.record(self._record, "analysed", 25)
            metrics.frames((SOURCE, self._names[which]), seen, self._coverage[which], Gear.ANALYSE, is_alert_open=False)
            if self._done % self._records == 0:
                metrics.committed(0.01)


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def looking(clip: Path, count: int) -> Callable[[], None]:
    """One look at a frame, the next of the clip's each time."""
    models = LiveModels.load(None, LiveSettings(threads=1))
    with open_video(clip, fps=2.0) as video:
        pictures = [RgbPicture(frame.image) for _, frame in zip(range(count), video, strict=False)]
    state, number = FinderState(), 0

    def look() -> None:
        nonlocal state, number
        state = models.look([LookFrame(pictures[number % count], number * 500_000_000, state)])[0].finder
        number += 1

    return look


def scrapes(streams: int, repeats: int) -> dict[str, float]:
    """CPU of one scrape in text format, and its size."""
    metrics = Metrics(MetricsSettings(max_stream_series=streams))
    for number in range(2):
        for which in range(streams):
            name = f"studio-{which}"
            metrics.frames((SOURCE, name), [score(name, number, 0.5)], Coverage(0), Gear.ANALYSE, is_alert_open=False)
    metrics.committed(0.01)
    page = generate_latest(metrics.registry)
    seconds = [cpu_of(lambda: generate_latest(metrics.registry)) for _ in range(repeats)]
    return {"streams": streams, "cpu_ms": 1e3 * statistics.median(seconds), "bytes": len(page)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True, help="without extension")
    options = parser.parse_args()
    look = looking(options.clip, 40)
    cases = {"worst": (Frames(1, 1, 1), 400), "usual": (Frames(2, 4, 200), 4000)}
    look_s: list[float] = []
    cost_s: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(3):
        look()
    for _ in range(options.repeats):
        look_s.append(cpu_of(look))
        for name, (frames, count) in cases.items():
            cost_s[name].append(cpu_of(lambda frames=frames, count=count: frames.run(count)) / count)  # type: ignore[misc]
    look_ms = 1e3 * statistics.median(look_s)
    cost_us = {name: 1e6 * statistics.median(seconds) for name, seconds in cost_s.items()}
    share = {name: us / 1e3 / look_ms for name, us in cost_us.items()}
    told = [scrapes(streams, options.repeats) for streams in (0, 100, 1000)]
    result = {"look_cpu_ms": look_ms, "metrics_cpu_us": cost_us, "share": share, "scrapes": told}
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        "# What metrics cost",
        "",
        "Made by `python benchmarks/metrics.py`; CPU time, medians. A look: finding, aligning and embedding one face.",
        "",
        f"One look at a frame: {look_ms:.1f} ms.",
        "",
        "| case | metrics of a frame, us | share of the look |",
        "|---|---|---|",
        *(f"| {name} | {cost_us[name]:.1f} | {100 * share[name]:.3f} % |" for name in cost_us),
        "",
        "| streams | a scrape, ms | bytes |",
        "|---|---|---|",
        *(f"| {one['streams']} | {one['cpu_ms']:.1f} | {one['bytes']} |" for one in told),
    ]
    page = "\n".join(lines) + "\n"
    options.out.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
