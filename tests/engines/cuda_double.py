"""A CUDA that runs nothing at once and forgives nothing.

Work that is put into a stream waits there. It is done, in the order of its stream and of the events it waits for, only
when somebody synchronises; among streams that could go on, chance decides. What a real GPU would silently do wrong is
an error here, told as `MisuseError`:

- two accesses to one memory, one of them a write, that no stream order, event or synchronisation puts in order;
- pinned memory written by the host while a copy from it is waiting (what a copy out will fill is poisoned meanwhile);
- memory, streams, events or graphs used after they were released, or released while work on them waits;
- an allocation or a wait while a stream is being captured, a graph launched beside what it was captured from;
- whatever is left when everything should have been released (`Cuda.assert_released`).

`runtime` and `driver` put the functions of ``cuda.bindings.runtime`` and of ``pycuda.driver`` in front of it.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

ALIGNMENT = 256
POISON = 0xA5


class MisuseError(AssertionError):
    """What a real GPU would do wrong without a word. No engine may catch it: it is no EngineError."""


class CudaFailure(Exception):  # noqa: N818 - it becomes a status code
    """A call that the driver refuses; `name` is the runtime's name without ``cudaError``."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(eq=False)
class Memory:
    address: int
    data: np.ndarray
    pinned: bool
    freed: bool = False
    written: tuple[str, int] | None = None
    read: dict[str, int] = field(default_factory=dict)
    waiting: int = 0

    def __repr__(self) -> str:
        return f"{'pinned' if self.pinned else 'device'} memory of {self.data.size} bytes"


@dataclass(eq=False)
class Event:
    timing: bool
    alive: bool = True
    clock: dict[str, int] | None = None
    mark: Work | None = None
    done_at_ms: float = 0.0


@dataclass(eq=False)
class Work:
    """One thing in a stream: `run` is called when it is done."""

    what: str
    run: Callable[[], None]
    reads: tuple[Memory, ...] = ()
    writes: tuple[Memory, ...] = ()
    waits_for: Work | None = None
    done: bool = False


@dataclass(eq=False)
class Stream:
    name: str
    handle: int
    queue: deque[Work] = field(default_factory=deque)
    clock: dict[str, int] = field(default_factory=dict)
    tick: int = 0
    alive: bool = True
    captured: list[Work] | None = None
    capture_broken: bool = False


@dataclass(eq=False)
class Graph:
    work: list[Work]
    alive: bool = True


@dataclass(eq=False)
class GraphExec:
    work: list[Work]
    alive: bool = True
    waiting: int = 0


