"""The command line: ``difffake COMMAND``. `stream.commands` says where each of them lives.

Exit codes: 0 done; 1 something unexpected; 2 wrong usage; 3 found what ``--fail-on`` asks for; 10 and above: the kind
of the first failure, see `difffake.errors`; 130 interrupted; 141 nobody reads the output.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

import difffake
from difffake.errors import DiffFakeError, OutputError, out_of_memory
from difffake.files import not_written
from stream.commands import Commands
from stream.console import print_error
from stream.logs import configure

#: Of a path that somebody named, or of the folder that a command was called in: no fault of the program.
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)

app = typer.Typer(
    name="difffake",
    cls=Commands,
    help="Watches video for deepfakes: a score for every face, with calibrated evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@dataclass(slots=True)
class Invocation:
    """What commands find in their context: ``debug``, and the ``arguments`` that the program was called with."""

    arguments: tuple[str, ...] = ()
    debug: bool = False


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"difffake {difffake.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Log more, and show tracebacks.")] = False,
    version: Annotated[  # noqa: ARG001  (handled by its callback)
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj.debug = debug
    configure(logging.DEBUG if debug else logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code; no traceback reaches the user unless ``--debug`` is given."""
    invocation = Invocation(tuple(sys.argv[1:] if arguments is None else arguments))
    try:
        app(invocation.arguments, obj=invocation)
    except DiffFakeError as error:
        print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:  # before a command has begun: its options are still being put together
        code = _interrupted()
    except SystemExit as left:
        # Typer ends by itself at Ctrl-C, and when the reader of our output has gone (`| head`).
        if isinstance(left.__context__, BrokenPipeError):
            _drop_output()
            code = 141
        elif left.code == 130:
            code = _interrupted()
        else:
            raise
    except Exception as error:  # the last line of defence: one line for the user, the rest with --debug
        if invocation.debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error = not_written("the output", error)
            _drop_output()
        elif isinstance(error, OSError) and error.filename and error.errno in _NO_PLACE:
            what = f"{error.filename}: {os.strerror(error.errno).lower()}"
            error = OutputError(what, hint="check the folder and its rights, or name another one")
        error = out_of_memory(error) or error
        print_error(error)
        code = error.exit_code if isinstance(error, DiffFakeError) else 1
    else:
        code = 0
    sys.exit(code)


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)  # noqa: T201
    return 130


def _drop_output() -> None:
    """What is still buffered cannot be written: the interpreter's last flush must not complain about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


if __name__ == "__main__":
    main()
