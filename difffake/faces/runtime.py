"""What runs the face detector: ONNX Runtime, OpenVINO in bfloat16 on processors that have it, or torch on a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from difffake.errors import EngineHostError
from difffake.faces.contract import F32, U8
from engines.contract import Precision
from engines.onnx_session import open_session
from engines.openvino import check_host, compile_network, read_network
from engines.tensorrt_api import host_info

if TYPE_CHECKING:
    import openvino as ov

INPUT = "images"
#: Pictures in a run, height and width: close-ups, and whole pictures of 720p, 1080p and 360p. On a GPU the first run of
#: a size takes seconds, in which streams would wait.
_WARM = (*((count, 128, 128) for count in (1, 2, 4, 8)), (1, 224, 384), (1, 288, 480), (1, 160, 256))
OUTPUTS = ("heatmap", "scale", "offset", "landmarks")

#: Pictures ``(B, H, W, 3) uint8`` RGB, H and W multiples of 32, to the maps of `OUTPUTS`; from any thread.
Network = Callable[[U8], list[F32]]


class DetectorRuntime(StrEnum):
    """ONNX is exact and the default. OPENVINO_BF16 is faster; its landmarks move by a hundredth of the eye distance,
    which the scores that follow do not bear. TORCH runs on an NVIDIA GPU, in float32."""

    ONNX = "onnx"
    TORCH = "torch"
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
        EngineHostError: the runtime is not installed, this processor has no bfloat16, or there is no GPU.
        DeviceLostError: the GPU's memory is full, or the host's.
    """
    if runtime is DetectorRuntime.ONNX:
        return _onnx(weights, threads)
    if runtime is DetectorRuntime.TORCH:
        return _torch(weights)
    precision = Precision.BF16 if runtime is DetectorRuntime.OPENVINO_BF16 else Precision.FP32
    check_host(precision)
    return _OpenVino(compile_network(read_network(weights), weights.name, precision, threads))


def _onnx(weights: Path, threads: int) -> Network:
    session = open_session(
        weights, threads, what="the face detector", hint="a newer onnxruntime is needed: pip install -U onnxruntime"
    )
    return lambda pictures: list(session.run(list(OUTPUTS), {INPUT: _planes(pictures)}))


def _torch(weights: Path) -> Network:
    if (problem := host_info().problem) is not None:
        raise EngineHostError(f"torch needs an NVIDIA GPU: {problem}", hint="take --detector-engine onnx")
    try:
        from engines.torch_maps import TorchMaps
        from engines.torch_onnx import load_maps
    except ImportError as error:
        raise EngineHostError(
            f"torch cannot be imported: {error}", hint="pip install 'difffake[gpu]', or take --detector-engine onnx"
        ) from error
    maps = TorchMaps(load_maps(weights, INPUT, OUTPUTS))
    for shape in _WARM:
        for _ in range(2):  # the second captures a graph
            maps(np.zeros((*shape, 3), np.uint8))
    return maps


def _planes(pictures: U8) -> F32:
    """``(B, 3, H, W) float32``, 0 to 255."""
    return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)


class _OpenVino:
    """Requests hold the memory of their last run: as many as run at once, used again."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._compiled = compiled
        self._free: deque[ov.InferRequest] = deque()

    def __call__(self, pictures: U8) -> list[F32]:
        try:
            request = self._free.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer({0: _planes(pictures)}, share_inputs=True)
        maps = [np.array(request.get_tensor(name).data, np.float32) for name in OUTPUTS]
        self._free.append(request)
        return maps
