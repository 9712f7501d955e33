"""No runtime tells anybody what it runs: no identifier of the machine, no cache of events, no sender."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_RUN = """
import {first}
from difffake.faces import CenterFace
from engines.contract import Precision
from engines.openvino import check_host
CenterFace(threads=1)
check_host(Precision.FP32)
"""


@pytest.mark.parametrize("first", ["difffake", "engines.onnx", "difffake.faces.centerface"])
def test_a_session_leaves_no_trace_outside(tmp_path: Path, first: str) -> None:
    # It is silent by itself where it believes to be tested.
    suppress = ("CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY")
    known = {name: value for name, value in os.environ.items() if name not in suppress and "XDG" not in name}
    folders = {name: str(tmp_path / name) for name in ("HOME", "TMPDIR")}
    for folder in folders.values():
        Path(folder).mkdir()
    subprocess.run(
        [sys.executable, "-c", _RUN.format(first=first)],
        check=True,
        cwd=Path(__file__).parents[2],
        env=known | folders | {"GITHUB_ACTIONS": ""},
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
