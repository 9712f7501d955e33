"""What messages, hints and pages tell people to type is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from stream.cli import app
from stream.commands import COMMANDS

ROOT = Path(__file__).parents[1]
TOP: Any = typer.main.get_group(app).commands
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


def _command_lines(text: str) -> Iterator[str]:
    for match in re.finditer(r"(?:`|/|^|[\s(])difffake ([a-z][^\n`]*)", re.sub(r"\\\n\s*", " ", text), re.M):
        yield re.split(r"\s#|&&|\|\s", match[1])[0]


def _options(line: str) -> Iterator[tuple[str, bool]]:
    """Each option that a line gives to a command (``freeze|reset`` are two), and whether the command has it."""
    words = line.split()
    for name in words[0].split("|"):
        command = TOP.get(name)
        rest = words[1:]
        while rest and rest[0].split("|")[0] in getattr(command, "commands", ()):
            command = command.commands[rest.pop(0).split("|")[0]]
        if command is not None:
            known = {option for param in command.params for option in [*param.opts, *param.secondary_opts]}
            for word in rest:
                if match := re.match(r"\[?(--[a-z][a-z-]*)", word):
                    yield f"{name} {match[1]}", match[1] in known | {"--help"}


def test_every_option_of_a_command_line_on_a_page_is_one() -> None:
    pages = [page for page in PAGES if page.name != "commands.md"]  # made from the options themselves
    pages += [*(ROOT / "scripts").glob("*.sh"), ROOT / "Makefile", ROOT / "compose.yaml"]
    given = [
        (option, is_one, page.name)
        for page in pages
        for line in _command_lines(page.read_text(encoding="utf-8"))
        for option, is_one in _options(line)
    ]
    assert len(given) > 100
    assert [(option, where) for option, is_one, where in given if not is_one] == []


def test_benchmarks_and_scripts_import_what_is_there() -> None:
    """`benchmarks/identity.py` asked for a name that had gone, and nothing ran it."""
    files = [path for room in ("benchmarks", "scripts", "deploy") for path in (ROOT / room).rglob("*.py")]
    asked = [
        (node.module, alias.name, path.name)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _ROOMS
        for alias in node.names
    ]
    assert len(asked) > 100
    assert [(module, name, where) for module, name, where in asked if name not in _names_of(module)] == []


_ROOMS = ("difffake", "engines", "stream")


@cache
def _names_of(module: str) -> set[str]:
    """Whatever a module binds, and the modules below it; read, not imported: some need torch."""
    place = ROOT.joinpath(*module.split("."))
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names = {path.stem for path in place.glob("*")}
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
