"""`Device` by NVIDIA's own ``cuda.bindings`` (13.x, 12.x; ``cuda.cudart`` of earlier 12.x)."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from difffake.errors import EngineError, EngineHostError
from engines.device_memory import (
    LOST,
    Bytes,
    Device,
    Event,
    Graph,
    MemoryInfo,
    MissingPackageError,
    Pinned,
    Stream,
    lost,
)

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")


class CudaDevice(Device):
    """A GPU by the CUDA runtime, which works in the primary context by itself.

    Args:
        index: the GPU's number, as CUDA counts them.
        runtime: another module with the functions of ``cuda.bindings.runtime``.

    Raises:
        EngineHostError: the package is absent, there is no driver, the driver is too old, or no such GPU.
    """

    can_capture = True

    def __init__(self, index: int = 0, *, runtime: Any = None) -> None:
        super().__init__()
        if runtime is None:
            wait_asleep(index)
        self._cuda = runtime if runtime is not None else _import()
        self._index = index
        self.api = "cuda.bindings"
        status, count = self._cuda.cudaGetDeviceCount()
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineHostError(
                f"CUDA finds no GPU: {self._message(status)}",
                hint="install or update NVIDIA's driver (nvidia-smi must list the GPU), or use --engine auto",
            )
        if not 0 <= index < count:
            raise EngineHostError(
                f"there is no GPU {index}; this host has {count}", hint="number GPUs from 0; see CUDA_VISIBLE_DEVICES"
            )
        properties = self._call("cudaGetDeviceProperties", index)
        self._name = bytes(properties.name).split(b"\0")[0].decode(errors="replace")

    @property
    def name(self) -> str:
        """The card."""
        return self._name

    def copy_in(self, address: int, source: Pinned, stream: Stream) -> None:
        """See `Device.copy_in`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream.native)

    def copy_out(self, target: Pinned, address: int, stream: Stream) -> None:
        """See `Device.copy_out`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream.native)

    def record(self, event: Event, stream: Stream) -> None:
        """See `Device.record`."""
        self._call("cudaEventRecord", event.native, stream.native)

    def wait(self, stream: Stream, event: Event) -> None:
        """See `Device.wait`."""
        self._call("cudaStreamWaitEvent", stream.native, event.native, 0)

    def synchronise(self, event: Event) -> None:
        """See `Device.synchronise`."""
        self._call("cudaEventSynchronize", event.native)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """See `Device.elapsed_ms`."""
        return float(self._call("cudaEventElapsedTime", start.native, end.native))

    def memory(self) -> MemoryInfo:
        """See `Device.memory`."""
        return MemoryInfo(*(int(value) for value in self._call("cudaMemGetInfo")))

    def launch(self, graph: Graph, stream: Stream) -> None:
        """See `Device.launch`."""
        self._call("cudaGraphLaunch", graph.native, stream.native)

    def _activate(self) -> int:
        before = int(self._call("cudaGetDevice"))
        if before != self._index:
            self._call("cudaSetDevice", self._index)
        return before

    def _deactivate(self, before: int) -> None:
        if before != self._index:
            with suppress(EngineError):
                self._call("cudaSetDevice", before)

    def _allocate(self, size_bytes: int) -> tuple[int, int]:
        address = int(self._call("cudaMalloc", size_bytes))
        return address, address

    def _allocate_pinned(self, size_bytes: int) -> tuple[Bytes, int]:
        address = int(self._call("cudaMallocHost", size_bytes))
        raw = (ctypes.c_uint8 * size_bytes).from_address(address)
        return np.ctypeslib.as_array(raw), address

    def _make_stream(self) -> Stream:
        native = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        return Stream(native, int(native))

    def _make_event(self, timing: bool) -> Event:
        flags = (
            self._cuda.cudaEventDefault
            if timing
            else self._cuda.cudaEventDisableTiming | self._cuda.cudaEventBlockingSync
        )
        return Event(self._call("cudaEventCreateWithFlags", flags))

    def _synchronise_stream(self, stream: Stream) -> None:
        self._call("cudaStreamSynchronize", stream.native)

    def _capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        # Thread-local: what torch or a decoder does meanwhile on other threads neither fails nor is captured.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream.native, mode)
        try:
            work()
        except BaseException:
            # The stream must leave the capture; what it says of the broken record is no news.
            with suppress(EngineError):
                self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", stream.native))
            raise
        record = self._call("cudaStreamEndCapture", stream.native)
        try:
            return Graph(self._call("cudaGraphInstantiate", record, 0))
        finally:
            self._call("cudaGraphDestroy", record)

    def _destroy_graph(self, graph: Graph) -> None:
        self._call("cudaGraphExecDestroy", graph.native)

    def _destroy_event(self, event: Event) -> None:
        self._call("cudaEventDestroy", event.native)

    def _destroy_stream(self, stream: Stream) -> None:
        self._call("cudaStreamDestroy", stream.native)

    def _free_pinned(self, native: int) -> None:
        self._call("cudaFreeHost", native)

    def _free(self, native: int) -> None:
        self._call("cudaFree", native)

    def _call(self, name: str, *arguments: object) -> Any:
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            # Errors that are not sticky would be told again by the next call, of anybody in the process.
            self._cuda.cudaGetLastError()
            if status.name.removeprefix("cudaError") in LOST:
                raise lost(name, self._message(status))
            raise EngineError(
                f"{name} failed: {self._message(status)}", hint="report it with the output of `difffake doctor`"
            )
        return values[0] if len(values) == 1 else values

    def _message(self, status: Any) -> str:
        text = self._cuda.cudaGetErrorString(status)[1]
        return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def wait_asleep(index: int = 0) -> bool:
    """Let threads that wait for the GPU sleep instead of spinning; to be called before anything else touches it.

    FFmpeg decodes in the primary context only if it is set so: in one that spins it refuses, and everything would be
    decoded in software. True where it is set; False without a driver or such a GPU, which others will tell.
    """
    try:
        driver = importlib.import_module("cuda.bindings.driver")
        device = _driver(driver.cuInit(0), driver.cuDeviceGet(index))
        _driver(driver.cuDevicePrimaryCtxSetFlags(device, int(driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC)))
    except Exception:  # no package, no driver, no GPU: each with a class of its own
        return False
    return True


def _driver(*answers: tuple[Any, ...]) -> Any:
    """What the last call gave; raises where one failed."""
    for answer in answers:
        if int(answer[0]) != 0:
            raise EngineError(f"CUDA's driver says {answer[0].name}", hint="see nvidia-smi")
    return answers[-1][1] if len(answers[-1]) > 1 else None


def _import() -> Any:
    reasons = []
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except Exception as error:  # absent, or built for libraries that are not here
            reasons.append(f"{name}: {error}")
    raise MissingPackageError(
        f"cuda.bindings cannot be imported ({reasons[0][:200]})",
        hint="pip install cuda-bindings, of the CUDA version that nvidia-smi names",
    )
