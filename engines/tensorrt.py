"""TensorRT: an engine that was compiled for this GPU, by full TensorRT or TensorRT-RTX."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from difffake.errors import DeviceLostError, EngineError, EngineFileError, EngineHostError
from engines.contract import INPUT, OUTPUTS, EngineSpec, Precision
from engines.device_engine import Addresses, DeviceEngine, batch_sizes
from engines.device_memory import Device, Stream, lost, open_device
from engines.tensorrt_api import Flavour, HostInfo, host_info, import_tensorrt
from engines.tensorrt_jit import JitCache

#: TensorRT says what CUDA said, in words alone.
_MEMORY = re.compile(r"out ?of ?memory", re.IGNORECASE)
_LOST = re.compile(r"out ?of ?memory|cuda (runtime|driver|error|failure)|cudaError|cudnn|cublas", re.IGNORECASE)
_REBUILD = "build it again on this machine: python build_engine.py"


class TensorRtEngine(DeviceEngine):
    """Runs the compiled engine of a folder that `build_engine.py` wrote; see `DeviceEngine` for buffers and lifetimes.

    The manifest is checked before a byte of the plan is loaded.

    Args:
        folder: ``engine.plan`` and ``manifest.json``.
        onnx_sha256: hex digest of the bundle's fp32 ONNX; None: whatever the engine was built from.
        memory: a GPU, taken over; None opens GPU ``index``.
        index: which GPU of the host.
        depth: batches in flight, each with buffers of its own.
        timeline: see `DeviceEngine`.
        host, api: another host and TensorRT module than this machine's.

    Raises:
        EngineFileError: no engine, damaged, for another bundle, or its network embeds no faces.
        EngineHostError: built by another TensorRT or for another card; no TensorRT, driver or GPU.
        DeviceLostError: the GPU's memory is full.
    """

    def __init__(
        self,
        folder: Path,
        *,
        onnx_sha256: str | None,
        memory: Device | None = None,
        index: int = 0,
        depth: int = 2,
        timeline: bool = False,
        host: HostInfo | None = None,
        api: ModuleType | None = None,
    ) -> None:
        # Not at the top: the benchmark on a bare host runs plans that it has just built, and has no msgspec.
        from engines.manifest import PLAN, check, read_manifest

        try:
            manifest = read_manifest(folder)
            files = check(manifest, folder, onnx_sha256=onnx_sha256, host=host or host_info(), device=index)
            if PLAN not in files or manifest.runtime not in ("tensorrt", "tensorrt_rtx"):
                raise EngineFileError(f"{folder} holds no TensorRT engine but {manifest.kind}", hint=_REBUILD)
            flavour: Flavour = "tensorrt" if manifest.runtime == "tensorrt" else "tensorrt_rtx"
            module = api or import_tensorrt(flavour)
            device = memory or open_device(index)
        except BaseException:
            if memory is not None:
                memory.close()
            raise
        network, spec = load_plan(
            device, module, files[PLAN], manifest.precision, depth=depth, host_code=manifest.version_compatible
        )
        super().__init__(device, network, spec, batch_sizes(network.min_batch, spec.max_batch), timeline=timeline)
        if (spec.side_px, spec.dim, spec.has_logit) != (manifest.side_px, manifest.dim, manifest.has_logit):
            self.close()
            raise EngineFileError(f"the plan in {folder} is another network than its manifest says", hint=_REBUILD)


class PlanEngine(DeviceEngine):
    """Runs a plan that has just been built and needs no manifest: benchmarks, parity reports.

    Args:
        plan: the serialised engine.
        api: the TensorRT module that built it.
        memory, precision, depth, timeline: see `TensorRtEngine`.
    """

    def __init__(
        self,
        plan: bytes,
        api: ModuleType,
        memory: Device,
        *,
        precision: Precision = Precision.FP16,
        depth: int = 2,
        timeline: bool = False,
    ) -> None:
        network, spec = load_plan(memory, api, plan, precision, depth=depth)
        super().__init__(memory, network, spec, batch_sizes(network.min_batch, spec.max_batch), timeline=timeline)


def load_plan(
    device: Device, api: ModuleType, plan: bytes, precision: Precision, *, depth: int, host_code: bool = False
) -> tuple[TensorRtNetwork, EngineSpec]:
    """Load a plan onto a GPU, which is closed if that fails.

    Args:
        host_code: let the plan bring its own small runtime, as version-compatible plans do.

    Raises:
        EngineHostError, EngineFileError: see `TensorRtNetwork`.
    """
    try:
        with device.active():
            network = TensorRtNetwork(api, plan, host_code=host_code)
    except BaseException:
        device.close()
        raise
    return network, EngineSpec(
        side_px=network.side_px,
        dim=network.dim,
        max_batch=network.max_batch,
        backend=f"{api.__name__} {api.__version__} {device.name}",
        has_logit=network.has_logit,
        precision=precision,
        depth=depth,
    )


class TensorRtNetwork:
    """A deserialised engine, with one execution context for each batch size, made when it is first used.

    All contexts run in one stream, one after the other. A context's shapes are set once; its addresses change with the
    buffer, which is allowed between runs that are in order.

    Raises:
        EngineHostError: TensorRT refuses the plan.
        EngineFileError: it embeds no faces.
    """

    def __init__(self, api: ModuleType, plan: bytes, *, host_code: bool = False) -> None:
        self._api: Any = api
        self._contexts: dict[int, Any] = {}
        self._log = _make_log(api)
        # The engine needs its runtime, and the runtime its logger, as long as they live.
        self._runtime: Any = api.Runtime(self._log)
        self._engine: Any = None
        self._jit: JitCache | None = None
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None and _MEMORY.search(self._log.last()):
            raise lost("loading a plan", self._log.last())
        if self._engine is None:
            raise EngineHostError(
                f"{api.__name__} {api.__version__} refuses this plan: {self._log.last()}",
                hint=f"it belongs to another build or GPU; {_REBUILD}",
            )
        self._read_shapes()
        self._jit = JitCache.of(api, self._engine, plan)

    def _read_shapes(self) -> None:
        engine, api = self._engine, self._api
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        mode = api.TensorIOMode
        inputs = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
        outputs = [name for name in names if engine.get_tensor_mode(name) == mode.OUTPUT]
        if inputs != [INPUT] or sorted(outputs) not in (sorted(OUTPUTS), [OUTPUTS[0]]):
            raise _wrong(f"its tensors are {names}")
        if engine.get_tensor_dtype(INPUT) != api.DataType.UINT8 or any(
            engine.get_tensor_dtype(name) != api.DataType.FLOAT for name in outputs
        ):
            raise _wrong("it does not take uint8 and give float32")
        least, _, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(INPUT, 0))
        embedding = tuple(engine.get_tensor_shape(OUTPUTS[0]))
        if len(most) != 4 or most[1] != 3 or most[2] != most[3] or len(embedding) != 2 or embedding[1] < 1:
            raise _wrong(f"it takes {most} and gives {embedding}")
        self.min_batch, self.max_batch = int(least[0]), int(most[0])
        self.side_px, self.dim, self.has_logit = int(most[2]), int(embedding[1]), OUTPUTS[1] in outputs

    def enqueue(self, batch: int, at: Addresses, stream: Stream) -> None:
        """See `engines.device_engine.Network.enqueue`."""
        context = self._contexts.get(batch) or self._make_context(batch)
        addresses = {INPUT: at.faces, OUTPUTS[0]: at.embedding} | ({OUTPUTS[1]: at.logit} if self.has_logit else {})
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT takes no address for {name}: {self._log.last()}", hint=_REBUILD)
        if not context.execute_async_v3(stream.handle):
            if _LOST.search(self._log.last()):
                raise lost(f"a batch of {batch}", self._log.last())
            raise EngineError(f"TensorRT cannot run a batch of {batch}: {self._log.last()}", hint=_REBUILD)

    def _make_context(self, batch: int) -> Any:
        context = self._jit.make_context() if self._jit is not None else self._engine.create_execution_context()
        if context is None:
            raise DeviceLostError(
                f"TensorRT cannot make a context for batches of {batch}: {self._log.last()}",
                hint="the GPU's memory is full: give the GPU fewer workers or build an engine for smaller batches "
                "(--max-batch), then start the process again",
            )
        if not context.set_input_shape(INPUT, (batch, 3, self.side_px, self.side_px)):
            raise EngineError(f"TensorRT takes no batch of {batch}: {self._log.last()}", hint=_REBUILD)
        self._contexts[batch] = context
        return context

    def can_capture(self, batch: int, stream: Stream) -> bool:
        """See `engines.device_engine.Network.can_capture`."""
        return self._jit is None or bool(self._contexts[batch].is_stream_capturable(stream.handle))

    def close(self) -> None:
        """See `engines.device_engine.Network.close`."""
        if self._jit is not None:
            with suppress(OSError):
                self._jit.save()
        # Python's order of release: contexts, cache, engine, runtime; each needs the next.
        self._contexts.clear()
        self._jit = None
        self._engine = None
        self._runtime = None


def _wrong(why: str) -> EngineFileError:
    return EngineFileError(
        f"this plan embeds no faces: {why}",
        hint=f"it needs {INPUT} (B, 3, S, S) uint8 and the float32 outputs {OUTPUTS}; {_REBUILD}",
    )


def _make_log(api: ModuleType) -> Any:
    """A logger that keeps the last complaint instead of printing it: it goes into the error."""

    class Log(api.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self._last = ""

        def log(self, severity: object, msg: str) -> None:
            if severity in (api.ILogger.Severity.ERROR, api.ILogger.Severity.INTERNAL_ERROR):
                self._last = msg

        def last(self) -> str:
            return (self._last.splitlines() or ["TensorRT says no more"])[0][:300]

    return Log()
