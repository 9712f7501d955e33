"""OpenVINO on the CPU: float32, bfloat16 where the processor has it, and int8 networks made by `engines.quantize`.

By itself OpenVINO takes bfloat16 wherever the processor can, also for a float32 network and for what an int8 network
leaves in floating point. So the precision is always named, and checked after compilation: an engine computes in what
its spec says, or it is not opened.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from difffake.errors import EngineError, EngineFileError, EngineHostError
from engines.contract import INPUT, OUTPUTS, U8, Embeddings, EngineSpec, Precision, Ticket, check_faces
from engines.in_flight import check_oldest, check_room

if TYPE_CHECKING:
    import openvino as ov

#: Bounds on what is read: a network's description (the XML of an IR), its weights, and an ONNX file with both.
MAX_XML_BYTES = 1 << 26
MAX_WEIGHTS_BYTES = 1 << 30

#: Runs at once, where the threads of each are given and there are cores for all.
STREAMS = 2

#: Faces that one core takes at once of a batch that several cores share: what lies between the first layers of so many
#: stays in its cache, and cores that work on pieces of their own do not wait for each other after every layer.
PIECE = 4

_EXACT = "take the exact engine: --engine onnx"
_CPU_INFO = Path("/proc/cpuinfo")


class OpenVinoEngine:
    """Runs an extractor or an identity network with OpenVINO.

    Args:
        path: the ONNX file (fp32, bf16), or the ``.xml`` of an int8 network, whose ``.bin`` lies beside it; inputs and
            outputs as in `engines.contract`.
        precision: what it computes in: FP32, BF16 or INT8; INT8 leaves in float32 what was not quantised.
        threads: for one batch; two batches in flight take twice as many where there are as many cores. 0 gives every
            core to one batch at a time.
        max_batch: longer batches are split, which bounds the memory of a run.
        read: reads the file.

    Several threads may call ``infer`` at once.

    Raises:
        EngineHostError: OpenVINO is not installed, or this processor lacks the instructions of the precision.
        EngineFileError: the file is damaged, or holds no such network.
    """

    def __init__(
        self,
        path: Path,
        *,
        precision: Precision,
        threads: int = 0,
        max_batch: int = 32,
        read: Callable[[Path], ov.Model] | None = None,
    ) -> None:
        check_host(precision)
        model = (read or read_network)(path)
        side_px, dim, has_logit = _check_network(model, path, precision)
        self._whole: _Network | None = _Network(compile_network(model, path.name, precision, threads))
        # Longer batches than there are threads for them are shared out.
        self._threads = threads or os.cpu_count() or 1
        self._shared: _Network | None = None
        if self._threads > 1:
            self._shared = _Network(compile_network(model, path.name, precision, 1, streams=self._threads))
        self._spec = EngineSpec(
            side_px=side_px,
            dim=dim,
            max_batch=max_batch,
            backend=f"openvino {version()} CPU {precision}",
            is_shared=True,
            has_logit=has_logit,
            precision=precision,
        )
        self._waiting: deque[_Running] = deque()
        self._submitted = 0

    @property
    def spec(self) -> EngineSpec:
        """Shapes and limits of this engine."""
        return self._spec

    def infer(self, faces: U8) -> Embeddings:
        """Embed faces ``(B, 3, side, side) uint8`` RGB; see `engines.contract.Engine.infer`."""
        network = self._check_open(faces)
        if self._waiting:
            raise EngineError("batches are in flight", hint="collect them before calling infer")
        embedding = np.empty((len(faces), self._spec.dim), np.float32)
        logit = np.full(len(faces), np.nan, np.float32)
        for start in range(0, len(faces), self._spec.max_batch):
            part = slice(start, start + self._spec.max_batch)
            # This call waits, so nothing is copied that lies in one piece; OpenVINO refuses memory that is read-only.
            found = self._finish(self._start(network, np.require(faces[part], requirements=["C", "W"])))
            embedding[part], logit[part] = found.embedding, found.logit
        return Embeddings(embedding=embedding, logit=logit)

    def submit(self, faces: U8) -> Ticket:
        """Begin a batch; see `engines.contract.Engine.submit`."""
        network = self._check_open(faces)
        check_room(len(faces), len(self._waiting), self._spec)
        self._waiting.append(self._start(network, np.array(faces, order="C")))
        return self._waiting[-1].ticket

    def collect(self, ticket: Ticket) -> Embeddings:
        """Wait for the oldest batch in flight; see `engines.contract.Engine.collect`."""
        check_oldest(ticket, self._waiting[0].ticket if self._waiting else None)
        return self._finish(self._waiting.popleft())

    def close(self) -> None:
        """Release the network; what is in flight is waited for and dropped."""
        while self._waiting:
            for piece in self._waiting.popleft().pieces:
                piece.cancel()
        self._whole = self._shared = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self, faces: U8) -> _Network:
        if self._whole is None:
            raise EngineError("this engine is closed", hint="keep the engine open while frames arrive")
        check_faces(faces, self._spec)
        return self._whole

    def _start(self, whole: _Network, faces: U8) -> _Running:
        """Begin faces that stay as they are until the end; none at all are not begun: OpenVINO refuses that."""
        network, most = whole, max(1, len(faces))
        if self._shared is not None and len(faces) >= self._threads:
            network, most = self._shared, min(PIECE, -(-len(faces) // self._threads))
        running = _Running(Ticket(self._submitted, len(faces)), [])
        self._submitted += 1
        try:
            for start in range(0, len(faces), most):
                running.pieces.append(network.start(faces[start : start + most]))
        except RuntimeError as error:
            for piece in running.pieces:
                piece.cancel()
            raise _failed(len(faces), error) from error
        return running

    def _finish(self, running: _Running) -> Embeddings:
        count = running.ticket.faces
        embedding = np.empty((count, self._spec.dim), np.float32)
        logit = np.full(count, np.nan, np.float32)
        done = 0
        try:
            for piece in running.pieces:
                found = piece.wait()
                rows = slice(done, done + len(piece.faces))
                embedding[rows], done = found[0], rows.stop
                if self._spec.has_logit:
                    logit[rows] = found[1]
        except RuntimeError as error:
            for piece in running.pieces:
                piece.cancel()
            raise _failed(count, error) from error
        return Embeddings(embedding=embedding, logit=logit)


class _Network:
    """A compiled network and its idle requests: they hold the memory of their last run, so they are used again."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.compiled = compiled
        self.free: deque[ov.InferRequest] = deque()

    def start(self, faces: U8) -> _Piece:
        """Begin a run.

        Raises:
            RuntimeError: OpenVINO cannot.
        """
        import openvino as ov

        try:
            request = self.free.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        try:
            request.set_input_tensor(ov.Tensor(faces, shared_memory=True))
            request.start_async()
        except RuntimeError:
            self.free.append(request)
            raise
        return _Piece(self, request, faces)


