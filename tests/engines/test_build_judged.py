"""An engine that can run here is judged itself: on the CUDA double, which computes what its plan says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_double import Cuda
from gpu_engines import open_tensorrt
from tensorrt_double import Api, host, make_plan
from tiny import SIDE_PX, tiny_extractor, write_tiny_bundle

from difffake.compiling import build
from difffake.compiling.build import BuildOptions, build_tensorrt
from difffake.compiling.pictures import Pictures
from difffake.compiling.source import Source, open_source
from difffake.errors import EngineHostError, ParityError
from difffake.parity import ParityFaces
from engines.contract import Engine
from engines.half import to_half
from engines.manifest import GpuKind, read_manifest
from engines.profile import BatchProfile
from engines.tensorrt_api import Flavour
from engines.tensorrt_build import BuildSettings, BuiltPlan

MOST = 4


@pytest.fixture
def source(tmp_path: Path) -> Source:
    write_tiny_bundle(tmp_path / "bundle")
    return open_source("extractor", bundle=tmp_path / "bundle")


@pytest.fixture
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    tones = rng.integers(0, 256, (12, 3, 4, 4), np.uint8).repeat(SIDE_PX // 4, 2).repeat(SIDE_PX // 4, 3)
    faces = ParityFaces.photos(tones)
    return Pictures(faces, faces, [])


def build_on_the_double(
    source: Source, pictures: Pictures, out: Path, monkeypatch: pytest.MonkeyPatch, plan_of: bytes, *, rtx: bool = False
) -> build.BuiltEngine:
    """The build with the double's plan of the ONNX ``plan_of`` in the place of TensorRT's own."""
    cuda = Cuda()
    api = Api(cuda, rtx=rtx)
    flavour: Flavour = "tensorrt_rtx" if rtx else "tensorrt"
    gpu = None if rtx else GpuKind(Cuda.name, "9.0")
    made = BuiltPlan(make_plan(plan_of, MOST), flavour, api.__version__, gpu, 1.0)
    monkeypatch.setattr(build, "build_plan", lambda *_, **__: made)

    def open_engine(folder: Path, sha256: str, device: int) -> Engine:
        return open_tensorrt(folder, cuda, api=api, onnx_sha256=sha256, index=device)

    options = BuildOptions(BuildSettings(BatchProfile(1, MOST, MOST)), out, threads=1)
    return build_tensorrt(source, flavour, options, pictures, host(api), open_engine=open_engine)


def test_the_engine_itself_is_judged_where_it_runs(
    source: Source, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_on_the_double(source, pictures, tmp_path / "out", monkeypatch, to_half(source.onnx))
    assert built.folder == tmp_path / "out" / "extractor" / "tensorrt-fp16"
    manifest = read_manifest(built.folder)
    assert manifest == built.manifest
    assert manifest.gpu == GpuKind(Cuda.name, "9.0")
    assert [step.candidate for step in manifest.parity] == ["fp16 rounding", "tensorrt-fp16"]
    assert all(step.accepted and step.not_run is None and step.pictures == 12 for step in manifest.parity)
    assert manifest.accepted


def test_an_engine_that_computes_something_else_is_not_written(
    source: Source, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParityError, match="tensorrt-fp16 does not keep the scores"):
        build_on_the_double(source, pictures, tmp_path / "out", monkeypatch, to_half(tiny_extractor(seed=1)))
    assert not (tmp_path / "out").exists()


def test_a_plan_for_other_cards_is_kept_and_says_that_it_did_not_run(
    source: Source, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Engine:
        raise EngineHostError("built for other cards", hint="x")

    monkeypatch.setattr("test_build_judged.open_tensorrt", refuse)
    built = build_on_the_double(source, pictures, tmp_path / "out", monkeypatch, to_half(source.onnx), rtx=True)
    assert built.manifest.parity[-1].not_run == "built for other cards"
    assert built.manifest.accepted  # by what stood in for it
    with pytest.raises(EngineHostError):  # full TensorRT builds for this card, or not at all
        build_on_the_double(source, pictures, tmp_path / "other", monkeypatch, to_half(source.onnx))
    assert not (tmp_path / "other").exists()
