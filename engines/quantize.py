"""Float32 networks to int8 for OpenVINO: post-training quantisation with NNCF (extra ``int8``; not needed to run them).

A few layers spoil int8, most often the first: `quantise_within` finds them on faces of its own and leaves them in
float32. Whether the result is good enough is not judged here: `difffake.parity` does that, on faces of other people.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from difffake.errors import EngineFileError, MissingExtraError
from engines.contract import OUTPUTS, U8, Embeddings, Precision
from engines.openvino import compile_network, read_network

if TYPE_CHECKING:
    import openvino as ov

#: What is quantised. Matrix products stay in float32: behind the pooling they cost nothing, and make the logit.
LAYERS = frozenset({"Convolution", "GroupConvolution"})
#: Neighbouring layers are kept or quantised together: every border between int8 and float32 costs a conversion.
GROUP = 3
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """When int8 is near enough to stop: root mean square errors, in standard deviations over the faces.

    Args:
        logit: of the logit, where the network has one. With a third of the faces fakes it spreads twice as far as
            over real faces. Anchors made by another engine ask most: what is left of an offset does not cancel.
        embedding: of the embedding's numbers.
        groups: most groups of layers that are left in float32.
    """

    logit: float = 0.02
    embedding: float = 0.04
    groups: int = 6


@dataclass(frozen=True, slots=True)
class Error:
    """How far a network's outputs are from another's; see `Limits`. ``logit`` is 0 where there is none."""

    logit: float
    embedding: float

    def __str__(self) -> str:
        return f"error {self.logit:.3f} sd of the logit, {self.embedding:.3f} sd of the embedding"

    def within(self, limits: Limits) -> bool:
        """Whether both are near enough."""
        return self.logit <= limits.logit and self.embedding <= limits.embedding

    @property
    def total(self) -> float:
        """One number to rank by."""
        return self.logit**2 + self.embedding**2


def quantise_within(
    source: Path,
    faces: U8,
    *,
    limits: Limits | None = None,
    search: int = 48,
    step: Callable[[str], None] = lambda _: None,
) -> ov.Model:
    """Quantise as many layers as the limits allow.

    Args:
        source: the float32 ONNX file of an extractor or an identity network.
        faces: ``(N, 3, side, side) uint8``, real faces as the network will meet them, some hundreds.
        limits: when to stop leaving layers in float32. Whether they are met or not, the best that was found returns.
        search: how many of ``faces`` (at most a third) look for the layers; the others calibrate.
        step: told what is found.

    Raises:
        MissingExtraError: NNCF is not installed.
        EngineFileError: OpenVINO cannot read the file, or NNCF cannot quantise it.
    """
    limits = limits or Limits()
    chosen = searchers(len(faces), search)
    held, rest = faces[chosen], np.delete(faces, chosen, axis=0)
    exact = read_simplified(source)
    wanted = embed(exact, held)
    step("quantising every layer")
    best = quantise(source, rest)
    error = error_of(embed(best, held), wanted)
    step(f"int8 everywhere: {error}")
    if error.within(limits):
        return best
    names = layers(exact)
    groups = [names[i : i + GROUP] for i in range(0, len(names), GROUP)]
    step(f"looking for the layers that need float32, in {len(groups)} groups")
    gains = [error.total - error_of(embed(_restored(best, exact, group), held), wanted).total for group in groups]
    keep: list[str] = []
    for count, place in enumerate(np.argsort(gains)[::-1][: limits.groups], start=1):
        keep += groups[place]
        near = error_of(embed(_restored(best, exact, keep), held), wanted)
        step(f"{count} groups in float32, to {groups[place][-1]}: {near}")
        if near.within(limits):
            break
    # Made anew: the bias corrections of the layers that are float32 now were for their int8 selves.
    return quantise(source, rest, keep=keep)


def searchers(count: int, search: int) -> slice:
    """Which of ``count`` faces look for layers: about ``search`` of them, at most a third."""
    return slice(None, None, max(3, count // search))


def quantise(source: Path, calibration: U8, *, keep: Sequence[str] = ()) -> ov.Model:
    """Quantise weights and activations of a float32 ONNX network with one input.

    Args:
        source: the ONNX file.
        calibration: pictures as the network takes them, ``(N, 3, H, W)``. Their ranges become the ranges of int8.
        keep: names of layers (see `layers`) that stay in float32.

    Returns:
        The network with the same inputs and outputs; `save` writes it.

    Raises:
        MissingExtraError: NNCF is not installed.
        EngineFileError: OpenVINO cannot read the file, or NNCF cannot quantise it.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError(
            f"int8 engines are made with nncf, which cannot be imported ({error})",
            hint="pip install 'difffake[int8]'",
        ) from error
    nncf.set_log_level(logging.ERROR)
    try:
        model: ov.Model
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # its own progress bars
            model = nncf.quantize(
                read_simplified(source),
                nncf.Dataset([picture[None] for picture in calibration], lambda picture: picture),
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(calibration),
                ignored_scope=nncf.IgnoredScope(names=list(keep), types=["MatMul"], validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    # It would give up half the range of weights for processors without VNNI, which are refused.
                    overflow_fix=nncf.OverflowFix.DISABLE,
                ),
            )
    except (RuntimeError, ValueError) as error:
        raise EngineFileError(
            f"NNCF cannot quantise {source.name}: {str(error)[:200]}", hint="take the exact engine: --engine onnx"
        ) from error
    return model


