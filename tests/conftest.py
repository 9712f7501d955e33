"""What several rooms' tests share: real clips with free licences, fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_tiny_bundle

from difffake.bundle import Bundle
from difffake.demo.clips import fetch_clips

CACHE = Path(__file__).parents[1] / ".cache" / "clips"


@pytest.fixture(scope="session")
def clips() -> dict[str, Path]:
    """Real video by name: woman, man, face_noface, noface_face, no_face."""
    return fetch_clips(CACHE)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small consistent bundle on disk; copy its folder before you damage it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
