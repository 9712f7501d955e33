"""Fixtures of the small world in `colours`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import colours
import cv2
import numpy as np
import pytest
from colours import ColourDetector, WriteVideo, colour_bundle
from numpy.typing import NDArray

from difffake.video import open_video


@pytest.fixture
def write_video() -> WriteVideo:
    return colours.write_video


@pytest.fixture
def detector(tmp_path: Path) -> ColourDetector:
    return ColourDetector(colour_bundle(tmp_path / "bundle"))


@pytest.fixture
def identity_detector(tmp_path: Path) -> ColourDetector:
    """The same, with an identity network beside the extractor."""
    return ColourDetector(colour_bundle(tmp_path / "identity_bundle", identity=b"green and blue"))


@pytest.fixture(scope="session")
def short_clips(clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A real face, 3 s at 320 x 180: `real`, `fake` (crudely tinted) and `pair`, the two side by side."""
    folder = tmp_path_factory.mktemp("short")
    with open_video(clips["man"], fps=10, stop_s=3) as video:
        real = [np.asarray(cv2.resize(frame.image, (320, 180)), np.uint8) for frame in video]
    fake = [image.copy() for image in real]
    for image in fake:
        image[60:, :, 0] = np.minimum(image[60:, :, 0], 205) + 50
    pair = [np.hstack(both) for both in zip(real, fake, strict=True)]
    for name, images in (("real", real), ("fake", fake), ("pair", pair)):
        _write(folder / name / f"{name}.mp4", images)
    return {name: folder / name / f"{name}.mp4" for name in ("real", "fake", "pair")}


def _write(path: Path, images: list[NDArray[np.uint8]]) -> None:
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "18", "preset": "ultrafast"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
