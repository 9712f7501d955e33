"""OpenVINO engines are written with their proof, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compiled import needs_bf16
from tiny import SIDE_PX, write_tiny_bundle
from typer.testing import CliRunner

from build_engine import app
from difffake.bundle import Bundle
from difffake.compiling.openvino import build_openvino, build_openvino_detector
from difffake.compiling.source import Source, open_source
from difffake.errors import DataError, ParityError
from difffake.parity import ParityFaces
from engines.choose import EngineKind, open_engine
from engines.contract import Precision
from engines.manifest import read_manifest

FRAMES = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("openvino") / "tiny"
    write_tiny_bundle(folder)
    return open_source("extractor", bundle=folder)


def drawn(count: int) -> ParityFaces:
    """Pictures of slowly changing colour blobs; every second clip has a fake beside each frame."""
    rng = np.random.default_rng(0)
    parts, clip, time_s, family = [], [], [], []
    for number in range(count):
        face = rng.uniform(0, 255, (1, 3, 4, 4))
        for kind in range(1 + number % 2):
            moving = np.clip(face + rng.normal(0, 12, (FRAMES, 3, 4, 4)) + 30 * kind, 0, 255).astype(np.uint8)
            parts.append(np.kron(moving, np.ones((1, 1, SIDE_PX // 4, SIDE_PX // 4), np.uint8)))
            clip += [number] * FRAMES
            time_s += np.arange(0.0, FRAMES).tolist()
            family += [kind] * FRAMES
    return ParityFaces(np.concatenate(parts), np.array(clip), np.array(time_s), np.array(family))


@needs_bf16
def test_a_proof_is_written_and_the_engine_runs_by_it(source: Source, tmp_path: Path) -> None:
    said: list[str] = []
    built = build_openvino(source, Precision.BF16, tmp_path, drawn(52), threads=1, step=said.append)
    assert built.folder == tmp_path / "extractor" / "openvino-bf16"
    manifest = read_manifest(built.folder)
    assert manifest == built.manifest
    assert manifest.accepted
    assert manifest.files == {}
    (step,) = manifest.parity
    assert step.figures["logit.faces"] == 52 * FRAMES
    assert said
    assert source.bundle is not None
    found = open_engine(EngineKind.OPENVINO_BF16, source.bundle.engine_path, tmp_path / "extractor", threads=1)
    with found.engine as engine:
        assert engine.spec.precision is Precision.BF16


@needs_bf16
def test_layers_are_looked_for_on_faces_of_their_own(source: Source, tmp_path: Path) -> None:
    """With too few to judge by, no layer is left in bfloat16: the tiny network has none."""
    said: list[str] = []
    built = build_openvino(source, Precision.BF16, tmp_path, drawn(52), search=drawn(2), threads=1, step=said.append)
    assert any(words.startswith("0 layers in float32: ") and "at least 100" in words for words in said)
    assert built.manifest.accepted
    (step,) = built.manifest.parity
    assert step.figures["cosine_min"] == pytest.approx(1, abs=1e-5)


@needs_bf16
def test_nothing_is_written_without_enough_faces(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="at least 400"):
        build_openvino(source, Precision.BF16, tmp_path / "engines", drawn(4), threads=1)
    assert not (tmp_path / "engines").exists()


def test_int8_asks_for_calibration_faces(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="calibrate"):
        build_openvino(source, Precision.INT8, tmp_path / "engines", drawn(4), threads=1)
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("kind", "told"),
    [("openvino-int8", "bfloat16 alone"), ("openvino-bf16", "real faces of many clips")],
)
def test_what_the_detector_is_not_built_of_is_said(kind: str, told: str, tmp_path: Path) -> None:
    out = tmp_path / "engines"
    run = CliRunner().invoke(app, ["--network", "detector", "--kind", kind, "--out", str(out)])
    assert run.exit_code == 2
    assert told in " ".join(run.stderr.replace("│", " ").split())
    assert not out.exists()


@needs_bf16
def test_a_detector_without_its_proof_is_not_written(clips: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no face that can be scored"):
        build_openvino_detector(open_source("detector"), [clips["no_face"]], Bundle.load(None), tmp_path, threads=1)
    assert not list(tmp_path.rglob("manifest.json"))
