"""What is OpenVINO's own: precisions, what a processor can do, damaged files."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
from tiny import DIM, IDENTITY_DIM, IDENTITY_SIDE_PX, SIDE_PX, tiny_extractor, tiny_identity

import engines.openvino
from difffake.errors import EngineError, EngineFileError, EngineHostError
from engines.contract import Precision
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine


@pytest.fixture
def extractor(tmp_path: Path) -> Path:
    path = tmp_path / "extractor.onnx"
    path.write_bytes(tiny_extractor())
    return path


@pytest.fixture
def ir(tmp_path: Path, extractor: Path) -> Path:
    """The same network as an IR in two files; not quantised."""
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Core().read_model(extractor), path, compress_to_fp16=False)
    return path


def faces(count: int, side_px: int = SIDE_PX) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side_px, side_px), np.uint8)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_gives_what_onnx_runtime_gives(extractor: Path, count: int) -> None:
    batch = faces(count)
    with (
        OnnxEngine(extractor, threads=1) as theirs,
        OpenVinoEngine(extractor, precision=Precision.FP32, threads=1, max_batch=4) as ours,
    ):
        found, wanted = ours.infer(batch), theirs.infer(batch)
        np.testing.assert_allclose(found.embedding, wanted.embedding, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.logit, wanted.logit, rtol=1e-4, atol=1e-4)
        assert found.embedding.shape == (count, DIM)
        assert ours.spec.exact


@pytest.mark.parametrize("count", [0, 1, 2, 3, 29])
def test_a_batch_that_cores_share_stays_in_order(extractor: Path, count: int) -> None:
    batch = faces(count)
    with (
        OpenVinoEngine(extractor, precision=Precision.FP32, threads=1) as alone,
        OpenVinoEngine(extractor, precision=Precision.FP32, threads=3, max_batch=16) as shared,
    ):
        wanted, found = alone.infer(batch), shared.infer(batch)
        np.testing.assert_allclose(found.embedding, wanted.embedding, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.logit, wanted.logit, rtol=1e-5, atol=1e-5)
        ahead = [shared.submit(part) for part in (batch[:7], batch[7:20])]
        late = np.concatenate([shared.collect(ticket).logit for ticket in ahead])
        np.testing.assert_allclose(late, wanted.logit[:20], rtol=1e-5, atol=1e-5)
        shared.submit(batch[:16])  # closed with pieces in flight


def test_runs_an_ir_and_an_identity_network(ir: Path, tmp_path: Path) -> None:
    with OpenVinoEngine(ir, precision=Precision.FP32, threads=1) as engine:
        assert engine.infer(faces(2)).embedding.shape == (2, DIM)
    path = tmp_path / "identity.onnx"
    path.write_bytes(tiny_identity())
    with OpenVinoEngine(path, precision=Precision.FP32, threads=1) as engine:
        found = engine.infer(faces(2, IDENTITY_SIDE_PX))
        assert (engine.spec.has_logit, found.embedding.shape) == (False, (2, IDENTITY_DIM))
        assert np.isnan(found.logit).all()


def test_takes_faces_that_are_a_transposed_or_read_only_view(extractor: Path) -> None:
    upright = np.ascontiguousarray(faces(2).transpose(0, 2, 3, 1))
    fixed = faces(2)
    fixed.flags.writeable = False
    with OpenVinoEngine(extractor, precision=Precision.FP32, threads=1) as engine:
        wanted = engine.infer(faces(2)).embedding
        np.testing.assert_array_equal(engine.infer(upright.transpose(0, 3, 1, 2)).embedding, wanted)
        np.testing.assert_array_equal(engine.infer(fixed).embedding, wanted)
        np.testing.assert_array_equal(engine.collect(engine.submit(fixed)).embedding, wanted)


def test_results_outlive_the_next_run_and_the_engine(extractor: Path) -> None:
    with OpenVinoEngine(extractor, precision=Precision.FP32, threads=1) as engine:
        first = engine.infer(faces(2))
        kept = first.embedding.copy()
        for _ in range(3):
            engine.infer(np.zeros_like(faces(2)))
    np.testing.assert_array_equal(first.embedding, kept)


def test_a_precision_that_the_processor_lacks_is_refused_not_replaced(
    extractor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        """An OpenVINO on a processor without bfloat16."""

        def get_property(self, _device: str, name: str) -> object:
            return {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"], "FULL_DEVICE_NAME": "Old CPU"}[name]

    monkeypatch.setattr(engines.openvino, "open_core", Old)
    monkeypatch.setattr(engines.openvino, "cpu_flags", frozenset)
    with pytest.raises(EngineHostError, match=r"Old CPU.* bfloat16") as caught:
        OpenVinoEngine(extractor, precision=Precision.BF16)
    assert "--engine" in caught.value.hint
    with pytest.raises(EngineHostError, match="VNNI"):
        OpenVinoEngine(extractor, precision=Precision.INT8)
    with pytest.raises(EngineHostError, match="not fp16"):
        OpenVinoEngine(extractor, precision=Precision.FP16)


def test_a_float_network_does_not_pass_for_int8(ir: Path) -> None:
    try:
        engines.openvino.check_host(Precision.INT8)
    except EngineHostError as error:
        pytest.skip(str(error))
    with pytest.raises(EngineFileError, match="no int8 network"):
        OpenVinoEngine(ir, precision=Precision.INT8)


def test_says_what_is_wrong_with_a_damaged_onnx_file(extractor: Path) -> None:
    extractor.write_bytes(extractor.read_bytes()[:100])
    with pytest.raises(EngineFileError, match=r"cannot load extractor\.onnx") as caught:
        OpenVinoEngine(extractor, precision=Precision.FP32)
    assert "again" in caught.value.hint


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("part", [".xml", ".bin"])
def test_says_what_is_wrong_with_a_truncated_ir(ir: Path, part: str, share: float) -> None:
    file = ir.with_suffix(part)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(EngineFileError) as caught:
        OpenVinoEngine(ir, precision=Precision.FP32)
    assert "build_engine.py" in caught.value.hint


@pytest.mark.parametrize("part", [".xml", ".bin"])
def test_says_which_half_of_an_ir_is_missing(ir: Path, part: str) -> None:
    ir.with_suffix(part).unlink()
    with pytest.raises(EngineFileError, match=f"model{part}"):
        OpenVinoEngine(ir, precision=Precision.FP32)


def test_bounds_what_it_reads(ir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.openvino, "MAX_WEIGHTS_BYTES", 10)
    with pytest.raises(EngineFileError, match=r"model\.bin has \d+ bytes, not 1 to 10"):
        OpenVinoEngine(ir, precision=Precision.FP32)


def test_refuses_a_network_that_embeds_no_faces(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(tiny_extractor().replace(b"embedding", b"embedDING"))
    with pytest.raises(EngineFileError, match="embeds no faces"):
        OpenVinoEngine(path, precision=Precision.FP32)


def test_a_closed_engine_refuses_to_run(extractor: Path) -> None:
    with OpenVinoEngine(extractor, precision=Precision.FP32) as engine:
        pass
    with pytest.raises(EngineError, match="closed"):
        engine.infer(faces(1))


def test_nothing_is_written_to_the_disk(extractor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with OpenVinoEngine(extractor, precision=Precision.FP32, threads=1) as engine:
        engine.infer(faces(1))
    assert not list(work.iterdir())


def test_without_openvino_it_says_what_to_install(extractor: Path) -> None:
    code = (
        "import sys; sys.modules['openvino'] = None\n"
        "from pathlib import Path\n"
        "from difffake.errors import EngineHostError\n"
        "from engines.contract import Precision\n"
        "from engines.openvino import OpenVinoEngine\n"
        "try:\n"
        f"    OpenVinoEngine(Path({str(extractor)!r}), precision=Precision.FP32)\n"
        "except EngineHostError as error:\n"
        "    print(error.hint)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "difffake[openvino]" in run.stdout, run.stderr


def test_threads_may_ask_at_once(extractor: Path) -> None:
    batches = [faces(3) // (1 + i) for i in range(6)]
    with OpenVinoEngine(extractor, precision=Precision.FP32, threads=1) as engine:
        wanted = [engine.infer(batch).embedding for batch in batches]
        with ThreadPoolExecutor(len(batches)) as pool:
            found = list(pool.map(engine.infer, batches))
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine.embedding, theirs, rtol=1e-5)
