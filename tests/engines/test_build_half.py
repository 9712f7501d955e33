"""Networks in half precision: the same network, the same inputs and outputs, and what cannot be converted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from tiny import DIM, SIDE_PX, tiny_extractor, tiny_identity

from difffake.bundle import default_bundle_path
from difffake.errors import EngineFileError
from difffake.faces.centerface import WEIGHTS
from engines.half import NetworkShape, inspect, read_onnx, round_filters, to_half, to_rounded
from engines.profile import Network

SHIPPED = default_bundle_path() / "extractor.onnx"
IDENTITY = default_bundle_path() / "identity.onnx"
NETWORKS: list[tuple[Network, Path]] = [("extractor", SHIPPED), ("identity", IDENTITY), ("detector", WEIGHTS)]


def run(data: bytes, picture: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: picture}))


def picture_for(shape: NetworkShape) -> np.ndarray:
    """A smooth picture: noise is nothing that these networks know."""
    side = shape.side_px or 96
    x, y = np.meshgrid(np.linspace(0, 6, side), np.linspace(0, 6, side))
    planes = np.stack([127 + 100 * np.sin(x + phase) * np.cos(y) for phase in (0.0, 0.5, 1.0)])
    return planes[None].astype(np.uint8 if shape.side_px else np.float32)


@pytest.mark.parametrize(("network", "path"), NETWORKS)
@pytest.mark.parametrize("convert", [to_half, to_rounded])
def test_our_networks_stay_what_they_are(network: Network, path: Path, convert: Callable[[bytes], bytes]) -> None:
    exact = path.read_bytes()
    half = convert(exact)
    shape = inspect(exact, network)
    assert inspect(half, network) == shape
    onnx.checker.check_model(onnx.load_model_from_string(half), full_check=True)
    picture = picture_for(shape)
    for before, after in zip(run(exact, picture), run(half, picture), strict=True):
        assert after.dtype == np.float32
        cosine = (before * after).sum() / np.linalg.norm(before) / np.linalg.norm(after)
        assert cosine > 0.9995
        assert not np.array_equal(before, after)


def test_the_half_network_is_half_as_large_and_computes_in_half() -> None:
    exact = SHIPPED.read_bytes()
    half = to_half(exact)
    assert len(half) < 0.55 * len(exact)
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(half), strict_mode=True)
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    convolutions = [kinds[node.output[0]] for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions[:3] == [TensorProto.FLOAT] * 3
    assert set(convolutions[3:]) == {TensorProto.FLOAT16}


def test_the_stand_in_rounds_every_result() -> None:
    data = tiny_extractor()
    model = onnx.load_model_from_string(to_rounded(data))
    del model.graph.output[1:]
    embedding = run(bytes(model.SerializeToString()), picture_for(inspect(data, "extractor")))[0]
    assert np.array_equal(embedding, embedding.astype(np.float16).astype(np.float32))


def test_rounding_filter_by_filter_is_nearer_than_rounding_to_nearest() -> None:
    exact = SHIPPED.read_bytes()
    model = onnx.load_model_from_string(to_half(exact))
    nearest = {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(exact).graph.initializer}
    for tensor in model.graph.initializer:
        before = nearest.get(tensor.name.removesuffix("_half"))
        if tensor.data_type == TensorProto.FLOAT16 and before is not None:
            tensor.CopyFrom(numpy_helper.from_array(before.astype(np.float16), tensor.name))
    picture = picture_for(inspect(exact, "extractor"))
    reference, ours, theirs = (run(d, picture)[0] for d in (exact, to_half(exact), model.SerializeToString()))
    assert np.abs(ours - reference).mean() < np.abs(theirs - reference).mean()


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(-8, 8, width=32)),
    st.sampled_from([0, 1, -1]),
)
def test_a_rounded_filter_keeps_its_sum(weights: np.ndarray, axis: int) -> None:
    rounded = round_filters(weights, axis)
    assert rounded.dtype == np.float16
    assert rounded.shape == weights.shape
    step = np.abs(np.spacing(np.abs(weights).astype(np.float16))).astype(np.float64)
    assert (np.abs(rounded.astype(np.float64) - weights) <= 1.5 * step + 1e-9).all()
    others = tuple({0, 1} - {axis % 2})
    lost = np.abs((rounded.astype(np.float64) - weights).sum(axis=others))
    nearest = np.abs(weights.astype(np.float16).astype(np.float64) - weights).sum(axis=others)
    assert (lost <= nearest + step.max() / 2 + 1e-9).all()


def with_weight(value: float) -> bytes:
    model = onnx.load_model_from_string(tiny_extractor())
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[3, 1] = value
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "weights"))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("value", [70_000.0, -1e9, np.inf, np.nan])
def test_weights_that_half_precision_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(EngineFileError, match="half precision cannot hold them"):
        to_half(with_weight(value))


def edited(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_model_from_string(tiny_extractor())
    change(model)
    return bytes(model.SerializeToString())


def _float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _one_channel(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def _fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


def _not_square(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = SIDE_PX // 2


def _other_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "images"


def _one_output(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def _half_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


@pytest.mark.parametrize(
    "change", [_float_input, _one_channel, _fixed_batch, _not_square, _other_name, _one_output, _half_output]
)
def test_a_network_with_a_wrong_input_or_output_is_refused(change: Callable[[onnx.ModelProto], object]) -> None:
    with pytest.raises(EngineFileError, match=r"is no extractor: it has (faces|images) ") as caught:
        inspect(edited(change), "extractor")
    assert caught.value.hint


def test_a_network_is_not_taken_for_another_one() -> None:
    assert inspect(tiny_extractor(), "extractor") == NetworkShape("faces", SIDE_PX, DIM, True)
    for network, data in (
        ("identity", tiny_extractor()),
        ("extractor", tiny_identity()),
        ("detector", tiny_extractor()),
    ):
        with pytest.raises(EngineFileError, match=f"is no {network}"):
            inspect(data, network)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [b"", b"no protobuf at all", tiny_extractor()[:500], tiny_extractor()[:-7]])
def test_what_is_no_onnx_file_is_refused(data: bytes) -> None:
    for call in (to_half, lambda d: inspect(d, "extractor")):
        with pytest.raises(EngineFileError):
            call(data)


def test_weights_outside_the_file_are_not_read() -> None:
    def move_outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="/etc/passwd")

    with pytest.raises(EngineFileError, match="other files"):
        to_half(edited(move_outside))


def test_a_graph_inside_a_node_is_refused() -> None:
    def add_branch(model: onnx.ModelProto) -> None:
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        constant = helper.make_node("Constant", [], ["x"], value=helper.make_tensor("x", TensorProto.FLOAT, [1], [1.0]))
        branch = helper.make_graph([constant], "branch", [], [value])
        flag = helper.make_node(
            "Constant", [], ["flag"], value=helper.make_tensor("flag", TensorProto.BOOL, [], [True])
        )
        node = helper.make_node("If", ["flag"], ["unused"], then_branch=branch, else_branch=branch)
        model.graph.node.extend([flag, node])

    with pytest.raises(EngineFileError, match="a graph inside its node"):
        to_half(edited(add_branch))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFileError, match=r"cannot read .*none\.onnx"):
        read_onnx(tmp_path / "none.onnx")
