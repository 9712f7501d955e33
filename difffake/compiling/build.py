"""Build an engine, judge it, write its folder: all of it or nothing."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from difffake.compiling.detector import compare_detectors
from difffake.compiling.folder import whole_folder
from difffake.compiling.pictures import Pictures
from difffake.compiling.source import Source
from difffake.compiling.steps import embed_by_torch, judge
from difffake.errors import EngineHostError
from engines.contract import Embeddings, Engine, Precision
from engines.half import to_half, to_rounded
from engines.manifest import PLAN, Comparison, EngineManifest, FileDigest, write_manifest
from engines.onnx import OnnxEngine
from engines.tensorrt_api import FLAVOURS, Flavour, HostInfo, pick_flavour
from engines.tensorrt_build import BuildSettings, BuiltPlan, Progress, build_plan

#: What an engine is compared with, and what stands in for it where it cannot run.
FP32, STAND_IN = "onnx fp32", "fp16 rounding"
#: Told before each step, in words.
Step = Callable[[str], None]
#: Opens the engine of a folder: the folder, the SHA-256 of its network's ONNX file, the number of the GPU.
OpenEngine = Callable[[Path, str, int], Engine]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build, and where.

    Args:
        settings: the builder's.
        out: the engines folder; the engine lands in ``out/<network>/<kind>/``.
        device: number of the GPU.
        threads: of the runs on the CPU that the engine is compared with; 0 takes every core.
    """

    settings: BuildSettings
    out: Path
    device: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """Where an engine was written, and what its manifest says."""

    folder: Path
    manifest: EngineManifest


def choose_flavour(host: HostInfo, wanted: str = "auto") -> Flavour:
    """The TensorRT that shall build: the one asked for, or full TensorRT where it has a card, else RTX.

    Raises:
        EngineHostError: none is installed that could build here.
    """
    for flavour in FLAVOURS:
        if wanted in (flavour, f"{flavour}-fp16"):
            return flavour
    if "tensorrt" in host.runtimes and host.problem is None:
        return "tensorrt"
    if "tensorrt_rtx" in host.runtimes:
        return "tensorrt_rtx"
    best = pick_flavour()
    raise EngineHostError(
        f"{best} builds on the card that will run the engine: {host.problem}",
        hint=f"{host.hint or 'build there'}; or build ahead of time: pip install tensorrt-rtx-cu13",
    )


def build_tensorrt(
    source: Source,
    flavour: Flavour,
    options: BuildOptions,
    pictures: Pictures,
    host: HostInfo,
    *,
    progress: Progress | None = None,
    step: Step = lambda _: None,
    open_engine: OpenEngine | None = None,
) -> BuiltEngine:
    """Compile a network to an FP16 TensorRT plan with its manifest and parity report.

    Args:
        source: what is compiled.
        flavour: by what.
        options: how, and where to.
        pictures: what it is judged on.
        host: what this machine has; with a GPU, the engine itself is judged.
        progress: the builder's.
        step: told before each step.
        open_engine: how an engine is opened to be judged; `TensorRtEngine` if not given.

    Raises:
        EngineHostError: this host cannot build it.
        EngineFileError: the network is no network that it can build.
        ParityError: the engine, or what stands in for it, does not keep the scores. Nothing is written.
    """
    kind = f"{flavour}-{Precision.FP16}"
    step("converting to half precision")
    half = to_half(source.onnx)
    step(f"building with {flavour}")
    built = build_plan(half, options.settings, flavour=flavour, host=host, device=options.device, progress=progress)
    final = options.out / source.network / kind
    with whole_folder(final) as partial:
        (partial / PLAN).write_bytes(built.plan)
        manifest = _manifest(source, half, built, options.settings, parity=())
        write_manifest(partial, manifest)
        if source.network == "detector":
            parity = _judge_detector(source, pictures, step)
        else:
            opener = open_engine or _open_tensorrt
            parity = _judge_embeddings(source, partial, manifest, options, pictures, host, step, opener)
        manifest = _manifest(source, half, built, options.settings, parity)
        write_manifest(partial, manifest)
    return BuiltEngine(final, manifest)


