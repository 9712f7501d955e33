"""Processor time a face, of the engines of a bundle that lie ready: ONNX Runtime beside compiled ones, on one thread.

    python benchmarks/engine_cpu.py --engines DIR --kinds openvino-bf16

Turns alternate. Processor time leaves out the waiting for others, not what they do to the caches: the ratios to ONNX
Runtime in the same turn are to be read, milliseconds belong to a machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from difffake.bundle import Bundle
from engines.choose import EngineKind, candidates, open_candidate
from engines.openvino import cpu_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="the shipped one if not given")
    parser.add_argument(
        "--engines", type=Path, help="folder with extractor/ and identity/; the bundle's own if not given"
    )
    parser.add_argument("--kinds", type=EngineKind, nargs="+", default=[EngineKind.OPENVINO_BF16])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    print(f"{cpu_name()}, one thread, load {os.getloadavg()[0]:.1f}, {options.rounds} turns; ms a face\n")
    print("| network | engine | " + " | ".join(f"batch {n}" for n in options.batches) + " |")
    print("|---" * (2 + len(options.batches)) + "|")
    for path in (bundle.engine_path, bundle.identity_path):
        if path is None:
            continue
        folder = (options.engines or bundle.path / "engines") / path.stem
        with ExitStack() as stack:
            engines = {}
            for kind in (EngineKind.ONNX, *options.kinds):
                (candidate,) = candidates(path, folder, kind)
                if candidate.problem is not None:
                    print(f"| {path.stem} | {kind} | not run: {candidate.problem} |")
                    continue
                engines[candidate.label] = stack.enter_context(open_candidate(candidate, threads=1))
            rows: dict[str, list[str]] = {label: [] for label in engines}
            for batch in options.batches:
                side = next(iter(engines.values())).spec.side_px
                faces = np.random.default_rng(0).integers(0, 256, (batch, 3, side, side), np.uint8)
                took: dict[str, list[float]] = {label: [] for label in engines}
                for turn in range(options.rounds + 2):  # both the first and the second run of a shape prepare something
                    for label, engine in engines.items():
                        began_s = time.process_time()
                        engine.infer(faces)
                        if turn >= 2:
                            took[label].append(1e3 * (time.process_time() - began_s) / batch)
                for label, found in took.items():
                    ratio = statistics.median(a / b for a, b in zip(took[EngineKind.ONNX], found, strict=True))
                    rows[label].append(f"{statistics.median(found):.2f} ({ratio:.2f}x)")
        for label, cells in rows.items():
            print(f"| {path.stem} | {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
