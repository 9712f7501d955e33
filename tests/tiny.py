"""A bundle small enough for tests: the real formats and the real runtime, with a network of one matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from difffake.bundle import Bundle, save_bundle
from difffake.calibration import Calibration
from difffake.density import fit_density
from difffake.differential import Combination, differences

SIDE_PX = 224
DIM = 16
IDENTITY_SIDE_PX = 150
IDENTITY_DIM = 8


def tiny_extractor(seed: int = 0, dim: int = DIM, side_px: int = SIDE_PX) -> bytes:
    """An ONNX extractor: mean colour of a 4 x 4 grid, times a random matrix."""
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(48, dim)) / 100).astype(np.float32)
    head = rng.normal(size=(dim, 1)).astype(np.float32)
    cell = side_px // 4
    nodes = [
        helper.make_node("Cast", ["faces"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["pixels"], ["grid"], kernel_shape=2 * [cell], strides=2 * [cell]),
        helper.make_node("Flatten", ["grid"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "head"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], ["logit"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, ["B", 3, side_px, side_px])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", dim]),
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["B"]),
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(head, "head"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_identity(seed: int = 0, dim: int = IDENTITY_DIM) -> bytes:
    """An ONNX identity network: mean colour of a 3 x 3 grid, times a random matrix."""
    weights = (np.random.default_rng(seed).normal(size=(27, dim)) / 500).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["faces"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("AveragePool", ["pixels"], ["grid"], kernel_shape=[50, 50], strides=[50, 50]),
        helper.make_node("Flatten", ["grid"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny identity",
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, ["B", 3, IDENTITY_SIDE_PX, IDENTITY_SIDE_PX])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", dim])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


SCORES = {
    "logit": {"evidence": "artifact", "kind": "logit"},
    "density": {"evidence": "artifact", "kind": "density", "density": "single"},
    "differential_self": {
        "evidence": "artifact",
        "kind": "differential",
        "anchor": "self",
        "density": "square_l2",
        "combination": "square",
        "l2": True,
    },
    "signed_anchor": {"evidence": "anchor", "kind": "differential", "anchor": "given", "density": "signed"},
    "logit_minus_anchor": {
        "evidence": "anchor",
        "kind": "logit",
        "anchor": "given",
        "minus_anchor_mean": True,
    },
}

#: Both are one statistic; the first is calibrated on anchors of the same stream, the second on other footage.
IDENTITY_SCORES = {
    name: {"evidence": "identity", "kind": "distance", "anchor": "given", "embedding": "identity"}
    for name in ("identity_stream", "identity_enrolled")
}


def write_tiny_bundle(folder: Path, seed: int = 0, *, identity: bool = False) -> Bundle:
    """Write a consistent bundle, with an identity network if asked for; all of it is fitted on random embeddings."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(400, DIM))
    square = differences(embeddings[:200], embeddings[200:201], Combination.SQUARE, l2=True)[:, 0]
    values, people = rng.normal(size=400), np.arange(400) % 40
    calibration = Calibration.fit(values, people)
    # The logit of a real picture is anything: as `artifact` evidence it must not call every clip manufactured.
    wide = Calibration.fit(100 * values, people)
    scores = SCORES | (IDENTITY_SCORES if identity else {})
    evidence = {"artifact": "logit", "anchor": "signed_anchor"}
    if identity:
        evidence |= {"identity": "identity_stream", "identity_enrolled": "identity_enrolled"}
    return save_bundle(
        folder,
        extractor=tiny_extractor(seed),
        identity=tiny_identity(seed) if identity else None,
        densities={
            "single": fit_density(embeddings, seed=seed),
            "square_l2": fit_density(square, seed=seed),
            "signed": fit_density(embeddings[:200] - embeddings[200:], seed=seed),
        },
        calibrations=dict.fromkeys(scores, calibration) | {"logit": wide},
        name="tiny",
        backbone="one matrix",
        side_px=SIDE_PX,
        dim=DIM,
        identity_dim=IDENTITY_DIM if identity else 0,
        eye_distance=0.28,
        normalisation="inside the graph",
        scores=scores,
        evidence=evidence,
        created="2026-01-01T00:00:00+00:00",
        git_revision="unknown",
        licence="Apache-2.0",
        training={"data": "random numbers"},
    )
