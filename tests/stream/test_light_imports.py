"""Who reads records, or asks for help, needs neither networks nor decoders."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from stream.cli import app
from stream.commands import COMMANDS

LIGHT = (
    "stream.messages",
    "stream.operate",
    "stream.tail",
    "stream.hooks",
    "stream.probes",
    "stream.wall.server",
    "stream.cli",
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


def test_who_publishes_video_loads_no_networks() -> None:
    code = "import sys, stream.commands_publish; print('onnxruntime' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_line_loads_no_command_before_it_is_called(option: str) -> None:
    code = f"""
import sys
from stream.cli import main
try:
    main(["{option}"])
finally:
    print([name for name in sys.modules if name.startswith("stream.commands_") or name in {HEAVY}], file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip()
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded_and_begins_its_help_as_the_list_says(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.help.replace("\n", " ").startswith(COMMANDS[name].summary)
