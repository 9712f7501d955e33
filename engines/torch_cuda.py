"""PyTorch on the GPU, with CUDA graphs: for hosts without TensorRT."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from difffake.errors import EngineError, EngineHostError
from engines.contract import EngineSpec, Precision
from engines.device_cuda import CudaDevice
from engines.device_engine import Addresses, DeviceEngine, batch_sizes
from engines.device_memory import Device, Graph, Stream, lost

if TYPE_CHECKING:
    import torch


#: GPU -> streams that closed engines have left.
_LEFT: dict[str, list[Stream]] = defaultdict(list)


class TorchDevice(CudaDevice):
    """A GPU whose memory torch sees as tensors, whose streams torch works in, and whose graphs torch captures: only
    torch's own capture keeps the memory of what lies between the layers for the graph.

    Streams are used again by whoever comes next: torch keeps a workspace of cuBLAS, 32 MiB on a Hopper card, for every
    stream that it ever multiplied matrices in, until the process ends.

    Raises:
        EngineHostError: torch or cuda-bindings is absent, or there is no GPU that both see.
    """

    def __init__(self, index: int = 0) -> None:
        self._torch = import_torch()
        self._place = f"cuda:{index}"
        self._views: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
        #: Memory of all graphs: they run one after the other, and what they give is copied out of it.
        self._pool: Any = None
        super().__init__(index)
        if not self._torch.cuda.is_available():
            raise EngineHostError(
                f"torch {self._torch.__version__} sees no GPU",
                hint="install a build of torch for CUDA: see pytorch.org/get-started",
            )

    kind = "cuda"

    def load(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module's weights to the GPU, channels last, and wait until they are there: our streams do not wait for
        torch's.

        Raises:
            DeviceLostError: the GPU's memory is full.
        """
        with self._errors():
            there: torch.nn.Module = module.to(self._place, memory_format=self._torch.channels_last)  # type: ignore[call-overload]
            self._torch.cuda.synchronize()
        return there

    def unload(self) -> None:
        """Give the memory that torch keeps for later back to the driver."""
        self._views.clear()
        with self._errors():
            self._torch.cuda.empty_cache()

    def tensor(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor over device memory of ours: it owns nothing, and dies before `close`. Made once, so that a capture
        meets only ones that are there."""
        key = address, shape
        if key not in self._views:
            kind = {self._torch.uint8: "|u1", self._torch.float32: "<f4"}[dtype]
            view = _ArrayInterface({"data": (address, False), "shape": shape, "typestr": kind, "version": 3})
            self._views[key] = self._torch.as_tensor(view, device=self._place)
        return self._views[key]

    def run(self, stream: Stream, work: Callable[[], None], at: Addresses) -> None:  # noqa: ARG002
        """Let torch put ``work``, which touches ``at``, into the stream.

        Raises:
            DeviceLostError: the GPU's memory is full, or the GPU is gone.
        """
        with self._errors(), self._torch.cuda.stream(self._external(stream)):
            work()

    def launch(self, graph: Graph, stream: Stream) -> None:
        """See `Device.launch`."""
        with self._errors(), self._torch.cuda.stream(self._external(stream)):
            graph.native.replay()

    def _capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        torch = self._torch
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph, external = torch.cuda.CUDAGraph(), self._external(stream)
        with (
            self._errors(),
            torch.cuda.graph(graph, pool=self._pool, stream=external, capture_error_mode="thread_local"),
        ):
            work()
        return Graph(graph)

    def _make_stream(self) -> Stream:
        left = _LEFT[self._place]
        return left.pop() if left else super()._make_stream()

    def _destroy_stream(self, stream: Stream) -> None:
        _LEFT[self._place].append(stream)

    def _destroy_graph(self, graph: Graph) -> None:
        with self._errors():
            graph.native.reset()

    def _external(self, stream: Stream) -> Any:
        return self._torch.cuda.ExternalStream(stream.handle, device=self._place)

    def _errors(self) -> AbstractContextManager[None]:
        return torch_errors(self._torch)


class _ArrayInterface:
    """Memory, described as CuPy and Numba describe theirs."""

    def __init__(self, interface: dict[str, object]) -> None:
        self.__cuda_array_interface__ = interface


class TorchMemory(Protocol):
    """What `TorchCudaEngine` asks of its device beyond `Device`; see `TorchDevice`."""

    kind: str

    def load(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module's weights."""

    def unload(self) -> None:
        """Give memory back."""

    def tensor(self, address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor over device memory."""

    def run(self, stream: Stream, work: Callable[[], None], at: Addresses) -> None:
        """Put work into the stream."""


class TorchCudaEngine(DeviceEngine):
    """Runs a torch module on the GPU, channels last; see `DeviceEngine` for buffers, graphs and lifetimes.

    A bundle holds ONNX alone: `engines.torch_onnx.load_onnx` makes a module of it; a checkpoint's extractor is one.
    Half precision: a module that has half weights (the ONNX of `engines.half.to_half`, which TensorRT gets too) is run
    as it is typed. Of any other the convolutions and matrices are rounded, and the rest stays, as autocast has it.

    Args:
        module: ``(B, 3, side, side) uint8`` to embedding ``(B, D)``, or to embedding and logit ``(B,)``. Taken over:
            its weights are moved and rounded in place.
        side_px, dim, has_logit, max_batch, depth: see `EngineSpec`.
        memory: a `TorchDevice`, taken over; None opens GPU ``index``.
        precision: FP16, or FP32, without the shortened numbers (TF32) that torch's convolutions take by default.
        timeline: see `DeviceEngine`.

    Raises:
        EngineHostError: no torch, no cuda-bindings, or no GPU.
        DeviceLostError: the GPU's memory is full.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        side_px: int,
        dim: int,
        has_logit: bool = True,
        max_batch: int = 64,
        memory: Device | None = None,
        index: int = 0,
        precision: Precision = Precision.FP16,
        depth: int = 2,
        timeline: bool = False,
    ) -> None:
        device = memory or TorchDevice(index)
        spec = EngineSpec(
            side_px=side_px,
            dim=dim,
            max_batch=max_batch,
            backend=f"torch {import_torch().__version__} {device.name}",
            has_logit=has_logit,
            precision=precision,
            depth=depth,
        )
        try:
            with device.active():
                network = TorchNetwork(module, device, spec)
        except BaseException:
            device.close()
            raise
        super().__init__(device, network, spec, batch_sizes(1, max_batch), timeline=timeline)


class TorchNetwork:
    """A torch module as `engines.device_engine.Network`."""

    def __init__(self, module: torch.nn.Module, device: Any, spec: EngineSpec) -> None:
        self._torch = import_torch()
        self._device: TorchMemory = device
        self._spec = spec
        module = module.eval().requires_grad_(False)
        is_typed = any(weights.dtype is self._torch.float16 for weights in module.parameters())
        self._half = spec.precision is Precision.FP16 and not is_typed
        if self._half:
            for layer in module.modules():
                if isinstance(layer, self._torch.nn.Conv2d | self._torch.nn.Linear):
                    layer.half()
        self._module: Any = self._device.load(module)

    def enqueue(self, batch: int, at: Addresses, stream: Stream) -> None:
        """See `engines.device_engine.Network.enqueue`."""
        self._device.run(stream, lambda: self._forward(batch, at), at)

    def _forward(self, batch: int, at: Addresses) -> None:
        torch, spec = self._torch, self._spec
        faces = self._device.tensor(at.faces, (batch, 3, spec.side_px, spec.side_px), torch.uint8)
        half = (
            torch.autocast(self._device.kind, dtype=torch.float16, cache_enabled=False) if self._half else nullcontext()
        )
        exact = exactly(torch) if spec.precision is Precision.FP32 else nullcontext()
        with torch.no_grad(), half, exact:
            found = self._module(faces.contiguous(memory_format=torch.channels_last))
        embedding, logit = found if isinstance(found, tuple) else (found, None)
        self._device.tensor(at.embedding, (batch, spec.dim), torch.float32).copy_(embedding)
        if spec.has_logit:
            self._device.tensor(at.logit, (batch,), torch.float32).copy_(logit)

    def can_capture(self, batch: int, stream: Stream) -> bool:  # noqa: ARG002
        """See `engines.device_engine.Network.can_capture`."""
        return True

    def close(self) -> None:
        """See `engines.device_engine.Network.close`; torch's cached memory goes back to the driver."""
        self._module = None
        self._device.unload()


def import_torch() -> Any:
    """Import torch.

    Raises:
        EngineHostError: it is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module("torch")
    except Exception as error:
        raise EngineHostError(
            f"torch cannot be imported: {str(error)[:200]}",
            hint="pip install torch, or take another engine: --engine auto",
        ) from error


@contextmanager
def torch_errors(torch: Any) -> Iterator[None]:
    """Turn torch's errors into ours.

    Raises:
        DeviceLostError: the GPU's memory is full, or the GPU is gone.
        EngineError: any other failure.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise lost("torch", "out of memory") from error
    except EngineError:
        raise
    except RuntimeError as error:
        text = (str(error).splitlines() or [""])[0][:200]
        if "CUDA error" in text and "captur" not in text:
            raise lost("torch", text) from error
        raise EngineError(f"torch failed: {text}", hint="report it with torch's version") from error


def exactly(torch: Any) -> AbstractContextManager[None]:
    """Convolutions in whole float32: by default cuDNN shortens the numbers to 10 bits (TF32)."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags
