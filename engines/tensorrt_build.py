"""ONNX -> TensorRT plan: one path for full TensorRT (10.12 and newer, 11) and for TensorRT-RTX.

Networks are strongly typed: what a layer computes in stands in the graph, no flag changes it. Full TensorRT measures
kernels on the card that will run them; RTX builds ahead of time, also where there is none.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from difffake.errors import EngineError, EngineFileError, EngineHostError
from engines.profile import BatchProfile, GpuKind, HardwareLevel, PictureProfile
from engines.tensorrt_api import Flavour, HostInfo, cuda_message, import_tensorrt

log = logging.getLogger(__name__)

#: Called with the phase that the builder is in and the share of the whole that is done, 0 to 1.
Progress = Callable[[str, float], None]

MAX_BATCH = 4096
_MAX_CACHE_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How to build.

    Attributes:
        profile: batch sizes.
        pictures: sizes of a detector's pictures; None for a network that takes faces.
        optimization_level: 0 (fast to build) to 5 (fast to run).
        timing_cache: file that keeps what was measured; full TensorRT only.
        version_compatible: let newer builds of the same major version run it; full TensorRT only.
        hardware_level: let other cards run it; full TensorRT only.
        compute_capabilities: cards to build for ("8.6", "12.0"); RTX only. Empty: the builder's own list.

    Raises:
        ValueError: batch sizes or level out of range.
    """

    profile: BatchProfile
    pictures: PictureProfile | None = None
    optimization_level: int = 3
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_level: HardwareLevel = "none"
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.profile.min <= self.profile.opt <= self.profile.max <= MAX_BATCH:
            raise ValueError(f"batches must rise from 1 to at most {MAX_BATCH}: least, usual, most; got {self.profile}")
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"the optimization level must be 0 to 5, not {self.optimization_level}")


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A plan, the build of TensorRT and the card that it belongs to, and the seconds it took."""

    plan: bytes
    runtime: Flavour
    runtime_version: str
    gpu: GpuKind | None
    build_s: float


def build_plan(
    graph: bytes,
    settings: BuildSettings,
    *,
    flavour: Flavour,
    host: HostInfo,
    device: int = 0,
    progress: Progress | None = None,
) -> BuiltPlan:
    """Compile an ONNX graph.

    Args:
        graph: an ONNX file; its types are what the engine computes in (see `engines.half`).
        host: what this machine has.
        device: number of the GPU; RTX builds without one.

    Raises:
        EngineHostError: the flavour is not installed, or needs a GPU that is not here.
        EngineFileError: the parser refuses the graph.
        EngineError: a setting that this flavour lacks, or the builder failed.
    """
    trt = import_tensorrt(flavour)
    _check_settings(settings, flavour)
    gpu = None
    if flavour == "tensorrt":
        if host.problem is not None or not 0 <= device < len(host.gpus):
            raise EngineHostError(
                f"tensorrt builds on the card that will run the engine: {host.problem or f'there is no GPU {device}'}",
                hint="build on that machine, or ahead of time: --kind tensorrt_rtx (pip install tensorrt-rtx-cu13)",
            )
        gpu = GpuKind(host.gpus[device].name, host.gpus[device].compute_capability)
    build = _Build(trt, flavour, graph, settings, device, progress)
    started = time.monotonic()
    plan = build.run()
    return BuiltPlan(plan, flavour, str(trt.__version__), gpu, time.monotonic() - started)


def _check_settings(settings: BuildSettings, flavour: Flavour) -> None:
    full_only = {
        "a timing cache": settings.timing_cache is not None,
        "version compatibility": settings.version_compatible,
        "hardware compatibility": settings.hardware_level != "none",
    }
    for what, asked in full_only.items():
        if asked and flavour == "tensorrt_rtx":
            raise EngineError(
                f"tensorrt_rtx has no {what.removeprefix('a ')}",
                hint="its plans run on many cards as they are; leave the option out, or take --kind tensorrt",
            )
    if settings.compute_capabilities and flavour == "tensorrt":
        raise EngineError(
            "tensorrt builds for the card of this machine",
            hint="leave the compute capabilities out, or take --kind tensorrt_rtx",
        )


class _Build:
    """One run of the builder, on a thread of its own: an interrupt of the main thread stops it at its next step."""

    def __init__(
        self,
        trt: ModuleType,
        flavour: Flavour,
        graph: bytes,
        settings: BuildSettings,
        device: int,
        progress: Progress | None,
    ) -> None:
        self._trt: Any = trt
        self._flavour, self._graph, self._settings, self._device = flavour, graph, settings, device
        self._progress = progress
        self._cancelled = threading.Event()
        self._plan: bytes | None = None
        self._error: BaseException | None = None

    def run(self) -> bytes:
        thread = threading.Thread(target=self._guarded, name="tensorrt-build")
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.1)
        finally:  # an interrupt: TensorRT must end by itself, it cannot be torn away from its memory
            self._cancelled.set()
            thread.join()
        if self._error is not None:
            raise self._error
        assert self._plan is not None  # noqa: S101 - the thread ended without an error
        return self._plan

    def _guarded(self) -> None:
        try:
            self._plan = self._build()
        except BaseException as error:
            # TensorRT's objects must end here. Left to a garbage collection, they may end in one that TensorRT's call
            # to our logger sets off, and wait for ever for the lock that this call holds.
            told: BaseException | None = error
            while told is not None:
                traceback.clear_frames(told.__traceback__)
                told = told.__cause__ or told.__context__
            self._error = error

    def _build(self) -> bytes:
        trt, settings = self._trt, self._settings
        if self._flavour == "tensorrt":
            cuda: Any = importlib.import_module("cuda.bindings.runtime")
            (status,) = cuda.cudaSetDevice(self._device)
            if status != 0:
                raise EngineHostError(
                    f"GPU {self._device} cannot be used: {cuda_message(cuda, status)}", hint="check nvidia-smi"
                )
        told = _logger(trt)
        try:
            builder = trt.Builder(told)
        except TypeError as error:  # the binding's way to say that the library returned nothing
            raise EngineHostError(
                f"{self._flavour} cannot start: {told.last()}", hint="check the driver with nvidia-smi"
            ) from error
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, told)
        if not parser.parse(self._graph):
            errors = [parser.get_error(i) for i in range(min(parser.num_errors, 5))]
            reasons = "; ".join(" ".join(f"{e.node_operator()} {e.node_name()} {e.desc()}".split()) for e in errors)
            raise EngineFileError(
                f"{self._flavour} cannot read the network: {reasons or told.last()}",
                hint="an operator that it lacks needs a newer TensorRT; take --engine onnx meanwhile",
            )
        config = builder.create_builder_config()
        config.builder_optimization_level = settings.optimization_level
        # What the graph leaves in float32 is meant so: TF32 would round its weights as half precision does.
        config.clear_flag(trt.BuilderFlag.TF32)
        monitor = _monitor(trt, self._progress, self._cancelled)
        config.progress_monitor = monitor
        self._set_compatibility(config)
        profile = builder.create_optimization_profile()
        self._set_shapes(profile, network)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"{self._flavour} refuses the batch sizes: {told.last()}", hint="choose smaller ones")
        cache = self._load_cache(config)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            if self._cancelled.is_set():
                raise EngineError("the build was interrupted", hint="start it again")
            raise EngineError(
                f"{self._flavour} could not build the engine: {told.last()}",
                hint="free memory on the GPU, or build with smaller batches or a lower optimization level",
            )
        if cache is not None:
            self._save_cache(config)
        return bytes(plan)

    def _set_compatibility(self, config: Any) -> None:
        trt, settings = self._trt, self._settings
        if settings.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if settings.hardware_level == "ampere_plus":
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        elif settings.hardware_level == "same_compute_capability":
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        if not settings.compute_capabilities:
            return
        known = trt.ComputeCapability.__members__
        config.num_compute_capabilities = len(settings.compute_capabilities)
        for index, capability in enumerate(settings.compute_capabilities):
            name = f"SM{capability.replace('.', '')}"
            if name not in known or not config.set_compute_capability(known[name], index):
                raise EngineError(
                    f"{self._flavour} {trt.__version__} builds nothing for compute capability {capability}",
                    hint=f"it knows {', '.join(k for k in known if k.startswith('SM'))}",
                )

    def _set_shapes(self, profile: Any, network: Any) -> None:
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise EngineFileError(
                f"the network has the inputs {[t.name for t in inputs]}, not one of four dimensions",
                hint="take the ONNX file of a bundle",
            )
        batch, pictures = self._settings.profile, self._settings.pictures
        fixed = tuple(inputs[0].shape)[1:]
        shapes = [
            (count, fixed[0], *(size if pictures else fixed[1:]))
            for count, size in zip(
                (batch.min, batch.opt, batch.max),
                (pictures.min, pictures.opt, pictures.max) if pictures else ((), (), ()),
                strict=True,
            )
        ]
        try:
            profile.set_shape(inputs[0].name, *shapes)
        except ValueError as error:
            raise EngineError(f"{self._flavour} refuses the shapes {shapes}", hint="choose smaller ones") from error

    def _load_cache(self, config: Any) -> Any:
        path = self._settings.timing_cache
        if path is None:
            return None
        blob = b""
        if path.is_file() and path.stat().st_size <= _MAX_CACHE_BYTES:
            blob = path.read_bytes()
        cache = config.create_timing_cache(blob)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            # Damaged, or measured by another build or on another card: worth nothing here, and no reason to fail.
            log.info("%s is no timing cache of this host; a new one is begun", path)
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
        return cache

    def _save_cache(self, config: Any) -> None:
        path = self._settings.timing_cache
        assert path is not None  # noqa: S101 - a cache was loaded
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
            partial.replace(path)
        except OSError as error:  # the engine is built; the next build will measure again
            log.warning("the timing cache %s was not kept: %s", path, error)


def _logger(trt: Any) -> Any:
    """A logger for TensorRT that keeps its last errors, and hands all it says to our log."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, msg: str) -> None:
            text = " ".join(msg.split())[:500]
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(text)
                log.debug("TensorRT error: %s", text)
            elif severity == trt.ILogger.WARNING:
                log.debug("TensorRT warning: %s", text)

        def last(self) -> str:
            return "; ".join(self._errors) or "no reason given"

    return Log()


def _monitor(trt: Any, progress: Progress | None, cancelled: threading.Event) -> Any:
    """Counts the steps of the outermost phases; called from threads of the builder, and must never raise there."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outer: dict[str, int] = {}
            self._share = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outer[phase_name] = max(1, num_steps)
            self._tell(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self._outer.get(phase_name)
            if steps is not None:
                self._share = max(self._share, min(1.0, (step + 1) / steps))
            self._tell(phase_name)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name)

        def _tell(self, phase: str) -> None:
            if progress is None:
                return
            try:
                progress(phase, self._share)
            except Exception:  # a display that fails must not end a build, nor unwind through a C++ library
                log.debug("the display of progress failed", exc_info=True)

    return Monitor()
