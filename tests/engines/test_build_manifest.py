"""The manifest of a compiled engine: read back, and every way in which it can refuse."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from difffake.errors import EngineFileError, EngineHostError
from engines.contract import Precision
from engines.manifest import (
    FORMAT,
    MANIFEST,
    PLAN,
    BatchProfile,
    Comparison,
    EngineManifest,
    FileDigest,
    GpuKind,
    check,
    check_host,
    check_source,
    read_manifest,
    write_manifest,
)
from engines.tensorrt_api import Gpu, HostInfo

H100 = Gpu("NVIDIA H100 80GB HBM3", "9.0", 80 << 30)
L4 = Gpu("NVIDIA L4", "8.9", 24 << 30)
HOST = HostInfo({"tensorrt": "11.4.0.106", "tensorrt_rtx": "1.7.1.116"}, "13.1", (H100,))
ONNX, ENGINE = b"the network", b"the plan" * 100


def manifest(**changes: object) -> EngineManifest:
    plain = EngineManifest(
        kind="tensorrt-fp16",
        network="extractor",
        runtime="tensorrt",
        runtime_version="11.4.0.106",
        gpu=GpuKind(H100.name, H100.compute_capability),
        precision=Precision.FP16,
        profile=BatchProfile(1, 32, 64),
        side_px=224,
        dim=1280,
        has_logit=True,
        source=FileDigest.of(ONNX),
        files={PLAN: FileDigest.of(ENGINE)},
        build_s=1.5,
        created="2026-01-01T00:00:00+00:00",
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / PLAN).write_bytes(ENGINE)
    write_manifest(tmp_path, manifest())
    return tmp_path


def check_here(folder: Path, host: HostInfo = HOST, device: int = 0) -> dict[str, bytes]:
    return check(read_manifest(folder), folder, onnx_sha256=FileDigest.of(ONNX).sha256, host=host, device=device)


def test_an_engine_that_belongs_here_is_read(folder: Path) -> None:
    assert read_manifest(folder) == manifest()
    assert check_here(folder) == {PLAN: ENGINE}
    assert [file.name for file in folder.iterdir() if "partial" in file.name] == []


@pytest.mark.parametrize(
    ("host", "told", "mends"),
    [
        (HostInfo({}, "13.1", (H100,)), "not installed", "pip install tensorrt-cu13==11.4.0.106"),
        (HostInfo({"tensorrt": "11.5.0.1"}, "13.1", (H100,)), r"built by tensorrt 11\.4\.0\.106", "build_engine.py"),
        (HostInfo({"tensorrt": "11.4.0.105"}, "13.1", (H100,)), r"here is 11\.4\.0\.105", "--kind tensorrt-fp16"),
        (HostInfo(HOST.runtimes, "13.1", (L4,)), "NVIDIA L4", "python build_engine.py --network extractor"),
        (
            HostInfo(HOST.runtimes, None, (), "there is no NVIDIA driver", "install it"),
            "no NVIDIA driver",
            "install it",
        ),
        (HostInfo(HOST.runtimes, "13.1", ()), "there is none", "--engine auto"),
    ],
)
def test_another_host_is_refused_with_what_mends_it(folder: Path, host: HostInfo, told: str, mends: str) -> None:
    with pytest.raises(EngineHostError, match=told) as caught:
        check_here(folder, host)
    assert mends in caught.value.hint


def test_the_card_that_shall_run_it_is_the_one_that_counts(folder: Path) -> None:
    both = HostInfo(HOST.runtimes, "13.1", (L4, H100))
    assert check_here(folder, both, device=1) == {PLAN: ENGINE}
    with pytest.raises(EngineHostError, match="GPU 0 is NVIDIA L4"):
        check_here(folder, both, device=0)
    with pytest.raises(EngineHostError, match="no GPU 2, only 2"):
        check_here(folder, both, device=2)


@pytest.mark.parametrize(
    ("changes", "card", "version", "runs"),
    [
        ({"hardware_level": "ampere_plus"}, L4, "11.4.0.106", True),
        ({"hardware_level": "ampere_plus"}, Gpu("Tesla T4", "7.5", 1), "11.4.0.106", False),
        ({"hardware_level": "same_compute_capability"}, Gpu("NVIDIA H200", "9.0", 1), "11.4.0.106", True),
        ({"hardware_level": "same_compute_capability"}, L4, "11.4.0.106", False),
        ({"version_compatible": True}, H100, "11.10.0.1", True),
        ({"version_compatible": True}, H100, "11.3.0.1", False),
        ({"version_compatible": True}, H100, "12.0.0.1", False),
    ],
)
def test_compatible_engines_run_on_more_hosts(changes: dict[str, object], card: Gpu, version: str, runs: bool) -> None:
    host = HostInfo({"tensorrt": version}, "13.1", (card,))
    if runs:
        check_host(manifest(**changes), host)
    else:
        with pytest.raises(EngineHostError):
            check_host(manifest(**changes), host)


def test_a_plan_built_ahead_of_time_belongs_to_its_list_of_cards() -> None:
    ahead = {"kind": "tensorrt_rtx-fp16", "runtime": "tensorrt_rtx", "runtime_version": "1.7.1.116", "gpu": None}
    check_host(manifest(**ahead), HOST)  # the builder's own list: the runtime judges
    check_host(manifest(**ahead, compute_capabilities=("8.9", "9.0")), HOST)
    with pytest.raises(EngineHostError, match=r"built for 8\.6, 12\.0; GPU 0 is NVIDIA H100"):
        check_host(manifest(**ahead, compute_capabilities=("8.6", "12.0")), HOST)


def test_an_engine_of_the_cpu_asks_for_no_gpu() -> None:
    check_host(manifest(runtime="openvino", kind="openvino-int8"), HostInfo({}, None, (), "no driver"))


def test_an_engine_of_another_bundle_is_refused(folder: Path) -> None:
    with pytest.raises(EngineFileError, match="built from another extractor") as caught:
        check_source(read_manifest(folder), FileDigest.of(b"another network").sha256)
    assert "build_engine.py --network extractor --kind tensorrt-fp16 --bundle" in caught.value.hint
    check_source(read_manifest(folder), None)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (ENGINE[:-1], "truncated"),
        (b"", "truncated"),
        (ENGINE + b"x", "too long"),
        (b"X" + ENGINE[1:], "SHA-256"),
        (None, "cannot read"),
    ],
)
def test_a_damaged_plan_is_refused(folder: Path, data: bytes | None, told: str) -> None:
    (folder / PLAN).unlink()
    if data is not None:
        (folder / PLAN).write_bytes(data)
    with pytest.raises(EngineFileError, match=told) as caught:
        check_here(folder)
    assert "build_engine.py" in caught.value.hint


def damaged(folder: Path, **changes: object) -> None:
    fields = msgspec.json.decode((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_bytes(msgspec.json.encode(fields | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": FORMAT + 1}, f"format {FORMAT + 1}"),
        ({"files": {"../../etc/passwd": {"sha256": "0", "size_bytes": 1}}}, "list of files"),
        ({"files": {PLAN: {"sha256": "0", "size_bytes": 1}, "a/b": {"sha256": "0", "size_bytes": 1}}}, "list of files"),
        ({"files": {}}, "list of files"),
        ({"profile": {"min": 4, "opt": 2, "max": 8}}, "batches of 4 to 8"),
        ({"profile": {"min": 0, "opt": 2, "max": 8}}, "batches of 0"),
        ({"precision": "fp2"}, "damaged"),
        ({"what": "is this"}, "damaged"),
        ({"dim": "many"}, "damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, changes: dict[str, object], told: str) -> None:
    damaged(folder, **changes)
    with pytest.raises(EngineFileError, match=told) as caught:
        read_manifest(folder)
    assert "build_engine.py" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"x" * (2 << 20)])
def test_what_is_no_manifest_is_refused(folder: Path, data: bytes) -> None:
    (folder / MANIFEST).write_bytes(data)
    with pytest.raises(EngineFileError):
        read_manifest(folder)


def test_a_size_that_no_plan_has_is_not_allocated(folder: Path) -> None:
    damaged(folder, files={PLAN: {"sha256": "0", "size_bytes": 1 << 50}})
    with pytest.raises(EngineFileError, match="2 GiB"):
        check_here(folder)


def test_an_empty_folder_holds_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineFileError, match="no engine in"):
        read_manifest(tmp_path)


def test_an_engine_is_accepted_when_a_gate_judged_it_and_none_refused() -> None:
    passed = Comparison(reference="a", candidate="b", pictures=8, accepted=True)
    refused = Comparison(reference="a", candidate="b", pictures=8, accepted=False)
    not_run = Comparison(reference="a", candidate="b", pictures=0, not_run="no device")
    assert manifest(parity=(passed, not_run)).accepted
    assert not manifest(parity=(passed, refused)).accepted
    assert not manifest(parity=(not_run,)).accepted
    assert not manifest().accepted
