"""Compiled engines of the tiny networks, with manifests as `build_engine.py` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import openvino
import pytest
from onnx import helper, numpy_helper

from difffake.errors import EngineHostError
from engines.choose import IR, EngineKind
from engines.contract import Precision
from engines.manifest import BatchProfile, Comparison, EngineManifest, FileDigest, write_manifest
from engines.openvino import check_host


def able(precision: Precision) -> bool:
    """Whether OpenVINO computes in this precision here."""
    try:
        check_host(precision)
    except EngineHostError:
        return False
    return True


needs_int8 = pytest.mark.skipif(not able(Precision.INT8), reason="the processor has no VNNI: int8 is refused on it")
needs_bf16 = pytest.mark.skipif(not able(Precision.BF16), reason="the processor does not compute in bfloat16")


@dataclass(frozen=True)
class Compiled:
    """An engine's folder and what it says of itself."""

    folder: Path
    manifest: EngineManifest

    def say(self, **changes: object) -> None:
        """Write another manifest into the folder."""
        write_manifest(self.folder, msgspec.structs.replace(self.manifest, **changes))


def compile_tiny(network: Path, engines: Path, kind: EngineKind, *, accepted: bool | None = True) -> Compiled:
    """Compile a tiny network for OpenVINO into ``engines/KIND``; its int8 differs from fp32 by some thousandths.

    Args:
        accepted: what a parity gate said; None: nothing was judged.
    """
    source, folder = network.read_bytes(), engines / kind
    folder.mkdir(parents=True)
    graph = folder / "graph.onnx"
    graph.write_bytes(_quantised(source) if kind is EngineKind.OPENVINO_INT8 else source)
    model = openvino.Core().read_model(graph)
    openvino.save_model(model, folder / IR, compress_to_fp16=False)
    graph.unlink()
    shapes = [output.get_partial_shape() for output in model.outputs]
    compared = Comparison(reference="onnxruntime fp32", candidate=kind.value, pictures=8, accepted=accepted)
    manifest = EngineManifest(
        kind=kind.value,
        network="extractor" if network.stem == "extractor" else "identity",
        runtime="openvino",
        runtime_version=openvino.__version__,
        precision=kind.precision,
        profile=BatchProfile(1, 8, 32),
        side_px=model.inputs[0].get_partial_shape()[2].get_length(),
        dim=shapes[0][1].get_length(),
        has_logit=len(shapes) > 1,
        source=FileDigest.of(source),
        files={path.name: FileDigest.of(path.read_bytes()) for path in sorted(folder.iterdir())},
        build_s=0.1,
        parity=(compared,),
        created="2026-01-01T00:00:00+00:00",
    )
    write_manifest(folder, manifest)
    return Compiled(folder, manifest)


def _quantised(data: bytes) -> bytes:
    """The same network, its grid of mean colours rounded to whole grey levels."""
    model = onnx.load_model_from_string(data)
    grid = next(node for node in model.graph.node if node.op_type == "AveragePool")
    name = grid.output[0]
    grid.output[0] = "exact"
    at = list(model.graph.node).index(grid) + 1
    scale = numpy_helper.from_array(np.array(1.0, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(0, np.uint8), "zero")
    model.graph.initializer.extend([scale, zero])
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", ["exact", "scale", "zero"], ["levels"]))
    model.graph.node.insert(at + 1, helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], [name]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
