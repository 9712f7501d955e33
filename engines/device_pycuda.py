"""`Device` by pycuda, in the primary context. pycuda up to 2026.1 has no CUDA graphs: work goes call by call."""

from __future__ import annotations

import atexit
import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from difffake.errors import EngineError, EngineHostError
from engines.device_memory import Bytes, Device, Event, MemoryInfo, MissingPackageError, Pinned, Stream, lost

#: CU_STREAM_NON_BLOCKING, which pycuda has no name for.
_NON_BLOCKING = 1
#: pycuda gives errors no numbers, only texts. It knows no text for an illegal address: that is its last one.
_LOST = (
    "out of memory",
    "ECC uncorrectable",
    "launch failed",
    "launch timeout",
    "launch out of resources",
    "device-side assert",
    "context is destroyed",
    "deinitialized",
    "no device",
    "failed: unknown",
    "invalid/unknown error code",
)

#: GPU -> its primary context, retained once. pycuda releases a primary context only on the thread that retained it,
#: and leaves it on the driver's stack; so it is kept until the process ends. It costs nothing: torch keeps it as well.
_contexts: dict[int, Any] = {}


class PycudaDevice(Device):
    """A GPU by pycuda.

    Every use pushes the primary context onto the calling thread's stack and pops it again: pycuda frees things only
    where their context is current, whichever thread made them.

    Args:
        index: the GPU's number, as CUDA counts them.
        driver: another module with the functions of ``pycuda.driver``.

    Raises:
        EngineHostError: the package is absent, there is no driver, or no such GPU.
    """

    can_capture = False

    def __init__(self, index: int = 0, *, driver: Any = None) -> None:
        super().__init__()
        self._cuda = driver if driver is not None else _import()
        self.api = "pycuda"
        try:
            self._cuda.init()
            count = self._cuda.Device.count()
            if not 0 <= index < count:
                raise EngineHostError(
                    f"there is no GPU {index}; this host has {count}",
                    hint="number GPUs from 0; see CUDA_VISIBLE_DEVICES",
                )
            self._device = self._cuda.Device(index)
            self._name = str(self._device.name())
            self._context = self._retain(index, own=driver is not None)
        except self._cuda.Error as error:
            raise EngineHostError(
                f"pycuda finds no GPU: {error}",
                hint="install or update NVIDIA's driver (nvidia-smi must list the GPU), or use --engine auto",
            ) from error

    def _retain(self, index: int, *, own: bool) -> Any:
        if own:
            return self._device.retain_primary_context()
        if index not in _contexts:
            _contexts[index] = self._device.retain_primary_context()
            atexit.register(_contexts[index].detach)
        return _contexts[index]

    @property
    def name(self) -> str:
        """The card."""
        return self._name

    def copy_in(self, address: int, source: Pinned, stream: Stream) -> None:
        """See `Device.copy_in`."""
        with self._errors("memcpy_htod_async"):
            self._cuda.memcpy_htod_async(address, source, stream.native)

    def copy_out(self, target: Pinned, address: int, stream: Stream) -> None:
        """See `Device.copy_out`."""
        with self._errors("memcpy_dtoh_async"):
            self._cuda.memcpy_dtoh_async(target, address, stream.native)

    def record(self, event: Event, stream: Stream) -> None:
        """See `Device.record`."""
        with self._errors("Event.record"):
            event.native.record(stream.native)

    def wait(self, stream: Stream, event: Event) -> None:
        """See `Device.wait`."""
        with self._errors("Stream.wait_for_event"):
            stream.native.wait_for_event(event.native)

    def synchronise(self, event: Event) -> None:
        """See `Device.synchronise`."""
        with self._errors("Event.synchronize"):
            event.native.synchronize()

    def elapsed_ms(self, start: Event, end: Event) -> float:
        """See `Device.elapsed_ms`."""
        with self._errors("Event.time_since"):
            return float(end.native.time_since(start.native))

    def memory(self) -> MemoryInfo:
        """See `Device.memory`."""
        with self._errors("mem_get_info"):
            return MemoryInfo(*(int(value) for value in self._cuda.mem_get_info()))

    def _activate(self) -> None:
        with self._errors("Context.push"):
            self._context.push()

    def _deactivate(self, before: None) -> None:  # noqa: ARG002
        with suppress(EngineError), self._errors("Context.pop"):
            self._cuda.Context.pop()

    def _allocate(self, size_bytes: int) -> tuple[int, Any]:
        with self._errors("mem_alloc"):
            native = self._cuda.mem_alloc(size_bytes)
        return int(native), native

    def _allocate_pinned(self, size_bytes: int) -> tuple[Bytes, Any]:
        with self._errors("pagelocked_empty"):
            array: Bytes = self._cuda.pagelocked_empty(size_bytes, "uint8")
        return array, array.base

    def _make_stream(self) -> Stream:
        with self._errors("Stream"):
            native = self._cuda.Stream(_NON_BLOCKING)
        return Stream(native, int(native.handle))

    def _make_event(self, timing: bool) -> Event:
        flags = self._cuda.event_flags
        with self._errors("Event"):
            return Event(self._cuda.Event(flags.DEFAULT if timing else flags.DISABLE_TIMING | flags.BLOCKING_SYNC))

    def _synchronise_stream(self, stream: Stream) -> None:
        with self._errors("Stream.synchronize"):
            stream.native.synchronize()

    def _destroy_event(self, event: Event) -> None:
        # pycuda destroys an event or a stream with its last reference, here, while the context is current.
        event.native = None

    def _destroy_stream(self, stream: Stream) -> None:
        stream.native = None

    def _free_pinned(self, native: Any) -> None:
        with self._errors("PagelockedHostAllocation.free"):
            native.free()

    def _free(self, native: Any) -> None:
        with self._errors("DeviceAllocation.free"):
            native.free()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            text = str(error)
            if any(sign in text for sign in _LOST):
                raise lost(what, text) from error
            raise EngineError(
                f"{what} failed: {text}", hint="report it with the output of `difffake doctor`"
            ) from error


def _import() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except Exception as error:  # absent, or without the driver's library
        raise MissingPackageError(
            f"pycuda cannot be imported ({str(error)[:200]})",
            hint="pip install cuda-bindings (wheels), or pycuda (needs NVIDIA's toolkit to build)",
        ) from error
