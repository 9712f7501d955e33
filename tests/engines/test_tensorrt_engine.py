"""The runner of compiled engines, over a CUDA and a TensorRT that forgive nothing."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from cuda_double import Cuda
from cuda_modules import Runtime
from gpu_engines import open_tensorrt, write_engine
from tensorrt_double import Api, host
from tiny import DIM, IDENTITY_DIM, IDENTITY_SIDE_PX, SIDE_PX, tiny_extractor, tiny_identity

from difffake.errors import DeviceLostError, EngineError, EngineFileError, EngineHostError
from engines.device_cuda import CudaDevice
from engines.device_engine import MARKS, batch_sizes
from engines.half import to_half
from engines.manifest import PLAN, FileDigest, GpuKind
from engines.onnx import OnnxEngine
from engines.profile import BatchProfile
from engines.tensorrt import TensorRtEngine, TensorRtNetwork
from engines.tensorrt_api import host_info
from engines.tensorrt_build import BuildSettings, build_plan


def faces(count: int, seed: int = 0, side: int = SIDE_PX) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_engine(tmp_path / "tensorrt-fp16", tiny_extractor(), most=6)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    path = tmp_path_factory.mktemp("exact") / "extractor.onnx"
    path.write_bytes(tiny_extractor())
    return OnnxEngine(path, threads=1)


@pytest.mark.parametrize("count", range(8))
def test_every_batch_size_gives_what_the_network_gives(folder: Path, exact: OnnxEngine, count: int) -> None:
    cuda = Cuda(seed=count)
    with open_tensorrt(folder, cuda) as engine:
        for again in range(4):  # call by call, captured in one buffer, in the other
            found, expected = engine.infer(faces(count, again)), exact.infer(faces(count, again))
            np.testing.assert_allclose(found.embedding, expected.embedding, rtol=1e-5, atol=1e-3)
            np.testing.assert_allclose(found.logit, expected.logit, rtol=1e-5, atol=1e-3)
    cuda.assert_released()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("pycuda", [False, True])
def test_batches_in_flight_are_not_mixed_up(folder: Path, exact: OnnxEngine, depth: int, pycuda: bool) -> None:
    for seed in range(4):
        cuda = Cuda(seed)
        with open_tensorrt(folder, cuda, depth=depth, pycuda=pycuda) as engine:
            sizes = np.random.default_rng(seed).integers(0, 7, 30)
            tickets: list = []
            for number, size in enumerate(sizes):
                if len(tickets) == depth:
                    check_oldest_ticket(engine, exact, tickets)
                tickets.append((engine.submit(faces(size, number)), number))
            while tickets:
                check_oldest_ticket(engine, exact, tickets)
            assert (engine.graphs > 0) is not pycuda
            assert bool(engine.uncaptured) is pycuda
        cuda.assert_released()


def check_oldest_ticket(engine: TensorRtEngine, exact: OnnxEngine, tickets: list) -> None:
    ticket, number = tickets.pop(0)
    found = engine.collect(ticket)
    expected = exact.infer(faces(ticket.faces, number))
    np.testing.assert_allclose(found.embedding, expected.embedding, rtol=1e-5, atol=1e-3)


def test_the_result_is_the_callers(folder: Path) -> None:
    with open_tensorrt(folder, Cuda()) as engine:
        first = engine.collect(engine.submit(faces(3)))
        kept = first.embedding.copy(), first.logit.copy()
        for seed in range(1, 6):
            engine.infer(faces(3, seed))
    assert (first.embedding == kept[0]).all()
    assert (first.logit == kept[1]).all()


def test_padding_is_black_and_never_comes_out(folder: Path) -> None:
    """The faces of an earlier, larger batch do not stand behind a smaller one."""
    cuda = Cuda()
    with open_tensorrt(folder, cuda, depth=1) as engine:
        engine.infer(faces(4))
        found = engine.infer(faces(3, 1))
        assert found.embedding.shape == (3, DIM)
        (pinned,) = [m for m in cuda.memories.values() if m.pinned and m.data.size == 6 * 3 * SIDE_PX**2]
        assert not pinned.data.reshape(6, -1)[3].any()


def test_one_graph_for_each_size_and_buffer(folder: Path) -> None:
    cuda = Cuda()
    with open_tensorrt(folder, cuda) as engine:
        for _ in range(6):
            for count in (1, 3, 4):
                engine.infer(faces(count))
        assert engine.graphs == 4  # sizes 1 and 4, two buffers
        assert not engine.uncaptured
        assert cuda.history.count("create_context") == 2
        launches, runs = cuda.history.count("launch"), 18
        assert launches == runs - 4  # once without a graph in each


def test_a_size_that_cannot_be_captured_is_run_call_by_call(folder: Path, exact: OnnxEngine) -> None:
    cuda = Cuda()
    with open_tensorrt(folder, cuda) as engine:
        cuda.fail("instantiate", at=0, error="InvalidValue")
        for seed in range(6):
            expected = exact.infer(faces(2, seed)).embedding
            np.testing.assert_allclose(engine.infer(faces(2, seed)).embedding, expected, rtol=1e-5, atol=1e-3)
        assert list(engine.uncaptured) == [2]
        assert engine.graphs == 0
    cuda.assert_released()


def test_an_identity_network_has_no_logit(tmp_path: Path) -> None:
    onnx = tiny_identity()
    folder = write_engine(
        tmp_path, onnx, network="identity", side_px=IDENTITY_SIDE_PX, dim=IDENTITY_DIM, has_logit=False
    )
    cuda = Cuda()
    with open_tensorrt(folder, cuda) as engine:
        found = engine.infer(faces(5, side=IDENTITY_SIDE_PX))
        assert found.embedding.shape == (5, IDENTITY_DIM)
        assert np.isnan(found.logit).all()
    cuda.assert_released()


def test_the_timeline_shows_what_overlaps(folder: Path) -> None:
    with open_tensorrt(folder, Cuda(), timeline=True) as engine:
        engine.infer(faces(20))
        assert len(engine.timeline) == 4
        for row in engine.timeline:
            assert [row[name] for name in MARKS] == sorted(row.values())
            assert len(set(row.values())) == len(MARKS)


def test_used_from_several_threads_in_turn(folder: Path) -> None:
    cuda, found = Cuda(), []
    engine = open_tensorrt(folder, cuda, pycuda=True)
    for seed in range(3):
        thread = threading.Thread(target=lambda seed=seed: found.append(engine.infer(faces(2, seed))))
        thread.start()
        thread.join()
    thread = threading.Thread(target=engine.close)
    thread.start()
    thread.join()
    assert len(found) == 3
    cuda.assert_released()


class TestWhatGoesWrong:
    def test_memory_is_full_at_any_allocation(self, folder: Path) -> None:
        for call in ("allocate", "allocate_pinned", "create_stream", "create_event", "create_context", "instantiate"):
            told = []
            for at in range(20):
                cuda = Cuda()
                cuda.fail(call, at)
                try:
                    with open_tensorrt(folder, cuda) as engine:
                        for _ in range(4):
                            engine.infer(faces(7))
                except DeviceLostError as error:
                    told.append(error.hint)
                cuda.assert_released()
            assert told, call
            assert all("the GPU's memory is full" in hint for hint in told)

    @pytest.mark.parametrize("error", ["IllegalAddress", "ECCUncorrectable", "LaunchFailure"])
    def test_the_gpu_is_lost_at_any_moment(self, folder: Path, error: str) -> None:
        for after in range(0, 40, 3):
            cuda = Cuda(seed=after)
            engine = open_tensorrt(folder, cuda)
            engine.infer(faces(2))
            cuda.lose(after, error)
            with pytest.raises(DeviceLostError) as caught:
                engine.infer(faces(120))
            assert "start the process again" in caught.value.hint
            with pytest.raises(DeviceLostError):
                engine.infer(faces(1))
            with pytest.raises(DeviceLostError):
                engine.submit(faces(1))
            engine.close()
            assert cuda.contexts == 0
            assert not cuda.mistakes

    def test_after_full_memory_the_engine_says_so_again(self, folder: Path) -> None:
        cuda = Cuda()
        with open_tensorrt(folder, cuda) as engine:
            cuda.fail("create_context", at=0)
            for _ in range(2):
                with pytest.raises(DeviceLostError, match="cannot make a context"):
                    engine.infer(faces(1))
        cuda.assert_released()

    def test_a_batch_that_fails_takes_no_other_with_it(self, folder: Path, exact: OnnxEngine) -> None:
        for seed in range(8):
            cuda = Cuda(seed)
            api = Api(cuda)
            with open_tensorrt(folder, cuda, api=api) as engine:
                first = engine.submit(faces(2))
                api.executes = False
                with pytest.raises(EngineError, match="enqueueV3: not ready"):
                    engine.submit(faces(2, 1))
                api.executes = True
                second = engine.submit(faces(2, 2))
                for ticket, batch in ((first, faces(2)), (second, faces(2, 2))):
                    expected = exact.infer(batch).embedding
                    np.testing.assert_allclose(engine.collect(ticket).embedding, expected, rtol=1e-5, atol=1e-3)
            cuda.assert_released()

    @pytest.mark.parametrize(
        "text", ["Cuda Runtime (an illegal memory access)", "Error Code 2: OutOfMemory (no further)"]
    )
    def test_what_tensorrt_says_of_a_lost_gpu(self, folder: Path, text: str) -> None:
        cuda = Cuda()
        api = Api(cuda)
        with open_tensorrt(folder, cuda, api=api) as engine:
            api.executes, api.complaint = False, text
            with pytest.raises(DeviceLostError, match=re.escape(text)):
                engine.infer(faces(1))
        cuda.assert_released()
        api.refuses, api.refusal = True, text
        with pytest.raises(DeviceLostError if "OutOf" in text else EngineHostError, match=re.escape(text)):
            open_tensorrt(folder, cuda, api=api)
        cuda.assert_released()

    def test_a_failure_within_infer_leaves_nothing_in_flight(self, folder: Path) -> None:
        cuda = Cuda()
        with open_tensorrt(folder, cuda) as engine:
            engine.infer(faces(6))
            cuda.fail("copy", at=4, error="InvalidValue")
            with pytest.raises(EngineError, match="InvalidValue"):
                engine.infer(faces(18))
            assert len(engine.infer(faces(18))) == 18
        cuda.assert_released()

    def test_closed_with_batches_in_flight(self, folder: Path) -> None:
        cuda = Cuda()
        engine = open_tensorrt(folder, cuda)
        for _ in range(2):
            engine.infer(faces(4))
        tickets = [engine.submit(faces(4)), engine.submit(faces(4))]
        engine.close()
        cuda.assert_released()
        with pytest.raises(EngineError):
            engine.collect(tickets[0])

    def test_a_refused_plan(self, folder: Path) -> None:
        cuda = Cuda()
        api = Api(cuda)
        api.refuses = True
        with pytest.raises(EngineHostError, match="wrong magic tag") as caught:
            open_tensorrt(folder, cuda, api=api)
        assert "build_engine.py" in caught.value.hint
        cuda.assert_released()

    def test_another_network_than_the_manifest_says(self, tmp_path: Path) -> None:
        cuda = Cuda()
        folder = write_engine(tmp_path, tiny_extractor(), dim=DIM + 1)
        with pytest.raises(EngineFileError, match="another network"):
            open_tensorrt(folder, cuda)
        cuda.assert_released()

    def test_a_plan_that_embeds_no_faces(self, tmp_path: Path) -> None:
        import onnx
        from onnx import helper

        model = onnx.load_from_string(tiny_extractor())
        model.graph.input[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
        folder = write_engine(tmp_path, model.SerializeToString())
        cuda = Cuda()
        with pytest.raises(EngineFileError, match="uint8"):
            open_tensorrt(folder, cuda)
        cuda.assert_released()

    @pytest.mark.parametrize(
        ("changes", "error", "text"),
        [
            ({"runtime_version": "10.12.0"}, EngineHostError, r"10\.12\.0"),
            ({"gpu": GpuKind("Other 1", "8.6")}, EngineHostError, "Other 1"),
            ({"files": {PLAN: FileDigest("0" * 64, 10)}}, EngineFileError, "too long"),
            ({"runtime": "openvino", "kind": "openvino-int8"}, EngineFileError, "no TensorRT engine"),
        ],
    )
    def test_a_manifest_that_does_not_fit(self, tmp_path: Path, changes: dict, error: type, text: str) -> None:
        cuda = Cuda()
        with pytest.raises(error, match=text):
            open_tensorrt(write_engine(tmp_path, tiny_extractor(), **changes), cuda)
        cuda.assert_released()

    def test_another_bundle(self, folder: Path) -> None:
        cuda = Cuda()
        with pytest.raises(EngineFileError, match="another extractor"):
            open_tensorrt(folder, cuda, onnx_sha256="0" * 64)
        cuda.assert_released()

    def test_this_machine_without_a_gpu(self, folder: Path) -> None:
        cuda = Cuda()
        api = Api(cuda)
        there = host(api)
        nowhere = type(there)(there.runtimes, None, (), "there is no NVIDIA driver", "install one")
        with pytest.raises(EngineHostError, match="no NVIDIA driver"):
            TensorRtEngine(folder, onnx_sha256=None, host=nowhere, api=api)


class TestRtx:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write_engine(tmp_path / "tensorrt_rtx-fp16", tiny_extractor(), rtx=True)

    def test_kernels_are_compiled_once_a_machine(self, folder: Path, own_cache: Path) -> None:
        for start in range(2):
            cuda = Cuda()
            api = Api(cuda, rtx=True)
            with open_tensorrt(folder, cuda, api=api) as engine:
                for _ in range(4):
                    engine.infer(faces(3))
                assert engine.graphs == 2
            assert api.compiled == (1 if start == 0 else 0)
            cuda.assert_released()
        (file,) = (own_cache / "difffake" / "tensorrt_rtx").iterdir()
        assert file.stat().st_mode & 0o777 == 0o600

    def test_a_cache_that_is_damaged_is_made_again(self, folder: Path, own_cache: Path) -> None:
        open_and_run(folder)
        (file,) = (own_cache / "difffake" / "tensorrt_rtx").iterdir()
        file.write_bytes(b"rubbish")
        assert open_and_run(folder) == 1
        assert open_and_run(folder) == 0

    def test_a_folder_that_cannot_be_written(self, folder: Path, own_cache: Path) -> None:
        own_cache.write_text("a file where the folder should be")
        assert open_and_run(folder) == 1

    def test_what_cannot_be_captured_is_not(self, folder: Path) -> None:
        cuda = Cuda()
        api = Api(cuda, rtx=True)
        api.capturable = False
        with open_tensorrt(folder, cuda, api=api) as engine:
            for _ in range(4):
                engine.infer(faces(3))
            assert engine.graphs == 0
            assert "cannot be captured" in engine.uncaptured[4]
        cuda.assert_released()


def test_the_real_runtime_says_what_it_lacks_on_a_host_without_a_gpu() -> None:
    """The true package gets as far as the driver; what it says is in the error."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    there = host_info()
    if there.gpus:
        pytest.skip("this host has a GPU: see tests/gpu")
    settings = BuildSettings(profile=BatchProfile(1, 2, 4))
    plan = build_plan(to_half(tiny_extractor()), settings, flavour="tensorrt_rtx", host=there).plan
    with pytest.raises(EngineHostError, match=r"refuses this plan.*CUDA driver") as caught:
        TensorRtNetwork(trt, plan)
    assert "build_engine.py" in caught.value.hint


