"""The paper's comparison of anomaly models, on differences of real pairs and pseudo-fakes.

    python benchmarks/anomaly_models.py differences.npz --out benchmarks/results/anomaly_models

The .npz holds ``train`` (natural changes), ``held_out_real`` (natural changes of other people) and
``pseudo_fake`` (differences of pseudo-fakes to their anchors), each ``(N, D)``. Writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from difffake.anomaly import ANOMALY_MODELS
from difffake.errors import DiffFakeError
from difffake.evaluation.metrics import auc

PARTS = ("train", "held_out_real", "pseudo_fake")


def compare(parts: dict[str, np.ndarray], names: list[str], seed: int) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        model = ANOMALY_MODELS[name](seed)
        begin = time.perf_counter()
        model.fit(parts["train"])
        fitted = time.perf_counter()
        real, fake = model.score(parts["held_out_real"]), model.score(parts["pseudo_fake"])
        scored = time.perf_counter()
        count = len(real) + len(fake)
        rows.append(
            {
                "model": name,
                "auc": round(auc(np.r_[np.zeros(len(real)), np.ones(len(fake))], np.r_[real, fake]), 4),
                "fit_s": round(fitted - begin, 4),
                "score_us_per_row": round((scored - fitted) / count * 1e6, 2),
            }
        )
        print(f"{name}: AUC {rows[-1]['auc']:.3f}", file=sys.stderr)
    return rows


def table(report: dict[str, Any]) -> str:
    counts = report["counts"]
    lines = [
        f"Fitted on {counts['train']} natural changes of {counts['dim']} dimensions; AUC of "
        f"{counts['pseudo_fake']} pseudo-fake against {counts['held_out_real']} held-out natural changes. "
        f"{report['threads']} thread(s), seed {report['seed']}.",
        "",
        "| model | AUC | fit, s | score, µs a row |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['auc']:.3f} | {row['fit_s']:.2f} | {row['score_us_per_row']:.1f} |"
        for row in report["models"]
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("differences", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    parser.add_argument("--models", nargs="+", choices=list(ANOMALY_MODELS), default=list(ANOMALY_MODELS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    try:
        with np.load(options.differences, allow_pickle=False) as arrays:
            parts = {name: arrays[name] for name in PARTS}
    except (OSError, KeyError, ValueError) as error:
        print(f"{options.differences}: {error}; expected an .npz with {', '.join(PARTS)}", file=sys.stderr)
        return 1
    try:
        with threadpool_limits(options.threads):
            models = compare(parts, options.models, options.seed)
    except DiffFakeError as error:
        print(f"{error} ({error.hint})", file=sys.stderr)
        return error.exit_code
    counts = {name: len(parts[name]) for name in PARTS} | {"dim": int(parts["train"].shape[1])}
    report = {"counts": counts, "threads": options.threads, "seed": options.seed, "models": models}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_name(options.out.name + ".json").write_text(json.dumps(report, indent=2) + "\n")
    options.out.with_name(options.out.name + ".md").write_text(table(report))
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
