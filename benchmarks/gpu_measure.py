"""What the GPU benchmark measures of any engine, through the contract alone."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from engines.contract import Engine


def faces(count: int, side_px: int, seed: int = 0) -> np.ndarray:
    """Random faces ``(count, 3, side, side) uint8``: engines take the same time for all."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side_px, side_px), np.uint8)


def throughput(engine: Engine, batch: int, seconds: float) -> float:
    """Faces a second, from host memory to host memory, with as many batches in flight as the engine holds."""
    given = faces(batch, engine.spec.side_px)
    waiting: deque = deque()
    done, begin, warm = 0, math.inf, 3 * engine.spec.depth  # the first runs make contexts and graphs
    number = 0
    while number < warm or time.perf_counter() - begin < seconds:
        if number == warm:
            while waiting:
                engine.collect(waiting.popleft())
            done, begin = 0, time.perf_counter()
        if len(waiting) == engine.spec.depth:
            done += len(engine.collect(waiting.popleft()))
        waiting.append(engine.submit(given))
        number += 1
    while waiting:
        done += len(engine.collect(waiting.popleft()))
    return done / (time.perf_counter() - begin)


def latency_ms(engine: Engine, batch: int, runs: int) -> dict[str, float]:
    """From the call to the result, one batch at a time."""
    given = faces(batch, engine.spec.side_px)
    for _ in range(3 * engine.spec.depth):
        engine.infer(given)
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        engine.infer(given)
        times.append(1e3 * (time.perf_counter() - begin))
    return {
        "batch": batch,
        "runs": runs,
        "p50": round(float(np.percentile(times, 50)), 3),
        "p99": round(float(np.percentile(times, 99)), 3),
        "mean": round(statistics.fmean(times), 3),
    }


def overlap(timeline: list[Mapping[str, float]]) -> dict[str, float]:
    """How much of the copies' time another batch was computed, and how much of the time the GPU computed at all.

    Args:
        timeline: of a `engines.device_engine.DeviceEngine`, ms.
    """
    spans = [(row["compute"], row["computed"]) for row in timeline]
    copies = [(row[a], row[b]) for row in timeline for a, b in (("copy_in", "copied_in"), ("copy_out", "copied_out"))]
    hidden = sum(max(0.0, min(end, stop) - max(begin, start)) for begin, end in copies for start, stop in spans)
    copied = sum(end - begin for begin, end in copies)
    whole = max(stop for _, stop in spans) - min(start for start, _ in spans)
    return {
        "copies_ms": round(copied, 3),
        "hidden_share": round(hidden / copied, 3) if copied else 0.0,
        "compute_busy_share": round(sum(stop - start for start, stop in spans) / whole, 3) if whole else 0.0,
    }


def parity(engine: Engine, exact: Engine, count: int = 32) -> dict[str, float]:
    """Against ONNX Runtime's fp32 on random faces."""
    given = faces(count, engine.spec.side_px, seed=1)
    mine, theirs = engine.infer(given).embedding, exact.infer(given).embedding
    norms = np.linalg.norm(mine, axis=1) * np.linalg.norm(theirs, axis=1)
    return {
        "min_cosine": float(((mine * theirs).sum(1) / np.maximum(norms, 1e-12)).min()),
        "max_abs_error": float(np.abs(mine - theirs).max()),
        "scale": float(np.abs(theirs).max()),
    }


def cycles(open_: Callable[[], Engine], count: int, seconds: float, device_bytes: Callable[[], int]) -> dict:
    """Open, run, close, again and again: memory of process and GPU after a tenth, and at the end."""
    begin, done, first = time.perf_counter(), 0, (0, 0)
    settled = max(1, min(50, count // 10))
    for done in range(1, count + 1):
        with open_() as engine:
            for _ in range(3):
                engine.infer(faces(1, engine.spec.side_px))
        if done == settled:
            first = resident_bytes(), device_bytes()
        if time.perf_counter() - begin > seconds and done > settled:
            break
    return {
        "asked": count,
        "done": done,
        "seconds": round(time.perf_counter() - begin, 1),
        "resident_growth_mib": round((resident_bytes() - first[0]) / 2**20, 1),
        "gpu_growth_mib": round((device_bytes() - first[1]) / 2**20, 1),
    }


def soak(engine: Engine, seconds: float, device_bytes: Callable[[], int]) -> dict:
    """Batches of every size in flight without a pause; results must stay what they were at the beginning."""
    most, depth, rng = engine.spec.max_batch, engine.spec.depth, np.random.default_rng(0)
    sizes = sorted({1, 3, most // 2 or 1, most})
    given = {size: faces(size, engine.spec.side_px, size) for size in sizes}
    # The first run of a size is call by call, later ones are graphs: both must give the same.
    expected = {size: engine.infer(given[size]).embedding for size in sizes}
    for _ in range(depth):
        for size in sizes:
            engine.infer(given[size])
    first = resident_bytes(), device_bytes()
    waiting: deque = deque()
    begin, done, worst = time.perf_counter(), 0, 0.0

    def collect() -> None:
        nonlocal done, worst
        size, ticket = waiting.popleft()
        found = engine.collect(ticket).embedding
        done += len(found)
        worst = max(worst, float(np.abs(found - expected[size]).max()))

    while time.perf_counter() - begin < seconds:
        size = int(rng.choice(sizes))
        if len(waiting) == depth:
            collect()
        waiting.append((size, engine.submit(given[size])))
    while waiting:
        collect()
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "faces": done,
        "max_difference": worst,
        "resident_growth_mib": round((resident_bytes() - first[0]) / 2**20, 1),
        "gpu_growth_mib": round((device_bytes() - first[1]) / 2**20, 1),
    }


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
