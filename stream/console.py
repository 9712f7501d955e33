"""What the commands print: results to stdout, all else to stderr; names from outside never reach a terminal raw."""

from __future__ import annotations

import errno
import os
import select
import sys

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from difffake.errors import DiffFakeError
from difffake.results import Level

LEVEL_STYLES = {Level.NOTHING: "green", Level.SUSPICIOUS: "yellow", Level.STRONG: "bold red"}
_PIPE_WIDTH = 400
#: How hints begin that are to be typed as they stand.
_COMMANDS = ("pip ", "difffake ", "python ")


def printable(text: str) -> str:
    """One line without control characters: a file name may hold escape sequences."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def print_error(error: Exception) -> None:
    """One line on stderr: what went wrong, and what to do about it."""
    if isinstance(error, DiffFakeError):
        hint = error.hint
        if not hint.startswith(_COMMANDS):
            hint = hint[:1].upper() + hint[1:]
        line = f"{str(error).rstrip('.')}. {hint}"
    else:
        what = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        line = f"unexpected {what}. Please report this with the output of `difffake --debug ...`"
    print(f"error: {printable(' '.join(line.split()))}", file=sys.stderr)  # noqa: T201


def print_note(text: str) -> None:
    """One line on stderr: what whoever reads the results should know."""
    print(f"note: {printable(' '.join(text.split()))}", file=sys.stderr)  # noqa: T201


def results_console(*, stderr: bool = False) -> Console:
    """Where results are printed; wide where they go into a file or a pipe, so that no line is broken in two."""
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def print_heading(console: Console, text: str) -> None:
    """A line across the terminal with a text in it; in a file or a pipe, which may be of any width, the text alone."""
    if console.is_terminal:
        console.rule(Text(text))
    else:
        console.print(Text(text))


def print_table(console: Console, table: Table) -> None:
    """A table, or, where it is wider than the terminal, a paragraph for each row: Rich would cut its figures off."""
    if table.__rich_measure__(console, console.options.update(max_width=_PIPE_WIDTH)).maximum <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title)
    heads = [" ".join(str(column.header).split()) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        parts = [Text.assemble((f"{head} ", "dim"), _one_line(cell)) for head, cell in zip(heads, row, strict=True)]
        console.print(Padding(Text(", ").join(parts), (0, 0, 0, 4), expand=False))
    if table.caption:
        console.print(table.caption)


def _one_line(cell: RenderableType) -> Text:
    text = cell.copy() if isinstance(cell, Text) else Text(str(cell))
    text.plain = " ".join(text.plain.split())
    return text


def level_text(level: Level, p_value: float) -> Text:
    """A level with its p-value, coloured."""
    return Text(f"{level.value}  p={p_value:.2g}", style=LEVEL_STYLES[level])


def check_reader() -> None:
    """For who prints seldom: it would wait for its next line to find out that nobody reads it (`| head -1`).

    Raises:
        BrokenPipeError: the reader of the standard output has gone.
    """
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # none, or one in memory
        return
    asked = select.poll()
    asked.register(output, 0)
    if any(events & select.POLLERR for _, events in asked.poll(0)):
        raise BrokenPipeError(errno.EPIPE, "nobody reads the output")


def progress_bar(*columns: ProgressColumn, quiet: bool = False) -> Progress:
    """A bar on stderr that vanishes when done, and is silent where nobody watches; more columns stand at its end."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