def read_simplified(source: Path) -> ov.Model:
    """Read a network as quantisation needs it: constants folded, activations whole.

    As it is read, an ONNX ``Clip`` is a minimum and a maximum with shapes computed at run time: NNCF does not see the
    ReLU6 in it, and quantises before it instead of behind it.
    """
    model = read_network(source)
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, cf=False, smart_reshape=False)
    return model


def layers(model: ov.Model) -> list[str]:
    """Names of the layers that can be quantised, from the input to the output."""
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in LAYERS]


def save(model: ov.Model, path: Path) -> None:
    """Write the network as ``path`` (.xml) and its weights beside it (.bin)."""
    import openvino as ov

    ov.save_model(model, path, compress_to_fp16=False)


def _restored(quantised: ov.Model, exact: ov.Model, names: Sequence[str]) -> ov.Model:
    """A copy in which the named layers compute in float32 again."""
    from openvino import opset13

    model = quantised.clone()
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    originals = {node.get_friendly_name(): node for node in exact.get_ops()}
    for name in names:
        node = nodes[name]
        before = node.input_value(0).get_node()
        if before.get_type_name() == "FakeQuantize":
            node.input(0).replace_source_output(before.input_value(0))
        weights = originals[name].input_value(1).get_node()
        if weights.get_type_name() == "Constant":
            node.input(1).replace_source_output(opset13.constant(np.array(weights.data)).output(0))
    return model


def embed(model: ov.Model, faces: U8, precision: Precision = Precision.FP32) -> Embeddings:
    """Run a network that was just made; an identity network's logits are 0."""
    compiled = compile_network(model, "the network", precision, threads=0)
    request = compiled.create_infer_request()
    has_logit = len(model.outputs) == len(OUTPUTS)
    embedding, logit = [], []
    for start in range(0, len(faces), _BATCH):
        part = np.ascontiguousarray(faces[start : start + _BATCH])
        request.infer({0: part})
        embedding.append(np.array(request.get_tensor(OUTPUTS[0]).data, np.float32))
        logit.append(
            np.array(request.get_tensor(OUTPUTS[1]).data, np.float32) if has_logit else np.zeros(len(part), np.float32)
        )
    return Embeddings(np.concatenate(embedding), np.concatenate(logit))


def error_of(found: Embeddings, wanted: Embeddings) -> Error:
    """How far ``found`` is from ``wanted``."""
    spread = np.square(wanted.embedding - wanted.embedding.mean(axis=0)).mean()
    embedding = np.square(found.embedding - wanted.embedding).mean() / max(float(spread), 1e-12)
    logit = np.square(found.logit - wanted.logit).mean() / max(float(wanted.logit.var()), 1e-12)
    return Error(float(np.sqrt(logit)), float(np.sqrt(embedding)))
