"""A face's embedding is its own: on the CPU neither the batch it comes in nor the threads change a bit of it.

Workers put batches together as faces come, and replays put them together otherwise; scores must be the same.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from compiled import needs_bf16

from difffake.bundle import default_bundle_path
from engines.choose import Candidate, EngineKind, open_candidate
from engines.contract import Embeddings, Engine

FACES, SIZES = 7, (1, 3, 7)
kinds = [EngineKind.ONNX, EngineKind.OPENVINO_FP32, pytest.param(EngineKind.OPENVINO_BF16, marks=needs_bf16)]


def together(engine: Engine, faces: np.ndarray, size: int) -> bytes:
    found: list[Embeddings] = [engine.infer(faces[start : start + size]) for start in range(0, FACES, size)]
    return b"".join(part.embedding.tobytes() for part in found) + b"".join(part.logit.tobytes() for part in found)


@pytest.mark.parametrize("kind", kinds)
@pytest.mark.parametrize("network", ["extractor", "identity"])
def test_batches_and_threads_change_no_bit(kind: EngineKind, network: str) -> None:
    rng, seen = np.random.default_rng(0), set()
    for threads in (1, 2):
        candidate = Candidate(kind, default_bundle_path() / f"{network}.onnx", Path("none"))
        with open_candidate(candidate, threads=threads) as engine:
            side = engine.spec.side_px
            blobs = np.random.default_rng(1).integers(0, 256, (FACES, 12, 12, 3), np.uint8)
            faces = np.stack([cv2.resize(blob, (side, side), interpolation=cv2.INTER_CUBIC) for blob in blobs])
            faces = np.ascontiguousarray(faces.transpose(0, 3, 1, 2))
            seen |= {together(engine, faces, size) for size in SIZES}
            others = rng.integers(0, 256, faces.shape, np.uint8)
            assert together(engine, others, FACES) not in seen
    assert len(seen) == 1
