"""What messages, hints and pages tell people to type is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [path for room in ("difffake", "engines", "stream", "benchmarks") for path in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize("files", [PAGES, SOURCES], ids=["pages", "messages"])
def test_every_command_that_is_named_is_one(files: list[Path]) -> None:
    named = {
        (match[1], path.name)
        for path in files
        for match in re.finditer(r"(?:`|^)difffake ([a-z][a-z-]+)(?=[ `\n])", path.read_text(encoding="utf-8"), re.M)
    }
    assert len(named) > 10
    assert sorted((command, where) for command, where in named if command not in COMMANDS) == []
