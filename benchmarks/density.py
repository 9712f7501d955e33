"""Our log density against scikit-learn's ``score_samples``: speed and agreement.

    python benchmarks/density.py --threads 1 --out benchmarks/results/density

Same process, same mixture, same rows; each figure is the median of repeats that take both in turn. float32
rows are given to scikit-learn as they are (it computes in float64 inside). Writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A kernel or cache size forced through the environment would be measured instead of this machine's own.
for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)

import numpy as np  # noqa: E402 - the environment decides how NumPy's BLAS starts
import sklearn  # noqa: E402
from sklearn.mixture import GaussianMixture as Reference  # noqa: E402
from threadpoolctl import threadpool_info, threadpool_limits  # noqa: E402

from difffake.density import Covariance, GaussianMixture  # noqa: E402

# At 1280 dimensions a full component is 13 MB; nobody evaluates that per frame.
MAX_FULL_DIM = 128


def random_mixture(rng: np.random.Generator, components: int, dim: int, kind: Covariance) -> GaussianMixture:
    factors = 1.0 / rng.uniform(0.5, 1.5, (components, dim))
    if kind is Covariance.FULL:
        upper = np.triu(rng.normal(0.0, 0.5 / np.sqrt(dim), (components, dim, dim)), 1)
        factors = upper + factors[:, :, None] * np.eye(dim)
    return GaussianMixture(np.full(components, 1.0 / components), rng.normal(0.0, 0.5, (components, dim)), factors)


def reference_of(mixture: GaussianMixture) -> Reference:
    model = Reference(mixture.components, covariance_type=mixture.covariance.value)
    model.weights_, model.means_ = mixture.weights, mixture.means
    model.precisions_cholesky_ = mixture.precisions_cholesky
    return model


def medians_us(calls: list[Callable[[], object]], budget_s: float) -> list[float]:
    """Median microseconds of each call, taken in turn so that a slow moment hits all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + budget_s
    while len(times[0]) < 5 or (time.perf_counter() < end and len(times[0]) < 2000):
        for kept, call in zip(times, calls, strict=True):
            begin = time.perf_counter()
            call()
            kept.append((time.perf_counter() - begin) * 1e6)
    return [statistics.median(kept) for kept in times]


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for kind in Covariance:
        for dim in options.dims:
            if kind is Covariance.FULL and dim > MAX_FULL_DIM:
                continue
            for components in options.components:
                rng = np.random.default_rng(options.seed)
                mixture = random_mixture(rng, components, dim, kind)
                reference = reference_of(mixture)
                for count in options.rows:
                    x64 = rng.normal(0.0, 1.2, (count, dim))
                    both = (x64, x64.astype(np.float32))
                    rows += [compare(mixture, reference, x, options.budget_s) for x in both]
            print(f"{kind} D {dim} done", file=sys.stderr)
    return rows


def compare(mixture: GaussianMixture, reference: Reference, x: np.ndarray, budget_s: float) -> dict[str, Any]:
    exact = reference.score_samples(x.astype(np.float64))
    error = np.abs(mixture.log_density(x) - exact)
    ours, theirs = medians_us([lambda: mixture.log_density(x), lambda: reference.score_samples(x)], budget_s)
    return {
        "covariance": mixture.covariance.value,
        "dim": mixture.dim,
        "components": mixture.components,
        "rows": len(x),
        "dtype": x.dtype.name,
        "ours_us": round(ours, 2),
        "sklearn_us": round(theirs, 2),
        "ratio": round(theirs / ours, 2),
        "max_error_nats": float(error.max()),
        "max_relative_error": float((error / np.abs(exact)).max()),
    }


def table(report: dict[str, Any]) -> str:
    counts = sorted({row["rows"] for row in report["rows"]})
    machine = report["machine"]
    lines = [
        f"Times faster than scikit-learn {machine['sklearn']} (NumPy {machine['numpy']}, {machine['blas']}, "
        f"{machine['threads']} thread(s), {machine['processor']}). In brackets: our microseconds.",
        "",
        "| covariance | D | K | dtype | " + " | ".join(f"N = {n}" for n in counts) + " | largest error |",
        "|---|---|---|---|" + "---|" * (len(counts) + 1),
    ]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        key = (row["covariance"], row["dim"], row["components"], row["dtype"])
        groups.setdefault(key, []).append(row)
    for key, rows in groups.items():
        cells = [f"{row['ratio']:.1f} ({row['ours_us']:.0f})" for row in sorted(rows, key=lambda r: r["rows"])]
        if key[3] == "float64":
            worst = f"{max(row['max_relative_error'] for row in rows):.0e} relative"
        else:
            worst = f"{max(row['max_error_nats'] for row in rows):.0e} nats"
        lines.append("| " + " | ".join([*map(str, key), *cells, worst]) + " |")
    return "\n".join(lines) + "\n"


def machine(threads: int) -> dict[str, Any]:
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {
        "processor": platform.machine(),
        "numpy": np.__version__,
        "sklearn": sklearn.__version__,
        "blas": ", ".join(sorted({f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in blas})),
        "threads": threads,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 1280])
    parser.add_argument("--components", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64, 512, 4096])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-s", type=float, default=1.0, help="seconds of repeats per line")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with threadpool_limits(options.threads):
        report = {"machine": machine(options.threads), "rows": measure(options)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_name(options.out.name + ".json").write_text(json.dumps(report, indent=2) + "\n")
    options.out.with_name(options.out.name + ".md").write_text(table(report))
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
