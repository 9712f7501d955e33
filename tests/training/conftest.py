from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from faces_on_disk import drawn_store

from difffake.training.store import CropStore


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `store` lies."""
    return tmp_path_factory.mktemp("crops") / "store"


@pytest.fixture(scope="session")
def store(store_folder: Path) -> CropStore:
    """24 drawn people with two photos each, 6 with four frames of a clip each."""
    return drawn_store(store_folder)
