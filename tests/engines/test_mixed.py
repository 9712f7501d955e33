"""bfloat16 with the layers that spoil it in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from compiled import needs_bf16
from fragile_network import blobs, outlier_network

from engines.contract import Embeddings, Precision
from engines.mixed import bfloat16_within
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine
from engines.quantize import error_of

pytestmark = needs_bf16


def errors(path: Path, precision: Precision, source: Path) -> float:
    """Error of the embedding, in its standard deviations."""
    with OnnxEngine(source, threads=1) as exact, OpenVinoEngine(path, precision=precision, threads=1) as engine:
        wanted, found = exact.infer(blobs(90)).embedding, engine.infer(blobs(90)).embedding
    return float(np.sqrt(np.square(found - wanted).mean()) / wanted.std(axis=0).mean())


def test_a_network_that_takes_bfloat16_well_needs_no_file(tmp_path: Path) -> None:
    source, target = tmp_path / "extractor.onnx", tmp_path / "model.xml"
    source.write_bytes(outlier_network(1.0))
    assert bfloat16_within(source, target, blobs(90), lambda _: []) == []
    assert not target.exists()


def test_layers_that_spoil_bfloat16_stay_in_float32(tmp_path: Path) -> None:
    source, target = tmp_path / "extractor.onnx", tmp_path / "model.xml"
    source.write_bytes(outlier_network(1.0))
    with OnnxEngine(source, threads=1) as exact:
        wanted = exact.infer(blobs(90))
    said: list[str] = []
    whole = errors(source, Precision.BF16, source)

    def too_far(found: Embeddings) -> list[str]:
        return ["too far"] * (error_of(found, wanted).embedding > whole / 2)

    kept = bfloat16_within(source, target, blobs(90), too_far, step=said.append)
    assert 1 <= len(kept) < 3
    assert any("too far" in words for words in said)
    assert errors(target, Precision.BF16, source) < whole / 1.5


def test_where_nothing_less_will_do_all_layers_stay_in_float32(tmp_path: Path) -> None:
    source, target = tmp_path / "extractor.onnx", tmp_path / "model.xml"
    source.write_bytes(outlier_network(1.0))
    assert len(bfloat16_within(source, target, blobs(90), lambda _: ["never"])) == 3
    assert errors(target, Precision.BF16, source) < errors(source, Precision.BF16, source) / 5
