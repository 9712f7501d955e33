"""Fixtures of the small world in `colours`."""

from __future__ import annotations

from pathlib import Path

import colours
import pytest
from colours import ColourDetector, WriteVideo, colour_bundle


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
