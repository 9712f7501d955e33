"""Faces a second on the CPU: torch eager, ONNX Runtime, OpenVINO in fp32, bf16 and int8; and whether the scores stay.

    python benchmarks/engine_speed.py --out benchmarks/results/engine_speed --store CROPS \\
      --judge DIR --judge-layout LAYOUT

Turns alternate; every figure is the median over rounds, every ratio the median of ratios within a round. `--store` is a
crop store (`difffake crops`): the shipped model's engines are then held to the parity gate, on people kept out of its
training, or on those of `--judge`, a data set of real and manipulated video. Without a store the faces are those of the
demonstration's clips, only embeddings are compared, and bfloat16 is that of all layers.

The shipped model runs from its bundle (torch: the same architecture, untrained, timed only). Other backbones are
untrained, with batch norms settled on the same faces: their speed is real, their int8 is quantised like any other, but
nothing is known of scores that they do not have, and all of their layers are rounded.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from difffake.bundle import Bundle
from difffake.compiling.pictures import collect_pictures, labelled_faces
from difffake.compiling.steps import faults_against
from difffake.demo.clips import fetch_clips
from difffake.errors import EngineHostError
from difffake.evaluation.layouts import Layout
from difffake.extractor import Extractor, build_extractor, export_onnx
from difffake.faces import EYE_DISTANCE
from difffake.parity import ParityFaces, compare_embeddings
from difffake.parity_gate import GATES, failures
from difffake.training.parity_faces import calibration_faces, parity_faces, search_faces
from difffake.training.store import CropStore
from engines.contract import Embeddings, Engine, Precision
from engines.mixed import bfloat16_within, read_mixed
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine, check_host, cpu_name
from engines.quantize import Limits, quantise_within, save

U8 = npt.NDArray[np.uint8]

CLIPS = Path(".cache/clips")
SHIPPED = "shipped"
#: "cpu" counts processor time of all threads: the one honest clock on a machine that others use too.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
ONNX = "ONNX Runtime fp32"


@dataclass(frozen=True)
class Subject:
    """A network: its ONNX file, its twin in torch, and the bundle whose scores it makes."""

    name: str
    onnx: Path
    torch: Extractor
    bundle: Bundle | None = None


def settle(extractor: Extractor, faces: U8) -> None:
    """Give batch norms the statistics of real faces: with random ones deep activations die or explode."""
    for module in extractor.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over all batches
            module.reset_running_stats()
    extractor.train()
    with torch.no_grad():
        for part in torch.from_numpy(faces).split(16):
            extractor(part)
    extractor.eval()


def subject(name: str, folder: Path, faces: U8) -> Subject:
    torch.manual_seed(0)
    if name == SHIPPED:
        bundle = Bundle.load()
        twin = build_extractor(bundle.manifest.backbone, pretrained=False).eval()
        return Subject(f"{bundle.manifest.backbone} (shipped)", bundle.engine_path, twin, bundle)
    extractor = build_extractor(name, pretrained=False, dropout=0.0)
    settle(extractor, faces[:64])
    path = folder / f"{name}.onnx"
    export_onnx(extractor, path)
    return Subject(name, path, extractor)


def engines(
    what: Subject, calibration: U8, search: ParityFaces | None, folder: Path, options: argparse.Namespace
) -> Iterator[tuple[str, Engine]]:
    """Every engine that this processor runs, made anew as ``build_engine.py`` makes them."""
    threads, max_batch = options.threads, max(options.batches)
    # Nobody scores with an untrained network: no layers are looked for that would spoil its scores.
    limits = Limits() if what.bundle is not None else Limits(math.inf, math.inf)
    exact = OnnxEngine(what.onnx, threads=threads, max_batch=max_batch)
    yield ONNX, exact
    for precision in options.precisions:
        try:
            check_host(precision)
        except EngineHostError as error:
            print(f"not run: OpenVINO {precision}: {error}")
            continue
        begin, path, keep = time.monotonic(), what.onnx, list[str]()
        if precision is Precision.INT8:
            path = folder / f"{what.onnx.stem}-{precision}.xml"
            save(quantise_within(what.onnx, calibration, limits=limits, step=print), path)
        elif precision is Precision.BF16 and what.bundle is not None and search is not None:
            faults = faults_against(exact.infer(search.faces), search, what.bundle)
            keep = bfloat16_within(what.onnx, search.faces, faults, step=print)
        print(f"{what.name}: {precision} made in {time.monotonic() - begin:.0f} s", flush=True)
        read = partial(read_mixed, keep=keep) if keep else None
        yield (
            f"OpenVINO {precision}",
            OpenVinoEngine(path, precision=precision, threads=threads, max_batch=max_batch, read=read),
        )


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    run()
    return clock() - begin


def speed(
    runs: dict[str, Callable[[U8], object]], faces: U8, batch: int, rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, float]]:
    part = faces[np.arange(batch) % len(faces)]
    for run in runs.values():  # both the first and the second run of a shape prepare something
        run(part)
        run(part)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(partial(run, part), clock))
    return {
        name: {
            "faces_per_s": batch / statistics.median(found),
            "ratio": statistics.median(o / f for o, f in zip(times[ONNX], found, strict=True)),
        }
        for name, found in times.items()
    }


def parity(what: Subject, name: str, before: Embeddings, after: Embeddings, judged: ParityFaces) -> dict[str, Any]:
    precision = Precision(name.rsplit(" ", 1)[1])
    report = compare_embeddings(before, after, judged, what.bundle, names=(ONNX, name), precision=precision)
    found: dict[str, Any] = {
        "faces": report.faces,
        "cosine_min": report.cosine_min,
        "cosine_mean": report.cosine_mean,
        "scores": {
            n: {k: getattr(report.scores[n], k) for k in ("faces", "spearman", "shift_median", "shift_p95", "bias_sd",
                                                          "p_shift_p95", "p_shift_p95_tail", "alarms", "auc")}
            for n in report.scores
        },
        "judged": report.judged,
    }  # fmt: skip
    if what.bundle is not None and any((judged.family > 0).tolist()):
        found["failures"] = failures(report, GATES[precision])
    return found


def measure(
    name: str, options: argparse.Namespace, faces: U8, calibration: U8, search: ParityFaces | None, judged: ParityFaces
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, torch.inference_mode():
        what = subject(name, Path(folder), faces)
        opened = {
            label: stack.enter_context(engine)
            for label, engine in engines(what, calibration, search, Path(folder), options)
        }
        runs: dict[str, Callable[[U8], object]] = {
            "torch eager": lambda part: what.torch(torch.from_numpy(part)),
            **{label: engine.infer for label, engine in opened.items()},
        }
        rows = {
            str(batch): speed(runs, faces, batch, options.rounds, CLOCKS[options.clock]) for batch in options.batches
        }
        held = judged if what.bundle is not None else ParityFaces.photos(judged.faces[:128])
        before = opened[ONNX].infer(held.faces)
        found = {
            label: parity(what, label, before, engine.infer(held.faces), held)
            for label, engine in opened.items()
            if label != ONNX
        }
    return {"network": what.name, "speed": rows, "parity": found}


def markdown(result: dict[str, Any]) -> str:
    second = "second" if result["clock"] == "wall" else "second of processor time"
    lines = [
        f"{result['machine']}. Faces of 224 px a {second}, medians of {result['rounds']} rounds; ratios are against "
        "ONNX Runtime in the same round.",
        "",
    ]
    names = list(next(iter(result["networks"][0]["speed"].values())))
    lines += [
        "| network | batch | " + " | ".join(names) + " |",
        "|---" * (2 + len(names)) + "|",
    ]
    for network in result["networks"]:
        for batch, row in network["speed"].items():
            cells = [f"{row[n]['faces_per_s']:.0f} ({row[n]['ratio']:.2f}x)" if n in row else "not run" for n in names]
            lines.append(f"| {network['network']} | {batch} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Parity: {result['judged_on']}.",
        "",
        "| network | engine | cosine min / mean | score | rank correlation | shift median / p95 | move of p, p95 "
        "(below 0.1) | real faces with p <= 0.05, 0.01 | AUC on fakes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network in result["networks"]:
        for engine, found in network["parity"].items():
            cosine = f"{found['cosine_min']:.4f} / {found['cosine_mean']:.5f}"
            if not found["judged"]:
                lines.append(f"| {network['network']} | {engine} | {cosine} | | | | | | |")
            for score in (n for n in found["judged"] if n in found["scores"]):
                s = found["scores"][score]
                tail = "" if s["p_shift_p95_tail"] is None else f" ({s['p_shift_p95_tail']:.3f})"
                alarms = ", ".join(f"{a:.4f} to {b:.4f}" for a, b in s["alarms"].values())
                auc = "" if s["auc"] is None else f"{s['auc'][0]:.4f} to {s['auc'][1]:.4f}"
                cells = [
                    network["network"],
                    engine,
                    cosine,
                    f"{score} ({s['faces']} faces)",
                    f"{s['spearman']:.4f}",
                    f"{s['shift_median']:.3f} / {s['shift_p95']:.3f}",
                    f"{s['p_shift_p95']:.3f}{tail}",
                    alarms,
                    auc,
                ]
                lines.append(f"| {' | '.join(cells)} |")
    for network in result["networks"]:
        for engine, found in network["parity"].items():
            if "failures" in found:
                verdict = "; ".join(found["failures"]) or "passes its gate"
                lines += ["", f"{network['network']}, {engine}: {verdict}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="path without ending; .md and .json are added")
    parser.add_argument("--networks", nargs="+", default=[SHIPPED, "efficientnet_b4", "resnet50"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--precisions", type=Precision, nargs="+", default=[Precision.FP32, Precision.BF16, Precision.INT8]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a shared machine")
    parser.add_argument("--store", type=Path, help="a crop store, for calibration and the parity gate")
    parser.add_argument("--judge", type=Path, help="real and manipulated video, as for `difffake evaluate`")
    parser.add_argument("--judge-layout", type=Layout, choices=list(Layout), default=Layout.FOLDERS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.store is not None:
        store = CropStore.load(options.store)
        calibration, search = calibration_faces(store), search_faces(store)
        if options.judge is not None:
            judged, _ = labelled_faces(
                options.judge_layout, options.judge, eye_distance=EYE_DISTANCE, threads=options.threads
            )
            people, fakes = f"{options.judge.name}, with which nothing was chosen", "manipulated ones"
        else:
            judged, people, fakes = parity_faces(store), "people kept out of training", "pseudo-fakes of them"
        judged_on = (
            f"{int((judged.family == 0).sum())} real faces of {people}, and "
            f"{int((judged.family > 0).sum())} {fakes}, {len(np.unique(judged.clip))} clips and photos; "
            f"layers chosen and int8 calibrated on {len(search)} and {len(calibration)} faces of others"
        )
    else:
        clips = [path for name, path in fetch_clips(CLIPS).items() if name != "no_face"]
        judged = collect_pictures(clips, eye_distance=EYE_DISTANCE, threads=options.threads).faces
        calibration, search = judged.faces, None
        judged_on = f"{len(judged)} faces of the demonstration's clips, which calibrated int8 too"
    faces = judged.faces[: max(options.batches)]
    libraries = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "onnxruntime", "openvino", "nncf"))
    result: dict[str, Any] = {
        "machine": f"{cpu_name()} ({platform.machine()}), {options.threads} threads of {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, {libraries}",
        "judged_on": judged_on,
        "rounds": options.rounds,
        "clock": options.clock,
        "networks": [],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        result["networks"].append(measure(name, options, faces, calibration, search, judged))
        text = markdown(result)  # after every network: an interrupt loses one, not all
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
        options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
