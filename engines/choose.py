"""Which engine runs a network here: the one that was asked for by name, or with ``auto`` the best that runs.

A compiled engine lies in a folder of its kind below the network's engines folder: ``FOLDER/openvino-int8/`` holds
``manifest.json`` and the files that it names. What does not compute in fp32 runs only with a manifest that a parity
gate accepted: a score must mean the same, whichever engine gave it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Self

import structlog

from difffake.errors import EngineError, EngineFileError, EngineHostError, MissingExtraError
from engines.contract import Engine, Precision
from engines.manifest import MANIFEST, EngineManifest, check_host, check_source, read_file, read_manifest
from engines.onnx import OnnxEngine
from engines.tensorrt_api import HostInfo, host_info

log = structlog.get_logger()

#: An OpenVINO engine's network in its folder; its weights lie beside it.
IR = "model.xml"
#: Of an OpenVINO engine that is the network's ONNX file, the layers that stay in float32, a name a line.
FLOAT32 = "float32.txt"
#: Faces in one run of torch on a GPU; longer batches are split.
GPU_BATCH = 32


class EngineKind(StrEnum):
    """What can be asked for; and, of these, what can run (`concrete`), best first."""

    AUTO = "auto"
    ONNX = "onnx"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    TENSORRT_FP16 = "tensorrt-fp16"
    TENSORRT_RTX_FP16 = "tensorrt_rtx-fp16"
    TORCH = "torch"
    OPENVINO_INT8 = "openvino-int8"
    OPENVINO_BF16 = "openvino-bf16"
    OPENVINO_FP32 = "openvino-fp32"

    @classmethod
    def concrete(cls) -> tuple[EngineKind, ...]:
        """Every kind that is one engine."""
        return tuple(kind for kind in cls if kind.members == (kind,))

    @classmethod
    def of_label(cls, label: str) -> Self:
        """The kind in an engine's label, as `Candidate.label` gives it."""
        return cls(next(kind for kind in cls.concrete() if label == kind or label.startswith(f"{kind}-")))

    @property
    def members(self) -> tuple[EngineKind, ...]:
        """The engines that may answer to it, best first."""
        return _MEMBERS.get(self, (self,))

    @property
    def precision(self) -> Precision:
        """What the network computes in. Meaningless for a group."""
        return Precision(self.rpartition("-")[2]) if "-" in self else Precision.FP32

    @property
    def is_compiled(self) -> bool:
        """Whether it needs more than the network's ONNX file: a folder with an accepted manifest."""
        return self.precision is not Precision.FP32


