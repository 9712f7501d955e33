"""dlib's face recognition network in torch, and its export to ONNX."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from difffake.errors import MissingExtraError
from difffake.training.dlib_weights import BLOCKS, SIDE_PX, Convolution, FaceNetWeights

OPSET = 17


class IdentityNet(nn.Module):
    """Embeds aligned faces: ``(B, 3, 150, 150) uint8`` RGB -> ``(B, 128) float32``, not normalised.

    A ResNet of 29 convolutions after Davis King's public domain ``dnn_face_recognition_ex.cpp``. The affine layers
    behind its convolutions are folded into them.
    """

    mean_rgb: Tensor

    def __init__(self, weights: FaceNetWeights) -> None:
        super().__init__()
        self.register_buffer("mean_rgb", torch.from_numpy(weights.mean_rgb.copy()).reshape(3, 1, 1))
        stem, *rest = weights.convolutions
        self.stem = fold(stem)
        pairs = zip(rest[::2], rest[1::2], BLOCKS, strict=True)
        self.blocks = nn.Sequential(*(Residual(fold(a), fold(b), stride) for a, b, (_, stride) in pairs))
        inputs, outputs = weights.projection.shape
        self.projection = nn.Linear(inputs, outputs, bias=False)
        with torch.no_grad():
            self.projection.weight.copy_(torch.from_numpy(weights.projection.T.copy()))

    def forward(self, faces: Tensor) -> Tensor:
        """Embed ``(B, 3, 150, 150) uint8``."""
        x = (faces.float() - self.mean_rgb) / 256.0
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2)
        x = self.blocks(x)
        embedding: Tensor = self.projection(x.mean(dim=(2, 3)))
        return embedding


class Residual(nn.Module):
    """``relu(second(relu(first(x))) + x)``; with a stride of 2, ``x`` is averaged over 2x2, its new channels are 0."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, stride: int) -> None:
        super().__init__()
        self.first, self.second, self.stride = first, second, stride

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on ``(B, C, H, W) float32``."""
        y = self.second(functional.relu(self.first(x)))
        return functional.relu(add_padded(y, x if self.stride == 1 else functional.avg_pool2d(x, 2, 2)))


def add_padded(a: Tensor, b: Tensor) -> Tensor:
    """Add two ``(B, C, H, W)`` as dlib's ``add_prev`` does: each is filled up with zeros after its last channel, row
    and column to the larger of both sizes."""
    # Plain numbers, or the export would compute the constant sizes anew in every run.
    a_sizes, b_sizes = [int(n) for n in a.shape[1:]], [int(n) for n in b.shape[1:]]
    sizes = [max(pair) for pair in zip(a_sizes, b_sizes, strict=True)]
    return _fill(a, a_sizes, sizes) + _fill(b, b_sizes, sizes)


def _fill(x: Tensor, have: list[int], sizes: list[int]) -> Tensor:
    missing = [size - number for size, number in zip(sizes, have, strict=True)]
    if not any(missing):
        return x
    channels, rows, columns = missing
    return functional.pad(x, (0, columns, 0, rows, 0, channels))


def fold(weights: Convolution) -> nn.Conv2d:
    """Make one convolution of a convolution and its affine layer; computed in float64."""
    filters, biases, gamma, beta = (
        torch.from_numpy(array).double() for array in (weights.filters, weights.biases, weights.gamma, weights.beta)
    )
    count, channels, rows, columns = filters.shape
    conv = nn.Conv2d(channels, count, (rows, columns), weights.stride, weights.padding)
    with torch.no_grad():
        conv.weight.copy_(filters * gamma.reshape(-1, 1, 1, 1))
        conv.bias = nn.Parameter((biases * gamma + beta).float())
    return conv


def export_identity(net: IdentityNet, path: Path) -> None:
    """Write the network as one ONNX file; the same weights give the same bytes.

    Input ``faces (B, 3, 150, 150) uint8`` RGB; output ``embedding (B, 128) float32``; B is dynamic.

    Raises:
        MissingExtraError: the package ``onnx`` is not installed.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise MissingExtraError("export needs the package onnx", hint="pip install 'difffake[train]'") from error
    partial = path.with_name(path.name + ".partial")
    with warnings.catch_warnings():
        # The tracer warns that it is the older of two and that sizes become constants, which is what we want.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval().requires_grad_(False),
            (torch.zeros(2, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8),),
            str(partial),
            input_names=["faces"],
            output_names=["embedding"],
            dynamic_axes={"faces": {0: "batch"}, "embedding": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(partial), full_check=True)
    partial.replace(path)