def _manifest(
    source: Source, half: bytes, built: BuiltPlan, settings: BuildSettings, parity: tuple[Comparison, ...]
) -> EngineManifest:
    return EngineManifest(
        kind=f"{built.runtime}-{Precision.FP16}",
        network=source.network,
        runtime=built.runtime,
        runtime_version=built.runtime_version,
        gpu=built.gpu,
        compute_capabilities=settings.compute_capabilities,
        precision=Precision.FP16,
        profile=settings.profile,
        pictures=settings.pictures,
        side_px=source.shape.side_px,
        dim=source.shape.dim,
        has_logit=source.shape.has_logit,
        source=FileDigest.of(source.onnx),
        graph=FileDigest.of(half),
        files={PLAN: FileDigest.of(built.plan)},
        build_s=round(built.build_s, 3),
        optimization_level=settings.optimization_level,
        version_compatible=settings.version_compatible,
        hardware_level=settings.hardware_level,
        parity=parity,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _judge_detector(source: Source, pictures: Pictures, step: Step) -> tuple[Comparison, ...]:
    step("comparing fp16 rounding with fp32")
    return (
        compare_detectors(source.onnx, to_rounded(source.onnx), pictures.frames, reference=FP32, candidate=STAND_IN),
        _not_run(source.network, "the engines run networks that embed faces"),
    )


def _judge_embeddings(
    source: Source,
    folder: Path,
    manifest: EngineManifest,
    options: BuildOptions,
    pictures: Pictures,
    host: HostInfo,
    step: Step,
    open_engine: OpenEngine,
) -> tuple[Comparison, ...]:
    faces = pictures.faces if source.network == "extractor" else pictures.identity
    reports = []
    step("running fp32 on ONNX Runtime")
    exact = _embed(source.onnx, pictures, source, options.threads)
    if source.extractor is not None:
        step("comparing torch with fp32")
        torch = embed_by_torch(source.extractor, faces.faces)
        reports.append(
            judge(torch, exact, faces, source.bundle, reference="torch fp32", candidate=FP32, precision=Precision.FP32)
        )
    step("comparing fp16 rounding with fp32")
    rounded = _embed(to_rounded(source.onnx), pictures, source, options.threads)
    reports.append(
        judge(exact, rounded, faces, source.bundle, reference=FP32, candidate=STAND_IN, precision=Precision.FP16)
    )
    if host.problem is not None:
        reports.append(_not_run(manifest.kind, f"no device: {host.problem}"))
        return tuple(reports)
    step("comparing the engine with fp32")
    try:
        with open_engine(folder, source.sha256, options.device) as engine:
            compiled = engine.infer(faces.faces)
    except EngineHostError as error:
        if manifest.gpu is not None:
            raise
        # Built ahead of time, for other cards than the one that is here.
        reports.append(_not_run(manifest.kind, str(error)))
        return tuple(reports)
    reports.append(
        judge(exact, compiled, faces, source.bundle, reference=FP32, candidate=manifest.kind, precision=Precision.FP16)
    )
    return tuple(reports)


def _open_tensorrt(folder: Path, onnx_sha256: str, device: int) -> Engine:
    from engines.tensorrt import TensorRtEngine

    return TensorRtEngine(folder, onnx_sha256=onnx_sha256, index=device)


def _embed(onnx: bytes, pictures: Pictures, source: Source, threads: int) -> Embeddings:
    faces = pictures.faces if source.network == "extractor" else pictures.identity
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{source.network}.onnx"
        path.write_bytes(onnx)
        with OnnxEngine(path, threads=threads) as engine:
            return engine.infer(faces.faces)


def _not_run(candidate: str, why: str) -> Comparison:
    return Comparison(reference=FP32, candidate=candidate, pictures=0, not_run=why)