# OpenVINO in fp32 is no faster than ONNX Runtime on what we ship: it must be asked for.
_MEMBERS = {
    EngineKind.AUTO: (
        EngineKind.TENSORRT_FP16,
        EngineKind.TENSORRT_RTX_FP16,
        EngineKind.TORCH,
        EngineKind.OPENVINO_INT8,
        EngineKind.OPENVINO_BF16,
        EngineKind.ONNX,
    ),
    EngineKind.OPENVINO: (EngineKind.OPENVINO_INT8, EngineKind.OPENVINO_BF16, EngineKind.OPENVINO_FP32),
    EngineKind.TENSORRT: (EngineKind.TENSORRT_FP16, EngineKind.TENSORRT_RTX_FP16),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that could run a network.

    Attributes:
        kind: a concrete one.
        network: the fp32 ONNX file.
        folder: where its compiled files lie, or would.
        manifest: what these say of themselves; None where the kind needs none, or they cannot be read.
        problem: why it cannot run here, as far as one can tell without opening it; None where it can.
    """

    kind: EngineKind
    network: Path
    folder: Path
    manifest: EngineManifest | None = None
    problem: EngineError | MissingExtraError | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it computes in the precision that a bundle was calibrated with."""
        return not self.kind.is_compiled

    @property
    def is_there(self) -> bool:
        """Whether somebody compiled it: then it is worth a warning that it does not run."""
        return (self.folder / MANIFEST).is_file()

    @property
    def label(self) -> str:
        """``onnx``, or the kind and, where it has files of its own, eight digits that stand for these: two engines with
        one label give the same embeddings on one host."""
        files = {} if self.manifest is None else self.manifest.files
        if not files:
            return self.kind.value
        digest = hashlib.sha256("".join(f"{name}:{files[name].sha256}\n" for name in sorted(files)).encode())
        return f"{self.kind}-{digest.hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine that runs, and its `Candidate.label`.

    ``fallback``: why a better one that somebody compiled does not run; empty where it does, or there is none.
    """

    engine: Engine
    label: str
    fallback: str = ""


def candidates(network: Path, folder: Path | None = None, kind: EngineKind = EngineKind.AUTO) -> list[Candidate]:
    """The engines that may answer to ``kind``, best first, each with what stands in its way here.

    Args:
        network: the fp32 ONNX file.
        folder: where compiled engines of this network lie, in a folder each; None: nowhere.
    """
    return [_candidate(one, network, _folder(folder, network) / one) for one in kind.members]


def open_engine(
    kind: EngineKind,
    network: Path,
    folder: Path | None = None,
    *,
    threads: int = 0,
    max_batch: int = 32,
) -> Opened:
    """Open the best engine that answers to ``kind`` and runs here.

    With several that may answer (``auto``, ``openvino``, ``tensorrt``) each that is passed over is logged, once in a
    process: as a warning where somebody compiled it. Only what belongs to the host or to the engine's files is passed
    over; any other error is an error.

    Args:
        network, folder: as for `candidates`.
        threads: on the CPU, inside one run; 0 takes every core.
        max_batch: on the CPU, longer batches are split; a GPU's plan has its own.

    Raises:
        EngineHostError, MissingExtraError: what was asked for by name cannot run here; the hint says what mends it.
        EngineFileError: its files are missing, damaged or another network's.
        EngineError: the network cannot be loaded.
    """
    passed: list[tuple[Candidate, EngineError | MissingExtraError]] = []
    for candidate in candidates(network, folder, kind):
        if candidate.problem is not None:
            passed.append((candidate, candidate.problem))
            continue
        try:
            engine = open_candidate(candidate, threads=threads, max_batch=max_batch)
        except (EngineFileError, EngineHostError, MissingExtraError) as error:
            passed.append((candidate, error))
            continue
        for other, problem in passed:
            _tell(other.kind, str(problem), problem.hint, other.is_there)
        why = next((f"{other.kind}: {problem}" for other, problem in passed if other.is_there), "")
        return Opened(engine, candidate.label, why)
    # The one that somebody compiled is the one that was meant.
    raise max(passed, key=lambda one: one[0].is_there)[1]


def open_candidate(candidate: Candidate, *, threads: int = 0, max_batch: int = 32) -> Engine:
    """Open one engine, whatever ``candidate.problem`` says; raises as `open_engine`."""
    kind = candidate.kind
    if kind is EngineKind.ONNX:
        return OnnxEngine(candidate.network, threads=threads, max_batch=max_batch)
    if kind in EngineKind.TENSORRT.members:
        from engines.tensorrt import TensorRtEngine

        return TensorRtEngine(candidate.folder, onnx_sha256=_sha256(candidate.network))
    if kind is EngineKind.TORCH:
        return _open_torch(candidate.network)
    return _open_openvino(candidate, threads, max_batch)


def _open_openvino(candidate: Candidate, threads: int, max_batch: int) -> Engine:
    from engines.openvino import OpenVinoEngine

    path, read = candidate.network, None
    if candidate.manifest is not None:
        files = {name: read_file(candidate.manifest, candidate.folder, name) for name in candidate.manifest.files}
        if IR in files:
            path = candidate.folder / IR
        elif FLOAT32 in files:
            from engines.mixed import read_mixed

            read = partial(read_mixed, keep=files[FLOAT32].decode(errors="replace").splitlines())
    return OpenVinoEngine(path, precision=candidate.kind.precision, threads=threads, max_batch=max_batch, read=read)


def _open_torch(network: Path) -> Engine:
    from engines.torch_cuda import TorchCudaEngine
    from engines.torch_onnx import load_onnx

    with OnnxEngine(network, threads=1) as exact:
        spec = exact.spec
    engine = TorchCudaEngine(
        load_onnx(network),
        side_px=spec.side_px,
        dim=spec.dim,
        has_logit=spec.has_logit,
        max_batch=GPU_BATCH,
        precision=Precision.FP32,
    )
    engine.warm_up()
    return engine


def is_there(kind: EngineKind, folder: Path | None) -> bool:
    """Whether somebody compiled an engine that answers to ``kind``."""
    return folder is not None and any((folder / one / MANIFEST).is_file() for one in kind.members)


def _folder(folder: Path | None, network: Path) -> Path:
    return network.parent / "engines" / network.stem if folder is None else folder


def _candidate(kind: EngineKind, network: Path, folder: Path) -> Candidate:
    manifest = None
    try:
        _check_runtime(kind)
        if kind.is_compiled:
            manifest = _manifest(kind, network, folder)
        if kind in EngineKind.OPENVINO.members:
            from engines import openvino

            openvino.check_host(kind.precision)
    except EngineError as error:
        return Candidate(kind, network, folder, manifest, error)
    return Candidate(kind, network, folder, manifest)


def _check_runtime(kind: EngineKind) -> None:
    """What is missing first: the card, or the package."""
    if kind in EngineKind.TENSORRT.members and (problem := _host().problem) is not None:
        raise EngineHostError(
            f"TensorRT needs an NVIDIA GPU: {problem}", hint=_host().hint or "take another engine: --engine auto"
        )
    if kind is EngineKind.TORCH:
        if (problem := _host().problem) is not None:
            raise EngineHostError(f"torch needs an NVIDIA GPU: {problem}", hint="take another engine: --engine auto")
        if missing := [name for name in ("torch", "onnx", "cuda") if importlib.util.find_spec(name) is None]:
            raise EngineHostError(
                f"torch on a GPU needs {' and '.join(missing)}, not installed", hint="pip install 'difffake[gpu]'"
            )
    if kind in EngineKind.OPENVINO.members and importlib.util.find_spec("openvino") is None:
        raise EngineHostError(
            "OpenVINO is not installed", hint="pip install 'difffake[openvino]', or take the exact one: --engine onnx"
        )


def _manifest(kind: EngineKind, network: Path, folder: Path) -> EngineManifest:
    """The manifest of a compiled engine that fits this network and this host."""
    make = f"make one: {_build(kind, network, folder)}"
    if not (folder / MANIFEST).is_file():
        raise EngineFileError(f"no {kind} engine in {folder.parent}", hint=make)
    manifest = read_manifest(folder)
    if manifest.kind != kind:
        raise EngineFileError(f"the engine in {folder} is of the kind {manifest.kind[:40]}", hint=make)
    check_source(manifest, _sha256(network))
    if not manifest.accepted:
        raise EngineFileError(
            f"the {kind} engine in {folder.parent} has no accepted parity report: its scores may mean something else",
            hint=f"compare it with the network: {_build(kind, network, folder)}",
        )
    if kind in EngineKind.TENSORRT.members:
        check_host(manifest, _host())
    return manifest


def _build(kind: EngineKind, network: Path, folder: Path) -> str:
    """The command that makes this engine where it was looked for."""
    command = f"python build_engine.py --bundle {network.parent} --network {network.stem} --kind {kind}"
    engines = folder.parent.parent
    return command if engines == network.parent / "engines" else f"{command} --out {engines}"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EngineFileError(
            f"{path.name} cannot be read: {error.strerror}", hint="install the bundle again"
        ) from error


@cache
def _host() -> HostInfo:
    return host_info()


@lru_cache(maxsize=256)
def _tell(kind: EngineKind, reason: str, hint: str, is_there: bool) -> None:
    """Log once in a process that an engine was passed over."""
    (log.warning if is_there else log.info)("engine passed over", kind=kind.value, reason=reason, hint=hint)
