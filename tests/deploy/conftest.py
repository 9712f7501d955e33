"""Where deployment's files lie, and the programs that they are tried with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="session")
def prometheus_folder() -> Path:
    """Folder with a real ``promtool`` and ``prometheus``; fetched once, without root."""
    done = subprocess.run([ROOT / "scripts" / "prometheus.sh"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no Prometheus here: {done.stderr.strip()[-300:]}")
    return ROOT / done.stdout.strip().splitlines()[-1]
