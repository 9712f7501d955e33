"""An ONNX file of ours as a torch module, for a GPU host that has torch and no TensorRT.

Covers the operators of our exported convolutional networks, nothing else: an operator that is not here is an error,
never a guess. What follows from constants alone is computed once, while loading.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn
from torch.nn import functional

from difffake.errors import EngineFileError
from engines.contract import INPUT, OUTPUTS

_MAX_BYTES = 1 << 30
_AGAIN = "take the ONNX file of a bundle, or export the checkpoint again"
_DTYPES = {1: torch.float32, 7: torch.int64, 10: torch.float16, 6: torch.int32}


def load_onnx(path: Path) -> nn.Module:
    """Read an extractor's or identity network's fp32 ONNX as a module: ``faces (B, 3, S, S) uint8`` to embedding
    ``(B, D) float32`` and, from an extractor, logit ``(B,) float32``.

    Raises:
        EngineFileError: damaged, over 1 GiB, no such network, or with an operator that is not covered.
    """
    return _load(path, INPUT, (OUTPUTS, OUTPUTS[:1]))


def load_maps(path: Path, takes: str, gives: tuple[str, ...]) -> nn.Module:
    """Read a network of another kind as a module: the tensor named ``takes`` to those named ``gives``, in this order.

    Raises:
        EngineFileError: as `load_onnx`.
    """
    return _load(path, takes, (gives,))


def _load(path: Path, takes: str, gives: tuple[tuple[str, ...], ...]) -> nn.Module:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise EngineFileError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    if len(data) > _MAX_BYTES:
        raise EngineFileError(f"{path.name} is over 1 GiB: no network of ours", hint=_AGAIN)
    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # protobuf's own classes
        raise EngineFileError(f"{path.name} is no ONNX file, or damaged", hint=_AGAIN) from error
    if [v.name for v in graph.input] != [takes] or tuple(v.name for v in graph.output) not in gives:
        raise EngineFileError(f"{path.name} is another network: it needs {takes} and {gives[0]}", hint=_AGAIN)
    try:
        return OnnxModule(graph)
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineFileError(f"{path.name} cannot become a torch module: {error}", hint=_AGAIN) from error


class OnnxModule(nn.Module):
    """The nodes of a graph, in their order. Convolutions and the last matrix are layers, so that they can be rounded.

    Args:
        graph: an ``onnx.GraphProto``.

    Raises:
        EngineFileError: an operator, or a use of one, that is not covered.
    """

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self._steps: list[tuple[Callable[..., Any], list[str], str]] = []
        self._input = graph.input[0].name
        self._outputs = [value.name for value in graph.output]
        known: dict[str, Tensor] = {t.name: _tensor(t) for t in graph.initializer}
        for node in graph.node:
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
                raise _uncovered(node.op_type)
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = list(node.input)
            if node.op_type == "Constant":
                known[node.output[0]] = _tensor(attributes["value"])
                continue
            step, inputs = self._step(node.op_type, attributes, inputs, known)
            if all(name in known for name in inputs):
                known[node.output[0]] = step(*(known[name] for name in inputs))
            else:
                self._steps.append((step, inputs, node.output[0]))
        made = {self._input, *(output for _, _, output in self._steps)}
        # What steps read of the constants moves with the module.
        self._constants = {
            name: f"constant_{number}"
            for number, name in enumerate(
                sorted({n for _, names, _ in self._steps for n in names if n in known and n not in made})
            )
        }
        for name, buffer in self._constants.items():
            self.register_buffer(buffer, known[name])
        last = {name: number for number, (_, names, _) in enumerate(self._steps) for name in names}
        self._done_with = [[n for n, at in last.items() if at == number] for number in range(len(self._steps))]

    def forward(self, given: Tensor) -> tuple[Tensor, ...] | Tensor:
        """The graph's outputs; of a network of faces, embedding ``(B, D)`` and, where it has one, logit ``(B,)``."""
        values: dict[str, Tensor] = {self._input: given}
        values |= {name: getattr(self, buffer) for name, buffer in self._constants.items()}
        for (step, names, output), done in zip(self._steps, self._done_with, strict=True):
            values[output] = step(*(values[name] for name in names))
            for name in done:
                if name not in self._outputs:
                    del values[name]
        found = tuple(values[name] for name in self._outputs)
        return found if len(found) > 1 else found[0]

    def _step(
        self, kind: str, attributes: dict[str, Any], inputs: list[str], known: dict[str, Tensor]
    ) -> tuple[Callable[..., Any], list[str]]:
        """A function of some of the node's inputs."""
        fixed = [known.get(name) for name in inputs]
        match kind:
            case "Conv":
                return self._layer(_convolution(attributes, fixed), inputs), inputs[:1]
            case "ConvTranspose":
                return self._layer(_transposed(attributes, fixed), inputs), inputs[:1]
            case "BatchNormalization":
                return self._layer(_normalisation(attributes, fixed), inputs), inputs[:1]
            case "Gemm":
                return self._layer(_linear(attributes, fixed), inputs), inputs[:1]
            case "Pad":
                return _padding(attributes, fixed), inputs[:1]
            case "Clip":
                low, high = (float(v) if v is not None else None for v in (*fixed[1:], None, None)[:2])
                return lambda x: x.clamp(low, high), inputs[:1]
            case "Reshape" | "Squeeze" | "Unsqueeze" if len(inputs) == 2 and fixed[1] is not None:
                numbers = [int(n) for n in fixed[1]]
                return _SHAPED[kind](numbers), inputs[:1]
            case "ReduceMean":
                axes = attributes.get("axes") or [int(n) for n in fixed[1]]  # type: ignore[union-attr]
                keep = bool(attributes.get("keepdims", 1))
                return lambda x: x.mean(list(axes), keepdim=keep), inputs[:1]
            case "MaxPool":
                return _max_pool(attributes), inputs
            case "AveragePool" if not any(attributes.get("pads", [])) and not attributes.get("ceil_mode"):
                kernel, stride = list(attributes["kernel_shape"]), list(attributes.get("strides", [1, 1]))
                return lambda x: functional.avg_pool2d(x, kernel, stride), inputs
            case "Slice":
                return _slice(fixed), inputs[:1]
        if kind in _PLAIN:
            return _PLAIN[kind](attributes), inputs
        raise _uncovered(kind)

    def _layer(self, layer: nn.Module, inputs: list[str]) -> Callable[..., Any]:
        name = f"{len(self.layers)}_{inputs[1]}".replace(".", "_")
        self.layers[name] = layer
        return layer


