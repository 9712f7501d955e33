"""Engines on an NVIDIA GPU: faces a second, latency, overlap, leaks. One JSON with the card's name.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json     # made to end within 9 minutes
    python benchmarks/gpu.py --dry-run                             # without a GPU: as far as it goes, no figures

Needs torch, onnx, onnxruntime and cuda-bindings, and no network. It takes the TensorRT that is there (full, then RTX);
without one, torch in half precision with CUDA graphs runs through the same buffers, streams and contract. Compared with
torch.compile in half precision of the same graph, its input and output on the GPU already, and with the largest matrix
product that the card was seen to do. EfficientNet-B4 has random weights, the other network is the shipped model.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from gpu_measure import cycles, latency_ms, overlap, parity, soak, throughput
from gpu_networks import SHIPPED, SIDE_PX, export_b4, flops_per_face

from engines.contract import Engine
from engines.device_memory import open_device
from engines.half import to_half
from engines.onnx import OnnxEngine
from engines.profile import BatchProfile
from engines.tensorrt import PlanEngine
from engines.tensorrt_api import FLAVOURS, HostInfo, host_info, import_tensorrt
from engines.tensorrt_build import BuildSettings, build_plan
from engines.torch_cuda import TorchCudaEngine
from engines.torch_onnx import load_onnx

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COMPILED = (256, 64, 1, 16, 128)
NETWORKS = ("shipped", "efficientnet_b4")


@dataclass
class Subject:
    """A network, and how its engine is opened here."""

    name: str
    onnx: Path
    half: Path
    kind: str
    passed_over: dict[str, str]
    build_s: float | None
    open: Callable[..., Engine]


def prepare(name: str, folder: Path, host: HostInfo, most: int) -> Subject:
    """Write a network's graphs and choose its engine."""
    onnx, half = folder / f"{name}.onnx", folder / f"{name}.half.onnx"
    if name == "shipped":
        onnx.write_bytes(SHIPPED.read_bytes())
    else:
        export_b4(onnx)
    half.write_bytes(to_half(onnx.read_bytes()))
    passed_over: dict[str, str] = {}
    for flavour in FLAVOURS:
        try:
            api = import_tensorrt(flavour)
            settings = BuildSettings(profile=BatchProfile(1, min(64, most), most))
            built = build_plan(half.read_bytes(), settings, flavour=flavour, host=host)

            def open_plan(plan: bytes = built.plan, api: Any = api, **options: Any) -> Engine:
                return PlanEngine(plan, api, open_device(), **options)

            with open_plan() as engine:  # RTX builds for cards that it does not run on
                engine.infer(torch.zeros(1, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8).numpy())
            return Subject(name, onnx, half, f"{flavour} fp16", passed_over, built.build_s, open_plan)
        except Exception as error:  # a TensorRT that was never tried on this card must not cost the figures
            passed_over[flavour] = f"{type(error).__name__}: {str(error)[:300]}"
    with OnnxEngine(onnx) as exact:
        dim = exact.spec.dim
    module = load_onnx(half)

    def open_torch(**options: Any) -> Engine:
        return TorchCudaEngine(copy.deepcopy(module), side_px=SIDE_PX, dim=dim, max_batch=most, **options)

    return Subject(name, onnx, half, "torch fp16, CUDA graphs", passed_over, None, open_torch)


def measure(subject: Subject, batches: tuple[int, ...], device_bytes: Callable[[], int], args: Any) -> dict:
    """Everything about one network's engine."""
    result: dict[str, Any] = {
        "engine": subject.kind,
        "passed_over": subject.passed_over,
        "build_s": subject.build_s,
        "flops_per_face": flops_per_face(load_onnx(subject.onnx)),
    }
    with subject.open() as engine, OnnxEngine(subject.onnx) as exact:
        result["backend"] = engine.spec.backend
        result["parity"] = parity(engine, exact)
        result["faces_per_s"] = {batch: round(throughput(engine, batch, args.seconds), 1) for batch in batches}
        result["latency_ms"] = [latency_ms(engine, batch, args.runs) for batch in (1, 8)]
        result["graphs"] = getattr(engine, "graphs", None)
        result["without_graph"] = getattr(engine, "uncaptured", None)
        result["soak"] = soak(engine, args.soak_s, device_bytes)
    # The large network is opened fewer times: what leaks does so in either.
    asked = args.cycles if subject.name == NETWORKS[0] else args.cycles // 20
    result["cycles"] = cycles(subject.open, max(2, asked), args.cycles_s, device_bytes)
    return result


def measure_overlap(subject: Subject, batch: int) -> dict:
    """Copies beside computing, by events on the GPU."""
    with subject.open(timeline=True) as engine:
        throughput(engine, batch, 0.5)
        rows = engine.timeline[6 * engine.spec.depth :][:200]  # type: ignore[attr-defined]
    return {"batch": batch, **overlap(rows), "first_batches_ms": rows[:4]}


