"""`Device`, by both packages: the same tests over the CUDA double."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from cuda_double import Cuda
from cuda_modules import Driver, Runtime

from difffake.errors import DeviceLostError, EngineError, EngineHostError
from engines.device_cuda import CudaDevice
from engines.device_memory import Device, open_device
from engines.device_pycuda import PycudaDevice

DEVICES: dict[str, Callable[[Cuda], Device]] = {
    "cuda": lambda cuda: CudaDevice(runtime=Runtime(cuda)),
    "pycuda": lambda cuda: PycudaDevice(driver=Driver(cuda)),
}


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, cuda: Cuda) -> Device:
    return DEVICES[request.param](cuda)


def round_trip(device: Device, values: np.ndarray) -> np.ndarray:
    with device.active():
        there, back = device.allocate_pinned(values.nbytes), device.allocate_pinned(values.nbytes)
        address = device.allocate(values.nbytes)
        one, two, copied = device.stream(), device.stream(), device.event()
        done = device.event()
        there[:] = values
        device.copy_in(address, there, one)
        device.record(copied, one)
        device.wait(two, copied)
        device.copy_out(back, address, two)
        device.record(done, two)
        device.synchronise(done)
        return back.copy()


def test_bytes_go_there_and_back(device: Device, cuda: Cuda) -> None:
    values = np.arange(256, dtype=np.uint8)
    assert (round_trip(device, values) == values).all()
    assert device.name == cuda.name
    device.close()
    cuda.assert_released()


def test_part_of_a_pinned_array_can_be_copied(device: Device) -> None:
    with device.active():
        array, address, stream = device.allocate_pinned(12), device.allocate(12), device.stream()
        array[:] = 1
        device.copy_in(address, array.reshape(3, 4)[:2], stream)
        device.wait_idle()
        array[:] = 5
        device.copy_out(array.reshape(3, 4)[:2], address, stream)
        device.wait_idle()
        assert array.tolist() == [1] * 8 + [5] * 4
    device.close()


def test_time_between_events(device: Device) -> None:
    with device.active():
        stream, start, end = device.stream(), device.event(timing=True), device.event(timing=True)
        device.record(start, stream)
        device.record(end, stream)
        device.synchronise(end)
        assert device.elapsed_ms(start, end) > 0
    device.close()


def test_memory_is_told(device: Device, cuda: Cuda) -> None:
    with device.active():
        before = device.memory()
        device.allocate(1000)
        after = device.memory()
    assert before.total == cuda.memory_bytes
    assert before.free - after.free == 1000
    device.close()


def test_close_releases_what_waits_and_closes_twice(device: Device, cuda: Cuda) -> None:
    with device.active():
        array, address, stream = device.allocate_pinned(64), device.allocate(64), device.stream()
        device.copy_in(address, array, stream)
    device.close()
    device.close()
    cuda.assert_released()
    with pytest.raises(EngineError, match="closed"), device.active():
        pass


def test_closes_on_another_thread(device: Device, cuda: Cuda) -> None:
    round_trip(device, np.zeros(8, np.uint8))
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    cuda.assert_released()


def test_full_memory_ends_the_process_not_the_device(device: Device, cuda: Cuda) -> None:
    with device.active():
        device.allocate(cuda.memory_bytes // 2)
        with pytest.raises(DeviceLostError, match=r"out of memory|MemoryAllocation") as caught:
            device.allocate(cuda.memory_bytes)
    assert "start the process again" in caught.value.hint
    assert "smaller batches" in caught.value.hint
    device.close()
    cuda.assert_released()


@pytest.mark.parametrize("error", ["IllegalAddress", "ECCUncorrectable", "LaunchFailure"])
def test_a_lost_device_is_told(device: Device, cuda: Cuda, error: str) -> None:
    cuda.lose(after=1, error=error)
    with pytest.raises(DeviceLostError) as caught:
        round_trip(device, np.zeros(8, np.uint8))
    assert "start the process again" in caught.value.hint
    device.close()  # what the driver no longer takes back goes with the process


def test_another_failure_is_no_loss(device: Device, cuda: Cuda) -> None:
    cuda.fail("copy", at=0, error="InvalidValue")
    with pytest.raises(EngineError, match=r"(?i)invalid ?value") as caught:
        round_trip(device, np.zeros(8, np.uint8))
    assert not isinstance(caught.value, DeviceLostError)
    device.close()
    cuda.assert_released()


def test_a_failure_at_any_call_leaves_nothing_behind(cuda: Cuda) -> None:
    for name, make in DEVICES.items():
        for call in ("allocate", "allocate_pinned", "create_stream", "create_event", "record", "wait", "copy"):
            failures = 0
            for at in range(10):
                cuda.fail(call, at)
                device = make(cuda)
                try:
                    round_trip(device, np.zeros(8, np.uint8))
                except EngineError:
                    failures += 1
                device.close()
                assert not cuda.leaks(), (name, call, at)
            cuda.fail(call, at=10**9)
            assert failures, (name, call)


def test_a_release_that_fails_keeps_no_other_from_being_released(cuda: Cuda) -> None:
    device = CudaDevice(runtime=Runtime(cuda))
    with device.active():
        for _ in range(3):
            device.allocate(8)
    cuda.fail("release", at=1, error="InvalidValue")
    device.close()
    assert len(cuda.leaks()) == 1


class TestGraphs:
    @pytest.fixture
    def device(self, cuda: Cuda) -> Device:
        return CudaDevice(runtime=Runtime(cuda))

    def test_captured_work_is_done_at_each_launch(self, device: Device, cuda: Cuda) -> None:
        count = 0

        def work() -> None:
            nonlocal count
            count += 1

        with device.active():
            stream = device.stream()
            graph = device.capture(stream, lambda: cuda.kernel("count", stream.handle, [], [], work))
            device.wait_idle()
            assert count == 0
            device.launch(graph, stream)
            device.launch(graph, stream)
            device.wait_idle()
            assert count == 2
        device.close()
        cuda.assert_released()

    def test_work_that_cannot_be_captured_leaves_the_stream_usable(self, device: Device, cuda: Cuda) -> None:
        with device.active():
            stream = device.stream()
            with pytest.raises(EngineError, match="StreamCapture"):
                device.capture(stream, lambda: void(device.allocate(8)))
            with pytest.raises(ZeroDivisionError):
                device.capture(stream, lambda: void(1 // 0))
            cuda.kernel("after", stream.handle, [], [], lambda: None)
            device.wait_idle()
        device.close()
        cuda.assert_released()

    def test_failures_of_each_step(self, device: Device, cuda: Cuda) -> None:
        with device.active():
            stream = device.stream()
            for step in ("begin_capture", "end_capture", "instantiate"):
                cuda.fail(step, at=0, error="InvalidValue")
                with pytest.raises(EngineError, match="InvalidValue"):
                    device.capture(stream, lambda: None)
                if step == "end_capture":
                    cuda.destroy_graph(cuda.end_capture(stream.native.stream))
        device.close()
        cuda.assert_released()


def test_pycuda_has_no_graphs_and_says_so(cuda: Cuda) -> None:
    device = PycudaDevice(driver=Driver(cuda))
    assert not device.can_capture
    with device.active(), pytest.raises(EngineError, match="no CUDA graphs") as caught:
        device.capture(device.stream(), lambda: None)
    assert "cuda-bindings" in caught.value.hint
    device.close()


def test_pycuda_leaves_the_threads_stack_as_it_was(cuda: Cuda) -> None:
    driver = Driver(cuda)
    device = PycudaDevice(driver=driver)
    other = driver.Device(0).retain_primary_context()
    other.push()
    with pytest.raises(ZeroDivisionError), device.active():
        void(1 // 0)
    device.close()
    assert driver._stack.contexts == [other]


def test_cuda_gives_the_thread_its_gpu_back(cuda: Cuda) -> None:
    runtime = Runtime(cuda, gpus=2)
    device = CudaDevice(1, runtime=runtime)
    with device.active():
        assert runtime.cudaGetDevice()[1] == 1
    assert runtime.cudaGetDevice()[1] == 0
    device.close()
    assert runtime.cudaGetDevice()[1] == 0


@pytest.mark.parametrize("index", [-1, 1])
def test_no_such_gpu(cuda: Cuda, index: int) -> None:
    with pytest.raises(EngineHostError, match="there is no GPU"):
        CudaDevice(index, runtime=Runtime(cuda))
    with pytest.raises(EngineHostError, match="there is no GPU"):
        PycudaDevice(index, driver=Driver(cuda))


def test_no_driver(cuda: Cuda) -> None:
    with pytest.raises(EngineHostError, match="InsufficientDriver") as caught:
        CudaDevice(runtime=Runtime(cuda, gpus=0))
    assert "driver" in caught.value.hint


def test_without_a_gpu_or_a_package_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cuda.bindings.runtime", "cuda.cudart", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, module, None)
    for api in ("auto", "cuda", "pycuda"):
        with pytest.raises(EngineHostError, match="cannot be imported") as caught:
            open_device(api=api)
        assert "pip install cuda-bindings" in caught.value.hint


def test_pycuda_is_taken_where_it_is_alone(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, module, None)
    driver = Driver(cuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    for _ in range(3):
        device = open_device()
        assert device.api == "pycuda"
        device.close()
    assert driver.retained == 1, "the primary context is retained once a process"


def test_real_names_and_arguments() -> None:
    """Every function and constant that the double stands for exists, and takes as many arguments."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for name in [name for name in vars(Runtime) if name.startswith("cuda")]:
        mine, theirs = getattr(Runtime, name), getattr(real, name)
        if isinstance(mine, type):
            for member in mine:
                assert int(getattr(theirs, member.name)) == member, member
        elif callable(mine):
            signature = re.match(rf"{name}\((.*?)\)", theirs.__doc__)
            assert signature, name
            wanted = [part.split(":")[0].split()[-1] for part in signature[1].split(",") if part.strip()]
            assert list(mine.__code__.co_varnames[1 : mine.__code__.co_argcount]) == wanted, name
        else:
            assert mine == theirs, name


def void(_: object) -> None:
    """Drops a value, where a function must return nothing."""
