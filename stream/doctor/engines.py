"""Which engines run the model's networks here, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from difffake.bundle import Bundle
from difffake.errors import DiffFakeError, EngineError, MissingExtraError
from difffake.faces import CenterFace
from difffake.faces.runtime import DetectorRuntime
from difffake.networks import DETECTOR, EXTRACTOR, IDENTITY, EngineChoice, ModelName, open_networks
from engines.choose import EngineKind, candidates, open_candidate
from engines.contract import Engine
from stream.doctor.report import Check, EngineRow, State

BATCHES = (1, 8)
MEASURE_S = 1.0
#: What the detector is shown: a frame of 360 lines, at which it sees all that it can use.
_FRAME_SHAPE = (360, 640, 3)
#: Best first, as `auto` goes about it; what must be asked for by name stands at the end.
_KINDS = (*EngineKind.AUTO.members[:-1], EngineKind.OPENVINO_FP32, EngineKind.ONNX)


def model_check(path: Path | None, choice: EngineChoice, threads: int) -> tuple[Bundle | None, str | None, Check]:
    """The bundle, the model id that scores would carry, and whether its networks open as they were asked for."""
    try:
        bundle = Bundle.load(path)
    except DiffFakeError as error:
        return None, None, Check("model", str(error), State.PROBLEM, error.hint)
    try:
        CenterFace(threads=threads, runtime=choice.detector)
        networks = open_networks(bundle, choice, threads=threads, max_batch=max(BATCHES))
    except DiffFakeError as error:
        return bundle, None, Check("model", f"{bundle.model_id}: {error}", State.PROBLEM, error.hint)
    networks.close()
    return bundle, networks.model_id, Check("model", networks.model_id)


def engine_rows(
    bundle: Bundle, folder: Path | None, model_id: str | None, *, threads: int = 0, measure_s: float = MEASURE_S
) -> Iterator[EngineRow]:
    """Every engine of the bundle's networks: opened, and measured for ``measure_s`` a batch size (0: not at all).

    Args:
        folder: where compiled engines lie; None: the bundle's own folder.
        model_id: of the engines in use; None: none is.
    """
    name = None if model_id is None else ModelName.parse(model_id)
    networks = {EXTRACTOR: bundle.engine_path, IDENTITY: bundle.identity_path}
    used = {} if name is None else {EXTRACTOR: name.extractor, IDENTITY: name.identity}
    for network, path in networks.items():
        if path is None:
            continue
        best = True
        for kind in _KINDS:
            row = _row(network, path, (folder or bundle.path / "engines") / network, kind, threads, measure_s)
            is_best = best and row.runs and kind in EngineKind.AUTO.members
            best = best and not is_best
            yield msgspec.structs.replace(row, is_best=is_best, is_used=row.runs and used.get(network) == row.label)
    for runtime in reversed(DetectorRuntime):
        row = _detector(runtime, threads, measure_s)
        is_used = name is not None and name.detector == runtime
        # Nothing but the exact one is taken unasked: others cut faces out elsewhere.
        yield msgspec.structs.replace(row, is_best=runtime is DetectorRuntime.ONNX, is_used=row.runs and is_used)


def _row(network: str, path: Path, folder: Path, kind: EngineKind, threads: int, measure_s: float) -> EngineRow:
    (candidate,) = candidates(path, folder, kind)
    problem: EngineError | MissingExtraError | None = candidate.problem
    if problem is None:
        try:
            with open_candidate(candidate, threads=threads) as engine:
                per_s = _faces_per_s(engine, measure_s)
            return EngineRow(network=network, kind=kind.value, label=candidate.label, runs=True, per_s=per_s)
        except (EngineError, MissingExtraError) as error:
            problem = error
    return EngineRow(network=network, kind=kind.value, runs=False, reason=str(problem), hint=problem.hint)


def _faces_per_s(engine: Engine, measure_s: float) -> dict[int, float]:
    side = engine.spec.side_px
    rng = np.random.default_rng(0)
    batches = {n: rng.integers(0, 256, (n, 3, side, side), np.uint8) for n in BATCHES if n <= engine.spec.max_batch}
    return {n: n * _runs_per_s(lambda: engine.infer(faces), measure_s) for n, faces in batches.items() if measure_s}  # noqa: B023


def _detector(runtime: DetectorRuntime, threads: int, measure_s: float) -> EngineRow:
    """The face detector: images a second, of 640 x 360."""
    try:
        detector = CenterFace(threads=threads, runtime=runtime)
    except EngineError as error:
        return EngineRow(network=DETECTOR, kind=runtime.value, runs=False, reason=str(error), hint=error.hint)
    images = list(np.random.default_rng(0).integers(0, 256, (max(BATCHES), *_FRAME_SHAPE), np.uint8))
    per_s = {n: n * _runs_per_s(lambda: detector.detect(images[:n]), measure_s) for n in BATCHES if measure_s}  # noqa: B023
    return EngineRow(network=DETECTOR, kind=runtime.value, label=runtime.value, runs=True, per_s=per_s)


def _runs_per_s(run: Callable[[], object], measure_s: float) -> float:
    run()  # the first one allocates, and may compile
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < measure_s:
        run()
        count += 1
    return count / passed
