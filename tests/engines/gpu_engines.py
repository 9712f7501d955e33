"""Engines on the CUDA double, made of the files that the real ones are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuda_double import Cuda
from cuda_modules import Driver, Runtime
from tensorrt_double import Api, host, make_plan
from tiny import DIM, SIDE_PX

from engines.contract import Precision
from engines.device_cuda import CudaDevice
from engines.device_engine import Addresses
from engines.device_memory import Device, Stream
from engines.device_pycuda import PycudaDevice
from engines.manifest import PLAN, BatchProfile, EngineManifest, FileDigest, GpuKind, write_manifest
from engines.tensorrt import TensorRtEngine
from engines.torch_cuda import TorchCudaEngine
from engines.torch_onnx import load_onnx


def write_engine(folder: Path, onnx: bytes, *, rtx: bool = False, most: int = 4, **changes: Any) -> Path:
    """A folder as `build_engine.py` leaves it, for the double."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = changes.pop("plan", None) or make_plan(onnx, most)
    (folder / PLAN).write_bytes(plan)
    fields: dict[str, Any] = {
        "kind": "tensorrt_rtx-fp16" if rtx else "tensorrt-fp16",
        "network": "extractor",
        "runtime": "tensorrt_rtx" if rtx else "tensorrt",
        "runtime_version": "11.4.0.106",
        "gpu": GpuKind(Cuda.name, "9.0"),
        "precision": Precision.FP16,
        "profile": BatchProfile(1, most, most),
        "side_px": SIDE_PX,
        "dim": DIM,
        "has_logit": True,
        "source": FileDigest.of(onnx),
        "files": {PLAN: FileDigest.of(plan)},
        "build_s": 1.0,
        "created": "2026-01-01T00:00:00+00:00",
    }
    write_manifest(folder, EngineManifest(**fields | changes))
    return folder


def open_tensorrt(
    folder: Path, cuda: Cuda, *, api: Api | None = None, rtx: bool = False, pycuda: bool = False, **options: Any
) -> TensorRtEngine:
    """A `TensorRtEngine` on the double."""
    api = api or Api(cuda, rtx=rtx)
    memory: Device = PycudaDevice(driver=Driver(cuda)) if pycuda else CudaDevice(runtime=Runtime(cuda))
    return TensorRtEngine(folder, memory=memory, host=host(api), api=api, **({"onnx_sha256": None} | options))  # type: ignore[arg-type]


class DoubleTorch(CudaDevice):
    """What `TorchDevice` is on a GPU: torch's work waits in the double's streams."""

    kind = "cpu"

    def __init__(self, cuda: Cuda) -> None:
        super().__init__(runtime=Runtime(cuda))
        self.cuda, self.loaded = cuda, 0

    def load(self, module: torch.nn.Module) -> torch.nn.Module:
        self.loaded += 1
        return module.to(memory_format=torch.channels_last)

    def unload(self) -> None:
        self.loaded -= 1

    def tensor(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        memory, start = self.cuda.find(address, size)
        return torch.from_numpy(memory.data)[start : start + size].view(dtype).reshape(shape)

    def run(self, stream: Stream, work: Callable[[], None], at: Addresses) -> None:
        outputs = [address for address in (at.embedding, at.logit) if address]
        reads, writes = ([self.cuda.find(a, 1)[0] for a in places] for places in ([at.faces], outputs))
        self.cuda.kernel("torch", stream.handle, reads, writes, work)


def open_torch(path: Path, cuda: Cuda, **options: Any) -> TorchCudaEngine:
    """A `TorchCudaEngine` of an ONNX file on the double."""
    settings: dict[str, Any] = {"side_px": SIDE_PX, "dim": DIM, "max_batch": 4} | options
    return TorchCudaEngine(load_onnx(path), memory=DoubleTorch(cuda), **settings)
