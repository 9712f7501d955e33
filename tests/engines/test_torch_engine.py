"""PyTorch's engine on the CUDA double, and ONNX files as torch modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cuda_double import Cuda
from gpu_engines import DoubleTorch, open_torch
from onnx import TensorProto, helper, numpy_helper
from tiny import DIM, SIDE_PX, tiny_extractor, tiny_identity

import engines.torch_cuda
from difffake.bundle import default_bundle_path
from difffake.errors import DeviceLostError, EngineError, EngineFileError, EngineHostError
from difffake.faces.centerface import WEIGHTS
from difffake.faces.runtime import INPUT, OUTPUTS, DetectorRuntime, open_network
from engines.contract import Precision
from engines.half import to_half
from engines.onnx import OnnxEngine
from engines.torch_cuda import TorchCudaEngine, TorchDevice
from engines.torch_maps import TorchMaps
from engines.torch_onnx import load_maps, load_onnx


def faces(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE_PX, SIDE_PX), np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "extractor.onnx"
    path.write_bytes(tiny_extractor())
    return path


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_gives_what_the_network_gives(path: Path, precision: Precision) -> None:
    cuda = Cuda()
    with open_torch(path, cuda, precision=precision) as engine:
        exact = OnnxEngine(path, threads=1)
        for seed in range(5):
            found, expected = engine.infer(faces(7, seed)), exact.infer(faces(7, seed))
            np.testing.assert_allclose(found.embedding, expected.embedding, rtol=2e-2, atol=0.5)
        assert engine.graphs == 2  # one size, in both buffers
        assert engine.spec.precision is precision
        assert engine.spec.backend.startswith("torch ")
    cuda.assert_released()


def test_the_graph_that_tensorrt_gets_is_run_as_it_is_typed(tmp_path: Path) -> None:
    shipped = default_bundle_path() / "extractor.onnx"
    (tmp_path / "half.onnx").write_bytes(to_half(shipped.read_bytes()))
    cuda = Cuda()
    with open_torch(tmp_path / "half.onnx", cuda, dim=1280, max_batch=2) as engine:
        found, expected = engine.infer(faces(2)), OnnxEngine(shipped, threads=1).infer(faces(2))
    cosine = (found.embedding * expected.embedding).sum(1) / (
        np.linalg.norm(found.embedding, axis=1) * np.linalg.norm(expected.embedding, axis=1)
    )
    assert cosine.min() > 0.9999
    assert (found.embedding != expected.embedding).any()


def test_memory_that_is_full_leaves_nothing(path: Path) -> None:
    cuda = Cuda(memory_bytes=1000)
    device = DoubleTorch(cuda)
    with pytest.raises(DeviceLostError):
        TorchCudaEngine(load_onnx(path), side_px=SIDE_PX, dim=DIM, memory=device)
    cuda.assert_released()
    assert device.loaded == 0


def test_an_identity_network_has_no_logit(tmp_path: Path) -> None:
    path = tmp_path / "identity.onnx"
    path.write_bytes(tiny_identity())
    cuda = Cuda()
    with open_torch(path, cuda, side_px=150, dim=8, has_logit=False) as engine:
        found = engine.infer(np.zeros((3, 3, 150, 150), np.uint8))
        assert np.isnan(found.logit).all()
    cuda.assert_released()


def test_no_gpu_or_no_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(EngineHostError) as caught:
            TorchDevice()
        assert caught.value.hint
    monkeypatch.setattr(engines.torch_cuda.importlib, "import_module", lambda name: missing(name))
    with pytest.raises(EngineHostError, match="torch cannot be imported"):
        TorchDevice()


def missing(name: str) -> None:
    raise ImportError(f"No module named {name!r}")


def test_the_names_of_torch_that_only_a_gpu_can_try() -> None:
    assert all(
        hasattr(torch.cuda, name)
        for name in ("CUDAGraph", "ExternalStream", "OutOfMemoryError", "empty_cache", "graph")
    )
    assert "capture_error_mode" in torch.cuda.graph.__init__.__code__.co_varnames
    assert all(hasattr(torch.cuda.CUDAGraph, name) for name in ("replay", "reset"))


def test_the_detectors_maps_are_those_of_onnx_runtime() -> None:
    exact = open_network(WEIGHTS, DetectorRuntime.ONNX, 1)
    maps = TorchMaps(load_maps(WEIGHTS, INPUT, OUTPUTS), place="cpu")
    for batch, height, width in ((1, 64, 96), (3, 128, 128), (1, 64, 96)):
        pictures = np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), np.uint8)
        for mine, theirs in zip(maps(pictures), exact(pictures), strict=True):
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, atol=1e-3)


class TestOnnxFiles:
    @pytest.mark.parametrize("name", ["extractor.onnx", "identity.onnx"])
    def test_the_shipped_networks_are_the_same(self, name: str) -> None:
        path = default_bundle_path() / name
        engine = OnnxEngine(path, threads=1)
        side = engine.spec.side_px
        batch = np.random.default_rng(0).integers(0, 256, (2, 3, side, side), np.uint8)
        found = load_onnx(path).eval()(torch.from_numpy(batch))
        expected = engine.infer(batch)
        embedding = found[0] if isinstance(found, tuple) else found
        scale = float(np.abs(expected.embedding).max())
        np.testing.assert_allclose(embedding.detach().numpy(), expected.embedding, atol=1e-4 * scale)
        if isinstance(found, tuple):
            np.testing.assert_allclose(found[1].detach().numpy(), expected.logit, atol=1e-3)

    @pytest.mark.parametrize("backbone", ["efficientnet_b0", "resnet18"])
    def test_other_backbones_are_the_same(self, backbone: str, tmp_path: Path) -> None:
        from difffake.extractor import build_extractor, export_onnx

        torch.manual_seed(0)
        extractor = build_extractor(backbone, pretrained=False).eval()
        export_onnx(extractor, tmp_path / "f.onnx", side_px=64)
        batch = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), np.uint8))
        module = load_onnx(tmp_path / "f.onnx").eval()
        with torch.inference_mode():
            for mine, theirs in zip(module(batch), extractor(batch), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"", "another network"),
            (b"\xff" * 100, "damaged"),
            (tiny_extractor()[:-2000], "damaged"),
        ],
    )
    def test_damaged(self, data: bytes, text: str, tmp_path: Path) -> None:
        (tmp_path / "x.onnx").write_bytes(data)
        with pytest.raises(EngineFileError, match=text):
            load_onnx(tmp_path / "x.onnx")

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(EngineFileError, match="No such file"):
            load_onnx(tmp_path / "x.onnx")

    @pytest.mark.parametrize(
        "node",
        [
            helper.make_node("Erf", ["pixels"], ["grid"]),
            helper.make_node(
                "AveragePool", ["pixels"], ["grid"], kernel_shape=[56, 56], strides=[56, 56], pads=[1] * 4
            ),
            helper.make_node("Pad", ["pixels", "computed"], ["grid"]),
        ],
    )
    def test_what_is_not_covered_is_no_guess(self, node: onnx.NodeProto, tmp_path: Path) -> None:
        model = onnx.load_from_string(tiny_extractor())
        model.graph.node[1].CopyFrom(node)
        (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(EngineFileError) as caught:
            load_onnx(tmp_path / "x.onnx")
        assert isinstance(caught.value, EngineError)
        assert caught.value.hint

    def test_padding_that_is_not_even(self, tmp_path: Path) -> None:
        """As networks trained in TensorFlow have it, before a strided convolution and a pool."""
        rng = np.random.default_rng(0)
        nodes = [
            helper.make_node("Cast", ["faces"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[0, 1, 2, 1], kernel_shape=[3, 3]),
            helper.make_node("MaxPool", ["y"], ["z"], strides=[2, 2], pads=[0, 0, 1, 1], kernel_shape=[3, 3]),
            helper.make_node("Slice", ["z", "from", "to", "axes"], ["s"]),
            helper.make_node("Unsqueeze", ["s", "axes"], ["u"]),
            helper.make_node("ReduceMean", ["u"], ["m"], axes=[2, 3, 4], keepdims=0),
            helper.make_node("Identity", ["m"], ["embedding"]),
        ]
        graph = helper.make_graph(
            nodes,
            "pads",
            [helper.make_tensor_value_info("faces", TensorProto.UINT8, ["B", 3, 32, 32])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 5])],
            [
                numpy_helper.from_array(rng.normal(size=(5, 3, 3, 3)).astype(np.float32), "w"),
                numpy_helper.from_array(np.array([1], np.int64), "from"),
                numpy_helper.from_array(np.array([-1], np.int64), "to"),
                numpy_helper.from_array(np.array([2], np.int64), "axes"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
        batch = rng.integers(0, 256, (2, 3, 32, 32), np.uint8)
        found = load_onnx(tmp_path / "x.onnx")(torch.from_numpy(batch))
        expected = OnnxEngine(tmp_path / "x.onnx", threads=1).infer(batch).embedding
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-3)
