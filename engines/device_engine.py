"""Batches through a network on a GPU: pinned buffers, three streams, one graph per batch size and buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from difffake.errors import DeviceLostError, EngineError
from engines.contract import F32, U8, Embeddings, EngineSpec, Ticket, check_faces
from engines.device_memory import Device, Event, Graph, Stream
from engines.in_flight import check_oldest, check_room

#: Marks of the timeline, in the order in which one batch passes them.
MARKS = ("copy_in", "copied_in", "compute", "computed", "copy_out", "copied_out")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Device memory of one batch, for the largest: ``(max_batch, 3, side, side) uint8``, ``(max_batch, D) float32``,
    ``(max_batch,) float32`` (0 where the network has no logit)."""

    faces: int
    embedding: int
    logit: int


class Network(Protocol):
    """A compiled network for some batch sizes. Called within ``with device.active():``."""

    def enqueue(self, batch: int, at: Addresses, stream: Stream) -> None:
        """Put a run over ``batch`` faces into the stream, and wait for nothing.

        Raises:
            EngineError: the network cannot run.
        """

    def can_capture(self, batch: int, stream: Stream) -> bool:
        """Whether a run of this size, done once before, may be captured into a graph."""

    def close(self) -> None:
        """Release contexts, network and runtime, in this order; called when nothing runs and no graph is left."""


@dataclass(eq=False, slots=True)
class _Slot:
    """Buffers of one batch in flight."""

    faces: U8
    embedding: F32
    logit: F32 | None
    at: Addresses
    copied_in: Event
    computed: Event
    done: Event
    graphs: dict[int, Graph] = field(default_factory=dict)
    ran: set[int] = field(default_factory=set)
    marks: dict[str, Event] = field(default_factory=dict)