@dataclass(slots=True, eq=False)
class _Piece:
    """A run that was begun; ``faces`` is the memory that OpenVINO reads."""

    network: _Network
    request: ov.InferRequest
    faces: U8
    is_over: bool = False

    def wait(self) -> tuple[npt.NDArray[np.float32], ...]:
        """The outputs, copied.

        Raises:
            RuntimeError: the run failed.
        """
        self.request.wait()
        names = OUTPUTS[: len(self.request.model_outputs)]
        found = tuple(np.array(self.request.get_tensor(name).data, np.float32) for name in names)
        self._give_back()
        return found

    def cancel(self) -> None:
        """Give the request back once it reads no memory of ours any more; nothing if it was waited for."""
        if not self.is_over:
            self.request.cancel()
            with contextlib.suppress(RuntimeError):  # "was canceled", or what it failed of
                self.request.wait()
            self._give_back()

    def _give_back(self) -> None:
        self.is_over = True
        self.network.free.append(self.request)


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A batch that was begun, in pieces."""

    ticket: Ticket
    pieces: list[_Piece]


def version() -> str:
    """OpenVINO's version, as reports name it.

    Raises:
        EngineHostError: it is not installed.
    """
    open_core()
    import openvino as ov

    return str(ov.__version__).split("-", maxsplit=1)[0]


def check_host(precision: Precision) -> None:
    """Return when OpenVINO on this processor computes in ``precision``, and as the parity report found it elsewhere.

    Raises:
        EngineHostError: it is not installed, or the processor lacks the instructions.
    """
    capabilities = set(open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if precision is Precision.BF16 and "BF16" not in capabilities:
        raise EngineHostError(
            f"this processor ({cpu_name()}) does not compute in bfloat16: it needs AVX512_BF16 or AMX",
            hint=f"{_EXACT}, or --engine openvino-int8 where the bundle has it",
        )
    # Without these, sums of int8 products saturate in 16 bits: other scores than those that passed the gate.
    if precision is Precision.INT8 and not any("vnni" in flag or flag == "amx_int8" for flag in cpu_flags()):
        raise EngineHostError(
            f"this processor ({cpu_name()}) has no VNNI or AMX that is known of: int8 scores were not proven on it",
            hint=_EXACT,
        )
    if precision is Precision.FP16:
        raise EngineHostError("OpenVINO on a CPU runs fp32, bf16 and int8, not fp16", hint=_EXACT)


def cpu_name() -> str:
    """The processor, as OpenVINO calls it."""
    return str(open_core().get_property("CPU", "FULL_DEVICE_NAME")).strip()


def cpu_flags() -> frozenset[str]:
    """The processor's instruction sets as Linux names them ("avx512_vnni"); empty where nothing is known."""
    try:
        with _CPU_INFO.open(encoding="utf-8", errors="replace") as lines:
            line = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())


