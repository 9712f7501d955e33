"""Who reads records needs neither networks nor decoders."""

from __future__ import annotations

import subprocess
import sys

LIGHT = (
    "stream.messages",
    "stream.operate",
    "stream.tail",
    "stream.hooks",
    "stream.wall.server",
    "stream.commands_alerts",
    "stream.commands_hooks",
    "stream.commands_operate",
    "stream.commands_tail",
    "stream.commands_wall",
)
HEAVY = ("onnxruntime", "cv2", "av")


def test_readers_of_records_load_no_networks_and_no_decoders() -> None:
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY} if heavy in sys.modules]
    assert not loaded, f"{{name}} loads {{loaded}}"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
