"""Does an engine keep memory? Opened and closed a thousand times, then run for minutes; resident memory over time.

    python benchmarks/engine_soak.py --engine onnx --cycles 1000 --minutes 10 --out benchmarks/results/engine_soak_onnx

Any engine that `difffake` knows by name (`--engine`, `--engines`). A cycle opens the bundle's extractor, embeds three
batches of different length and closes it, every other time with a batch still in flight. The soak embeds batches of
1 to 32 faces, in turns with ``infer`` and with as many batches in flight as it holds. Growth is the slope of a line
through the second half of the samples: the first half is allocators warming up.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from difffake.bundle import Bundle
from engines.choose import EngineKind, open_engine
from engines.contract import U8, Engine

SAMPLES = 200
MAX_BATCH = 32


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def cycle(opener: Callable[[], Engine], faces: U8, number: int) -> None:
    engine = opener()
    for count in (1, 8, 3):
        engine.infer(faces[:count])
    if number % 2:
        engine.submit(faces[:2])
    engine.close()


def turn(engine: Engine, faces: U8, rng: np.random.Generator) -> int:
    counts = [int(n) for n in rng.integers(1, min(MAX_BATCH, engine.spec.max_batch) + 1, engine.spec.depth)]
    if rng.random() < 0.5:
        engine.infer(faces[: counts[0]])
        return counts[0]
    for ticket in [engine.submit(faces[:count]) for count in counts]:
        engine.collect(ticket)
    return sum(counts)


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB per unit of the first column, over the second half."""
    x, y = np.array(samples[len(samples) // 2 :]).T
    return float(np.polyfit(x, y, 1)[0]) if len(x) > 2 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=EngineKind, default=EngineKind.ONNX, help=", ".join(EngineKind))
    parser.add_argument("--engines", type=Path, help="the extractor's folder of compiled engines, if not the bundle's")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    network = bundle.engine_path
    rng = np.random.default_rng(0)

    def opener() -> Engine:
        return open_engine(
            options.engine, network, options.engines, threads=options.threads, max_batch=MAX_BATCH
        ).engine

    with opener() as engine:
        backend, side = engine.spec.backend, engine.spec.side_px
    faces = rng.integers(0, 256, (MAX_BATCH, 3, side, side), np.uint8)
    every = max(1, options.cycles // SAMPLES)
    cycles: list[tuple[float, float]] = []
    files = open_files()
    for number in range(options.cycles):
        cycle(opener, faces, number)
        if number % every == 0 or number == options.cycles - 1:
            cycles.append((float(number), resident_mib()))
    files = open_files() - files
    soak: list[tuple[float, float]] = []
    embedded, begin = 0, time.monotonic()
    with opener() as engine:
        while (passed := (time.monotonic() - begin) / 60) < options.minutes:
            embedded += turn(engine, faces, rng)
            if not soak or passed - soak[-1][0] >= options.minutes / SAMPLES:
                soak.append((passed, resident_mib()))
    result = {"backend": backend, "threads": options.threads, "cycles": cycles, "soak": soak, "faces": embedded}
    lines = [f"{backend}, {options.threads} thread(s), extractor of {bundle.model_id}.", ""]
    lines += ["| what | resident memory, MiB: begin, middle, end | growth over the second half |", "|---|---|---|"]
    for what, samples, unit, per in (
        (f"{options.cycles} times opened, run and closed ({files:+d} open files)", cycles, "1,000 cycles", 1000.0),
        (f"{options.minutes:g} minutes, {embedded} faces", soak, "10 minutes", 10.0),
    ):
        if len(samples) > 1:
            points = ", ".join(f"{samples[i][1]:.0f}" for i in (0, len(samples) // 2, -1))
            lines.append(f"| {what} | {points} | {per * slope(samples):+.1f} MiB per {unit} |")
    text = "\n".join(lines) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    options.out.with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
