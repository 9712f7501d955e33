from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny import DIM, SIDE_PX, tiny_extractor

from difffake.errors import EngineError, OutOfMemoryError
from engines.onnx import OnnxEngine


@pytest.fixture
def extractor(tmp_path: Path) -> Path:
    path = tmp_path / "extractor.onnx"
    path.write_bytes(tiny_extractor())
    return path


def faces(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE_PX, SIDE_PX), np.uint8)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_batches_of_any_length_equal_single_faces(extractor: Path, count: int) -> None:
    batch = faces(count)
    with OnnxEngine(extractor, threads=1, max_batch=4) as engine:
        together = engine.infer(batch)
        singles = [engine.infer(face[None]) for face in batch]
    assert together.embedding.shape == (count, DIM)
    assert together.embedding.dtype == np.float32
    assert len(together) == count
    for row, single in enumerate(singles):
        np.testing.assert_allclose(together.embedding[row], single.embedding[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together.logit[row], single.logit[0], rtol=1e-4, atol=1e-5)


def test_accepts_faces_that_are_a_transposed_view(extractor: Path) -> None:
    upright = np.ascontiguousarray(faces(2).transpose(0, 2, 3, 1))
    with OnnxEngine(extractor, threads=1) as engine:
        view = engine.infer(upright.transpose(0, 3, 1, 2)).embedding
        np.testing.assert_array_equal(view, engine.infer(faces(2)).embedding)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, SIDE_PX, SIDE_PX), np.float32),
        np.zeros((1, SIDE_PX, SIDE_PX, 3), np.uint8),
        np.zeros((3, SIDE_PX, SIDE_PX), np.uint8),
    ],
)
def test_refuses_a_batch_of_another_form(extractor: Path, batch: np.ndarray) -> None:
    with OnnxEngine(extractor, threads=1) as engine, pytest.raises(EngineError, match="engine got faces"):
        engine.infer(batch)


def test_a_host_without_memory_is_no_damaged_file(extractor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told to install the bundle again, and a worker buried good records for it."""

    class Full:
        def __init__(self, *_: object, **__: object) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model from extractor.onnx failed:std::bad_alloc")

        def run(self, *_: object) -> None:
            raise RuntimeError("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 19267584")

    with OnnxEngine(extractor, threads=1) as engine:
        engine._session = Full.__new__(Full)
        with pytest.raises(OutOfMemoryError, match="19267584"):
            engine.infer(faces(1))
    monkeypatch.setattr("engines.onnx.ort.InferenceSession", Full)
    with pytest.raises(OutOfMemoryError, match="bad_alloc"):
        OnnxEngine(extractor)


def test_says_what_is_wrong_with_a_damaged_file(extractor: Path) -> None:
    extractor.write_bytes(extractor.read_bytes()[:100])
    with pytest.raises(EngineError, match=r"cannot load extractor\.onnx") as caught:
        OnnxEngine(extractor)
    assert caught.value.hint


def test_refuses_a_network_that_embeds_no_faces(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(tiny_extractor().replace(b"embedding", b"embedDING"))
    with pytest.raises(EngineError, match="embeds no faces"):
        OnnxEngine(path)


@pytest.mark.parametrize(("port", "shape"), [("output", ["B"]), ("output", []), ("input", [1, 3, SIDE_PX, SIDE_PX])])
def test_refuses_ports_of_another_shape(tmp_path: Path, port: str, shape: list[str | int]) -> None:
    model = onnx.load_from_string(tiny_extractor())
    value = getattr(model.graph, port)[0]
    value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"embeds no faces|cannot load"):
        OnnxEngine(path)


def test_a_closed_engine_refuses_to_run(extractor: Path) -> None:
    with OnnxEngine(extractor) as engine:
        pass
    with pytest.raises(EngineError, match="closed"):
        engine.infer(faces(1))


def test_importing_engines_loads_nothing_heavy() -> None:
    code = (
        "import sys, engines.contract, engines.onnx, difffake.scoring;"
        "bad = {'torch', 'sklearn', 'tensorrt', 'pycuda', 'openvino', 'cuda', 'scipy'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
