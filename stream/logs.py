"""Standard error as a log: what cannot be written there is left out.

A worker whose log lies on a disk that is full, or goes into a pipe that nobody reads any more, must not end of it: it
would look at nothing for the sake of a line about what it looks at.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

_speaker = ""


class LenientLog:
    """What structlog's `PrintLogger` and `print` write to.

    Args:
        file: where lines go; the standard error as it is at each line by default.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write, if it can be written; returns how many characters came."""
        file = self._file or sys.stderr
        try:
            return 0 if file is None else file.write(text)
        except (OSError, ValueError):  # no room, nobody reads, closed
            return 0

    def flush(self) -> None:
        """Likewise."""
        file = self._file or sys.stderr
        try:
            if file is not None:
                file.flush()
        except (OSError, ValueError):
            return


def configure(minimum: int) -> None:
    """Log lines of a level and above, as text. Tracebacks are those of Python: structlog's own, with rich, tell every
    variable on the way, and a request's headers or a connection's settings are not for a log."""
    environment = os.environ
    is_terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer(
        colors=not environment.get("NO_COLOR") and (bool(environment.get("FORCE_COLOR")) or is_terminal),
        exception_formatter=structlog.dev.plain_traceback,
    )
    before = [one for one in structlog.get_config()["processors"] if not isinstance(one, structlog.dev.ConsoleRenderer)]
    structlog.configure(
        processors=[*before, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, LenientLog(sys.stderr))),
        cache_logger_on_first_use=False,
    )


def tell(line: str) -> None:
    """A line for whoever started the program."""
    print(f"{_speaker}: {line}" if _speaker else line, file=LenientLog(), flush=True)


def speak_as(name: str) -> None:
    """From now on lines of `tell`, and those of the log, say who speaks: one of several that share an output."""
    global _speaker
    _speaker = name

    def named(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"event": f"{name}: {event['event']}", **{key: event[key] for key in event if key != "event"}}

    structlog.configure(processors=[named, *structlog.get_config()["processors"]])
