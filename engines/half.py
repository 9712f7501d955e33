"""An fp32 ONNX graph -> the same network in half precision, as strongly typed builders want it.

Inputs and outputs keep their types. What leads from the pixels through the first three convolutions stays in float32:
they have few channels, all that follows inherits their errors, and the mean of a channel is no half-precision number.
A bundle holds ONNX alone, so the graph is what is converted; checkpoints go the same way. (ONNX Runtime's converter
rounds to half after every node that it was asked to leave exact, and puts its casts behind the nodes that read them.)

Weights are rounded so that the errors within a filter cancel: its inputs, after a ReLU, are mostly of one sign, and
what matters is the sum. Rounded to nearest, the shipped extractor's logits err nearly twice as far.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from difffake.errors import EngineFileError, MissingExtraError
from engines.contract import INPUT, OUTPUTS
from engines.profile import Network

#: Of the face detector: pictures in, four maps out.
DETECTOR_INPUT = "images"
DETECTOR_OUTPUTS = ("heatmap", "scale", "offset", "landmarks")

_MAX_BYTES = 1 << 30
_MAX_HALF = float(np.finfo(np.float16).max)
#: Convolutions that stay in float32: the stem and the first separable layer.
_EXACT_CONVOLUTIONS = 3
#: Operators that may stand before and between them: normalisation, padding, activations.
_EXACT = frozenset({"Cast", "Sub", "Add", "Mul", "Div", "Conv", "Pad", "Clip", "Relu", "Sigmoid", "PRelu", "LeakyRelu"})
_EXPORT = "take the ONNX file of a bundle, or export the checkpoint again"


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """Input and outputs of a network: ``side_px`` and ``dim`` are 0 for the detector, whose sides are free."""

    input: str
    side_px: int
    dim: int
    has_logit: bool


def read_onnx(path: Path) -> bytes:
    """Read an ONNX file of at most 1 GiB.

    Raises:
        EngineFileError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise EngineFileError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    if len(data) > _MAX_BYTES:
        raise EngineFileError(f"{path.name} is over 1 GiB: no network of ours", hint=_EXPORT)
    return data


def inspect(data: bytes, network: Network) -> NetworkShape:
    """Check that an ONNX file is the network that it should be, and say its shapes.

    Raises:
        EngineFileError: damaged, with weights outside the file, or with other inputs and outputs.
        MissingExtraError: the package onnx is not installed.
    """
    graph = _parse(data).graph
    inputs, outputs = ([_value(v) for v in values] for values in (graph.input, graph.output))
    found = ", ".join(f"{name} {kind} {shape}" for name, kind, shape in inputs + outputs)
    names = tuple(name for name, _, _ in outputs)
    if network == "detector":
        if (
            [(name, kind, len(shape)) for name, kind, shape in inputs] == [(DETECTOR_INPUT, "float32", 4)]
            and inputs[0][2][1:] == [3, None, None]
            and names == DETECTOR_OUTPUTS
        ):
            return NetworkShape(DETECTOR_INPUT, 0, 0, False)
        wanted = f"{DETECTOR_INPUT} (B, 3, H, W) float32, outputs {DETECTOR_OUTPUTS}"
    else:
        wanted_names = OUTPUTS if network == "extractor" else OUTPUTS[:1]
        shape = inputs[0][2] if len(inputs) == 1 else []
        dims = outputs[0][2] if outputs else []
        if (
            [(name, kind) for name, kind, _ in inputs] == [(INPUT, "uint8")]
            and len(shape) == 4
            and shape[:2] == [None, 3]
            and shape[2] is not None
            and shape[2] == shape[3]
            and names == wanted_names
            and len(dims) == 2
            and dims[1] is not None
            and all(kind == "float32" for _, kind, _ in outputs)
        ):
            return NetworkShape(INPUT, shape[2], dims[1], network == "extractor")
        wanted = f"{INPUT} (B, 3, S, S) uint8 with B dynamic, outputs {wanted_names} float32"
    raise EngineFileError(f"the ONNX file is no {network}: it has {found}; needed are {wanted}", hint=_EXPORT)


def to_half(data: bytes) -> bytes:
    """Convert a network to compute in half precision; inputs and outputs keep their names, shapes and types.

    Raises:
        EngineFileError: damaged, a weight is beyond the range of half precision, or an operator has no half form.
        MissingExtraError: the package onnx is not installed.
    """
    return _convert(data, emulate=False)


