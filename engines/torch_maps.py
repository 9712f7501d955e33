"""A network from pictures to maps on the GPU, by torch in float32: the face detector, whose pictures have any size."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from difffake.errors import EngineHostError
from engines.contract import F32, U8
from engines.device_cuda import wait_asleep
from engines.torch_cuda import exactly, import_torch, torch_errors

if TYPE_CHECKING:
    import torch

#: Shapes that have a graph at once: sizes of streams, times powers of two of a batch.
_MAX_GRAPHS = 64


@dataclass(slots=True)
class _Run:
    """One shape: where pictures are read on the GPU, where the joined maps lie, and the graph from one to the other,
    captured at the second run."""

    given: torch.Tensor
    joined: torch.Tensor
    shapes: list[tuple[int, ...]]
    graph: Any = None


class TorchMaps:
    """Pictures ``(B, H, W, 3) uint8`` to maps ``(B, C, h, w) float32``. Bytes cross to the GPU, and all maps come back
    in one copy. Batches are padded to powers of two, and each shape is one launch of a graph: a hundred small kernels,
    launched one by one, would keep the GPU from other workers as long. Any thread may call it; calls wait for each
    other.

    Args:
        module: ``(B, 3, H, W) float32``, 0 to 255, to a tuple of maps. Taken over: its weights are moved.
        place: where torch runs it: a GPU, or ``cpu`` to see what it does without one.

    Raises:
        EngineHostError: torch sees no GPU.
        DeviceLostError: the GPU's memory is full.
    """

    def __init__(self, module: torch.nn.Module, place: str = "cuda:0") -> None:
        self._torch = import_torch()
        self._is_gpu = place != "cpu"
        if self._is_gpu:
            wait_asleep(int(place.rpartition(":")[2]))
        if self._is_gpu and not self._torch.cuda.is_available():
            raise EngineHostError(
                f"torch {self._torch.__version__} sees no GPU",
                hint="install a build of torch for CUDA (see pytorch.org/get-started), or take --detector-engine onnx",
            )
        self._place, self._lock = place, threading.Lock()
        self._runs: dict[tuple[int, ...], _Run] = {}
        #: Page-locked memory, used again and grown: a copy from other memory waits for all of the GPU's work.
        self._pinned: dict[str, torch.Tensor] = {}
        with self._errors():
            module = module.eval().requires_grad_(False)
            self._module = module.to(place, memory_format=self._torch.channels_last)  # type: ignore[call-overload]
            self._stream = self._torch.cuda.Stream(place) if self._is_gpu else None
            # Threads that wait for it sleep: a waiting worker must not take the decoders' cores.
            self._done = self._torch.cuda.Event(blocking=True) if self._is_gpu else None
            #: Memory of all graphs but their outputs: they run one after the other.
            self._pool = self._torch.cuda.graph_pool_handle() if self._is_gpu else None
            if self._is_gpu:
                self._torch.cuda.synchronize()  # the weights are there before our stream reads them

    def __call__(self, pictures: U8) -> list[F32]:
        """Run the network.

        Raises:
            DeviceLostError: the GPU's memory is full, or the GPU is gone.
            EngineError: torch failed.
        """
        count = len(pictures)
        shape = (1 << (count - 1).bit_length(), *pictures.shape[1:])
        with self._lock, self._errors(), self._torch.no_grad(), self._on_stream(), exactly(self._torch):
            given = self._staged(pictures)
            run = self._runs.get(shape)
            if run is None:
                run = self._first(given, shape)
            else:
                run.given[:count].copy_(given, non_blocking=True)
                self._again(run)
            found = self._bring(run.joined[:count])
        parts = np.split(found, np.cumsum([int(np.prod(shape)) for shape in run.shapes])[:-1], axis=1)
        return [part.reshape(count, *shape) for part, shape in zip(parts, run.shapes, strict=True)]

    def _first(self, given: torch.Tensor, shape: tuple[int, ...]) -> _Run:
        if len(self._runs) >= _MAX_GRAPHS:
            oldest = self._runs.pop(next(iter(self._runs)))
            if oldest.graph is not None:
                oldest.graph.reset()
        room = self._torch.zeros(shape, dtype=self._torch.uint8, device=self._place)
        room[: len(given)].copy_(given, non_blocking=True)
        joined, shapes = self._forward(room)
        run = self._runs[shape] = _Run(room, joined, shapes)
        return run

    def _again(self, run: _Run) -> None:
        if not self._is_gpu:
            run.joined = self._forward(run.given)[0]
            return
        if run.graph is None:
            graph = self._torch.cuda.CUDAGraph()
            with self._torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                run.joined.copy_(self._forward(run.given)[0])
            run.graph = graph
        run.graph.replay()

    def _forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        """All maps of a picture in a row; their shapes."""
        maps = self._module(pictures.permute(0, 3, 1, 2).float())
        return self._torch.cat([one.flatten(1) for one in maps], 1), [tuple(one.shape[1:]) for one in maps]

    def _staged(self, pictures: U8) -> torch.Tensor:
        given: torch.Tensor = self._torch.from_numpy(pictures)
        if not self._is_gpu:
            return given
        there = self._room("in", given)
        there.copy_(given)
        return there

    def _bring(self, joined: torch.Tensor) -> F32:
        """To host memory, waiting for it; the array is the caller's."""
        if self._done is None:
            return np.array(joined.numpy(), np.float32)
        there = self._room("out", joined)
        there.copy_(joined, non_blocking=True)
        self._done.record(self._stream)
        self._done.synchronize()
        return np.array(there.numpy(), np.float32)

    def _room(self, name: str, like: torch.Tensor) -> torch.Tensor:
        if name not in self._pinned or self._pinned[name].numel() < like.numel():
            self._pinned[name] = self._torch.empty(like.numel(), dtype=like.dtype, pin_memory=True)
        found: torch.Tensor = self._pinned[name][: like.numel()].view(like.shape)
        return found

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else self._torch.cuda.stream(self._stream)

    def _errors(self) -> AbstractContextManager[None]:
        return torch_errors(self._torch)
