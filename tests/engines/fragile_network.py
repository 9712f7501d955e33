"""A network small enough for tests, with layers that low precision does not forgive."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 32


def blobs(count: int, side_px: int = SIDE_PX) -> np.ndarray:
    """Blobs of colour: pure noise would average to the same grey everywhere."""
    rng = np.random.default_rng(0)
    blobs = rng.integers(0, 256, (count, 3, 4, 4), np.uint8)
    return np.kron(blobs, np.ones((1, 1, side_px // 4, side_px // 4), np.uint8))


def outlier_network(outlier: float) -> bytes:
    """Three layers; a channel between the second and the third is ``outlier`` times as large as the others, and the
    third undoes that: in float32 nothing changes, one int8 scale for all channels crushes the others."""
    rng = np.random.default_rng(1)
    weights = {
        "first": rng.normal(size=(8, 3, 3, 3)) / 400,
        "second": rng.normal(size=(8, 8, 1, 1)) / 3,
        "third": rng.normal(size=(8, 8, 1, 1)) / 3,
        "head": rng.normal(size=(8, 1)),
    }
    weights["second"][0] *= outlier
    weights["third"][:, 0] /= outlier
    nodes = [
        helper.make_node("Cast", ["faces"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "first"], ["a"], name="first", strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], name="second"),
        helper.make_node("Conv", ["c", "third"], ["d"], name="third"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["column"], name="head"),
        helper.make_node("Squeeze", ["column", "axis"], ["logit"]),
    ]
    graph = helper.make_graph(
        nodes,
        "outlier",
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, ["B", 3, SIDE_PX, SIDE_PX])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 8]),
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["B"]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
