"""``build_engine.py --store``: whose faces an engine is judged on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import write_tiny_bundle
from typer.testing import CliRunner

from build_engine import app
from difffake.compiling import openvino
from difffake.errors import ParityError
from difffake.identity import IDENTITY_SIDE_PX
from difffake.parity import ParityFaces
from difffake.training.store import CropStore


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "tiny", identity=True)
    return tmp_path / "tiny"


def test_the_identity_network_is_judged_on_clips_of_the_store_and_impostors(
    store: CropStore, store_folder: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[ParityFaces] = []

    def build(_source: object, _precision: object, _out: Path, faces: ParityFaces, *_: object, **__: object) -> None:
        judged.append(faces)
        raise ParityError("far enough", hint="")

    monkeypatch.setattr(openvino, "build_openvino", build)
    options = ["--bundle", str(bundle), "--network", "identity", "--store", str(store_folder), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*options, "--kind", "openvino-bf16"])
    assert isinstance(result.exception, ParityError), result.output
    assert judged[0].faces.shape[1:] == (3, IDENTITY_SIDE_PX, IDENTITY_SIDE_PX)
    assert len(np.unique(judged[0].clip)) == len(np.unique(store.people[store.is_video]))
    assert (judged[0].family == 1).any(), "without impostors nobody can be mistaken for another"


def test_int8_of_the_identity_network_is_refused_before_anything_is_read(bundle: Path, tmp_path: Path) -> None:
    options = ["--bundle", str(bundle), "--network", "identity", "--kind", "openvino-int8", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert "extractor alone" in result.output
