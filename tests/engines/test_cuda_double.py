"""The double catches the mistakes that it is there to catch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cuda_double import Cuda, CudaFailure, Event, Memory, MisuseError, Stream


class Bench:
    """Two streams, memory on both sides, an event."""

    def __init__(self) -> None:
        self.cuda = Cuda()
        self.one, self.two = self.cuda.create_stream(), self.cuda.create_stream()
        self.host = self.cuda.allocate(64, pinned=True)
        self.device = self.cuda.allocate(64, pinned=False)
        self.event = self.cuda.create_event(timing=True)

    def copy_in(self, stream: Stream) -> None:
        self.cuda.copy(self.device.address, self.host.address, 64, stream, to_device=True)

    def copy_out(self, stream: Stream) -> None:
        self.cuda.copy(self.host.address, self.device.address, 64, stream, to_device=False)

    def kernel(self, stream: Stream, *, writes: bool = True) -> None:
        def double() -> None:
            self.device.data[:] *= 2

        self.cuda.kernel("kernel", stream.handle, [self.device], [self.device] if writes else [], double)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_nothing_happens_before_somebody_waits(bench: Bench) -> None:
    bench.host.data[:] = 3
    bench.copy_in(bench.one)
    bench.kernel(bench.one)
    bench.cuda.record(bench.event, bench.one)
    assert (bench.device.data != 3).all()
    bench.cuda.synchronise_event(bench.event)
    assert (bench.device.data == 6).all()


def test_an_event_orders_two_streams(bench: Bench) -> None:
    bench.host.data[:] = 3
    bench.copy_in(bench.one)
    bench.cuda.record(bench.event, bench.one)
    bench.cuda.wait(bench.two, bench.event)
    bench.kernel(bench.two)
    bench.cuda.synchronise_stream(bench.two)
    assert (bench.device.data == 6).all()


def _no_event(bench: Bench) -> None:
    bench.copy_in(bench.one)
    bench.kernel(bench.two)


def _overwritten_while_read(bench: Bench) -> None:
    bench.kernel(bench.one, writes=False)
    bench.copy_in(bench.two)


def _waited_too_early(bench: Bench) -> None:
    bench.cuda.record(bench.event, bench.one)
    bench.copy_in(bench.one)
    bench.cuda.wait(bench.two, bench.event)
    bench.kernel(bench.two)


def _host_writes_under_a_copy(bench: Bench) -> None:
    bench.host.data[:] = 1
    bench.copy_in(bench.one)
    bench.host.data[5] = 2
    bench.cuda.synchronise_stream(bench.one)


def _host_writes_what_a_copy_fills(bench: Bench) -> None:
    bench.copy_out(bench.one)
    bench.host.data[:] = 0
    bench.cuda.synchronise_stream(bench.one)


def _used_after_release(bench: Bench) -> None:
    bench.cuda.release(bench.device.address, pinned=False)
    bench.copy_in(bench.one)


def _released_while_in_use(bench: Bench) -> None:
    bench.copy_in(bench.one)
    bench.cuda.release(bench.host.address, pinned=True)


def _released_twice(bench: Bench) -> None:
    bench.cuda.release(bench.device.address, pinned=False)
    bench.cuda.release(bench.device.address, pinned=False)


def _beyond_the_end(bench: Bench) -> None:
    bench.cuda.copy(bench.device.address, bench.host.address, 65, bench.one, to_device=True)


def _wrong_direction(bench: Bench) -> None:
    bench.cuda.copy(bench.device.address, bench.host.address, 64, bench.one, to_device=False)


def _stream_destroyed_at_work(bench: Bench) -> None:
    bench.copy_in(bench.one)
    bench.cuda.destroy_stream(bench.one)


def _destroyed_event(bench: Bench) -> None:
    bench.cuda.destroy_event(bench.event)
    bench.cuda.record(bench.event, bench.one)


def _graph_over_released_memory(bench: Bench) -> None:
    bench.cuda.begin_capture(bench.one)
    bench.kernel(bench.one)
    bench.cuda.instantiate(bench.cuda.end_capture(bench.one))
    bench.cuda.release(bench.device.address, pinned=False)


def _graph_destroyed_in_flight(bench: Bench) -> None:
    bench.cuda.begin_capture(bench.one)
    bench.kernel(bench.one)
    graph = bench.cuda.instantiate(bench.cuda.end_capture(bench.one))
    bench.cuda.launch(graph, bench.one)
    bench.cuda.destroy_graph(graph)


def _graphs_beside_each_other(bench: Bench) -> None:
    bench.cuda.begin_capture(bench.one)
    bench.kernel(bench.one)
    graph = bench.cuda.instantiate(bench.cuda.end_capture(bench.one))
    bench.cuda.launch(graph, bench.one)
    bench.cuda.launch(graph, bench.two)


def _left_behind(bench: Bench) -> None:
    bench.cuda.assert_released()


MISTAKES = [value for name, value in list(globals().items()) if name.startswith("_") and name[1].isalpha()]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__.strip("_"))
def test_a_mistake_is_told(bench: Bench, mistake: Callable[[Bench], None]) -> None:
    with pytest.raises(MisuseError):
        mistake(bench)


def test_all_mistakes_are_tried() -> None:
    assert len(MISTAKES) == 16


def test_an_early_reader_sees_poison(bench: Bench) -> None:
    bench.host.data[:] = 7
    bench.copy_in(bench.one)
    bench.cuda.synchronise_stream(bench.one)
    bench.copy_out(bench.one)
    assert (bench.host.data != 7).all()
    bench.cuda.synchronise_stream(bench.one)
    assert (bench.host.data == 7).all()


@pytest.mark.parametrize("forbidden", ["allocate", "release", "synchronise"])
def test_a_capture_forbids(bench: Bench, forbidden: str) -> None:
    calls: dict[str, Callable[[], Memory | None]] = {
        "allocate": lambda: bench.cuda.allocate(1, pinned=False),
        "release": lambda: bench.cuda.release(bench.device.address, pinned=False),
        "synchronise": lambda: bench.cuda.synchronise_event(bench.event),
    }
    bench.cuda.begin_capture(bench.one)
    with pytest.raises(CudaFailure, match="StreamCaptureUnsupported"):
        calls[forbidden]()
    with pytest.raises(CudaFailure, match="StreamCaptureInvalidated"):
        bench.cuda.end_capture(bench.one)


def test_a_graph_does_its_work_at_every_launch(bench: Bench) -> None:
    bench.cuda.begin_capture(bench.one)
    bench.kernel(bench.one)
    record = bench.cuda.end_capture(bench.one)
    graph = bench.cuda.instantiate(record)
    bench.host.data[:] = 1
    bench.copy_in(bench.one)
    for _ in range(3):
        bench.cuda.launch(graph, bench.one)
    bench.cuda.synchronise_stream(bench.one)
    assert (bench.device.data == 8).all()
    for made in (record, graph):
        bench.cuda.destroy_graph(made)


def test_chance_takes_every_order_that_events_allow() -> None:
    orders = set()
    for seed in range(20):
        cuda, order = Cuda(seed), []
        streams = [cuda.create_stream() for _ in range(2)]
        for number, stream in enumerate(streams):
            for step in range(2):
                cuda.kernel("", stream.handle, [], [], lambda at=(number, step), to=order: to.append(at))
        events = [cuda.create_event(timing=False) for _ in streams]
        for event, stream in zip(events, streams, strict=True):
            cuda.record(event, stream)
        for event in events:
            cuda.synchronise_event(event)
        assert all(order.index((n, 0)) < order.index((n, 1)) for n in (0, 1))
        orders.add(tuple(order))
    assert len(orders) > 2


def test_a_lost_gpu_stays_lost(bench: Bench) -> None:
    bench.cuda.lose(after=1)
    bench.copy_in(bench.one)
    bench.kernel(bench.one)
    with pytest.raises(CudaFailure, match="IllegalAddress"):
        bench.cuda.synchronise_stream(bench.one)
    with pytest.raises(CudaFailure, match="IllegalAddress"):
        bench.cuda.allocate(1, pinned=False)


def test_memory_is_finite() -> None:
    cuda = Cuda(memory_bytes=100)
    cuda.allocate(60, pinned=False)
    with pytest.raises(CudaFailure, match="MemoryAllocation"):
        cuda.allocate(60, pinned=False)
    assert np.all(cuda.allocate(600, pinned=True).data)


def test_an_event_that_was_never_recorded_is_over(bench: Bench) -> None:
    assert isinstance(bench.event, Event)
    bench.cuda.synchronise_event(bench.event)
    bench.cuda.wait(bench.two, bench.event)
    bench.cuda.synchronise_stream(bench.two)
