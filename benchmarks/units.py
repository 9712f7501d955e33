"""What a stream costs in access units beside segments, and what it saves to take several units in one go.

    python benchmarks/units.py --out benchmarks/results/units

A worker on a broker in memory with more work than time, on one core's threads, turn and turn about: segments of two
seconds; access units, each taken alone; access units as they come. Processor time, so that it holds on a machine that
others use; the median of the rounds. Beside it the decoder alone: of every unit, and without pictures that no other
refers to, which segments leave out where they are not due and units cannot (docs/decode.md).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import structlog

from difffake.demo.clips import fetch_clips
from stream.bench.clips import Footage, encode, footage
from stream.bench.saturated import worked_off
from stream.container import usable_cores
from stream.live import LiveModels, LiveSettings
from stream.publish import Form

CACHE = Path(__file__).parents[1] / ".cache"
FPS = 2.0


def decoder_ms(units: Footage, skip: str) -> float:
    """ms of the processor for a second of the stream: FFmpeg's decoder alone, one thread, no checks."""
    context = av.codec.context.CodecContext.create("h264", "r")
    context.thread_count, context.skip_frame = 1, skip
    began_s = time.thread_time()
    for record in units.records:
        context.decode(av.Packet(record.value))
    return 1e12 * (time.thread_time() - began_s) / units.length_ns


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where OUT.json and OUT.md go")
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--loops", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        sources = [fetch_clips(CACHE / "clips")["woman"]]
        clip = encode(sources, Path(folder) / "c.mp4", width=1280, height=720, seconds=12, gop_s=2.0)
        segments, units = footage(clip, Form.SEGMENTS), footage(clip, Form.UNITS)
    live = LiveSettings(threads=1)
    with LiveModels.load(None, live) as models:

        def worker_ms(source: Footage, run: int | None) -> float:
            found = worked_off(
                source, models, live, streams=options.streams, loops=options.loops, fps=FPS, threads=1, run=run
            )
            return found.cpu_ms * FPS

        asked: dict[str, Callable[[], float]] = {
            "segments of two seconds": lambda: worker_ms(segments, None),
            "access units, each alone": lambda: worker_ms(units, 1),
            "access units, as they come": lambda: worker_ms(units, None),
            "FFmpeg alone, all pictures": lambda: decoder_ms(units, "DEFAULT"),
            "FFmpeg alone, those that others refer to": lambda: decoder_ms(units, "NONREF"),
        }
        rounds = [{what: ask() for what, ask in asked.items()} for _ in range(options.rounds)]
    found = {what: statistics.median(row[what] for row in rounds) for what in asked}
    said = {
        "cores": usable_cores(),
        "python": platform.python_version(),
        "streams": options.streams,
        "rounds": rounds,
        "ms_per_stream_second": found,
    }
    options.out.with_suffix(".json").write_text(json.dumps(said, indent=1) + "\n")
    rows = [f"| {what} | {ms:.1f} | {1e3 / ms:.1f} |" for what, ms in found.items()]
    page = [
        "# Access units beside segments",
        f"`python benchmarks/units.py`: 720p25 H.264 with B-frames, {options.streams} streams at {FPS:g} analysed"
        " frames a second, broker in memory.",
        "",
        "| | ms of the processor for a second of a stream | streams of a core, by that |",
        "|---|---|---|",
        *rows,
    ]
    options.out.with_suffix(".md").write_text("\n".join(page) + "\n")
    print("\n".join(page))


if __name__ == "__main__":
    main()
