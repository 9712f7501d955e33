"""The functions of ``cuda.bindings.runtime`` and of ``pycuda.driver`` in front of the CUDA double.

Only what DiffFake calls. Names, arguments and constants of the first are checked against the real package where it is
installed; those of the second were read from the source of pycuda 2026.1.
"""

# ruff: noqa: N801, N802, N815 - the names are NVIDIA's and pycuda's

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_double import Cuda, CudaFailure, Event, Graph, GraphExec, MisuseError, Stream


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorECCUncorrectable = 214
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalState = 401
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class _Handle:
    """What cuda.bindings returns for a stream: an object that is a number when asked."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __int__(self) -> int:
        return self.stream.handle


class Runtime:
    """``cuda.bindings.runtime``: every function returns its status first and never raises."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventDefault, cudaEventBlockingSync, cudaEventDisableTiming = 0, 1, 2

    def __init__(self, cuda: Cuda, gpus: int = 1) -> None:
        self._cuda, self._gpus, self._device = cuda, gpus, 0

    def _try(self, call: Callable[[], Any]) -> tuple[Any, ...]:
        try:
            value = call()
        except CudaFailure as failure:
            return cudaError_t[f"cudaError{failure.name}"], None
        return (cudaError_t.cudaSuccess,) if value is None else (cudaError_t.cudaSuccess, value)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if not self._gpus:
            return cudaError_t.cudaErrorInsufficientDriver, None
        return cudaError_t.cudaSuccess, self._gpus

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self._try(lambda: SimpleNamespace(name=self._cuda.name.encode() + b"\0" * 8 if device >= 0 else b""))

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, self._device

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self._device = device
        return (cudaError_t.cudaSuccess,)

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (cudaError_t.cudaSuccess,)

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, error.name.removeprefix("cudaError").encode()

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        used = sum(m.data.size for m in self._cuda.memories.values() if not m.pinned)
        return cudaError_t.cudaSuccess, self._cuda.memory_bytes - used, self._cuda.memory_bytes

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.allocate(size, pinned=False).address)

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.release(devPtr, pinned=False))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.allocate(size, pinned=True).address)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.release(ptr, pinned=True))

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        if flags != self.cudaStreamNonBlocking:
            raise MisuseError("a stream that waits for the default stream")
        return self._try(lambda: _Handle(self._cuda.create_stream()))

    def cudaStreamDestroy(self, stream: _Handle) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.destroy_stream(stream.stream))

    def cudaStreamSynchronize(self, stream: _Handle) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.synchronise_stream(stream.stream))

    def cudaStreamWaitEvent(self, stream: _Handle, event: Event, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        return self._try(lambda: self._cuda.wait(stream.stream, event))

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.create_event(timing=not flags & self.cudaEventDisableTiming))

    def cudaEventDestroy(self, event: Event) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.destroy_event(event))

    def cudaEventRecord(self, event: Event, stream: _Handle) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.record(event, stream.stream))

    def cudaEventSynchronize(self, event: Event) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.synchronise_event(event))

    def cudaEventElapsedTime(self, start: Event, end: Event) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.elapsed_ms(start, end))

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: _Handle) -> tuple[Any, ...]:
        to_device = kind is cudaMemcpyKind.cudaMemcpyHostToDevice
        return self._try(lambda: self._cuda.copy(dst, src, count, stream.stream, to_device=to_device))

    def cudaStreamBeginCapture(self, stream: _Handle, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
        assert mode is cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        return self._try(lambda: self._cuda.begin_capture(stream.stream))

    def cudaStreamEndCapture(self, stream: _Handle) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.end_capture(stream.stream))

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        return self._try(lambda: self._cuda.instantiate(graph))

    def cudaGraphLaunch(self, graphExec: GraphExec, stream: _Handle) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.launch(graphExec, stream.stream))

    def cudaGraphDestroy(self, graph: Graph) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.destroy_graph(graph))

    def cudaGraphExecDestroy(self, graphExec: GraphExec) -> tuple[Any, ...]:
        return self._try(lambda: self._cuda.destroy_graph(graphExec))


#: What pycuda says, and in which class, of the errors that it knows; it has a last text for all others.
_PYCUDA_TEXTS = {
    "InvalidValue": "invalid value",
    "MemoryAllocation": "out of memory",
    "NoDevice": "no device",
    "ECCUncorrectable": "ECC uncorrectable",
    "InvalidResourceHandle": "invalid handle",
    "NotReady": "not ready",
    "LaunchFailure": "launch failed",
}


def _like_c(function: Callable[..., Any]) -> Callable[..., Any]:
    """Functions of a C module have no frames: an error's traceback keeps none of their arguments alive."""

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except Driver.Error as failure:
            error = failure.with_traceback(None)
            error.__context__ = None
        del args
        raise error

    return call


