"""Which engine runs: by name and no other, or the best that can, with a reason for each that was passed over."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import able, compile_tiny, needs_bf16, needs_int8
from structlog.testing import capture_logs
from tiny import SIDE_PX, tiny_extractor

import engines.openvino
from difffake.errors import DeviceLostError, EngineError, EngineFileError, EngineHostError
from difffake.faces import CenterFace
from difffake.faces.runtime import DetectorRuntime
from engines.choose import EngineKind, candidates, is_there, open_engine
from engines.contract import Precision
from engines.manifest import FileDigest
from engines.tensorrt_api import host_info

INT8, BF16, FP32 = EngineKind.OPENVINO_INT8, EngineKind.OPENVINO_BF16, EngineKind.OPENVINO_FP32


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "bundle" / "extractor.onnx"
    path.parent.mkdir()
    path.write_bytes(tiny_extractor())
    return path


@pytest.fixture
def folder(network: Path) -> Path:
    """Where compiled engines are looked for by default."""
    return network.parent / "engines" / "extractor"


def opened(kind: EngineKind, network: Path, folder: Path | None = None) -> str:
    """The label of the engine that is taken; it must also run."""
    found = open_engine(kind, network, folder, threads=1)
    with found.engine as engine:
        assert len(engine.infer(np.zeros((2, 3, SIDE_PX, SIDE_PX), np.uint8))) == 2
    return found.label


def warnings(logs: list[Any]) -> list[tuple[str, str]]:
    return [(entry["kind"], entry["reason"]) for entry in logs if entry["log_level"] == "warning"]


def test_auto_without_compiled_engines_is_the_exact_one_and_no_cause_for_warnings(network: Path) -> None:
    with capture_logs() as logs:
        assert opened(EngineKind.AUTO, network) == "onnx"
    assert warnings(logs) == []


@needs_int8
@needs_bf16
def test_auto_takes_the_best_that_runs(network: Path, folder: Path) -> None:
    compile_tiny(network, folder, BF16)
    assert re.fullmatch("openvino-bf16-[0-9a-f]{8}", opened(EngineKind.AUTO, network))
    compile_tiny(network, folder, INT8)
    assert re.fullmatch("openvino-int8-[0-9a-f]{8}", opened(EngineKind.AUTO, network))
    kinds = [candidate.kind for candidate in candidates(network) if candidate.problem is None]
    assert kinds[-3:] == [INT8, BF16, EngineKind.ONNX]


@needs_int8
def test_engines_lie_in_another_folder_if_it_is_named(network: Path, tmp_path: Path) -> None:
    compile_tiny(network, tmp_path / "elsewhere", INT8)
    assert opened(EngineKind.AUTO, network) == "onnx"
    assert opened(EngineKind.AUTO, network, tmp_path / "elsewhere").startswith(INT8)
    assert is_there(EngineKind.OPENVINO, tmp_path / "elsewhere")
    assert not is_there(EngineKind.OPENVINO_BF16, tmp_path / "elsewhere")


@needs_int8
@pytest.mark.parametrize("accepted", [False, None])
def test_an_engine_without_an_accepted_parity_report_never_runs(
    network: Path, folder: Path, accepted: bool | None
) -> None:
    compile_tiny(network, folder, INT8, accepted=accepted)
    with capture_logs() as logs:
        assert opened(EngineKind.AUTO, network) == "onnx"
    ((kind, reason),) = warnings(logs)
    assert (kind, "parity" in reason) == (INT8, True)
    with pytest.raises(EngineFileError, match="parity") as caught:
        open_engine(INT8, network)
    assert "build_engine.py" in caught.value.hint


@needs_int8
def test_what_was_compiled_and_does_not_run_is_told_once(network: Path, folder: Path) -> None:
    compile_tiny(network, folder, INT8)
    (folder / INT8 / "model.bin").write_bytes(b"short")
    with capture_logs() as logs:
        for _ in range(3):
            assert opened(EngineKind.AUTO, network) == "onnx"
    assert [(kind, "model.bin" in reason) for kind, reason in warnings(logs)] == [(INT8, True)]


@needs_int8
def test_an_engine_that_is_named_never_gives_way(network: Path, folder: Path) -> None:
    with pytest.raises(EngineFileError, match="no openvino-int8 engine") as caught:
        open_engine(INT8, network)
    command = f"python build_engine.py --bundle {network.parent} --network extractor --kind openvino-int8"
    assert caught.value.hint.endswith(command)
    with pytest.raises(EngineFileError) as caught:
        open_engine(INT8, network, network.parent / "other" / "extractor")
    assert caught.value.hint.endswith(f"{command} --out {network.parent / 'other'}")
    compiled = compile_tiny(network, folder, INT8)
    compile_tiny(network, folder, BF16)
    for damage in ({"files": {"model.xml": FileDigest("0" * 64, 1)}}, {"source": FileDigest.of(b"another")}):
        compiled.say(**damage)
        with pytest.raises(EngineFileError) as caught:
            open_engine(INT8, network)
        assert caught.value.hint
    compiled.say()
    assert opened(INT8, network).startswith(INT8)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": 99}', b"\xff" * 100])
def test_a_hostile_manifest_is_an_engine_file_error(network: Path, folder: Path, data: bytes) -> None:
    (folder / INT8).mkdir(parents=True)
    (folder / INT8 / "manifest.json").write_bytes(data)
    with pytest.raises(EngineFileError):
        open_engine(INT8, network)
    assert opened(EngineKind.AUTO, network) == "onnx"


@needs_int8
def test_an_engine_in_the_folder_of_another_kind_is_refused(network: Path, folder: Path) -> None:
    compile_tiny(network, folder, INT8).say(kind="openvino-bf16")
    with pytest.raises(EngineFileError, match="is of the kind openvino-bf16"):
        open_engine(INT8, network)


def test_openvino_is_the_best_of_openvino(network: Path, folder: Path) -> None:
    assert opened(EngineKind.OPENVINO, network) == opened(FP32, network) == "openvino-fp32"
    if able(Precision.BF16):
        compile_tiny(network, folder, BF16)
        assert opened(EngineKind.OPENVINO, network).startswith(BF16)


@pytest.mark.skipif(host_info().problem is None, reason="this machine has a GPU")
@pytest.mark.skipif(host_info().problem is None, reason="there is a GPU")
def test_torch_without_a_gpu_says_what_is_missing(network: Path) -> None:
    with pytest.raises(EngineHostError, match="torch needs an NVIDIA GPU") as caught:
        opened(EngineKind.TORCH, network)
    assert "--engine auto" in caught.value.hint
    with pytest.raises(EngineHostError, match="torch needs an NVIDIA GPU") as caught:
        CenterFace(runtime=DetectorRuntime.TORCH)
    assert "--detector-engine onnx" in caught.value.hint


@pytest.mark.parametrize("kind", EngineKind.TENSORRT.members)
def test_tensorrt_without_a_gpu_says_what_is_missing(network: Path, kind: EngineKind) -> None:
    for asked in (EngineKind.TENSORRT, kind):
        with pytest.raises(EngineHostError, match="needs an NVIDIA GPU") as caught:
            open_engine(asked, network)
        assert caught.value.hint


@needs_int8
def test_only_what_belongs_to_host_and_files_is_passed_over(
    network: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_tiny(network, folder, INT8)

    def fails(error: Exception) -> None:
        def open_(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(engines.openvino, "OpenVinoEngine", open_)

    fails(EngineHostError(f"no such instructions in {folder}", hint="h"))
    with capture_logs() as logs:
        assert opened(EngineKind.AUTO, network) == "onnx"
    assert warnings(logs) == [(INT8, f"no such instructions in {folder}")]
    for error in (DeviceLostError("gone", hint="h"), EngineError("else", hint="h"), MemoryError(), RuntimeError("bug")):
        fails(error)
        with pytest.raises(type(error)):
            open_engine(EngineKind.AUTO, network)


def test_a_damaged_network_is_no_reason_to_look_on(tmp_path: Path) -> None:
    path = tmp_path / "extractor.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(EngineError, match="ONNX Runtime cannot load"):
        open_engine(EngineKind.AUTO, path)


def test_labels_follow_the_compiled_files(network: Path, folder: Path, tmp_path: Path) -> None:
    compile_tiny(network, folder, BF16)
    shutil.copytree(folder, tmp_path / "copy")
    (first,), (second,) = candidates(network, kind=BF16), candidates(network, tmp_path / "copy", BF16)
    assert first.label == second.label
    compile_tiny(network, tmp_path / "other", BF16).say(files={"model.xml": FileDigest("1" * 64, 1)})
    (third,) = candidates(network, tmp_path / "other", BF16)
    assert first.label != third.label
    assert all(EngineKind.of_label(one.label) is BF16 for one in (first, third))
    assert [kind for kind in EngineKind if EngineKind.of_label(kind.members[-1]) is kind] == list(EngineKind.concrete())
