"""bfloat16 with the layers that spoil it in float32."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_tiny, needs_bf16
from fragile_network import blobs, outlier_network

from difffake.errors import EngineFileError, EngineHostError
from engines.choose import FLOAT32, EngineKind, open_engine
from engines.contract import Embeddings, Precision
from engines.manifest import FileDigest
from engines.mixed import bfloat16_within, read_mixed
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine
from engines.quantize import error_of, layers, read_simplified

pytestmark = needs_bf16


def errors(source: Path, keep: Sequence[str]) -> float:
    """Error of the embedding in bfloat16, in its standard deviations."""
    read = partial(read_mixed, keep=keep)
    with (
        OnnxEngine(source, threads=1) as exact,
        OpenVinoEngine(source, precision=Precision.BF16, threads=1, read=read) as engine,
    ):
        wanted, found = exact.infer(blobs(90)).embedding, engine.infer(blobs(90)).embedding
    return float(np.sqrt(np.square(found - wanted).mean()) / wanted.std(axis=0).mean())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "extractor.onnx"
    path.write_bytes(outlier_network(1.0))
    return path


def test_a_network_that_takes_bfloat16_well_keeps_no_layer(source: Path) -> None:
    assert bfloat16_within(source, blobs(90), lambda _: []) == []


def test_layers_that_spoil_bfloat16_stay_in_float32(source: Path) -> None:
    with OnnxEngine(source, threads=1) as exact:
        wanted = exact.infer(blobs(90))
    said: list[str] = []
    whole = errors(source, [])

    def too_far(found: Embeddings) -> list[str]:
        return ["too far"] * (error_of(found, wanted).embedding > whole / 2)

    kept = bfloat16_within(source, blobs(90), too_far, step=said.append)
    assert 1 <= len(kept) < 3
    assert any("too far" in words for words in said)
    assert errors(source, kept) < whole / 1.5


def test_where_nothing_less_will_do_all_layers_stay_in_float32(source: Path) -> None:
    kept = bfloat16_within(source, blobs(90), lambda _: ["never"])
    assert len(kept) == 3
    assert errors(source, kept) < errors(source, []) / 5


def test_a_layer_that_is_not_there_is_named(source: Path) -> None:
    with pytest.raises(EngineFileError, match=r"no layer 'another/Conv'.*") as caught:
        read_mixed(source, ["another/Conv"])
    assert "build the engine again" in caught.value.hint


def test_an_engine_that_names_its_layers_keeps_them(source: Path, tmp_path: Path) -> None:
    compiled = compile_tiny(source, tmp_path / "engines", EngineKind.OPENVINO_BF16)
    names = "".join(f"{name}\n" for name in layers(read_simplified(source)))
    (compiled.folder / FLOAT32).write_text(names)
    compiled.say(files={FLOAT32: FileDigest.of(names.encode())})
    opened = open_engine(EngineKind.OPENVINO_BF16, source, tmp_path / "engines", threads=1)
    with opened.engine as engine, OnnxEngine(source, threads=1) as exact:
        found, wanted = engine.infer(blobs(90)).embedding, exact.infer(blobs(90)).embedding
    error = float(np.sqrt(np.square(found - wanted).mean()) / wanted.std(axis=0).mean())
    assert error < errors(source, []) / 5
    assert opened.label.startswith("openvino-bf16-"), "another list of layers is another engine"


def test_a_file_system_that_is_read_only_leaves_the_other_engines(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`difffake doctor` and `work --engine auto` ended of it, in a container with a read-only root."""

    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("engines.mixed.tempfile.TemporaryDirectory", nowhere)
    with pytest.raises(EngineHostError, match="temporary") as refused:
        read_mixed(source, [])
    assert "TMPDIR" in refused.value.hint
