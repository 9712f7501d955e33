"""What every engine promises, asked of every engine that this machine can open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cuda_double import Cuda
from gpu_engines import open_tensorrt, open_torch, write_engine
from tiny import DIM, SIDE_PX, tiny_extractor

from difffake.errors import EngineError, EngineHostError
from engines.contract import Engine, Precision
from engines.onnx import OnnxEngine
from engines.openvino import OpenVinoEngine


def openvino(precision: Precision) -> Callable[[Path], Engine]:
    return lambda path: OpenVinoEngine(path, precision=precision, threads=1, max_batch=4)


def tensorrt(**options: bool) -> Callable[[Path], Engine]:
    """On the double of a GPU."""

    def opened(path: Path) -> Engine:
        folder = write_engine(path.parent / "engine", path.read_bytes(), rtx=options.get("rtx", False))
        return open_tensorrt(folder, Cuda(), **options)

    return opened


#: Name -> opens an engine for the ONNX file, with runs of at most 4 faces.
ENGINES: dict[str, Callable[[Path], Engine]] = {
    "onnx": lambda path: OnnxEngine(path, threads=1, max_batch=4),
    "openvino-fp32": openvino(Precision.FP32),
    "openvino-bf16": openvino(Precision.BF16),
    "tensorrt": tensorrt(),
    "tensorrt-pycuda": tensorrt(pycuda=True),
    "tensorrt-rtx": tensorrt(rtx=True),
    "torch": lambda path: open_torch(path, Cuda()),
}


def faces(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE_PX, SIDE_PX), np.uint8)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "extractor.onnx"
    path.write_bytes(tiny_extractor())
    try:
        opened = ENGINES[request.param](path)
    except EngineHostError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


def test_says_what_goes_in_and_out(engine: Engine) -> None:
    spec = engine.spec
    assert (spec.side_px, spec.dim, spec.max_batch, spec.has_logit) == (SIDE_PX, DIM, 4, True)
    assert spec.depth >= 1
    assert spec.exact == (spec.precision is Precision.FP32)


@pytest.mark.parametrize("count", [0, 1, 4, 11])
def test_submitted_batches_give_what_infer_gives(engine: Engine, count: int) -> None:
    batch = faces(count)
    at_once = engine.infer(batch)
    rows = [engine.collect(engine.submit(batch[start : start + 4])).logit for start in range(0, count, 4)]
    np.testing.assert_allclose(np.concatenate([np.zeros(0, np.float32), *rows]), at_once.logit, atol=1e-2)


def test_batches_in_flight_keep_their_order_and_their_pictures(engine: Engine) -> None:
    batches = [faces(2, seed) for seed in range(engine.spec.depth)]
    expected = [engine.infer(batch).embedding for batch in batches]
    buffer = np.empty_like(batches[0])
    tickets = []
    for batch in batches:
        buffer[:] = batch
        tickets.append(engine.submit(buffer))
        buffer[:] = 0  # the caller may reuse its buffer at once
    found = [engine.collect(ticket).embedding for ticket in tickets]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-2)


def test_refuses_more_than_its_depth_in_flight(engine: Engine) -> None:
    tickets = [engine.submit(faces(1)) for _ in range(engine.spec.depth)]
    with pytest.raises(EngineError, match="in flight"):
        engine.submit(faces(1))
    with pytest.raises(EngineError, match="in flight"):
        engine.infer(faces(1))
    for ticket in tickets:
        engine.collect(ticket)
    assert len(engine.infer(faces(1))) == 1


def test_refuses_a_batch_over_the_profile(engine: Engine) -> None:
    with pytest.raises(EngineError, match="at most 4"):
        engine.submit(faces(5))


def test_refuses_tickets_out_of_order_and_twice(engine: Engine) -> None:
    first = engine.submit(faces(1))
    engine.collect(first)
    with pytest.raises(EngineError, match="cannot be collected"):
        engine.collect(first)


def test_closes_with_a_batch_in_flight_and_closes_twice(engine: Engine) -> None:
    ticket = engine.submit(faces(1))
    engine.close()
    engine.close()
    with pytest.raises(EngineError):
        engine.collect(ticket)
    with pytest.raises(EngineError, match="closed"):
        engine.submit(faces(1))
