"""A face's numbers do not depend on the others of its batch: streams share runs of the networks at random."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from difffake.bundle import Bundle
from difffake.crops import channels_first, cut_out
from difffake.faces import CenterFace, Faces
from difffake.faces.finder import CLOSE_PX
from difffake.picture import RgbPicture
from difffake.video import open_video
from engines.onnx import OnnxEngine

U8 = npt.NDArray[np.uint8]
BATCHES = (2, 3, 5, 8)


@pytest.fixture(scope="module")
def frames(clips: dict[str, Path]) -> list[U8]:
    found = []
    for name in ("woman", "man"):
        with open_video(clips[name], fps=3.0, stop_s=1.5) as video:
            found += [frame.image for frame in video]
    return found


@pytest.fixture(scope="module")
def faces(frames: list[U8]) -> list[Faces]:
    return [CenterFace(threads=1).detect([frame])[0][:1] for frame in frames]


@pytest.mark.parametrize("network", ["extractor", "identity"])
def test_embeddings_are_the_same_in_any_batch(frames: list[U8], faces: list[Faces], network: str) -> None:
    bundle = Bundle.load(None)
    crops = [cut_out(RgbPicture(f), of, 224, has_identity=True) for f, of in zip(frames, faces, strict=True)]
    path = bundle.engine_path if network == "extractor" else bundle.identity_path
    assert path is not None
    given = channels_first(np.concatenate([c.faces if network == "extractor" else c.chips for c in crops]))
    assert len(given) > 6
    with OnnxEngine(path, threads=1) as engine:
        alone = np.concatenate([engine.infer(given[i : i + 1]).embedding for i in range(len(given))])
        for batch in BATCHES:
            parts = [engine.infer(given[i : i + batch]).embedding for i in range(0, len(given), batch)]
            np.testing.assert_allclose(np.concatenate(parts), alone, rtol=0, atol=1e-6 * np.abs(alone).max())


@pytest.mark.parametrize("size", [(CLOSE_PX, CLOSE_PX), (384, 216)])
def test_faces_are_the_same_in_any_batch(frames: list[U8], size: tuple[int, int]) -> None:
    images = [np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8) for frame in frames]
    detector = CenterFace(threads=1).as_is(0.3, is_steady=True)
    alone = [detector.detect([image])[0] for image in images]
    assert any(len(found) for found in alone)
    for batch in BATCHES:
        together = [found for i in range(0, len(images), batch) for found in detector.detect(images[i : i + batch])]
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(found.landmarks_px, expected.landmarks_px, atol=1e-4)
            np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-6)
