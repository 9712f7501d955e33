"""What several rooms' tests share: real clips with free licences, fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from difffake.demo.clips import fetch_clips

CACHE = Path(__file__).parents[1] / ".cache" / "clips"


@pytest.fixture(scope="session")
def clips() -> dict[str, Path]:
    """Real video by name: woman, man, face_noface, noface_face, no_face."""
    return fetch_clips(CACHE)
