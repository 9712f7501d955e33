"""The face detector on other runtimes finds the same faces."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_centerface import frames_of

from difffake.errors import EngineHostError
from difffake.faces import CenterFace, Faces
from difffake.faces.runtime import DetectorRuntime


def opened(runtime: DetectorRuntime) -> CenterFace:
    try:
        return CenterFace(320, threads=1, runtime=runtime)
    except EngineHostError as error:
        pytest.skip(str(error))


def apart_in_eye_distances(ours: Faces, theirs: Faces) -> float:
    eyes = np.linalg.norm(theirs.landmarks_px[:, 1] - theirs.landmarks_px[:, 0], axis=1)
    return float((np.linalg.norm(ours.landmarks_px - theirs.landmarks_px, axis=2) / eyes[:, None]).max())


@pytest.mark.parametrize(
    ("runtime", "limit"), [(DetectorRuntime.OPENVINO_FP32, 0.001), (DetectorRuntime.OPENVINO_BF16, 0.1)]
)
def test_finds_the_same_faces(clips: dict[str, Path], runtime: DetectorRuntime, limit: float) -> None:
    images = [*frames_of(clips["woman"], 3), *frames_of(clips["no_face"], 1), *frames_of(clips["man"], 3)]
    exact = CenterFace(320, threads=1).detect(images)
    for ours, theirs in zip(opened(runtime).detect(images), exact, strict=True):
        assert len(ours) == len(theirs)
        if len(theirs):
            assert apart_in_eye_distances(ours, theirs) < limit


def test_threads_may_detect_at_once(clips: dict[str, Path]) -> None:
    detector = opened(DetectorRuntime.OPENVINO_FP32)
    images = frames_of(clips["woman"], 4)
    wanted = [detector.detect([image])[0].boxes_px for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = [faces[0].boxes_px for faces in pool.map(detector.detect, [[image] for image in images])]
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-2)


def test_the_default_needs_no_openvino() -> None:
    code = "import sys; sys.modules['openvino'] = None; from difffake.faces import CenterFace; CenterFace(threads=1)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
