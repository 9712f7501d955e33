"""Faces a second: torch eager against ONNX Runtime, the same network, the same faces, in one run.

    python benchmarks/engine.py --out benchmarks/results/engine

The weights are random (speed and agreement do not depend on them); turns alternate, each figure is the median.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from difffake.extractor import build_extractor, export_onnx
from engines.onnx import OnnxEngine


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(name: str, batches: list[int], threads: int, repeats: int) -> list[dict[str, object]]:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    extractor = build_extractor(name, pretrained=False).eval()
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "extractor.onnx"
        export_onnx(extractor, path)
        with OnnxEngine(path, threads=threads, max_batch=max(batches)) as engine, torch.inference_mode():
            for batch in batches:
                faces = rng.integers(0, 256, (batch, 3, 224, 224), np.uint8)
                tensor = torch.from_numpy(faces)
                ours, theirs = engine.infer(faces).embedding, extractor(tensor)[0].numpy()
                cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
                eager, runtime = partial(extractor, tensor), partial(engine.infer, faces)
                times = [(seconds(eager), seconds(runtime)) for _ in range(repeats)]
                torch_s, onnx_s = (statistics.median(t) for t in zip(*times, strict=True))
                rows.append(
                    {
                        "backbone": name,
                        "batch": batch,
                        "torch_faces_per_s": round(batch / torch_s, 1),
                        "onnx_faces_per_s": round(batch / onnx_s, 1),
                        "ratio": round(torch_s / onnx_s, 2),
                        "min_cosine": float(cosine.min()),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    parser.add_argument("--backbones", nargs="+", default=["efficientnet_lite0"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    rows = [
        row for name in options.backbones for row in measure(name, options.batches, options.threads, options.repeats)
    ]
    machine = f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}"
    lines = [
        f"{machine}; faces of 224 px.",
        "",
        "| backbone | batch | torch eager, faces/s | ONNX Runtime, faces/s | ratio | least cosine |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['backbone']} | {r['batch']} | {r['torch_faces_per_s']} | {r['onnx_faces_per_s']} | {r['ratio']} | "
        f"{r['min_cosine']:.6f} |"
        for r in rows
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options.out.with_suffix(".json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