def compiled_faces_per_s(half: Path, batches: tuple[int, ...], seconds: float, deadline: float) -> dict:
    """torch.compile of the same graph in half precision, input and output on the GPU: no copies to hide."""
    found: dict[str, Any] = {}
    module = load_onnx(half).eval().requires_grad_(False).cuda().to(memory_format=torch.channels_last)
    for batch in batches:
        if time.perf_counter() > deadline:
            found[str(batch)] = "not measured: the time was over"
            continue
        try:
            torch._dynamo.reset()
            run = torch.compile(module, mode="reduce-overhead", dynamic=False)
            given = torch.randint(0, 256, (batch, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8, device="cuda")
            given = given.contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                begin = time.perf_counter()
                for _ in range(4):
                    run(given)
                torch.cuda.synchronize()
                compile_s = time.perf_counter() - begin
                found[str(batch)] = round(batch / _best_s(lambda run=run, given=given: run(given), seconds), 1)
            found[f"{batch} compile_s"] = round(compile_s, 1)
        except Exception as error:  # no compiler or no triton here
            found[str(batch)] = f"failed: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
    return found


def ceilings(side: int = 8192) -> dict:
    """The largest product of half-precision matrices, and the fastest copy within the card's memory, that were seen."""
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.float16) for _ in range(2))
    product_s = _best_s(lambda: a @ b, 2.0)
    big = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(big)
    copy_s = _best_s(lambda: other.copy_(big), 1.0)
    return {
        "matmul_tflops": round(2 * side**3 / product_s / 1e12, 1),
        "memory_gb_per_s": round(2 * big.numel() / copy_s / 1e9, 1),
    }


def _best_s(run: Callable[[], object], seconds: float) -> float:
    """Seconds of one run, by the GPU's clock: the best of some rounds of ten."""
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            run()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e4)
    return best


def gpu_used_bytes() -> int:
    """Of the whole card, by all processes."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def dry_run(names: list[str], folder: Path, host: HostInfo, args: Any) -> dict:
    """Everything that needs no GPU, with ONNX Runtime where the engine would be."""
    done = {}
    for name in names:
        subject = prepare(name, folder, host, most=8)
        stand_in = Subject(
            name, subject.onnx, subject.half, "onnxruntime", {}, None, lambda s=subject: OnnxEngine(s.onnx, max_batch=8)
        )
        measure(stand_in, (1, 8), lambda: 0, args)
        module = load_onnx(subject.half).eval()
        with torch.no_grad():
            module(torch.zeros(1, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8))
        done[name] = {"would_run": subject.kind, "passed_over": subject.passed_over}
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON; a dry run writes one too, without figures")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--dry-run", action="store_true", help="run as far as it goes without a GPU")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each throughput")
    parser.add_argument("--runs", type=int, default=500, help="of each latency")
    parser.add_argument("--cycles", type=int, default=1000, help="openings and closings of the shipped network")
    parser.add_argument("--cycles-s", type=float, default=180, help="no longer than this, s")
    parser.add_argument("--soak-s", type=float, default=30, help="of each network, s; the issue's soak is 600")
    parser.add_argument("--limit-s", type=float, default=510, help="start no further comparison after this, s")
    args = parser.parse_args()
    begin = time.perf_counter()
    host = host_info()
    result: dict[str, Any] = {
        "command": "python benchmarks/gpu.py " + " ".join(sys.argv[1:]),
        "card": host.gpus[0].name if host.gpus else None,
        "compute_capability": host.gpus[0].compute_capability if host.gpus else None,
        "driver_cuda": host.driver,
        "tensorrt": host.runtimes,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as folder:
        if not host.gpus:
            why = host.problem or "there is none"
            if not args.dry_run:
                print(f"No GPU ({why}). `--dry-run` runs what can be run without one.", file=sys.stderr)
                return 25
            args.seconds, args.runs, args.cycles, args.soak_s = 0.01, 2, 2, 0.05
            result |= {"dry_run": True, "figures": None, "networks": dry_run(args.networks, Path(folder), host, args)}
            print(f"No GPU ({why}): this was a dry run, there are no figures.")
        else:
            result["ceilings"] = ceilings()
            result["networks"] = {}
            subjects = [prepare(name, Path(folder), host, max(BATCHES)) for name in args.networks]
            for subject in subjects:
                print(f"{time.perf_counter() - begin:5.0f} s  {subject.name}: {subject.kind}", flush=True)
                found = measure(subject, BATCHES, gpu_used_bytes, args)
                found["overlap"] = measure_overlap(subject, 64)
                best = max(found["faces_per_s"].values())
                found["tflops"] = round(best * found["flops_per_face"] / 1e12, 2)
                found["share_of_matmul_ceiling"] = round(found["tflops"] / result["ceilings"]["matmul_tflops"], 4)
                result["networks"][subject.name] = found
                _write(args.out, result)
            for number, subject in enumerate(subjects, 1):
                left = args.limit_s - (time.perf_counter() - begin)
                deadline = time.perf_counter() + left / (len(subjects) - number + 1)
                result["networks"][subject.name]["torch_compile_faces_per_s"] = compiled_faces_per_s(
                    subject.half, COMPILED, args.seconds, deadline
                )
        result["seconds"] = round(time.perf_counter() - begin, 1)
    _write(args.out, result)
    print(json.dumps(result, indent=1))
    return 0


def _write(path: Path | None, result: dict) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
