"""What a worker's networks keep in memory by the size of their largest run, and what a picture costs in runs of each.

    python benchmarks/network_memory.py

ONNX Runtime keeps what its largest run needed: each line is what the process holds after the runs of that size and all
smaller ones before. Processor time of one thread. Linux only; prints a Markdown table, asserts nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from difffake.bundle import Bundle  # noqa: E402
from difffake.faces.centerface import WEIGHTS  # noqa: E402
from difffake.faces.finder import CLOSE_PX  # noqa: E402
from difffake.faces.runtime import DetectorRuntime, open_network  # noqa: E402
from difffake.networks import open_networks  # noqa: E402
from engines.contract import Engine  # noqa: E402

Batch = npt.NDArray[Any]

SIZES, RUNS = (1, 2, 4, 8, 16), 5
#: Of 720p, as whole pictures are looked through.
WHOLE_PX = (224, 384)


def main() -> None:
    """Measure and print."""
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
