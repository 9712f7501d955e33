"""Compiled engines that the shipped bundle brings belong to its networks, and say that they keep their scores."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from difffake.bundle import default_bundle_path
from engines.manifest import read_manifest

ENGINES = sorted((default_bundle_path() / "engines").glob("*/*/manifest.json"))


@pytest.mark.parametrize("file", ENGINES, ids=lambda file: "-".join(file.parts[-3:-1]))
def test_a_shipped_engine_belongs_to_its_network_and_was_accepted(file: Path) -> None:
    network = file.parts[-3]
    manifest = read_manifest(file.parent)
    assert manifest.network == network
    assert (
        manifest.source.sha256 == hashlib.sha256((default_bundle_path() / f"{network}.onnx").read_bytes()).hexdigest()
    )
    assert manifest.accepted
