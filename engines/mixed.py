"""bfloat16 with the layers that spoil it left in float32, for OpenVINO.

bfloat16 keeps 8 bits of a number: where a few channels are far larger than the others, as behind the first layers of
an EfficientNet-lite, the small ones drown when they are added up. Those layers are found on faces and marked.
"""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET  # reads only what OpenVINO has just written

import numpy as np

from engines.contract import U8, Embeddings, Precision
from engines.openvino import open_core
from engines.quantize import LAYERS, embed, error_of, layers, read_simplified, save

if TYPE_CHECKING:
    import openvino as ov

#: What is wrong with embeddings, in words; nothing where they are near enough.
Faults = Callable[[Embeddings], Sequence[str]]

#: How an IR says that a layer keeps its precision (OpenVINO's ``DisableFP16Compression``).
_MARK = {"name": "precise", "version": "0"}
#: A number read or written takes as long as so many multiply-adds (float32, one thread, AVX-512, EfficientNet-lite0).
_MOVE = 14


def bfloat16_within(
    source: Path,
    target: Path,
    faces: U8,
    faults: Faults,
    *,
    search: int = 48,
    step: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write a network as an IR that computes in bfloat16 wherever it may; run it with Precision.BF16.

    Each layer is put into bfloat16 alone, and the error that it makes is divided by what it costs. In that order layers
    go back to float32, as few as leave no fault.

    Args:
        source: the float32 ONNX file of an extractor or an identity network.
        target: the ``.xml`` to write; the weights, in float32, come beside it.
        faces: ``(N, 3, side, side) uint8``, real faces as the network will meet them.
        faults: judges the embeddings of ``faces``, in their order.
        search: how many of ``faces`` rank the layers.
        step: told what is found.

    Returns:
        The layers left in float32: all of them where nothing less is near enough. Without any nothing is written: the
        ONNX file itself runs as well.

    Raises:
        EngineFileError: OpenVINO cannot read the file.
        EngineHostError: it is not installed.
    """
    exact = read_simplified(source)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.xml"
        save(exact, plain)
        text, weights = plain.read_text(encoding="utf-8"), plain.with_suffix(".bin").read_bytes()

    def embedded(keep: Sequence[str], of: U8) -> Embeddings:
        return embed(_read(marked(text, keep), weights), of, Precision.BF16)

    def is_enough(keep: Sequence[str]) -> bool:
        found = faults(embedded(keep, faces))
        step(f"{len(keep)} layers in float32: {'; '.join(found) or 'near enough'}")
        return not found

    if is_enough([]):
        return []
    names, held = layers(exact), faces[:: max(1, len(faces) // search)]
    step(f"looking for the layers that need float32, of {len(names)}")
    wanted = embed(exact, held)
    cost = {node.get_friendly_name(): _cost(node) for node in exact.get_ops() if node.get_type_name() in LAYERS}
    harm = {
        name: error_of(embedded([other for other in names if other != name], held), wanted).total / cost[name]
        for name in names
    }
    order = sorted(names, key=lambda name: -harm[name])
    # More layers in float32 are nearer; the last of all, every one of them, needs no test.
    count = 1 + bisect.bisect_left(range(1, len(order)), True, key=lambda count: is_enough(order[:count]))
    keep = [name for name in names if name in order[:count]]
    target.write_text(marked(text, keep), encoding="utf-8")
    target.with_suffix(".bin").write_bytes(weights)
    return keep


def _cost(layer: ov.Node) -> float:
    """What a layer takes, in multiply-adds: counted, not timed, so that the same faces choose the same layers."""
    taken, given = (port.get_partial_shape() for port in (layer.inputs()[0], layer.outputs()[0]))
    weights = layer.input(1).get_partial_shape().to_shape()
    places = given[2].get_length() * given[3].get_length()
    moved = taken[1].get_length() * taken[2].get_length() * taken[3].get_length() + given[1].get_length() * places
    return float(np.prod(weights) * places + _MOVE * moved)


def marked(xml: str, names: Sequence[str]) -> str:
    """An IR's text in which the named layers, and what follows each of them up to the next, keep float32."""
    tree = ET.fromstring(xml)  # noqa: S314
    wanted = set(names)
    # What stands before the first layer normalises the pixels for it.
    keeps = next((layer.get("name") in wanted for layer in tree.iterfind("layers/layer") if _is_layer(layer)), False)
    for layer in tree.iterfind("layers/layer"):
        if _is_layer(layer):
            keeps = layer.get("name") in wanted
        if keeps and layer.get("type") not in ("Const", "Result", "Parameter"):
            info = layer.find("rt_info")
            if info is None:
                info = ET.Element("rt_info")
                layer.insert(1 if layer.find("data") is not None else 0, info)
            ET.SubElement(info, "attribute", _MARK)
    return ET.tostring(tree, encoding="unicode", xml_declaration=True)


def _is_layer(element: ET.Element) -> bool:
    return element.get("type") in LAYERS


def _read(xml: str, weights: bytes) -> ov.Model:
    import openvino as ov

    return open_core().read_model(xml.encode(), ov.Tensor(np.frombuffer(weights, np.uint8).copy()))