def to_rounded(data: bytes) -> bytes:
    """The network of `to_half` for a CPU: float32 that is rounded to half where that one computes in half.

    ONNX Runtime has no half-precision kernels on a CPU: given the true graph, it computes neighbouring nodes in float32
    without rounding between them, and so flatters it.

    Raises:
        EngineFileError, MissingExtraError: as in `to_half`.
    """
    return _convert(data, emulate=True)


def _convert(data: bytes, *, emulate: bool) -> bytes:
    model = _parse(data)
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        half = _Halver(inferred, emulate=emulate).convert()
        onnx.checker.check_model(half, full_check=True)
    except EngineFileError:
        raise
    except Exception as error:  # the checkers raise whatever a strange graph leads them to
        raise EngineFileError(
            f"the ONNX file cannot be converted to fp16: {_first_line(error)}", hint=_EXPORT
        ) from error
    return bytes(half.SerializeToString())


class _Halver:
    """Rewrites one graph, node by node, in its own (topological) order."""

    def __init__(self, model: Any, *, emulate: bool) -> None:
        from onnx import TensorProto, helper, numpy_helper

        self._types, self._helper, self._numpy = TensorProto, helper, numpy_helper
        self._model, self._emulate = model, emulate
        graph = model.graph
        values = [*graph.input, *graph.output, *graph.value_info]
        self._float = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._outputs = {v.name for v in graph.output} & self._float
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._in_half: dict[str, str] = {}
        self._nodes: list[Any] = []
        self._new_weights: dict[str, Any] = {}

    def convert(self) -> Any:
        graph = self._model.graph
        for node in graph.node:
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise EngineFileError(f"the ONNX file has a graph inside its node {node.name!r}", hint=_EXPORT)
        nodes = self._without_constants(graph.node)
        exact = self._beginning(nodes, graph.input)
        for number, node in enumerate(nodes):
            if number in exact:
                self._keep(node)
            else:
                self._halve(node)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._new_weights.values())
        return self._model

    def _without_constants(self, nodes: Any) -> list[Any]:
        """Turn constants of floats into weights: a node that stays exact may share one with a node that does not."""
        rest = []
        for node in nodes:
            attribute = node.attribute[0] if node.op_type == "Constant" else None
            if attribute is not None and attribute.name == "value" and attribute.t.data_type == self._types.FLOAT:
                attribute.t.name = node.output[0]
                self._weights[node.output[0]] = attribute.t
            else:
                rest.append(node)
        return rest

    def _beginning(self, nodes: list[Any], inputs: Any) -> set[int]:
        """Numbers of the nodes from the pixels through the first convolutions."""
        exact_values = {value.name for value in inputs}
        exact, convolutions = set(), 0
        for number, node in enumerate(nodes):
            read = [name for name in node.input if name in self._float or name in exact_values]
            read = [name for name in read if name not in self._weights]
            is_convolution = node.op_type == "Conv"
            if (
                node.op_type in _EXACT
                and read
                and exact_values.issuperset(read)
                and convolutions + is_convolution <= _EXACT_CONVOLUTIONS
            ):
                exact_values.update(node.output)
                exact.add(number)
                convolutions += is_convolution
        return exact

    def _keep(self, node: Any) -> None:
        for name in node.input:
            if name in self._weights:
                self._new_weights[name] = self._weights[name]
        self._nodes.append(node)

    def _halve(self, node: Any) -> None:
        for place, name in enumerate(node.input):
            node.input[place] = self._half_of(name, node, place)
        for attribute in node.attribute:
            is_cast = node.op_type == "Cast" and attribute.name == "to" and attribute.i == self._types.FLOAT
            if is_cast and not self._emulate:
                attribute.i = self._types.FLOAT16
            elif attribute.HasField("t") and attribute.t.data_type == self._types.FLOAT:
                attribute.t.CopyFrom(self._half_tensor(attribute.t, attribute.t.name, None))
        self._nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in self._float:
                continue
            self._in_half[name] = name
            if self._emulate:
                node.output[place] = f"{name}_exact"
                self._round(f"{name}_exact", name)
            elif name in self._outputs:
                node.output[place] = self._in_half[name] = f"{name}_half"
                self._cast(f"{name}_half", name, self._types.FLOAT)

    def _half_of(self, name: str, node: Any, place: int) -> str:
        """The name under which a half node reads this value."""
        if name in self._in_half or not (name in self._float or name in self._weights):
            return self._in_half.get(name, name)
        tensor, half = self._weights.get(name), f"{name}_half"
        if tensor is None:  # a float input, or what an exact node made: cast once
            self._in_half[name] = half
            if self._emulate:
                self._round(name, half)
            else:
                self._cast(name, half, self._types.FLOAT16)
        elif tensor.data_type == self._types.FLOAT:
            self._in_half[name] = half
            self._new_weights[half] = self._half_tensor(tensor, half, _filter_axis(node, place))
        else:
            self._new_weights[name] = tensor
        return self._in_half.get(name, name)

    def _cast(self, source: str, target: str, to: int) -> None:
        self._nodes.append(self._helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to))

    def _round(self, source: str, target: str) -> None:
        self._cast(source, f"{target}_16", self._types.FLOAT16)
        self._cast(f"{target}_16", target, self._types.FLOAT)

    def _half_tensor(self, tensor: Any, name: str, filter_axis: int | None) -> Any:
        values = self._numpy.to_array(tensor)
        if not np.abs(values).max(initial=0.0) <= _MAX_HALF:
            raise EngineFileError(
                f"the weights {tensor.name!r} go beyond {_MAX_HALF:.0f}: half precision cannot hold them",
                hint="train with weight decay, or take an engine in fp32 or bf16",
            )
        half = values.astype(np.float16) if filter_axis is None else round_filters(values, filter_axis)
        return self._numpy.from_array(half.astype(np.float32) if self._emulate else half, name)


