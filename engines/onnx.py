"""ONNX Runtime on the CPU: the exact default."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import onnxruntime as ort

from difffake.errors import EngineError, out_of_memory
from engines.contract import INPUT, OUTPUTS, U8, Embeddings, EngineSpec, Ticket, check_faces
from engines.in_flight import InFlight
from engines.onnx_session import first_line, open_session


class OnnxEngine:
    """Runs the fp32 ONNX file of an extractor or an identity network with ONNX Runtime.

    Args:
        path: the ONNX file: input ``faces (B, 3, side, side) uint8``, outputs ``embedding (B, D) float32`` and, from an
            extractor, ``logit (B,) float32``; B dynamic.
        threads: threads inside one run; 0 lets the runtime take every core.
        max_batch: longer batches are split, which bounds the memory of a run.

    Raises:
        EngineError: the file is no such network, or the runtime cannot load it.
        OutOfMemoryError: there is no memory for it, or for its threads; so do its runs.
    """

    def __init__(self, path: Path, *, threads: int = 0, max_batch: int = 32) -> None:
        session = open_session(
            path,
            threads,
            what=path.name,
            hint="the file is damaged or needs a newer onnxruntime; install the bundle again",
        )
        inputs, outputs = session.get_inputs(), session.get_outputs()
        shape = inputs[0].shape
        if (
            [i.name for i in inputs] != [INPUT]
            or tuple(o.name for o in outputs) not in (OUTPUTS, OUTPUTS[:1])
            or inputs[0].type != "tensor(uint8)"
            or len(shape) != 4
            or isinstance(shape[0], int)
            or not isinstance(shape[2], int)
            or shape[2] != shape[3]
            or len(outputs[0].shape) != 2
            or not isinstance(outputs[0].shape[1], int)
        ):
            raise EngineError(
                f"{path.name} embeds no faces: it needs the input faces (B,3,S,S) uint8 and the outputs {OUTPUTS}",
                hint="make the bundle again: `difffake fit STORE RUN --out BUNDLE`",
            )
        self._session: ort.InferenceSession | None = session
        self._spec = EngineSpec(
            side_px=shape[2],
            dim=outputs[0].shape[1],
            max_batch=max_batch,
            backend=f"onnxruntime {ort.__version__} CPU",
            has_logit=len(outputs) == len(OUTPUTS),
            is_shared=True,
        )
        self._in_flight = InFlight(self._run)

    @property
    def spec(self) -> EngineSpec:
        """Shapes and limits of this engine."""
        return self._spec

    def infer(self, faces: U8) -> Embeddings:
        """Embed faces ``(B, 3, side, side) uint8`` RGB; see `engines.contract.Engine.infer`."""
        self._open(faces)
        if len(self._in_flight):
            raise EngineError("batches are in flight", hint="collect them before calling infer")
        return self._run(faces)

    def submit(self, faces: U8) -> Ticket:
        """Begin a batch; see `engines.contract.Engine.submit`."""
        self._open(faces)
        return self._in_flight.submit(faces, self._spec)

    def collect(self, ticket: Ticket) -> Embeddings:
        """Wait for the oldest batch in flight; see `engines.contract.Engine.collect`."""
        return self._in_flight.collect(ticket)

    def _open(self, faces: U8) -> ort.InferenceSession:
        if self._session is None:
            raise EngineError("this engine is closed", hint="keep the engine open while frames arrive")
        check_faces(faces, self._spec)
        return self._session

    def _run(self, faces: U8) -> Embeddings:
        session = self._open(faces)
        embedding = np.empty((len(faces), self._spec.dim), np.float32)
        logit = np.full(len(faces), np.nan, np.float32)
        names = OUTPUTS if self._spec.has_logit else OUTPUTS[:1]
        for start in range(0, len(faces), self._spec.max_batch):
            part = slice(start, start + self._spec.max_batch)
            try:
                found = session.run(list(names), {INPUT: np.ascontiguousarray(faces[part])})
                embedding[part] = found[0]
                if self._spec.has_logit:
                    logit[part] = found[1]
            except Exception as error:
                if (no_memory := out_of_memory(error)) is not None:
                    raise no_memory from error
                raise EngineError(
                    f"ONNX Runtime failed on a batch of {len(faces[part])}: {first_line(error)}",
                    hint="try a smaller batch; if it stays, report it with the model id",
                ) from error
        return Embeddings(embedding=embedding, logit=logit)

    def close(self) -> None:
        """Release the session's memory."""
        self._in_flight.close()
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
