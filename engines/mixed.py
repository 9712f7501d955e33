"""bfloat16 with the layers that spoil it left in float32, for OpenVINO.

bfloat16 keeps 8 bits of a number: where a few channels are far larger than the others, as behind the first layers of
an EfficientNet-lite, the small ones drown when they are added up. Those layers are found on faces and marked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET  # reads only what OpenVINO has just written

import numpy as np

from engines.contract import U8, Precision
from engines.openvino import open_core
from engines.quantize import GROUP, LAYERS, Error, Limits, embed, error_of, layers, read_simplified, save, searchers

if TYPE_CHECKING:
    import openvino as ov

#: How an IR says that a layer keeps its precision (OpenVINO's ``DisableFP16Compression``).
_MARK = {"name": "precise", "version": "0"}


def bfloat16_within(
    source: Path,
    target: Path,
    faces: U8,
    *,
    limits: Limits | None = None,
    search: int = 48,
    step: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write a network as an IR that computes in bfloat16 wherever the limits allow; run it with Precision.BF16.

    Args:
        source: the float32 ONNX file of an extractor or an identity network.
        target: the ``.xml`` to write; the weights, in float32, come beside it.
        faces: ``(N, 3, side, side) uint8``, real faces as the network will meet them.
        limits: when to stop leaving layers in float32. The best that was found is written, within them or not.
        search: how many of ``faces`` look for the layers.
        step: told what is found.

    Returns:
        The layers left in float32. Without any nothing is written: the ONNX file itself runs as well.

    Raises:
        EngineFileError: OpenVINO cannot read the file.
        EngineHostError: it is not installed.
    """
    limits = limits or Limits()
    held = faces[searchers(len(faces), search)]
    exact = read_simplified(source)
    wanted, names = embed(exact, held), layers(exact)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.xml"
        save(exact, plain)
        text, weights = plain.read_text(encoding="utf-8"), plain.with_suffix(".bin").read_bytes()

    def tried(keep: Sequence[str]) -> ov.Model:
        return _read(marked(text, keep), weights)

    error = error_of(embed(tried([]), held, Precision.BF16), wanted)
    step(f"bfloat16 everywhere: {error}")
    keep: list[str] = []
    if not error.within(limits):
        groups = [names[i : i + GROUP] for i in range(0, len(names), GROUP)]
        step(f"looking for the layers that need float32, in {len(groups)} groups")
        found = [error_of(embed(tried(group), held, Precision.BF16), wanted).total for group in groups]
        for count, place in enumerate(np.argsort(found)[: limits.groups], start=1):
            keep += groups[place]
            near = error_of(embed(tried(keep), held, Precision.BF16), wanted)
            step(f"{count} groups in float32, to {groups[place][-1]}: {near}")
            if near.within(limits):
                keep = _needed(keep, lambda some: error_of(embed(tried(some), held, Precision.BF16), wanted), limits)
                step(f"of these {len(keep)} layers are needed")
                break
    if keep:
        target.write_text(marked(text, keep), encoding="utf-8")
        target.with_suffix(".bin").write_bytes(weights)
    return keep


def _needed(keep: list[str], error: Callable[[list[str]], Error], limits: Limits) -> list[str]:
    """Those of a group's layers without which the limits do not hold; each one in float32 costs time."""
    for name in reversed(keep):
        others = [other for other in keep if other != name]
        if error(others).within(limits):
            keep = others
    return keep


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