def _filter_axis(node: Any, place: int) -> int | None:
    """Along which axis the weights at this place of a node hold its filters; None for what are no filters."""
    if place != 1:
        return None
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if transposed else 1
    return {"Conv": 0, "MatMul": -1}.get(node.op_type)


def round_filters(weights: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float16]:
    """Round to half precision so that each filter keeps its sum: what one weight loses, the next smaller one makes up,
    as far as its own grid allows.

    Args:
        weights: ``(...) float32``, finite in half precision; those with one index along ``axis`` are a filter.
        axis: along which the filters lie.

    Returns:
        The same shape; no weight is farther than one step of its own grid, nearest rounding being at most half of one.

    >>> round_filters(np.float32([[1.0003, 0.5, 0.25]]), 0).tolist()  # nearest loses 0.0003
    [[1.0, 0.50048828125, 0.249755859375]]
    """
    filters = np.moveaxis(weights.astype(np.float64), axis, 0)
    flat = filters.reshape(len(filters), -1).T.copy()  # one row holds one weight of every filter
    order = np.argsort(-np.abs(flat), axis=0, kind="stable")  # small weights have the finer grid
    exact = np.take_along_axis(flat, order, 0)
    step = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    low, high = exact - step, exact + step
    rounded, lost = np.empty_like(exact), np.zeros(exact.shape[1])
    for row in range(len(exact)):
        wanted = exact[row] + lost
        rounded[row] = np.minimum(np.maximum(wanted, low[row]), high[row]).astype(np.float16)
        lost = wanted - rounded[row]
    np.put_along_axis(flat, order, rounded, 0)
    return np.ascontiguousarray(np.moveaxis(flat.T.reshape(filters.shape), 0, axis), np.float16)


def _parse(data: bytes) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(
            "building an engine needs the package onnx", hint="pip install 'difffake[tensorrt]'"
        ) from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's exceptions depend on its implementation
        raise EngineFileError(f"no ONNX file, or a damaged one: {_first_line(error)}", hint=_EXPORT) from error
    if not model.graph.node:
        raise EngineFileError("no ONNX file, or a damaged one: it holds no network", hint=_EXPORT)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise EngineFileError("the ONNX file has weights in other files, which are not read", hint=_EXPORT)
    return model


def _value(value: Any) -> tuple[str, str, list[int | None]]:
    """Name, NumPy's name of the type, and dimensions (None where free) of a graph's input or output."""
    from onnx import helper

    tensor = value.type.tensor_type
    try:
        kind = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, TypeError, ValueError):
        kind = "unknown"
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    return value.name, kind, shape


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
