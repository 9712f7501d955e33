"""A run that begins where an exported network ended."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from test_training_loop import TINY

from difffake.errors import DataError
from difffake.extractor import Extractor, build_extractor, check_parity, export_onnx, load_checkpoint, save_checkpoint
from difffake.training.loop import train
from difffake.training.split import split_people
from difffake.training.start import start_from_onnx
from difffake.training.store import CropStore

SIDE = 64


def faces(count: int = 24) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8))


@pytest.fixture(scope="module")
def trained() -> Extractor:
    """A network whose batch norms are not what they begin as."""
    torch.manual_seed(3)
    extractor = build_extractor("efficientnet_lite0", pretrained=False)
    with torch.no_grad():
        for norm in extractor.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-0.2, 0.2)
                norm.running_mean.normal_(0, 0.05)
                norm.running_var.uniform_(0.5, 1.5)
    return extractor.eval()


@pytest.fixture(scope="module")
def exported(trained: Extractor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "extractor.onnx"
    export_onnx(trained, path, side_px=SIDE)
    return path


@pytest.mark.parametrize("residual", [False, True])
def test_it_answers_as_the_exported_one_does(trained: Extractor, exported: Path, residual: bool) -> None:
    torch.manual_seed(9)
    begun = build_extractor("efficientnet_lite0", pretrained=False, residual=residual)
    start_from_onnx(begun, exported, faces())
    with torch.inference_mode():
        wanted, got = trained(faces()), begun.eval()(faces())
        assert torch.allclose(wanted[0], got[0], rtol=1e-3, atol=1e-4)
        assert torch.allclose(wanted[1], got[1], rtol=1e-3, atol=1e-4)
        # In training, on the very pictures that were measured, a batch's own statistics say the same.
        assert torch.allclose(begun.train().embed(faces()), wanted[0], rtol=0.05, atol=5e-3)


def test_a_run_begins_with_it(store: CropStore, exported: Path, tmp_path: Path, trained: Extractor) -> None:
    settings = msgspec.structs.replace(
        TINY, backbone="efficientnet_lite0", side_px=SIDE, start=str(exported), lr=1e-9, steps=1, validate_every=0
    )
    result = train(settings, store, tmp_path / "run", split=split_people(store, photo_shares=(0.6, 0.2, 0.2)))
    kept = load_checkpoint(result.model).extractor
    with torch.inference_mode():
        assert torch.allclose(kept.head.weight, trained.head.weight, atol=1e-4)


def test_other_files_and_networks_are_refused(exported: Path, tmp_path: Path) -> None:
    lite0 = build_extractor("efficientnet_lite0", pretrained=False)
    (tmp_path / "noise.onnx").write_bytes(b"\x01\x02 noise")
    for path in (tmp_path / "noise.onnx", tmp_path / "nowhere.onnx"):
        with pytest.raises(DataError, match="no exported extractor"):
            start_from_onnx(lite0, path, faces(2))
    for name in ("efficientnet_lite1", "resnet18"):
        with pytest.raises(DataError) as caught:
            start_from_onnx(build_extractor(name, pretrained=False), exported, faces(2))
        assert "bundle" in caught.value.hint


def test_a_residual_extractor_sees_what_a_blur_takes_away(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = build_extractor("efficientnet_lite0", pretrained=False)
    torch.manual_seed(1)
    wide = build_extractor("efficientnet_lite0", pretrained=False, residual=True)
    with torch.inference_mode():
        assert torch.allclose(plain.eval()(faces())[0], wide.eval()(faces())[0], atol=1e-6), "begins as without"
        wide.backbone.conv_stem.weight[:, 3:].normal_(0, 0.1)
        assert not torch.allclose(plain(faces())[0], wide(faces())[0], atol=1e-3)
    save_checkpoint(tmp_path / "model.pt", wide, side_px=SIDE, step=0)
    again = load_checkpoint(tmp_path / "model.pt").extractor
    assert again.residual
    export_onnx(again, tmp_path / "wide.onnx", side_px=SIDE)
    assert check_parity(wide, tmp_path / "wide.onnx", faces(4).numpy()).min_cosine > 0.9999