def _tensor(proto: Any) -> Tensor:
    return torch.from_numpy(np.array(onnx.numpy_helper.to_array(proto)))


def _uncovered(kind: str) -> EngineFileError:
    return EngineFileError(
        f"the operator {kind} is not covered", hint="run this network with ONNX Runtime or TensorRT: --engine auto"
    )


def _convolution(attributes: dict[str, Any], fixed: list[Tensor | None]) -> nn.Module:
    weight, bias = fixed[1], fixed[2] if len(fixed) > 2 else None
    if weight is None or weight.ndim != 4 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise _uncovered("Conv with computed weights or padding")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    even = (top, left) == (bottom, right)
    groups = attributes.get("group", 1)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        tuple(attributes.get("strides", [1, 1])),
        (top, left) if even else 0,
        tuple(attributes.get("dilations", [1, 1])),
        groups,
        bias is not None,
    )
    layer.weight.data = weight.clone()
    if bias is not None and layer.bias is not None:
        layer.bias.data = bias.clone()
    return layer if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), layer)


def _transposed(attributes: dict[str, Any], fixed: list[Tensor | None]) -> nn.Module:
    weight, bias = fixed[1], fixed[2] if len(fixed) > 2 else None
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    plain = "output_shape" not in attributes and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
    if weight is None or weight.ndim != 4 or (top, left) != (bottom, right) or not plain:
        raise _uncovered("ConvTranspose with computed weights or uneven padding")
    groups = attributes.get("group", 1)
    layer = nn.ConvTranspose2d(
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        tuple(attributes.get("strides", [1, 1])),
        (top, left),
        tuple(attributes.get("output_padding", [0, 0])),
        groups,
        bias is not None,
        tuple(attributes.get("dilations", [1, 1])),
    )
    layer.weight.data = weight.clone()
    if bias is not None and layer.bias is not None:
        layer.bias.data = bias.clone()
    return layer


def _normalisation(attributes: dict[str, Any], fixed: list[Tensor | None]) -> nn.Module:
    scale, bias, mean, variance = (*fixed[1:], None, None, None, None)[:4]
    if scale is None or bias is None or mean is None or variance is None or attributes.get("training_mode"):
        raise _uncovered("BatchNormalization that is not settled")
    layer = nn.BatchNorm2d(len(scale), attributes.get("epsilon", 1e-5))
    layer.weight.data, layer.bias.data = scale.clone(), bias.clone()
    layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    return layer


