"""int8 from float32: the same network, near enough, with the layers that spoil it left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import tiny_extractor

from difffake.errors import EngineFileError, EngineHostError
from engines.contract import Precision
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine, check_host, is_quantised
from engines.quantize import Limits, layers, quantise, quantise_within, read_simplified, save

SIDE_PX = 32


@pytest.fixture(autouse=True)
def _int8_runs_here() -> None:
    pytest.importorskip("nncf", reason="int8 engines are made with nncf")
    try:
        check_host(Precision.INT8)
    except EngineHostError as error:
        pytest.skip(str(error))


def faces(count: int, side_px: int = SIDE_PX) -> np.ndarray:
    """Blobs of colour: pure noise would average to the same grey everywhere."""
    rng = np.random.default_rng(0)
    blobs = rng.integers(0, 256, (count, 3, 4, 4), np.uint8)
    return np.kron(blobs, np.ones((1, 1, side_px // 4, side_px // 4), np.uint8))


def outlier_network(outlier: float) -> bytes:
    """Three layers; a channel between the second and the third is ``outlier`` times as large as the others, and the
    third undoes that: in float32 nothing changes, one int8 scale for all channels crushes the others."""
    rng = np.random.default_rng(1)
    weights = {
        "first": rng.normal(size=(8, 3, 3, 3)) / 400,
        "second": rng.normal(size=(8, 8, 1, 1)) / 3,
        "third": rng.normal(size=(8, 8, 1, 1)) / 3,
        "head": rng.normal(size=(8, 1)),
    }
    weights["second"][0] *= outlier
    weights["third"][:, 0] /= outlier
    nodes = [
        helper.make_node("Cast", ["faces"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "first"], ["a"], name="first", strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="second"),
        helper.make_node("Conv", ["c", "third"], ["d"], name="third"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["column"], name="head"),
        helper.make_node("Squeeze", ["column", "axis"], ["logit"]),
    ]
    graph = helper.make_graph(
        nodes,
        "outlier",
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, ["B", 3, SIDE_PX, SIDE_PX])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 8]),
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["B"]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_an_int8_network_has_the_doors_of_the_original_and_nearly_its_numbers(tmp_path: Path) -> None:
    source, target = tmp_path / "extractor.onnx", tmp_path / "model.xml"
    source.write_bytes(outlier_network(1.0))
    pictures = faces(120)
    model = quantise(source, pictures[:90])
    assert is_quantised(model)
    save(model, target)
    with (
        OnnxEngine(source, threads=1) as exact,
        OpenVinoEngine(target, precision=Precision.INT8, threads=1) as int8,
    ):
        assert (int8.spec.dim, int8.spec.side_px, int8.spec.has_logit) == (exact.spec.dim, SIDE_PX, True)
        assert not int8.spec.exact
        wanted, found = exact.infer(pictures[90:]), int8.infer(pictures[90:])
    assert np.corrcoef(found.embedding.ravel(), wanted.embedding.ravel())[0, 1] > 0.999
    assert np.corrcoef(found.logit, wanted.logit)[0, 1] > 0.99


def test_layers_that_spoil_int8_stay_in_float32(tmp_path: Path) -> None:
    source = tmp_path / "extractor.onnx"
    source.write_bytes(outlier_network(300.0))
    assert len(layers(read_simplified(source))) == 3
    said: list[str] = []
    target = tmp_path / "model.xml"
    save(quantise_within(source, faces(120), step=said.append), target)
    assert any("in float32" in words for words in said)
    with (
        OnnxEngine(source, threads=1) as exact,
        OpenVinoEngine(target, precision=Precision.INT8, threads=1) as int8,
    ):
        wanted, found = exact.infer(faces(120)), int8.infer(faces(120))
    error = np.abs(found.embedding - wanted.embedding).std() / wanted.embedding.std(axis=0).mean()
    assert error < Limits().embedding
    # Everything in int8 would not do.
    plain = tmp_path / "plain.xml"
    save(quantise(source, faces(120)), plain)
    with OpenVinoEngine(plain, precision=Precision.INT8, threads=1) as int8:
        worse = int8.infer(faces(120))
    assert np.abs(worse.embedding - wanted.embedding).std() / wanted.embedding.std(axis=0).mean() > 2 * error


def test_a_network_that_takes_int8_well_is_quantised_whole(tmp_path: Path) -> None:
    source = tmp_path / "extractor.onnx"
    source.write_bytes(outlier_network(1.0))
    said: list[str] = []
    assert is_quantised(quantise_within(source, faces(120), step=said.append))
    assert not any("float32" in words for words in said)


def test_says_what_is_wrong_with_a_damaged_file(tmp_path: Path) -> None:
    source = tmp_path / "extractor.onnx"
    source.write_bytes(tiny_extractor()[:200])
    with pytest.raises(EngineFileError, match="cannot load"):
        quantise(source, faces(2))


def test_without_nncf_it_says_what_to_install(tmp_path: Path) -> None:
    source = tmp_path / "extractor.onnx"
    source.write_bytes(tiny_extractor())
    code = (
        "import sys; sys.modules['nncf'] = None\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from difffake.errors import MissingExtraError\n"
        "from engines.quantize import quantise\n"
        "try:\n"
        f"    quantise(Path({str(source)!r}), np.zeros((1, 3, 224, 224), np.uint8))\n"
        "except MissingExtraError as error:\n"
        "    print(error.hint)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "difffake[int8]" in run.stdout, run.stderr
