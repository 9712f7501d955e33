"""A TensorRT, or TensorRT-RTX, whose engines run ONNX Runtime on the bytes of the CUDA double's memory."""

from __future__ import annotations

from enum import Enum, IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime as ort
from cuda_double import Cuda, CudaFailure, Memory, MisuseError

MAGIC = b"PLAN"


def make_plan(onnx: bytes, most: int = 4, least: int = 1) -> bytes:
    """A plan of the double: batches of ``least`` to ``most`` of this network."""
    return MAGIC + bytes([least, most]) + onnx


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(Enum):
    FLOAT, HALF, UINT8, INT64 = range(4)


class Api:
    """The module. Names of both flavours that the runner uses, and no others.

    Args:
        rtx: has what only TensorRT-RTX has.
    """

    ILogger, TensorIOMode, DataType = ILogger, TensorIOMode, DataType

    def __init__(self, cuda: Cuda, *, rtx: bool = False, version: str = "11.4.0.106") -> None:
        self.cuda = cuda
        self.__name__, self.__version__ = ("tensorrt_rtx" if rtx else "tensorrt"), version
        self.refuses = False
        self.refusal = "IRuntime::deserializeCudaEngine: Error Code 1: wrong magic tag"
        self.executes = True
        self.complaint = "enqueueV3: not ready"
        self.capturable = True
        self.kernels: dict[str, bytes] = {}
        self.compiled = 0
        if rtx:
            self.DynamicShapesKernelSpecializationStrategy = Enum("Strategy", ["LAZY", "EAGER", "NONE"])
            self.CudaGraphStrategy = Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])

    def Runtime(self, logger: ILogger) -> Runtime:  # noqa: N802
        return Runtime(self, logger)


class Runtime:
    def __init__(self, api: Api, logger: ILogger) -> None:
        self.api, self.logger = api, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if self.api.refuses or not plan.startswith(MAGIC):
            self.logger.log(Severity.WARNING, "this is of no use")
            self.logger.log(Severity.ERROR, self.api.refusal)
            return None
        return Engine(self.api, self.logger, plan)


class Engine:
    def __init__(self, api: Api, logger: ILogger, plan: bytes) -> None:
        self.api, self.logger = api, logger
        self.least, self.most = plan[len(MAGIC)], plan[len(MAGIC) + 1]
        self.session = _session(plan[len(MAGIC) + 2 :])
        self.tensors = {i.name: (TensorIOMode.INPUT, i) for i in self.session.get_inputs()}
        self.tensors |= {o.name: (TensorIOMode.OUTPUT, o) for o in self.session.get_outputs()}
        api.cuda.contexts += 1
        self.weights = Memory(0, np.zeros(0, np.uint8), pinned=False)

    def __del__(self) -> None:
        if hasattr(self, "weights"):
            _gone(self.api.cuda, self.weights, "an engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        # In no order that anybody could rely on.
        return sorted(self.tensors, reverse=True)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        kinds = {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT, "tensor(int64)": DataType.INT64}
        return kinds.get(self.tensors[name][1].type, DataType.HALF)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self.tensors[name][1].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        rest = self.get_tensor_shape(name)[1:]
        return [(self.least, *rest), (self.most, *rest), (self.most, *rest)]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.api)

    def create_execution_context(self, runtime_config: RuntimeConfig | None = None) -> Context | None:
        if hasattr(self.api, "CudaGraphStrategy"):
            assert runtime_config is not None, "TensorRT-RTX without a cache compiles at every start"
            runtime_config.check()
        try:
            self.api.cuda.call("create_context")
        except CudaFailure as failure:
            self.logger.log(Severity.ERROR, f"CUDA error: {failure.name}")
            return None
        return Context(self, runtime_config)


class RuntimeCache:
    def __init__(self) -> None:
        self.kernels: set[bytes] = set()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"KERNELS"):
            return False
        self.kernels = set(blob.split(b":")[1:])
        return True

    def serialize(self) -> bytes:
        return b":".join([b"KERNELS", *sorted(self.kernels)])


