"""bfloat16 with the layers that spoil it left in float32, for OpenVINO.

bfloat16 keeps 8 bits of a number: where a few channels are far larger than the others, as behind the first layers of
an EfficientNet-lite, the small ones drown when they are added up. Those layers are found on faces, and named in a file
of the engine: with the network's ONNX file their names are all that it takes.
"""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from xml.etree import ElementTree as ET  # reads only what OpenVINO has just written

import numpy as np

from difffake.errors import EngineFileError, EngineHostError
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
    source: Path, faces: U8, faults: Faults, *, search: int = 48, step: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Find the layers that must stay in float32 beside bfloat16; `read_mixed` makes the network.

    Each layer is put into bfloat16 alone, and the error that it makes is divided by what it costs. In that order layers
    go back to float32, as few as leave no fault.

    Args:
        source: the float32 ONNX file of an extractor or an identity network.
        faces: ``(N, 3, side, side) uint8``, real faces as the network will meet them.
        faults: judges the embeddings of ``faces``, in their order.
        search: how many of ``faces`` rank the layers.
        step: told what is found.

    Returns:
        Their names, from the input on: all layers where nothing less is near enough, none where nothing is to be done.

    Raises:
        EngineFileError: OpenVINO cannot read the file.
        EngineHostError: it is not installed, or no temporary file can be written.
    """
    network = _Ir.of(source)

    def embedded(keep: Sequence[str], of: U8) -> Embeddings:
        return embed(network.read(keep), of, Precision.BF16)

    def is_enough(keep: Sequence[str]) -> bool:
        found = faults(embedded(keep, faces))
        step(f"{len(keep)} layers in float32: {'; '.join(found) or 'near enough'}")
        return not found

    if is_enough([]):
        return []
    exact = network.read([])
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
    return [name for name in names if name in order[:count]]


def read_mixed(source: Path, keep: Sequence[str]) -> ov.Model:
    """A float32 ONNX network of which the named layers, and what follows each of them up to the next, keep float32
    where the others are compiled for bfloat16.

    Raises:
        EngineFileError: OpenVINO cannot read the file, or there is no layer of such a name.
        EngineHostError: it is not installed, or no temporary file can be written.
    """
    return _Ir.of(source).read(keep)


@dataclass(frozen=True, slots=True)
class _Ir:
    """A network as OpenVINO writes it: text that can be marked, and weights."""

    xml: str
    weights: bytes

    @classmethod
    def of(cls, source: Path) -> Self:
        model = read_simplified(source)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                plain = Path(scratch) / "plain.xml"
                save(model, plain)
                return cls(plain.read_text(encoding="utf-8"), plain.with_suffix(".bin").read_bytes())
        except OSError as error:  # a file system that is read-only as a whole; other engines need no such file
            raise EngineHostError(
                f"no temporary file can be written for {source.name}: {error.strerror or error}",
                hint="set TMPDIR to a writable folder",
            ) from error

    def read(self, keep: Sequence[str]) -> ov.Model:
        import openvino as ov

        weights = ov.Tensor(np.frombuffer(self.weights, np.uint8).copy())
        return open_core().read_model(marked(self.xml, keep).encode(), weights)


def _cost(layer: ov.Node) -> float:
    """What a layer takes, in multiply-adds: counted, not timed, so that the same faces choose the same layers."""
    taken, given = (port.get_partial_shape() for port in (layer.inputs()[0], layer.outputs()[0]))
    weights = layer.input(1).get_partial_shape().to_shape()
    places = given[2].get_length() * given[3].get_length()
    moved = taken[1].get_length() * taken[2].get_length() * taken[3].get_length() + given[1].get_length() * places
    return float(np.prod(weights) * places + _MOVE * moved)


def marked(xml: str, names: Sequence[str]) -> str:
    """An IR's text in which the named layers, and what follows each of them up to the next, keep float32.

    Raises:
        EngineFileError: there is no layer of such a name.
    """
    tree = ET.fromstring(xml)  # noqa: S314
    wanted = set(names)
    if lost := wanted - {str(layer.get("name")) for layer in tree.iterfind("layers/layer") if _is_layer(layer)}:
        raise EngineFileError(
            f"the network has no layer {min(lost)[:80]!r}, which is to stay in float32",
            hint="build the engine again: python build_engine.py --kind openvino-bf16",
        )
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
