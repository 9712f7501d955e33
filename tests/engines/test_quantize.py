"""int8 from float32: the same network, near enough, with the layers that spoil it left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fragile_network import SIDE_PX, blobs, outlier_network
from tiny import tiny_extractor

from difffake.errors import EngineFileError, EngineHostError
from engines.contract import Precision
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine, check_host, is_quantised
from engines.quantize import Limits, layers, quantise, quantise_within, read_simplified, save


@pytest.fixture(autouse=True)
def _int8_runs_here() -> None:
    pytest.importorskip("nncf", reason="int8 engines are made with nncf")
    try:
        check_host(Precision.INT8)
    except EngineHostError as error:
        pytest.skip(str(error))


def test_an_int8_network_has_the_doors_of_the_original_and_nearly_its_numbers(tmp_path: Path) -> None:
    source, target = tmp_path / "extractor.onnx", tmp_path / "model.xml"
    source.write_bytes(outlier_network(1.0))
    pictures = blobs(120)
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
    save(quantise_within(source, blobs(120), step=said.append), target)
    assert any("in float32" in words for words in said)
    with (
        OnnxEngine(source, threads=1) as exact,
        OpenVinoEngine(target, precision=Precision.INT8, threads=1) as int8,
    ):
        wanted, found = exact.infer(blobs(120)), int8.infer(blobs(120))
    error = np.abs(found.embedding - wanted.embedding).std() / wanted.embedding.std(axis=0).mean()
    assert error < 0.15
    # Everything in int8 would not do.
    plain = tmp_path / "plain.xml"
    save(quantise(source, blobs(120)), plain)
    with OpenVinoEngine(plain, precision=Precision.INT8, threads=1) as int8:
        worse = int8.infer(blobs(120))
    assert np.abs(worse.embedding - wanted.embedding).std() / wanted.embedding.std(axis=0).mean() > 2 * error


def test_a_network_that_takes_int8_well_is_quantised_whole(tmp_path: Path) -> None:
    source = tmp_path / "extractor.onnx"
    source.write_bytes(outlier_network(1.0))
    said: list[str] = []
    loose = Limits(logit=0.5, embedding=0.5)
    assert is_quantised(quantise_within(source, blobs(120), limits=loose, step=said.append))
    assert not any("float32" in words for words in said)


def test_says_what_is_wrong_with_a_damaged_file(tmp_path: Path) -> None:
    source = tmp_path / "extractor.onnx"
    source.write_bytes(tiny_extractor()[:200])
    with pytest.raises(EngineFileError, match="cannot load"):
        quantise(source, blobs(2))


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