def read_network(path: Path) -> ov.Model:
    """Read an ONNX file or an OpenVINO IR, within bounds.

    Raises:
        EngineFileError: missing, too large, truncated, or not such a file.
        EngineHostError: OpenVINO is not installed.
    """
    core = open_core()
    is_ir = path.suffix == ".xml"
    parts = {path: MAX_XML_BYTES, path.with_suffix(".bin"): MAX_WEIGHTS_BYTES} if is_ir else {path: MAX_WEIGHTS_BYTES}
    for part, limit in parts.items():
        try:
            size = part.stat().st_size
        except OSError as error:
            raise EngineFileError(f"cannot read {part.name}: {error.strerror}", hint=_again(is_ir)) from error
        if not 0 < size <= limit:
            raise EngineFileError(f"{part.name} has {size} bytes, not 1 to {limit}", hint=_again(is_ir))
    try:
        return core.read_model(path)
    except Exception as error:  # several private classes; all mean "cannot load"
        raise EngineFileError(f"OpenVINO cannot load {path.name}: {_last_line(error)}", hint=_again(is_ir)) from error


def compile_network(
    model: ov.Model, name: str, precision: Precision, threads: int, *, streams: int = 0
) -> ov.CompiledModel:
    """Compile for the CPU; nothing is cached on disk.

    Args:
        model, name: the network, and what errors call it.
        precision: what it must compute in.
        threads: of each run; 0 takes every core.
        streams: runs at once; 0: as many as `STREAMS` says.

    Raises:
        EngineFileError: OpenVINO cannot compile it.
        EngineHostError: it would compute in another precision than asked for.
    """
    import openvino as ov

    asked = ov.Type.bf16 if precision is Precision.BF16 else ov.Type.f32
    # A stream is one run at a time, on its own share of the threads: more of both than cores would halve each run.
    streams = streams or (STREAMS if 0 < threads * STREAMS <= (os.cpu_count() or 1) else 1)
    options = {
        "INFERENCE_PRECISION_HINT": asked,
        "INFERENCE_NUM_THREADS": threads * streams,
        "NUM_STREAMS": streams,
        # Two workers on one machine would both be pinned to its first cores.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = open_core().compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise EngineFileError(
            f"OpenVINO cannot compile {name}: {_last_line(error)}", hint=_again(is_ir=True)
        ) from error
    used = compiled.get_property("INFERENCE_PRECISION_HINT")
    if used != asked:
        raise EngineHostError(f"OpenVINO would compute in {used}, not in {asked}", hint=_EXACT)
    return compiled


def is_quantised(model: ov.Model) -> bool:
    """Whether any layer of the network computes in int8."""
    return any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def _check_network(model: ov.Model, path: Path, precision: Precision) -> tuple[int, int, bool]:
    """Side, dimension, and whether there is a logit."""
    inputs, outputs = model.inputs, model.outputs
    taken = inputs[0].get_partial_shape()
    given = [output.get_partial_shape() for output in outputs]
    names = [sorted(port.get_names()) for port in (*inputs, *outputs)]
    wanted = [[INPUT], *([name] for name in OUTPUTS)]
    if (
        len(inputs) != 1
        or names not in (wanted, wanted[:2])
        or inputs[0].get_element_type().get_type_name() != "u8"
        or [taken.rank.is_static and len(taken), given[0].rank.is_static and len(given[0])] != [4, 2]
        or not (taken[0].is_dynamic and taken[2].is_static and taken[2] == taken[3] and given[0][1].is_static)
    ):
        raise EngineFileError(
            f"{path.name} embeds no faces: it needs the input faces (B,3,S,S) uint8 and the outputs {OUTPUTS}",
            hint=_again(path.suffix == ".xml"),
        )
    if is_quantised(model) != (precision is Precision.INT8):
        article = "no" if precision is Precision.INT8 else "an"
        raise EngineFileError(
            f"{path.name} is {article} int8 network, and {precision} was asked for",
            hint=_again(is_ir=True),
        )
    return taken[2].get_length(), given[0][1].get_length(), len(outputs) == len(OUTPUTS)


@functools.cache
def open_core() -> ov.Core:
    """OpenVINO, one for the process: it holds the plugin, not the networks.

    Raises:
        EngineHostError: it is not installed.
    """
    try:
        import openvino as ov
    except ImportError as error:
        raise EngineHostError(
            f"OpenVINO cannot be imported ({error})", hint="pip install 'difffake[openvino]', or " + _EXACT
        ) from error
    core = ov.Core()
    # A mapped file that is replaced under a running engine would take the process with it.
    core.set_property({"ENABLE_MMAP": False})
    return core


def _again(is_ir: bool) -> str:
    made = "build the engine again: python build_engine.py --kind openvino-int8"
    return made if is_ir else "the file is damaged, or needs a newer openvino; install the bundle again"


def _failed(count: int, error: Exception) -> EngineError:
    return EngineError(
        f"OpenVINO failed on a batch of {count}: {_last_line(error)}",
        hint="try a smaller batch; if it stays, report it with the model id",
    )


def _last_line(error: Exception) -> str:
    """OpenVINO puts places in its source first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]
