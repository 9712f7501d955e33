"""Begin a training run where a shipped network ended: from its ONNX file, which holds all but the batch norms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from difffake.errors import DataError, MissingExtraError
from difffake.extractor import Extractor

F32 = npt.NDArray[np.float32]
_MAX_BYTES = 512 * 2**20


def start_from_onnx(extractor: Extractor, path: Path, faces: Tensor) -> None:
    """Fill ``extractor`` with the weights of an exported one; it then answers as that one does.

    Exporting folds every batch norm into the convolution before it. Here each gets its place back: its running mean
    and variance are those of the convolution's output on ``faces (N, 3, S, S) uint8``, scale and shift undo them. So
    the network does the same in training, where a batch's own statistics count, as in use. Give a hundred faces or
    more of those that are trained on. Weights of channels that the file does not know (`Extractor.residual`) are zero.

    Raises:
        DataError: no readable ONNX file, or one of another network.
        MissingExtraError: the package ``onnx`` is not installed.
    """
    weights = _weights(path)
    layers = _layers(extractor.backbone)
    hint = "name the extractor.onnx of a bundle with the same backbone"
    if len(weights) != len(layers) + 1:
        raise DataError(f"{path} has {len(weights)} layers with weights, {extractor.name} {len(layers) + 1}", hint=hint)
    hooks = []
    try:
        for (conv, norm), (kernel, bias) in zip(layers, weights, strict=False):
            _fill(conv, kernel, path, hint)
            hooks.append(conv.register_forward_hook(_measure(norm, torch.from_numpy(bias.copy()))))
        head = extractor.head
        if weights[-1][0].shape != tuple(head.weight.shape):
            raise DataError(f"{path} has another head than {extractor.name}", hint=hint)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weights[-1][0].copy()))
            head.bias.copy_(torch.from_numpy(weights[-1][1].copy()))
            extractor.eval().embed(faces.to(head.weight.device))
    finally:
        for hook in hooks:
            hook.remove()


def _weights(path: Path) -> list[tuple[F32, F32]]:
    """Kernel and bias of each convolution and of the head, in the order of the graph."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtraError("this start needs the package onnx", hint="pip install 'difffake[train]'") from error
    hint = "name the extractor.onnx of a bundle"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is too large to be an extractor of ours", hint=hint)
        graph = onnx.load_from_string(path.read_bytes()).graph
        held = {array.name: numpy_helper.to_array(array) for array in graph.initializer}
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        return [(held[node.input[1]].astype(np.float32), held[node.input[2]].astype(np.float32)) for node in layers]
    except DataError:
        raise
    except Exception as error:  # protobuf's decoder raises classes of its own
        raise DataError(f"{path} is no exported extractor: {str(error)[:200]}", hint=hint) from error


def _layers(backbone: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution with the batch norm behind it."""
    layers: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    conv: nn.Conv2d | None = None
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            if conv is not None or module.bias is not None:
                raise DataError(
                    "this backbone has convolutions without a batch norm",
                    hint="start from a bundle with an EfficientNet-lite or a ResNet",
                )
            conv = module
        elif isinstance(module, nn.BatchNorm2d) and conv is not None:
            layers.append((conv, module))
            conv = None
    return layers


def _fill(conv: nn.Conv2d, kernel: F32, path: Path, hint: str) -> None:
    known = torch.from_numpy(kernel.copy())
    wide = torch.zeros_like(conv.weight)
    fits = known.ndim == 4 and known.shape[1] <= wide.shape[1] and known[:, :1].shape == wide[:, :1].shape
    if not fits or (known.shape[1] != wide.shape[1] and (known.shape[1], wide.shape[1]) != (3, 6)):
        raise DataError(f"{path} has a layer {tuple(known.shape)} in place of {tuple(wide.shape)}", hint=hint)
    wide[:, : known.shape[1]] = known
    with torch.no_grad():
        conv.weight.copy_(wide)


def _measure(norm: nn.BatchNorm2d, bias: Tensor):  # type: ignore[no-untyped-def]
    def set_norm(_: nn.Module, __: tuple[Tensor], out: Tensor) -> None:
        """Runs after the convolution and before its batch norm."""
        var, mean = torch.var_mean(out.float(), dim=(0, 2, 3), correction=0)
        if norm.running_mean is None or norm.running_var is None:
            return
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_((var + norm.eps).sqrt())
        norm.bias.copy_(mean + bias.to(mean.device))

    return set_norm
