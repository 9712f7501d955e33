"""Writes the command line's own help as one page: python scripts/command_help.py docs/commands.md"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ |= {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}

import typer.main
from typer.testing import CliRunner

from stream.cli import _Options, app


def main() -> None:
    runner = CliRunner()
    commands = typer.main.get_group(app).commands
    names = [[name, *more] for name in sorted(commands) for more in [[], *([n] for n in _below(commands[name]))]]
    page = ["# Commands", "", "Made by `make docs` from the program's own help.", ""]
    for arguments in [[], *names]:
        title = " ".join(["difffake", *arguments])
        result = runner.invoke(app, [*arguments, "--help"], prog_name="difffake", obj=_Options())
        if result.exit_code:
            raise SystemExit(f"{title}: {result.output}")
        text = result.output
        page += [f"## {title}", "", "```", text.strip(), "```", ""]
    Path(sys.argv[1]).write_text("\n".join(page), encoding="utf-8")


def _below(command: object) -> list[str]:
    """The commands of a group; those of no group are none."""
    return sorted(getattr(command, "commands", {}))


if __name__ == "__main__":
    main()
