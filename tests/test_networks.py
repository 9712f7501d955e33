"""A bundle's networks on several engines, and what model ids say of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from compiled import compile_tiny, needs_int8
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny import DIM, IDENTITY_SIDE_PX, SIDE_PX, tiny_extractor, tiny_identity, write_tiny_bundle

from difffake.bundle import Bundle
from difffake.detector import Detector
from difffake.errors import EngineError, EngineFileError
from difffake.faces.runtime import DetectorRuntime
from difffake.networks import EXTRACTOR, IDENTITY, EngineChoice, ModelName, open_networks
from difffake.settings import ScanSettings
from engines.choose import EngineKind
from engines.onnx import OnnxEngine

INT8 = EngineKind.OPENVINO_INT8
labels = st.sampled_from(
    ["onnx", "openvino-fp32", "openvino-bf16", "openvino-int8-0a1b2c3d", "tensorrt_rtx-fp16-ffffffff"]
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "bundle", identity=True)


@given(st.text(max_size=60), labels, labels, st.sampled_from(DetectorRuntime))
def test_model_ids_are_read_as_they_are_written(
    model: str, extractor: str, identity: str, detector: DetectorRuntime
) -> None:
    assume(ModelName.parse(model) == ModelName(model))  # no bundle that is called like an engine
    name = ModelName(model, extractor, identity, detector.value)
    assert ModelName.parse(str(name)) == name
    assert name.choice().kind == EngineKind.of_label(extractor)
    assert name.choice().identity == EngineKind.of_label(identity)
    assert name.choice().detector is detector


@given(st.text(st.characters(), max_size=256))
def test_any_text_is_a_model_id(text: str) -> None:
    assert str(ModelName.parse(text)) == text


def test_the_exact_engines_leave_no_trace_in_the_model_id(bundle: Bundle) -> None:
    networks = open_networks(bundle, threads=1)
    assert networks.model_id == bundle.model_id
    assert networks.identity is not None
    assert (networks.extractor.spec.side_px, networks.identity.spec.side_px) == (SIDE_PX, IDENTITY_SIDE_PX)
    networks.close()
    assert open_networks(bundle, EngineChoice(EngineKind.AUTO), threads=1).model_id == bundle.model_id


@needs_int8
def test_the_identity_network_follows_where_its_engine_lies_ready(bundle: Bundle) -> None:
    engines = bundle.path / "engines"
    compile_tiny(bundle.engine_path, engines / EXTRACTOR, INT8)
    one = open_networks(bundle, EngineChoice(INT8), threads=1)
    assert re.fullmatch(re.escape(bundle.model_id) + r"\+openvino-int8-[0-9a-f]{8}", one.model_id)
    assert one.identity is not None
    assert one.identity.spec.backend.startswith("onnxruntime")
    assert bundle.identity_path is not None
    compiled = compile_tiny(bundle.identity_path, engines / IDENTITY, INT8)
    both = open_networks(bundle, EngineChoice(INT8), threads=1)
    assert re.fullmatch(re.escape(one.model_id) + r"\+identity-openvino-int8-[0-9a-f]{8}", both.model_id)
    again = open_networks(bundle, ModelName.parse(one.model_id).choice(), threads=1)
    assert again.model_id == one.model_id
    # Somebody compiled it: that it does not run must not go unnoticed.
    (compiled.folder / "model.bin").unlink()
    with pytest.raises(EngineFileError, match=r"model\.bin"):
        open_networks(bundle, EngineChoice(INT8), threads=1)


@needs_int8
def test_engines_of_a_folder_of_its_own(bundle: Bundle, tmp_path: Path) -> None:
    compile_tiny(bundle.engine_path, tmp_path / "engines" / EXTRACTOR, INT8)
    choice = EngineChoice(EngineKind.AUTO, tmp_path / "engines")
    assert "+openvino-int8" in open_networks(bundle, choice, threads=1).model_id


def test_what_was_opened_is_closed_when_the_second_network_fails(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(OnnxEngine, "close", lambda engine: closed.append(engine.spec.side_px))
    assert bundle.identity_path is not None
    bundle.identity_path.write_bytes(b"damaged since the bundle was read")
    with pytest.raises(EngineError):
        open_networks(bundle, threads=1)
    assert closed == [SIDE_PX]


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        (
            "extractor.onnx",
            tiny_extractor(dim=DIM + 1),
            "its extractor takes 224 px and gives 17 numbers, the manifest",
        ),
        ("extractor.onnx", tiny_identity(), "its extractor takes 150 px and gives 8 numbers and no logit"),
        ("identity.onnx", tiny_extractor(), "its identity takes 224 px"),
    ],
)
def test_a_network_that_is_not_the_manifests_is_refused(bundle: Bundle, file: str, data: bytes, message: str) -> None:
    (bundle.path / file).write_bytes(data)
    with pytest.raises(EngineFileError, match=message):
        open_networks(bundle, threads=1)


@needs_int8
def test_a_scan_tells_its_engine_and_says_the_same(bundle: Bundle, clips: dict[str, Path]) -> None:
    compile_tiny(bundle.engine_path, bundle.path / "engines" / EXTRACTOR, INT8)
    settings = ScanSettings(threads=1, analysis_side_px=320, duration_s=3)
    results = []
    for kind, runtime in ((EngineKind.ONNX, DetectorRuntime.ONNX), (INT8, DetectorRuntime.OPENVINO_FP32)):
        with Detector.load(bundle.path, settings, EngineChoice(kind, detector=runtime)) as detector:
            results.append(detector.scan(clips["woman"]))
    exact, fast = results
    assert exact.model_id == bundle.model_id
    assert fast.model_id.startswith(f"{bundle.model_id}+openvino-int8-")
    assert fast.model_id.endswith("+detector-openvino-fp32")
    (one,), (other,) = exact.people, fast.people
    assert one.frames.time_s == other.frames.time_s
    first, second = (np.array(person.frames.artifact_p, float) for person in (one, other))
    assert np.abs(first - second).max() < 0.1
    assert exact.settings == fast.settings
