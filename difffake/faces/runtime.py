"""What runs the face detector: ONNX Runtime, or OpenVINO in bfloat16 on processors that have it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from difffake.errors import EngineError
from difffake.faces.contract import F32
from engines.contract import Precision
from engines.openvino import check_host, compile_network, read_network

if TYPE_CHECKING:
    import openvino as ov

INPUT = "images"
OUTPUTS = ("heatmap", "scale", "offset", "landmarks")

#: Pictures ``(B, 3, H, W) float32``, 0 to 255, H and W multiples of 32, to the maps of `OUTPUTS`; from any thread.
Network = Callable[[F32], list[F32]]


class DetectorRuntime(StrEnum):
    """ONNX is exact and the default. OPENVINO_BF16 is faster; its boxes and landmarks move by fractions of a pixel."""

    ONNX = "onnx"
    OPENVINO_FP32 = "openvino-fp32"
    OPENVINO_BF16 = "openvino-bf16"


def open_network(weights: Path, runtime: DetectorRuntime, threads: int) -> Network:
    """Load the detector's network.

    Args:
        weights: its ONNX file, already checked.
        runtime: what shall run it.
        threads: inside one run; 0 takes every core.

    Raises:
        EngineError: the runtime cannot load it.
        EngineHostError: OpenVINO is not installed, or this processor has no bfloat16.
    """
    if runtime is DetectorRuntime.ONNX:
        return _onnx(weights, threads)
    precision = Precision.BF16 if runtime is DetectorRuntime.OPENVINO_BF16 else Precision.FP32
    check_host(precision)
    return _OpenVino(compile_network(read_network(weights), weights.name, precision, threads))


def _onnx(weights: Path, threads: int) -> Network:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Detection waits for frames most of the time: spinning threads would take the cores from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a dozen private classes
        raise EngineError(
            f"ONNX Runtime cannot load the face detector: {_first_line(error)}",
            hint="a newer onnxruntime is needed: pip install -U onnxruntime",
        ) from error
    return lambda planes: list(session.run(list(OUTPUTS), {INPUT: planes}))


class _OpenVino:
    """Requests hold the memory of their last run: as many as run at once, used again."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._compiled = compiled
        self._free: deque[ov.InferRequest] = deque()

    def __call__(self, planes: F32) -> list[F32]:
        try:
            request = self._free.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer({0: planes}, share_inputs=True)
        maps = [np.array(request.get_tensor(name).data, np.float32) for name in OUTPUTS]
        self._free.append(request)
        return maps


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
