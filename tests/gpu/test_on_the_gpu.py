"""What only a GPU can show. Needs numpy, torch, onnx, onnxruntime and cuda-bindings, and no network:

python -m pytest --noconftest -m gpu tests/gpu
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from difffake.errors import DeviceLostError, EngineError, EngineHostError  # noqa: E402
from engines.contract import Precision  # noqa: E402
from engines.device_engine import DeviceEngine  # noqa: E402
from engines.device_memory import Device, open_device  # noqa: E402
from engines.half import to_half  # noqa: E402
from engines.onnx import OnnxEngine  # noqa: E402
from engines.profile import BatchProfile  # noqa: E402
from engines.tensorrt import PlanEngine  # noqa: E402
from engines.tensorrt_api import FLAVOURS, host_info, import_tensorrt  # noqa: E402
from engines.tensorrt_build import BuildSettings, build_plan  # noqa: E402
from engines.torch_cuda import TorchCudaEngine  # noqa: E402
from engines.torch_onnx import load_onnx  # noqa: E402

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "difffake" / "models" / "default" / "extractor.onnx"
MOST = 16

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def gpu() -> str:
    host = host_info()
    if not host.gpus:
        pytest.fail(f"no GPU: {host.problem}; these tests are for a host that has one")
    return host.gpus[0].name


def faces(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 224, 224), np.uint8)


# the device


@pytest.fixture(params=["cuda", "pycuda"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    try:
        opened = open_device(api=request.param)
    except EngineHostError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


def test_bytes_go_there_and_back(device: Device) -> None:
    size = 64 << 20
    with device.active():
        there, back, address = device.allocate_pinned(size), device.allocate_pinned(size), device.allocate(size)
        one, two = device.stream(), device.stream()
        copied, done = device.event(), device.event()
        there[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        device.copy_in(address, there, one)
        device.record(copied, one)
        device.wait(two, copied)
        device.copy_out(back, address, two)
        device.record(done, two)
        device.synchronise(done)
        assert (there == back).all()


def test_memory_comes_back(device: Device) -> None:
    with device.active():
        before = device.memory().free
        device.allocate(256 << 20)
        assert before - device.memory().free >= 256 << 20
    device.close()
    again = open_device()
    with again.active():
        assert abs(again.memory().free - before) < 64 << 20
    again.close()


def test_more_than_there_is(device: Device) -> None:
    with device.active(), pytest.raises(DeviceLostError, match="memory"):
        device.allocate(device.memory().total + (1 << 30))


def test_time_passes_between_events(device: Device) -> None:
    with device.active():
        stream, start, end = device.stream(), device.event(timing=True), device.event(timing=True)
        array, address = device.allocate_pinned(32 << 20), device.allocate(32 << 20)
        device.record(start, stream)
        device.copy_in(address, array, stream)
        device.record(end, stream)
        device.synchronise(end)
        assert device.elapsed_ms(start, end) > 0


def test_lives_beside_torch(device: Device) -> None:
    mine = torch.arange(1000, device="cuda")
    with device.active():
        device.allocate(1 << 20)
    device.close()
    assert int(mine.sum()) == 499500


# engines


def open_torch(folder: Path, **options: object) -> DeviceEngine:
    half = folder / "half.onnx"
    half.write_bytes(to_half(SHIPPED.read_bytes()))
    return TorchCudaEngine(load_onnx(half), side_px=224, dim=1280, max_batch=MOST, **options)  # type: ignore[arg-type]


def open_tensorrt(flavour: str) -> Callable[..., DeviceEngine]:
    def opened(folder: Path, **options: object) -> DeviceEngine:
        plan = folder / f"{flavour}.plan"
        if not plan.exists():
            settings = BuildSettings(profile=BatchProfile(1, MOST, MOST))
            graph = to_half(SHIPPED.read_bytes())
            plan.write_bytes(build_plan(graph, settings, flavour=flavour, host=host_info()).plan)  # type: ignore[arg-type]
        return PlanEngine(plan.read_bytes(), import_tensorrt(flavour), open_device(), **options)  # type: ignore[arg-type]

    return opened


def open_exact(folder: Path, **options: object) -> DeviceEngine:  # noqa: ARG001
    network = load_onnx(SHIPPED)
    options |= {"side_px": 224, "dim": 1280, "max_batch": MOST, "precision": Precision.FP32}
    return TorchCudaEngine(network, **options)  # type: ignore[arg-type]


ENGINES = {"torch": open_torch, "torch_fp32": open_exact} | {flavour: open_tensorrt(flavour) for flavour in FLAVOURS}


@pytest.fixture(scope="module", params=ENGINES)
def open_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., DeviceEngine]:
    folder, make = tmp_path_factory.mktemp(request.param), ENGINES[request.param]
    try:
        with make(folder) as engine:
            engine.infer(faces(1))
    except EngineHostError as error:
        pytest.skip(str(error))
    return lambda **options: make(folder, **options)


@pytest.fixture
def engine(open_engine: Callable[..., DeviceEngine]) -> Iterator[DeviceEngine]:
    with open_engine() as opened:
        yield opened


def test_gives_what_onnx_runtime_gives(engine: DeviceEngine) -> None:
    with OnnxEngine(SHIPPED) as exact:
        for count in (0, 1, 3, MOST, 2 * MOST + 1):
            for again in range(4):  # call by call, captured, the other buffer
                found, expected = engine.infer(faces(count, again)), exact.infer(faces(count, again))
                assert found.embedding.shape == expected.embedding.shape
                if engine.spec.exact:
                    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-3)
                    np.testing.assert_allclose(found.logit, expected.logit, atol=1e-3)
                norms = np.linalg.norm(found.embedding, axis=1) * np.linalg.norm(expected.embedding, axis=1)
                assert ((found.embedding * expected.embedding).sum(1) > 0.999 * norms).all()
    assert engine.graphs > 0
    assert not engine.uncaptured


def test_graphs_give_what_the_first_run_gave(engine: DeviceEngine) -> None:
    first = engine.infer(faces(5))
    for _ in range(6):
        np.testing.assert_array_equal(engine.infer(faces(5)).embedding, first.embedding)


def test_batches_in_flight_are_not_mixed_up(open_engine: Callable[..., DeviceEngine]) -> None:
    with open_engine(depth=3) as engine:
        expected = {seed: engine.infer(faces(1 + seed % MOST, seed)).embedding for seed in range(20)}
        waiting: list = []
        for seed in [*range(20)] * 5:
            if len(waiting) == 3:
                ticket, which = waiting.pop(0)
                np.testing.assert_allclose(engine.collect(ticket).embedding, expected[which], rtol=1e-2, atol=1e-2)
            waiting.append((engine.submit(faces(1 + seed % MOST, seed)), seed))


def test_copies_are_hidden_behind_computing(open_engine: Callable[..., DeviceEngine]) -> None:
    with open_engine(timeline=True) as engine:
        given, waiting = faces(MOST), []
        for _ in range(40):
            if len(waiting) == engine.spec.depth:
                engine.collect(waiting.pop(0))
            waiting.append(engine.submit(given))
        while waiting:
            engine.collect(waiting.pop(0))
        rows = engine.timeline[10:]
    assert any(
        later["copy_in"] < earlier["computed"] and later["copied_in"] > earlier["compute"]
        for earlier, later in itertools.pairwise(rows)
    )


def test_opened_and_closed_many_times(open_engine: Callable[..., DeviceEngine]) -> None:
    used = []
    for number in range(40):
        with open_engine() as engine:
            for _ in range(3):
                engine.infer(faces(2))
        if number in (9, 39):
            free, total = torch.cuda.mem_get_info()
            used.append(total - free)
    assert used[1] - used[0] < 64 << 20


def test_closed_in_flight_and_used_from_threads(open_engine: Callable[..., DeviceEngine]) -> None:
    engine = open_engine()
    ticket = engine.submit(faces(4))
    thread = threading.Thread(target=engine.close)
    thread.start()
    thread.join()
    with pytest.raises(EngineError):
        engine.collect(ticket)


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--networks", "shipped", "--seconds", "0.1"]
    command += ["--runs", "10", "--cycles", "5", "--soak-s", "1", "--limit-s", "0", "--out", str(tmp_path / "gpu.json")]
    subprocess.run(command, check=True, cwd=ROOT)
    assert '"faces_per_s"' in (tmp_path / "gpu.json").read_text()
