"""Writes the command line's own help as one page: python scripts/command_help.py docs/commands.md"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
from pathlib import Path

os.environ |= {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}

import typer.main
from typer.testing import CliRunner

import difffake
import stream
from difffake.errors import DiffFakeError
from stream.cli import Invocation, app

_NO_ERROR = {
    0: "done",
    1: "something unexpected",
    2: "wrong usage",
    3: "found: `--fail-on`, `--tolerance`",
    130: "interrupted",
    141: "nobody reads the output",
}
#: Import torch.
_TRAINING = ("difffake.training", "difffake.extractor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    target: Path = parser.parse_args().page
    runner = CliRunner()
    commands = typer.main.get_group(app).commands
    names = [[name, *more] for name in sorted(commands) for more in [[], *([n] for n in _below(commands[name]))]]
    page = ["# Commands", "", "Made by `make docs` from the program's own help.", ""]
    for arguments in [[], *names]:
        title = " ".join(["difffake", *arguments])
        result = runner.invoke(app, [*arguments, "--help"], prog_name="difffake", obj=Invocation())
        if result.exit_code:
            raise SystemExit(f"{title}: {result.output}")
        text = result.output
        page += [f"## {title}", "", "```", text.strip(), "```", ""]
    page += _exit_codes()
    target.write_text("\n".join(page), encoding="utf-8")


def _exit_codes() -> list[str]:
    """Every code with the class that ends the command with it; each class says what it is about."""
    for package in (difffake, stream):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(_TRAINING):
                importlib.import_module(module.name)
    told = "Of several failures the first gives the code, also where `--fail-on` found something in another file; "
    page = ["## Exit codes", "", f"{told}`--json` lists all.", ""]
    page += ["| code | error | what |", "|---|---|---|"]
    page += [f"| {code} | | {what} |" for code, what in _NO_ERROR.items() if code < 10]
    for code, error in sorted((e.exit_code, e) for e in _leaves(DiffFakeError)):
        what = " ".join(inspect.cleandoc(error.__doc__ or "").split("\n\n")[0].split())
        page.append(f"| {code} | `{error.__name__}` | {what.replace('|', '/')} |")
    return [*page, *(f"| {code} | | {what} |" for code, what in _NO_ERROR.items() if code > 99), ""]


def _leaves(error: type[DiffFakeError]) -> list[type[DiffFakeError]]:
    """Classes with a code of their own."""
    own = [error] if "exit_code" in vars(error) and error is not DiffFakeError else []
    return [*own, *(leaf for below in error.__subclasses__() for leaf in _leaves(below))]


def _below(command: object) -> list[str]:
    """The commands of a group; those of no group are none."""
    return sorted(getattr(command, "commands", {}))


if __name__ == "__main__":
    main()
