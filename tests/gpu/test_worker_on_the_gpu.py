"""The networks of a worker on the GPU see what they see on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

for package in ("av", "cv2", "msgspec", "structlog", "torch"):
    pytest.importorskip(package, reason=f"{package} is not installed")
sys.path.insert(0, str(Path(__file__).parents[1]))

import av  # noqa: E402

from difffake.demo.clips import fetch_clips  # noqa: E402
from difffake.faces.runtime import DetectorRuntime  # noqa: E402
from difffake.networks import EngineChoice  # noqa: E402
from difffake.picture import RgbPicture  # noqa: E402
from engines.choose import EngineKind  # noqa: E402
from stream.live import LiveModels, LiveSettings  # noqa: E402
from stream.live.models import FinderState, Look, LookFrame  # noqa: E402

pytestmark = pytest.mark.gpu

CLIPS = Path(__file__).parents[2] / ".cache" / "clips"


def looks(choice: EngineChoice) -> list[Look]:
    """Two streams of the demonstration's clips, five frames each."""
    seen: list[Look] = []
    with LiveModels.load(None, LiveSettings(threads=1), choice) as models:
        finders = [FinderState(), FinderState()]
        for number in range(5):
            frames = [
                LookFrame(RgbPicture(images[10 * number]), number * 400_000_000, finder)
                for images, finder in zip(pictures(), finders, strict=True)
            ]
            found = models.look(frames)
            finders = [look.finder for look in found]
            seen += found
    return seen


def pictures() -> list[list[np.ndarray]]:
    clips = fetch_clips(CLIPS)
    return [
        [frame.to_ndarray(format="rgb24") for frame in av.open(str(clips[name])).decode(video=0)]
        for name in ("woman", "man")
    ]


def test_sees_what_the_cpu_sees() -> None:
    exact = looks(EngineChoice())
    on_gpu = looks(EngineChoice(EngineKind.TORCH, detector=DetectorRuntime.TORCH))
    for mine, theirs in zip(on_gpu, exact, strict=True):
        assert len(mine.faces) == len(theirs.faces) > 0
        np.testing.assert_allclose(mine.faces.landmarks_px, theirs.faces.landmarks_px, atol=0.05)
        np.testing.assert_allclose(mine.embedding, theirs.embedding, atol=0.02 * np.nanmax(np.abs(theirs.embedding)))
        np.testing.assert_allclose(mine.artifact_p, theirs.artifact_p, atol=0.01)