def open_and_run(folder: Path) -> int:
    """Sizes for which kernels were compiled."""
    cuda = Cuda()
    api = Api(cuda, rtx=True)
    with open_tensorrt(folder, cuda, api=api) as engine:
        engine.infer(faces(2))
    cuda.assert_released()
    return api.compiled


@pytest.mark.slow
def test_opened_and_closed_a_thousand_times(folder: Path) -> None:
    """Nothing is left in the double, and the process does not grow."""
    cuda = Cuda()
    sizes = []
    for number in range(1000):
        with open_tensorrt(folder, cuda) as engine:
            for _ in range(3):
                engine.infer(faces(1))
        cuda.history.clear()
        cuda.assert_released()
        if number in (199, 999):
            sizes.append(resident_bytes())
    assert sizes[1] - sizes[0] < 16 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_batch_sizes() -> None:
    assert batch_sizes(1, 64) == (1, 2, 4, 8, 16, 32, 64)
    assert batch_sizes(3, 20) == (3, 4, 8, 16, 20)
    assert batch_sizes(1, 1) == (1,)


def test_a_gpu_is_closed_where_opening_fails(tmp_path: Path) -> None:
    cuda = Cuda()
    device = CudaDevice(runtime=Runtime(cuda))
    with device.active():
        device.allocate(100)
    with pytest.raises(EngineFileError):
        TensorRtEngine(tmp_path / "nothing", onnx_sha256=None, memory=device)
    cuda.assert_released()