class DeviceEngine:
    """Runs a network on a GPU. Copies in, computing, and copies out have a stream each: with two batches in flight the
    second is copied while the first is computed.

    A batch is padded with black faces to the next size of ``sizes``. Each size is run call by call once in each of
    the ``spec.depth`` buffers, then captured: later runs are one launch of a graph. A size that cannot be captured is
    run call by call, and `uncaptured` tells why.

    Lifetimes:

    - ``faces`` is copied into pinned memory before `submit` returns.
    - A buffer is in use from `submit` until its ticket is collected; there are as many as batches may be in flight,
      so nothing is written while the GPU reads it, or read before the GPU has written it.
    - What `collect` returns was copied out of pinned memory: it is the caller's.
    - A graph holds the addresses of its buffer and of the network's context: both live until the engine is closed.
    - Closing waits for what runs, then releases graphs, network, events, streams and memory, in this order.

    After a `DeviceLostError` every call but `close` raises it again.

    Args:
        device: taken over, and closed with the engine, also where opening fails.
        network: likewise.
        sizes: batch sizes that the network runs; the largest is ``spec.max_batch``.
        timeline: keep the times at which each batch passed its `MARKS`, in `timeline`, ms. Costs a little.

    Attributes:
        timeline: name of the mark -> ms since the engine was opened; one entry a batch, up to 10,000.
        uncaptured: batch size -> why it is run without a graph.
    """

    def __init__(
        self, device: Device, network: Network, spec: EngineSpec, sizes: tuple[int, ...], *, timeline: bool = False
    ) -> None:
        self._device, self._network, self._spec, self._sizes = device, network, spec, sizes
        self._slots: list[_Slot] = []
        self._waiting: deque[tuple[Ticket, _Slot]] = deque()
        self._submitted = 0
        self._closed = False
        # Not the error itself: its traceback would keep the network's contexts alive.
        self._lost: tuple[str, str] | None = None
        self.timeline: list[dict[str, float]] = []
        self.uncaptured: dict[int, str] = {}
        if not device.can_capture:
            self.uncaptured = dict.fromkeys(sizes, f"{device.api} has no CUDA graphs")
        try:
            with device.active():
                self._in, self._compute, self._out = device.stream(), device.stream(), device.stream()
                self._origin = device.event(timing=True) if timeline else None
                if self._origin is not None:
                    device.record(self._origin, self._in)
                self._slots = [self._make_slot() for _ in range(spec.depth)]
        except BaseException:
            self.close()
            raise

    def _make_slot(self) -> _Slot:
        device, spec = self._device, self._spec
        shape = (spec.max_batch, 3, spec.side_px, spec.side_px)
        faces = device.allocate_pinned(int(np.prod(shape))).reshape(shape)
        embedding = device.allocate_pinned(4 * spec.max_batch * spec.dim).view(np.float32)
        logit = device.allocate_pinned(4 * spec.max_batch).view(np.float32) if spec.has_logit else None
        return _Slot(
            faces=faces,
            embedding=embedding.reshape(spec.max_batch, spec.dim),
            logit=logit,
            at=Addresses(
                faces=device.allocate(faces.nbytes),
                embedding=device.allocate(embedding.nbytes),
                logit=device.allocate(logit.nbytes) if logit is not None else 0,
            ),
            copied_in=device.event(),
            computed=device.event(),
            done=device.event(),
            marks={name: device.event(timing=True) for name in MARKS} if self._origin is not None else {},
        )

    @property
    def spec(self) -> EngineSpec:
        """Shapes and limits of this engine."""
        return self._spec

    @property
    def graphs(self) -> int:
        """How many graphs have been captured."""
        return sum(len(slot.graphs) for slot in self._slots)

    def warm_up(self) -> None:
        """Run every size until its graphs are there: a network's first runs take seconds, in which faces would wait."""
        for size in self._sizes:
            faces = np.zeros((size, 3, self._spec.side_px, self._spec.side_px), np.uint8)
            for _ in range(2 * self._spec.depth):
                self.infer(faces)

    def infer(self, faces: U8) -> Embeddings:
        """Embed faces ``(B, 3, side, side) uint8`` RGB; see `engines.contract.Engine.infer`."""
        self._check(faces)
        if self._waiting:
            raise EngineError("batches are in flight", hint="collect them before calling infer")
        embedding = np.empty((len(faces), self._spec.dim), np.float32)
        logit = np.empty(len(faces), np.float32)
        done = 0
        try:
            for start in range(0, len(faces), self._spec.max_batch):
                if len(self._waiting) == self._spec.depth:
                    done = self._collect_into(embedding, logit, done)
                self.submit(faces[start : start + self._spec.max_batch])
            while self._waiting:
                done = self._collect_into(embedding, logit, done)
        except BaseException:
            self._drop()
            raise
        return Embeddings(embedding=embedding, logit=logit)

    def _collect_into(self, embedding: F32, logit: F32, start: int) -> int:
        found = self.collect(self._waiting[0][0])
        stop = start + len(found)
        embedding[start:stop], logit[start:stop] = found.embedding, found.logit
        return stop

    def submit(self, faces: U8) -> Ticket:
        """Begin a batch; see `engines.contract.Engine.submit`."""
        self._check(faces)
        check_room(len(faces), len(self._waiting), self._spec)
        ticket = Ticket(self._submitted, len(faces))
        slot = self._slots[ticket.number % self._spec.depth]
        if len(faces):
            with self._working():
                try:
                    self._begin(faces, slot)
                except BaseException:
                    # The buffer will be used again: nothing may be under way in it.
                    self._device.wait_idle()
                    raise
        self._submitted += 1
        self._waiting.append((ticket, slot))
        return ticket

    def _begin(self, faces: U8, slot: _Slot) -> None:
        device, count = self._device, len(faces)
        size = next(size for size in self._sizes if size >= count)
        slot.faces[:count] = faces
        slot.faces[count:size] = 0
        self._mark(slot, "copy_in", self._in)
        device.copy_in(slot.at.faces, slot.faces[:size], self._in)
        self._mark(slot, "copied_in", self._in)
        device.record(slot.copied_in, self._in)
        device.wait(self._compute, slot.copied_in)
        self._mark(slot, "compute", self._compute)
        self._run(slot, size)
        self._mark(slot, "computed", self._compute)
        device.record(slot.computed, self._compute)
        device.wait(self._out, slot.computed)
        self._mark(slot, "copy_out", self._out)
        device.copy_out(slot.embedding[:count], slot.at.embedding, self._out)
        if slot.logit is not None:
            device.copy_out(slot.logit[:count], slot.at.logit, self._out)
        self._mark(slot, "copied_out", self._out)
        device.record(slot.done, self._out)

    def _run(self, slot: _Slot, size: int) -> None:
        if size in slot.ran and size not in slot.graphs and size not in self.uncaptured:
            self._capture(slot, size)
        if size in slot.graphs:
            self._device.launch(slot.graphs[size], self._compute)
        else:
            self._network.enqueue(size, slot.at, self._compute)
            slot.ran.add(size)

    def _capture(self, slot: _Slot, size: int) -> None:
        if not self._network.can_capture(size, self._compute):
            self.uncaptured[size] = "the network cannot be captured"
            return
        try:
            slot.graphs[size] = self._device.capture(
                self._compute, lambda: self._network.enqueue(size, slot.at, self._compute)
            )
        except DeviceLostError:
            raise
        except EngineError as error:
            self.uncaptured[size] = str(error)

    def _mark(self, slot: _Slot, name: str, stream: Stream) -> None:
        if slot.marks:
            self._device.record(slot.marks[name], stream)

    def collect(self, ticket: Ticket) -> Embeddings:
        """Wait for the oldest batch in flight; see `engines.contract.Engine.collect`."""
        check_oldest(ticket, self._waiting[0][0] if self._waiting else None)
        slot = self._waiting.popleft()[1]
        if ticket.faces:
            with self._working():
                self._device.synchronise(slot.done)
                self._keep_times(slot)
        logit = np.full(ticket.faces, np.nan, np.float32) if slot.logit is None else slot.logit[: ticket.faces].copy()
        return Embeddings(embedding=slot.embedding[: ticket.faces].copy(), logit=logit)

    def _keep_times(self, slot: _Slot) -> None:
        if self._origin is not None and len(self.timeline) < 10_000:
            self.timeline.append(
                {name: self._device.elapsed_ms(self._origin, mark) for name, mark in slot.marks.items()}
            )

    def _drop(self) -> None:
        self._waiting.clear()
        with suppress(EngineError), self._device.active():
            self._device.wait_idle()

    def _check(self, faces: U8) -> None:
        if self._closed:
            raise EngineError("this engine is closed", hint="keep the engine open while frames arrive")
        if self._lost is not None:
            raise DeviceLostError(self._lost[0], hint=self._lost[1])
        check_faces(faces, self._spec)

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            with self._device.active():
                yield
        except DeviceLostError as error:
            self._lost = str(error), error.hint
            self._waiting.clear()
            raise

    def close(self) -> None:
        """Drop what is in flight and release the GPU's memory. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        self._slots.clear()
        with suppress(EngineError), self._device.active():
            self._device.release_graphs()
            self._network.close()
        self._device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def batch_sizes(least: int, most: int) -> tuple[int, ...]:
    """The sizes that batches are padded to: powers of two from ``least`` on, and ``most``.

    >>> batch_sizes(1, 12)
    (1, 2, 4, 8, 12)
    """
    powers = (1 << power for power in range(most.bit_length()))
    return tuple(sorted({size for size in powers if least <= size <= most} | {least, most}))
