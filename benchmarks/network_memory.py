"""What a worker's networks keep in memory: by the size of their largest run, with what a picture costs in runs of each,
and after a crowd of runs of all sizes.

    python benchmarks/network_memory.py

ONNX Runtime keeps what its largest run needed: each line of the first table is what the process holds after the runs of
that size and all smaller ones before. The second holds sessions that share their memory against sessions that do not,
each in a process of its own. Processor time of one thread. Linux only; prints Markdown, asserts nothing.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import onnxruntime as ort  # noqa: E402

import difffake.faces.runtime  # noqa: E402
import engines.onnx  # noqa: E402
from difffake.bundle import Bundle  # noqa: E402
from difffake.faces.centerface import WEIGHTS  # noqa: E402
from difffake.faces.finder import CLOSE_PX  # noqa: E402
from difffake.faces.runtime import DetectorRuntime, open_network  # noqa: E402
from difffake.networks import open_networks  # noqa: E402
from engines.contract import Engine  # noqa: E402
from stream.allocator import bound_heaps  # noqa: E402
from stream.live import LiveModels, LiveSettings  # noqa: E402

Batch = npt.NDArray[Any]

SIZES, RUNS = (1, 2, 4, 8, 16), 5
HOWS, FRAMES, SEEDS = ("own", "shared", "shared and warm"), 150, (1, 2, 3)
#: Of 720p, as whole pictures are looked through.
WHOLE_PX = (224, 384)


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        _crowd(sys.argv[1], *map(int, sys.argv[2:]))
        return
    _by_size()
    print("\n| memory of sessions | threads | MiB more after the first 10 looks | after 150 |\n|---|---|---|---|")
    for threads in (1, 2):
        for how in HOWS:
            rows = [_measured(how, threads, seed) for seed in SEEDS]
            cells = (" ".join(f"{row[i]:.0f}" for row in rows) for i in (0, 1))
            print(f"| {how} | {threads} | {' | '.join(cells)} |", flush=True)


def _measured(how: str, threads: int, seed: int) -> list[float]:
    command = [sys.executable, __file__, how, str(threads), str(seed)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(figure) for figure in said.split()]


def _own_session(path: Path, threads: int, **_: str) -> ort.InferenceSession:
    """As ONNX Runtime has it by default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _crowd(how: str, threads: int, seed: int) -> None:
    """Print what is held beyond the models after ten looks, and after all, of so many threads."""
    if how == "own":
        engines.onnx.open_session = difffake.faces.runtime.open_session = _own_session
    bound_heaps(threads)
    models = LiveModels.load(None, LiveSettings(threads=1))
    finder, extractor, identity = models._finder, models._engine, models._identity_engine
    begin, shown = held_mib(), []
    if how == "shared and warm":
        models.warm(threads)

    def pictures(count: int, height: int, width: int) -> list[Batch]:
        return [np.zeros((height, width, 3), np.uint8)] * count

    def look(number: int) -> None:
        rng = random.Random(100 * seed + number)  # noqa: S311
        for index in range(FRAMES):
            for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
                finder._whole.detect(pictures(1, *WHOLE_PX))
            faces = min(8, 1 + int(rng.expovariate(0.5)))
            finder._close.detect(pictures(faces, CLOSE_PX, CLOSE_PX))
            for engine in (extractor, identity):
                side = engine.spec.side_px
                engine.infer(np.zeros((faces, 3, side, side), np.uint8))
            if not number and index in (9, FRAMES - 1):
                shown.append(held_mib() - begin)

    lanes = [threading.Thread(target=look, args=(number,)) for number in range(threads)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    print(*shown)


def _by_size() -> None:
    rng = np.random.default_rng(0)
    detector = open_network(WEIGHTS, DetectorRuntime.ONNX, 1)
    networks = open_networks(Bundle.load(None), threads=1, max_batch=max(SIZES))

    def pictures(count: int, height: int, width: int) -> Batch:
        return rng.integers(0, 256, (count, height, width, 3), np.uint8)

    def faces(count: int, engine: Engine) -> Batch:
        side = engine.spec.side_px
        return rng.integers(0, 256, (count, 3, side, side), np.uint8)

    of: dict[str, tuple[Callable[[Batch], object], Callable[[int], Batch]]] = {
        "detector, close-ups": (detector, partial(pictures, height=CLOSE_PX, width=CLOSE_PX)),
        "detector, whole pictures of 720p": (detector, partial(pictures, height=WHOLE_PX[0], width=WHOLE_PX[1])),
        "extractor": (networks.extractor.infer, partial(faces, engine=networks.extractor)),
    }
    if networks.identity is not None:
        of["identity"] = networks.identity.infer, partial(faces, engine=networks.identity)
    begin = held_mib()
    print(f"{begin:.0f} MiB before the first run.\n\n| network | in a run | CPU ms each | MiB more in all |")
    print("|---|---|---|---|")
    for name, (run, make) in of.items():
        for count in SIZES:
            best_s = min(_timed(run, make(count)) for _ in range(RUNS))
            print(f"| {name} | {count} | {1e3 * best_s / count:.1f} | {held_mib() - begin:.0f} |", flush=True)
    networks.close()


def held_mib() -> float:
    """Memory of this process that is no file's."""
    found = re.findall(r"^Anonymous:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[0]) / 1024


def _timed(run: Callable[[Batch], object], batch: Batch) -> float:
    began_s = time.thread_time()
    run(batch)
    return time.thread_time() - began_s


if __name__ == "__main__":
    main()
