"""Engines for the CPU: OpenVINO in bfloat16 or int8, judged on the bundle's final scores before they are written."""

from __future__ import annotations

import datetime as dt
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from difffake.bundle import Bundle
from difffake.compiling.build import BuiltEngine, Step
from difffake.compiling.detector_scores import compare_by_scores
from difffake.compiling.folder import whole_folder
from difffake.compiling.source import Source
from difffake.compiling.steps import faults_against, judge
from difffake.errors import DataError
from difffake.faces import CenterFace
from difffake.faces.runtime import DetectorRuntime
from difffake.parity import ParityFaces
from engines.choose import FLOAT32, IR
from engines.contract import U8, Embeddings, Precision
from engines.manifest import Comparison, EngineManifest, FileDigest, write_manifest
from engines.mixed import bfloat16_within, read_mixed
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine, version
from engines.profile import BatchProfile
from engines.quantize import quantise_within, save

REFERENCE = "onnx fp32"
MAX_BATCH = 32


def build_openvino_detector(
    source: Source, files: Sequence[Path], bundle: Bundle, out: Path, *, threads: int = 0, step: Step = lambda _: None
) -> BuiltEngine:
    """Prove that the face detector in bfloat16 keeps the scores of a bundle: nothing is compiled.

    Args:
        source: the detector.
        files: clips of real faces, as `compare_by_scores` takes them.
        bundle: whose scores.
        out: the engines folder; the proof lands in ``out/detector/openvino-bf16/``.
        threads: of the runs; 0 takes every core.
        step: told before each step.

    Raises:
        EngineHostError: OpenVINO is not installed, or this processor lacks bfloat16.
        ParityError: the faces that it finds are scored otherwise. Nothing is written.
        DataError: no face that can be scored.
    """
    begin, runtime = time.monotonic(), DetectorRuntime.OPENVINO_BF16
    detectors = CenterFace(threads=threads), CenterFace(threads=threads, runtime=runtime)
    step("looking for faces with both detectors")
    names = REFERENCE, runtime.value
    parity = compare_by_scores(*detectors, files, bundle, names=names, precision=Precision.BF16, threads=threads)
    with whole_folder(out / source.network / runtime) as partial:
        manifest = _manifest(source, Precision.BF16, {}, time.monotonic() - begin, parity)
        write_manifest(partial, manifest)
    return BuiltEngine(out / source.network / runtime, manifest)


def build_openvino(
    source: Source,
    precision: Precision,
    out: Path,
    faces: ParityFaces,
    calibration: U8 | None = None,
    search: ParityFaces | None = None,
    *,
    threads: int = 0,
    step: Step = lambda _: None,
) -> BuiltEngine:
    """Make an OpenVINO engine and prove that it keeps the scores.

    Args:
        source: an extractor or an identity network.
        precision: BF16 or INT8.
        out: the engines folder; the engine lands in ``out/<network>/openvino-<precision>/``.
        faces: what it is judged on: real people who took no part in training or calibration, clips among them, and
            fakes of them (`difffake.training.parity_faces`).
        calibration: ``(N, 3, side, side) uint8`` of other people, some hundreds: their ranges become those of int8,
            and they look for the layers that must stay in float32.
        search: clips of other people, which look for the layers that must stay in float32 beside bfloat16. Without
            them all of it is bfloat16, nothing is compiled, and the proof alone is written.
        threads: of the runs; 0 takes every core.
        step: told before each step.

    Raises:
        EngineHostError: OpenVINO is not installed, or this processor lacks the precision.
        MissingExtraError: INT8, and NNCF is not installed.
        ParityError: the engine does not keep the scores. Nothing is written.
        DataError: INT8 without calibration faces.
    """
    begin = time.monotonic()
    kind = f"openvino-{precision}"
    with tempfile.TemporaryDirectory() as scratch, whole_folder(out / source.network / kind) as partial:
        onnx = Path(scratch) / f"{source.network}.onnx"
        onnx.write_bytes(source.onnx)
        compiled, keep = onnx, list[str]()
        if precision is Precision.INT8:
            if calibration is None or not len(calibration):
                raise DataError("int8 needs faces to calibrate it", hint="name a crop store: --store DIR")
            compiled = partial / IR
            save(quantise_within(onnx, calibration, step=step), compiled)
        elif search is not None:
            faults = faults_against(_exact(onnx, search, threads), search, source.bundle)
            keep = bfloat16_within(onnx, search.faces, faults, step=step)
            if keep:
                (partial / FLOAT32).write_text("".join(f"{name}\n" for name in keep), encoding="utf-8")
        build_s = time.monotonic() - begin
        step("running fp32 on ONNX Runtime")
        before = _exact(onnx, faces, threads)
        step(f"running {kind}")
        after = _run(compiled, precision, faces, threads, keep)
        parity = judge(before, after, faces, source.bundle, reference=REFERENCE, candidate=kind, precision=precision)
        files = {path.name: FileDigest.of(path.read_bytes()) for path in sorted(partial.iterdir())}
        manifest = _manifest(source, precision, files, build_s, (parity,))
        write_manifest(partial, manifest)
    return BuiltEngine(out / source.network / kind, manifest)


def _manifest(
    source: Source,
    precision: Precision,
    files: dict[str, FileDigest],
    build_s: float,
    parity: tuple[Comparison, ...],
) -> EngineManifest:
    return EngineManifest(
        kind=f"openvino-{precision}",
        network=source.network,
        runtime="openvino",
        runtime_version=version(),
        precision=precision,
        profile=BatchProfile(1, MAX_BATCH, MAX_BATCH),
        side_px=source.shape.side_px,
        dim=source.shape.dim,
        has_logit=source.shape.has_logit,
        source=FileDigest.of(source.onnx),
        files=files,
        build_s=round(build_s, 3),
        parity=parity,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _exact(onnx: Path, faces: ParityFaces, threads: int) -> Embeddings:
    with OnnxEngine(onnx, threads=threads, max_batch=MAX_BATCH) as engine:
        return engine.infer(faces.faces)


def _run(path: Path, precision: Precision, faces: ParityFaces, threads: int, keep: Sequence[str]) -> Embeddings:
    read = functools.partial(read_mixed, keep=keep) if keep else None
    with OpenVinoEngine(path, precision=precision, threads=threads, max_batch=MAX_BATCH, read=read) as engine:
        return engine.infer(faces.faces)
