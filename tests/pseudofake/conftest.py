from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from faces_on_disk import drawn_store

from difffake.pseudofake import FaceGenerator
from difffake.training.generator import GeneratorSettings, train_generator


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> FaceGenerator:
    """Generators after a few steps on drawn faces: they draw badly, through every line of the real thing."""
    folder = tmp_path_factory.mktemp("generator")
    store = drawn_store(folder / "store", people=8, photos=2, clips=2)
    settings = GeneratorSettings(minutes=0.05, batch=4, precision="fp32", critic_after=0.0)
    train_generator(store, np.arange(len(store)), folder / "generator", settings)
    return FaceGenerator.load(folder / "generator")