class Driver:
    """``pycuda.driver``: exceptions instead of codes, and a stack of contexts for every thread."""

    event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2)

    class Error(Exception):
        pass

    class MemoryError(Error, MemoryError):  # noqa: A001
        pass

    class LogicError(Error):
        pass

    class LaunchError(Error):
        pass

    def __init__(self, cuda: Cuda, gpus: int = 1) -> None:
        self._cuda = cuda
        self._stack = threading.local()
        self.retained = 0
        self._thread = threading.get_ident()
        outer = self

        class Context:
            def push(self) -> None:
                outer._stack.__dict__.setdefault("contexts", []).append(self)

            @staticmethod
            def pop() -> None:
                if not outer._stack.__dict__.get("contexts"):
                    raise outer.LogicError("context::pop failed: invalid context")
                outer._stack.contexts.pop()

            def detach(self) -> None:
                outer.retained -= 1

        class Device:
            def __init__(self, number: int) -> None:
                self.number = number

            @staticmethod
            def count() -> int:
                return gpus

            def name(self) -> str:
                return cuda.name

            def retain_primary_context(self) -> Context:
                outer.retained += 1
                return Context()

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                if flags != 1:
                    raise MisuseError("a stream that waits for the default stream")
                self._stream = outer._try("cuStreamCreate", cuda.create_stream)
                self.handle = self._stream.handle

            def __del__(self) -> None:
                if hasattr(self, "_stream"):
                    outer._cleanup(lambda: cuda.destroy_stream(self._stream))

            def synchronize(self) -> None:
                outer._try("cuStreamSynchronize", lambda: cuda.synchronise_stream(self._stream))

            @_like_c
            def wait_for_event(self, evt: Event) -> None:
                outer._try("cuStreamWaitEvent", lambda: cuda.wait(self._stream, evt._event))

        class Event:
            def __init__(self, flags: int = 0) -> None:
                self._event = outer._try("cuEventCreate", lambda: cuda.create_event(timing=not flags & 2))

            def __del__(self) -> None:
                if hasattr(self, "_event"):
                    outer._cleanup(lambda: cuda.destroy_event(self._event))

            @_like_c
            def record(self, stream: Stream | None = None) -> Event:
                if stream is None:
                    raise MisuseError("an event in the default stream")
                outer._try("cuEventRecord", lambda: cuda.record(self._event, stream._stream))
                return self

            def synchronize(self) -> Event:
                outer._try("cuEventSynchronize", lambda: cuda.synchronise_event(self._event))
                return self

            def time_since(self, event: Event) -> float:
                return outer._try("cuEventElapsedTime", lambda: cuda.elapsed_ms(event._event, self._event))

        self.Context, self.Device, self.Stream, self.Event = Context, Device, Stream, Event

    def _try(self, routine: str, call: Callable[[], Any]) -> Any:
        if not self._stack.__dict__.get("contexts"):
            raise MisuseError(f"{routine}: no context is current on this thread")
        try:
            return call()
        except CudaFailure as failure:
            text = f"{routine} failed: {_PYCUDA_TEXTS.get(failure.name, 'invalid/unknown error code')}"
            kinds = {"MemoryAllocation": self.MemoryError, "LaunchFailure": self.LaunchError}
            raise kinds.get(failure.name, self.LogicError)(text) from None

    def _cleanup(self, call: Callable[[], None]) -> None:
        """With the last reference. Where the context is not current, only its own thread can; else it leaks."""
        if self._stack.__dict__.get("contexts") or threading.get_ident() == self._thread:
            with suppress(CudaFailure):
                call()

    def init(self, flags: int = 0) -> None:
        assert flags == 0

    def mem_get_info(self) -> tuple[int, int]:
        used = sum(m.data.size for m in self._cuda.memories.values() if not m.pinned)
        return self._cuda.memory_bytes - used, self._cuda.memory_bytes

    def mem_alloc(self, size: int) -> _Allocation:
        return _Allocation(
            self, self._try("cuMemAlloc", lambda: self._cuda.allocate(size, pinned=False).address), False
        )

    def pagelocked_empty(self, shape: int, dtype: str) -> np.ndarray:
        assert dtype == "uint8"
        address = self._try("cuMemHostAlloc", lambda: self._cuda.allocate(shape, pinned=True).address)
        return np.asarray(_Allocation(self, address, True, shape))

    @_like_c
    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any) -> None:
        assert src.flags.c_contiguous
        self._try(
            "cuMemcpyHtoDAsync",
            lambda: self._cuda.copy(dest, src.ctypes.data, src.nbytes, stream._stream, to_device=True),
        )

    @_like_c
    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any) -> None:
        assert dest.flags.c_contiguous
        self._try(
            "cuMemcpyDtoHAsync",
            lambda: self._cuda.copy(dest.ctypes.data, src, dest.nbytes, stream._stream, to_device=False),
        )


class _Allocation:
    """pycuda's DeviceAllocation and PagelockedHostAllocation."""

    def __init__(self, driver: Driver, address: int, pinned: bool, size: int = 0) -> None:
        self._driver, self._address, self._pinned = driver, address, pinned
        if pinned:
            self.__array_interface__ = {"version": 3, "shape": (size,), "typestr": "|u1", "data": (address, False)}

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._driver._try("free", lambda: self._driver._cuda.release(self._address, pinned=self._pinned))