def _linear(attributes: dict[str, Any], fixed: list[Tensor | None]) -> nn.Module:
    weight, bias = fixed[1], fixed[2] if len(fixed) > 2 else None
    scales = attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0)
    if weight is None or scales != (1.0, 1.0, 0):
        raise _uncovered("Gemm with scales or computed weights")
    weight = weight if attributes.get("transB") else weight.T
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight.data = weight.contiguous().clone()
    if bias is not None:
        layer.bias.data = bias.reshape(-1).clone()
    return layer


def _padding(attributes: dict[str, Any], fixed: list[Tensor | None]) -> Callable[[Tensor], Tensor]:
    if attributes.get("mode", b"constant") != b"constant" or len(fixed) < 2 or fixed[1] is None or len(fixed[1]) != 8:
        raise _uncovered("Pad that is not constant")
    value = float(fixed[2]) if len(fixed) > 2 and fixed[2] is not None else 0.0
    edges = [int(n) for n in fixed[1]]
    if edges[0] or edges[4]:
        raise _uncovered("Pad of the batch")
    _, front, top, left, _, back, bottom, right = edges
    return lambda x: functional.pad(x, (left, right, top, bottom, front, back), value=value)


def _max_pool(attributes: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    kernel, stride = list(attributes["kernel_shape"]), list(attributes.get("strides", [1, 1]))
    ceil = bool(attributes.get("ceil_mode", 0))
    if (top, left) != (bottom, right):
        return lambda x: functional.max_pool2d(
            functional.pad(x, (left, right, top, bottom), value=float("-inf")), kernel, stride, ceil_mode=ceil
        )
    return lambda x: functional.max_pool2d(x, kernel, stride, (top, left), ceil_mode=ceil)


def _slice(fixed: list[Tensor | None]) -> Callable[[Tensor], Tensor]:
    if any(value is None for value in fixed[1:]):
        raise _uncovered("Slice by computed places")
    starts, ends = ([int(n) for n in value] for value in fixed[1:3] if value is not None)
    axes = [int(n) for n in fixed[3]] if len(fixed) > 3 and fixed[3] is not None else list(range(len(starts)))
    steps = [int(n) for n in fixed[4]] if len(fixed) > 4 and fixed[4] is not None else [1] * len(starts)

    def cut(x: Tensor) -> Tensor:
        index = [slice(None)] * x.ndim
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            index[axis] = slice(start, end, step)
        if min(steps) > 0:
            return x[tuple(index)]
        # torch knows no steps backwards; they stand in what is computed of constants, while loading.
        return torch.from_numpy(x.numpy()[tuple(index)].copy())

    return cut


def _reshaped(numbers: list[int]) -> Callable[[Tensor], Tensor]:
    return lambda x: x.reshape([x.shape[axis] if side == 0 else side for axis, side in enumerate(numbers)])


_SHAPED: dict[str, Callable[[list[int]], Callable[[Tensor], Tensor]]] = {
    "Reshape": _reshaped,
    "Squeeze": lambda axes: lambda x: x.squeeze(tuple(axes)),
    "Unsqueeze": lambda axes: (
        lambda x: x[tuple(None if axis in axes else slice(None) for axis in range(x.ndim + len(axes)))]
    ),
}
#: Operator -> attributes -> a function of all its inputs.
_PLAIN: dict[str, Callable[[dict[str, Any]], Callable[..., Tensor]]] = {
    "Add": lambda _: torch.add,
    "Sub": lambda _: torch.sub,
    "Mul": lambda _: torch.mul,
    "Div": lambda _: torch.div,
    "Relu": lambda _: torch.relu,
    "Sigmoid": lambda _: torch.sigmoid,
    "MatMul": lambda _: torch.matmul,
    "Identity": lambda _: lambda x: x,
    "Cast": lambda a: lambda x: x.to(_DTYPES[a["to"]]),
    "Concat": lambda a: lambda *x: torch.cat(x, a["axis"]),
    "Flatten": lambda a: lambda x: x.flatten(a.get("axis", 1)),
    "Transpose": lambda a: lambda x: x.permute(*a["perm"]),
    "GlobalAveragePool": lambda _: lambda x: x.mean((2, 3), keepdim=True),
    "ConstantOfShape": lambda a: (
        lambda shape: torch.full([int(n) for n in shape], _tensor(a["value"]).item() if "value" in a else 0.0).to(
            _tensor(a["value"]).dtype if "value" in a else torch.float32
        )
    ),
}