class RuntimeConfig:
    def __init__(self, api: Api) -> None:
        self._api, self.cache = api, RuntimeCache()
        self.dynamic_shapes_kernel_specialization_strategy: Any = None
        self.cuda_graph_strategy: Any = None

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache()

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True

    def check(self) -> None:
        strategy = self._api.DynamicShapesKernelSpecializationStrategy
        if self.dynamic_shapes_kernel_specialization_strategy is not strategy.EAGER:
            raise MisuseError("graphs would hold the kernels that stand in for those compiled later")
        if self.cuda_graph_strategy is not self._api.CudaGraphStrategy.DISABLED:
            raise MisuseError("two would capture graphs")


class Context:
    """Scratch memory of its own: two runs of one context must be in order."""

    def __init__(self, engine: Engine, config: RuntimeConfig | None) -> None:
        self.engine, self.config = engine, config
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.scratch = Memory(0, np.zeros(0, np.uint8), pinned=False)
        self.ran = False
        engine.api.cuda.contexts += 1

    def __del__(self) -> None:
        _gone(self.engine.api.cuda, self.scratch, "an execution context")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        if not all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True)):
            self.engine.logger.log(Severity.ERROR, f"{shape} is outside the profile")
            return False
        self.shape, self.ran = shape, False
        if self.config is not None and str(shape).encode() not in self.config.cache.kernels:
            self.config.cache.kernels.add(str(shape).encode())
            self.engine.api.compiled += 1
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.tensors or memory % 256:
            self.engine.logger.log(Severity.ERROR, f"{name} at {memory:#x}")
            return False
        self.addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream in self.engine.api.cuda.streams
        return self.engine.api.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, cuda = self.engine, self.engine.api.cuda
        if not engine.api.executes or self.shape is None or set(self.addresses) != set(engine.tensors):
            engine.logger.log(Severity.ERROR, engine.api.complaint)
            return False
        if cuda.streams[stream_handle].captured is not None and not self.ran:
            raise MisuseError("captured before it was run once with these shapes")
        self.ran = True
        batch = self.shape[0]
        place: dict[str, tuple[Memory, int, int]] = {}
        for name, address in self.addresses.items():
            shape = (batch, *engine.get_tensor_shape(name)[1:])
            size = int(np.prod(shape)) * (1 if engine.get_tensor_dtype(name) is DataType.UINT8 else 4)
            place[name] = (*cuda.find(address, size), size)
        outputs = [name for name, (mode, _) in engine.tensors.items() if mode is TensorIOMode.OUTPUT]
        session, shape = engine.session, self.shape

        def run() -> None:
            memory, start, size = place["faces"]
            faces = memory.data[start : start + size].reshape(shape)
            for name, value in zip(outputs, session.run(outputs, {"faces": faces}), strict=True):
                memory, start, size = place[name]
                memory.data[start : start + size] = np.ascontiguousarray(value).view(np.uint8).ravel()

        reads = [place["faces"][0], engine.weights]
        writes = [place[name][0] for name in outputs] + [self.scratch]
        cuda.kernel(f"network, batch {batch}", stream_handle, reads, writes, run)
        return True


@lru_cache(maxsize=8)
def _session(onnx: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _gone(cuda: Cuda, memory: Memory, what: str) -> None:
    cuda.contexts -= 1
    if cuda.is_lost:
        return
    if memory.waiting:
        cuda.mistakes.append(f"{what} released while its work waits")
    if any(memory in (*work.reads, *work.writes) for graph in cuda.graphs for work in graph.work):
        cuda.mistakes.append(f"{what} released before a graph of its work")


def host(api: Api) -> Any:
    """What `engines.tensorrt_api.host_info` would say."""
    from engines.tensorrt_api import Gpu, HostInfo

    return HostInfo({api.__name__: api.__version__}, "13.1", (Gpu(Cuda.name, "9.0", 1 << 26),))
