"""Memory, streams, events and graphs of one GPU, behind one small contract: `Device`.

Two packages stand behind it: ``cuda.bindings`` (`engines.device_cuda`), which has CUDA graphs, and ``pycuda``
(`engines.device_pycuda`), whose releases up to 2026.1 have none. Both work in the GPU's *primary* context, which torch
and PyAV's CUDA frames use too. Neither is imported before a device is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from difffake.errors import DeviceLostError, EngineError, EngineHostError

Bytes = npt.NDArray[np.uint8]
#: Any C-contiguous array that lies in pinned memory.
Pinned = npt.NDArray[Any]

#: Errors after which the process can do nothing more on this GPU: memory is out, or its context is poisoned. By the
#: ends of the runtime's names.
LOST = frozenset(
    {
        "MemoryAllocation",
        "ECCUncorrectable",
        "IllegalAddress",
        "IllegalInstruction",
        "InvalidAddressSpace",
        "InvalidPc",
        "MisalignedAddress",
        "HardwareStackError",
        "LaunchFailure",
        "LaunchTimeout",
        "LaunchOutOfResources",
        "Assert",
        "NvlinkUncorrectable",
        "ContextIsDestroyed",
        "DevicesUnavailable",
        "NoDevice",
        "SystemNotReady",
        "MpsConnectionFailed",
        "MpsServerNotReady",
        "Unknown",
    }
)
RESTART = "start the process again; if it stays, look at nvidia-smi and at the kernel's log for Xid messages"


@dataclass(eq=False, slots=True)
class Stream:
    """Work that the GPU does in order. `handle` is the address that TensorRT and torch know it by."""

    native: Any
    handle: int


@dataclass(eq=False, slots=True)
class Event:
    """A mark in a stream."""

    native: Any


@dataclass(eq=False, slots=True)
class Graph:
    """Captured work, launched as one."""

    native: Any


class MemoryInfo(NamedTuple):
    """Memory of the whole GPU, bytes: all processes together."""

    free: int
    total: int


class Device(ABC):
    """One user's part of a GPU: what is made through it is released by `close`, whatever happened before.

    Lifetimes:

    - Everything but `close` is called within ``with device.active():``, on any thread, one at a time.
    - A pinned array and a device address are valid until `close`. Pinned arrays must not be written between
      `copy_in` and the end of that copy, nor read between `copy_out` and its end; `synchronise` on an event that was
      recorded behind the copy tells the end.
    - What a graph's work was given (addresses, a network's contexts) must outlive the graph. So `release_graphs`
      comes first, then the network is closed, then the device.

    Every failure is an EngineError; `DeviceLostError` says that the process must start again.
    """

    #: What stands behind it, for reports.
    api: str
    #: Whether `capture` is there. Without it work is submitted call by call.
    can_capture: bool

    def __init__(self) -> None:
        self._addresses: list[Any] = []
        self._pinned: list[Any] = []
        self._streams: list[Stream] = []
        self._events: list[Event] = []
        self._graphs: list[Graph] = []
        self._closed = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The card ("NVIDIA H100 80GB HBM3")."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this GPU the calling thread's; what was before comes back at the end."""
        if self._closed:
            raise EngineError("this GPU was closed", hint="open the engine again")
        before = self._activate()
        try:
            yield
        finally:
            self._deactivate(before)

    # what is made

    def allocate(self, size_bytes: int) -> int:
        """Device memory; its address, aligned to 256 bytes at least.

        Raises:
            DeviceLostError: the GPU's memory is full.
        """
        address, native = self._allocate(size_bytes)
        self._addresses.append(native)
        return address

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Page-locked host memory, ``(size_bytes,) uint8``: copies from and to it overlap with work.

        Raises:
            DeviceLostError: no more memory can be locked.
        """
        array, native = self._allocate_pinned(size_bytes)
        self._pinned.append(native)
        return array

    def stream(self) -> Stream:
        """A stream that does not wait for the default stream."""
        made = self._make_stream()
        self._streams.append(made)
        return made

    def event(self, *, timing: bool = False) -> Event:
        """An event. Threads that wait for it sleep; with ``timing`` they spin, and `elapsed_ms` can be asked."""
        made = self._make_event(timing)
        self._events.append(made)
        return made

    # work

    @abstractmethod
    def copy_in(self, address: int, source: Pinned, stream: Stream) -> None:
        """Copy a pinned array to the device, behind what is in the stream."""

    @abstractmethod
    def copy_out(self, target: Pinned, address: int, stream: Stream) -> None:
        """Fill a pinned array from the device, behind what is in the stream."""

    @abstractmethod
    def record(self, event: Event, stream: Stream) -> None:
        """Mark what is in the stream now."""

    @abstractmethod
    def wait(self, stream: Stream, event: Event) -> None:
        """Let what comes later in the stream wait for the event's last record."""

    @abstractmethod
    def synchronise(self, event: Event) -> None:
        """Wait, on this thread, for the event's last record.

        Raises:
            DeviceLostError: work before it failed.
        """

    @abstractmethod
    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Time between two events made with ``timing``, both over."""

    @abstractmethod
    def memory(self) -> MemoryInfo:
        """Free and total memory."""

    # graphs

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """Record what ``work`` puts into the stream, instead of doing it. Other threads are not disturbed.

        ``work`` may not allocate or wait. The stream is usable afterwards in any case.

        Raises:
            EngineError: ``work`` failed, or did what cannot be captured.
        """
        graph = self._capture(stream, work)
        self._graphs.append(graph)
        return graph

    def launch(self, graph: Graph, stream: Stream) -> None:  # noqa: ARG002
        """Do what the graph holds, behind what is in the stream."""
        raise self._no_graphs()

    # the end

    def wait_idle(self) -> None:
        """Wait for all streams; failures of their work are not told: this comes before a release."""
        for stream in self._streams:
            with suppress(EngineError):
                self._synchronise_stream(stream)

    def release_graphs(self) -> None:
        """Wait for all streams, then drop the graphs: what they point to may be released now."""
        self.wait_idle()
        _release(self._graphs, self._destroy_graph)

    def close(self) -> None:
        """Wait for all streams and release everything. On a lost GPU what cannot be released stays with the driver
        until the process ends. May be called twice."""
        if self._closed:
            return
        with suppress(EngineError), self.active():
            self.release_graphs()
            _release(self._events, self._destroy_event)
            _release(self._streams, self._destroy_stream)
            _release(self._pinned, self._free_pinned)
            _release(self._addresses, self._free)
        self._closed = True

    # what each package does in its way

    @abstractmethod
    def _activate(self) -> Any: ...
    @abstractmethod
    def _deactivate(self, before: Any) -> None: ...
    @abstractmethod
    def _allocate(self, size_bytes: int) -> tuple[int, Any]: ...
    @abstractmethod
    def _allocate_pinned(self, size_bytes: int) -> tuple[Bytes, Any]: ...
    @abstractmethod
    def _make_stream(self) -> Stream: ...
    @abstractmethod
    def _make_event(self, timing: bool) -> Event: ...
    @abstractmethod
    def _synchronise_stream(self, stream: Stream) -> None: ...
    def _capture(self, stream: Stream, work: Callable[[], None]) -> Graph:  # noqa: ARG002
        raise self._no_graphs()

    def _destroy_graph(self, graph: Graph) -> None:  # noqa: ARG002
        raise self._no_graphs()

    def _no_graphs(self) -> EngineError:
        return EngineError(f"{self.api} has no CUDA graphs", hint="pip install cuda-bindings, which has them")

    @abstractmethod
    def _destroy_event(self, event: Event) -> None: ...
    @abstractmethod
    def _destroy_stream(self, stream: Stream) -> None: ...
    @abstractmethod
    def _free_pinned(self, native: Any) -> None: ...
    @abstractmethod
    def _free(self, native: Any) -> None: ...


def _release(things: list[Any], release: Callable[[Any], None]) -> None:
    """Release all, the last made first; one that fails keeps no other from being released."""
    while things:
        with suppress(EngineError):
            release(things.pop())


def open_device(index: int = 0, api: Literal["auto", "cuda", "pycuda"] = "auto") -> Device:
    """Open a GPU through the package that is there: cuda.bindings, which has graphs, before pycuda.

    Raises:
        EngineHostError: neither package is installed, there is no driver or no such GPU.
    """
    from engines.device_cuda import CudaDevice
    from engines.device_pycuda import PycudaDevice

    if api == "cuda":
        return CudaDevice(index)
    if api == "pycuda":
        return PycudaDevice(index)
    try:
        return CudaDevice(index)
    except MissingPackageError as without_cuda:
        try:
            return PycudaDevice(index)
        except MissingPackageError as without_both:
            raise without_cuda from without_both


class MissingPackageError(EngineHostError):
    """The package is not installed; another may be."""


def lost(what: str, why: str) -> DeviceLostError:
    """The error of a GPU that is full or gone."""
    hint = RESTART
    if "memory" in why.lower() and "address" not in why.lower():
        hint = "the GPU's memory is full: give the GPU fewer workers or smaller batches, then start the process again"
    return DeviceLostError(f"the GPU failed ({what}: {why})", hint=hint)