class Cuda:
    """The simulated driver and one GPU.

    Args:
        seed: of the chance that decides among streams.
        memory_bytes: of the GPU.
    """

    name = "Double 9000"

    def __init__(self, seed: int = 0, memory_bytes: int = 1 << 26) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self.memory_bytes = memory_bytes
        self.memories: dict[int, Memory] = {}
        self.streams: dict[int, Stream] = {}
        self.events: list[Event] = []
        self.graphs: list[Graph | GraphExec] = []
        self.contexts = 0  # of networks: counted by the TensorRT double
        self.mistakes: list[str] = []  # of destructors, which cannot raise
        self.history: list[str] = []
        self._next = 0x10_0000
        self._host_clock: dict[str, int] = {}
        self._clock_ms = 0.0
        self._lost: str | None = None
        self._fail_at: dict[str, int] = {}
        self._fail_with: dict[str, str] = {}
        self._lose_after: int | None = None

    # what can go wrong on purpose

    def fail(self, call: str, at: int, error: str = "MemoryAllocation") -> None:
        """Let the ``at``-th of these calls from now on (0: the next) fail once."""
        self._fail_at[call], self._fail_with[call] = at, error

    def lose(self, after: int, error: str = "IllegalAddress") -> None:
        """Let the GPU be lost when ``after`` more pieces of work are done. Every later call fails."""
        self._lose_after, self._lose_error = after, error

    @property
    def is_lost(self) -> bool:
        """Whether the GPU is gone, and everything on it with it."""
        return self._lost is not None

    def call(self, name: str) -> None:
        """Every call of the driver begins here."""
        self.history.append(name)
        if self._lost is not None:
            raise CudaFailure(self._lost)
        if name in self._fail_at:
            self._fail_at[name] -= 1
            if self._fail_at[name] < 0:
                del self._fail_at[name]
                raise CudaFailure(self._fail_with[name])

    # memory

    def allocate(self, size: int, *, pinned: bool) -> Memory:
        self.call("allocate_pinned" if pinned else "allocate")
        self._not_capturing()
        if size <= 0:
            raise CudaFailure("InvalidValue")
        used = sum(m.data.size for m in self.memories.values() if not m.pinned)
        if not pinned and used + size > self.memory_bytes:
            raise CudaFailure("MemoryAllocation")
        data = np.full(size, POISON, np.uint8)
        if pinned:
            address = data.ctypes.data
        else:
            address = self._next = -(-self._next // ALIGNMENT) * ALIGNMENT
            self._next += size
        self.memories[address] = memory = Memory(address, data, pinned)
        return memory

    def release(self, address: int, *, pinned: bool) -> None:
        self.call("release_pinned" if pinned else "release")
        self._not_capturing()
        memory = self.memories.get(address)
        if memory is None or memory.pinned is not pinned:
            raise MisuseError(f"release of {address:#x}, which was never allocated or is released already")
        if memory.waiting:
            raise MisuseError(f"release of {memory} while work on it waits")
        if any(memory in (*w.reads, *w.writes) for g in self.graphs for w in g.work):
            raise MisuseError(f"release of {memory} while a graph points to it")
        memory.freed = True
        memory.data[:] = POISON
        del self.memories[address]

    def find(self, address: int, size: int) -> tuple[Memory, int]:
        """The memory in which these bytes lie, and where."""
        for memory in self.memories.values():
            start = address - memory.address
            if start >= 0 and start + size <= memory.data.size:
                return memory, start
        raise MisuseError(f"{size} bytes at {address:#x} lie in no allocated memory")

    # streams and events

    def create_stream(self) -> Stream:
        self.call("create_stream")
        handle = 0x5000 + len(self.history)
        self.streams[handle] = stream = Stream(f"stream {len(self.streams)} of {handle:#x}", handle)
        return stream

    def destroy_stream(self, stream: Stream) -> None:
        self.call("destroy_stream")
        self._live(stream)
        if stream.queue:
            raise MisuseError("a stream destroyed with work in it")
        stream.alive = False
        del self.streams[stream.handle]

    def create_event(self, *, timing: bool) -> Event:
        self.call("create_event")
        self.events.append(event := Event(timing))
        return event

    def destroy_event(self, event: Event) -> None:
        self.call("destroy_event")
        self._live(event)
        event.alive = False
        self.events.remove(event)

    def record(self, event: Event, stream: Stream) -> None:
        self.call("record")
        self._live(event, stream)

        def mark() -> None:
            self._clock_ms += 0.25
            event.done_at_ms = self._clock_ms

        work = Work("record", mark)
        self._put(stream, work)
        event.clock, event.mark = dict(stream.clock), work

    def wait(self, stream: Stream, event: Event) -> None:
        self.call("wait")
        self._live(event, stream)
        if event.mark is None or event.clock is None:
            return  # CUDA: an event that was never recorded is over
        if stream.captured is not None:
            raise MisuseError("a captured stream waits for an event of another stream")
        _merge(stream.clock, event.clock)
        self._put(stream, Work("wait", lambda: None, waits_for=event.mark))

    # work

    def copy(self, target: int, source: int, size: int, stream: Stream, *, to_device: bool) -> None:
        self.call("copy")
        self._live(stream)
        if stream.captured is not None:
            raise NotImplementedError("copies inside graphs are not simulated")
        into, at = self.find(target, size)
        out_of, start = self.find(source, size)
        if into.pinned == to_device or out_of.pinned != to_device:
            raise MisuseError("a copy in the other direction than it says")
        seen = out_of.data[start : start + size].copy() if to_device else None
        if not to_device:
            into.data[at : at + size] = POISON

        def run() -> None:
            now = out_of.data[start : start + size]
            if seen is not None and not np.array_equal(seen, now):
                raise MisuseError("the host wrote into pinned memory while a copy from it was waiting")
            if not to_device and (into.data[at : at + size] != POISON).any():
                raise MisuseError("the host wrote into pinned memory that a copy was about to fill")
            into.data[at : at + size] = now

        self._put(stream, Work("copy in" if to_device else "copy out", run, (out_of,), (into,)))

    def kernel(
        self, what: str, handle: int, reads: list[Memory], writes: list[Memory], run: Callable[[], None]
    ) -> None:
        """Work of a network, in the stream of this handle."""
        stream = self.streams.get(handle)
        if stream is None:
            raise MisuseError(f"work for {handle:#x}, which is no stream")
        self._put(stream, Work(what, run, tuple(reads), tuple(writes)))

    def _put(self, stream: Stream, work: Work) -> None:
        if stream.captured is not None:
            stream.captured.append(work)
            return
        stream.tick += 1
        _merge(stream.clock, self._host_clock)
        stream.clock[stream.name] = stream.tick
        for memory in (*work.reads, *work.writes):
            if memory.freed:
                raise MisuseError(f"{work.what}: {memory} was released")
            self._in_order(memory, memory.written, stream, work)
            memory.waiting += 1
        for memory in work.writes:
            for name, tick in memory.read.items():
                self._in_order(memory, (name, tick), stream, work)
        for memory in work.reads:
            memory.read[stream.name] = stream.tick
        for memory in work.writes:
            memory.written = (stream.name, stream.tick)
            memory.read = {}
        stream.queue.append(work)

    def _in_order(self, memory: Memory, other: tuple[str, int] | None, stream: Stream, work: Work) -> None:
        if other is not None and stream.clock.get(other[0], 0) < other[1]:
            raise MisuseError(f"{work.what}: {memory} is used by {other[0]} at the same time: no event orders them")

    # waiting for it

    def synchronise_event(self, event: Event) -> None:
        self.call("synchronise")
        self._live(event)
        self._not_capturing()
        if event.mark is not None and event.clock is not None:
            self._run_until(event.mark)
            _merge(self._host_clock, event.clock)

    def synchronise_stream(self, stream: Stream) -> None:
        self.call("synchronise")
        self._live(stream)
        self._not_capturing()
        if stream.queue:
            self._run_until(stream.queue[-1])
        _merge(self._host_clock, stream.clock)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        self.call("elapsed")
        self._live(start, end)
        if not (start.timing and end.timing and start.mark and end.mark):
            raise CudaFailure("InvalidResourceHandle")
        if not (start.mark.done and end.mark.done):
            raise CudaFailure("NotReady")
        return end.done_at_ms - start.done_at_ms

    def _run_until(self, last: Work) -> None:
        while not last.done:
            ready = [
                s for s in self.streams.values() if s.queue and (w := s.queue[0].waits_for, w is None or w.done)[1]
            ]
            if not ready:
                raise MisuseError("a deadlock: no stream can go on")
            work = self._random.choice(ready).queue[0]
            for stream in self.streams.values():
                if stream.queue and stream.queue[0] is work:
                    stream.queue.popleft()
            for memory in (*work.reads, *work.writes):
                memory.waiting -= 1
            if self._lose_after is not None:
                self._lose_after -= 1
                if self._lose_after < 0:
                    self._forget()
                    self._lost = self._lose_error
                    raise CudaFailure(self._lost)
            work.run()
            work.done = True

    def _forget(self) -> None:
        for stream in self.streams.values():
            for work in stream.queue:
                for memory in (*work.reads, *work.writes):
                    memory.waiting -= 1
            stream.queue.clear()

    # graphs

    def begin_capture(self, stream: Stream) -> None:
        self.call("begin_capture")
        self._live(stream)
        if stream.captured is not None:
            raise CudaFailure("IllegalState")
        stream.captured, stream.capture_broken = [], False

    def end_capture(self, stream: Stream) -> Graph:
        self.call("end_capture")
        if stream.captured is None:
            raise CudaFailure("IllegalState")
        work, stream.captured = stream.captured, None
        if stream.capture_broken:
            raise CudaFailure("StreamCaptureInvalidated")
        self.graphs.append(graph := Graph(work))
        return graph

    def instantiate(self, graph: Graph) -> GraphExec:
        self.call("instantiate")
        self._live(graph)
        self.graphs.append(made := GraphExec(list(graph.work)))
        return made

    def launch(self, graph: GraphExec, stream: Stream) -> None:
        self.call("launch")
        self._live(graph, stream)
        graph.waiting += 1
        for number, work in enumerate(graph.work):

            def run(work: Work = work, last: bool = number == len(graph.work) - 1) -> None:
                work.run()
                graph.waiting -= last

            self._put(stream, Work(f"graph: {work.what}", run, work.reads, work.writes))
        if not graph.work:
            graph.waiting -= 1

    def destroy_graph(self, graph: Graph | GraphExec) -> None:
        self.call("destroy_graph")
        self._live(graph)
        if isinstance(graph, GraphExec) and graph.waiting:
            raise MisuseError("a graph destroyed while a launch of it waits")
        graph.alive = False
        self.graphs.remove(graph)

    def _not_capturing(self) -> None:
        """Allocations and waits end a capture."""
        for stream in self.streams.values():
            if stream.captured is not None:
                stream.capture_broken = True
                raise CudaFailure("StreamCaptureUnsupported")

    @staticmethod
    def _live(*things: Stream | Event | Graph | GraphExec) -> None:
        for thing in things:
            if not thing.alive:
                raise MisuseError(f"a {type(thing).__name__} used after it was destroyed")

    # at the end

    def leaks(self) -> list[str]:
        """What was made and not released."""
        found = [repr(memory) for memory in self.memories.values()]
        found += [stream.name for stream in self.streams.values()]
        found += ["event"] * len(self.events) + [type(graph).__name__ for graph in self.graphs]
        return found + ["execution context or engine"] * self.contexts

    def assert_released(self) -> None:
        if self.mistakes:
            raise MisuseError(str(self.mistakes))
        if self.leaks():
            raise MisuseError(f"left behind: {self.leaks()}")


def _merge(into: dict[str, int], other: dict[str, int]) -> None:
    for name, tick in other.items():
        into[name] = max(into.get(name, 0), tick)
