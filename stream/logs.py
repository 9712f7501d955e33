"""Standard error as a log: what cannot be written there is left out.

A worker whose log lies on a disk that is full, or goes into a pipe that nobody reads any more, must not end of it: it
would look at nothing for the sake of a line about what it looks at.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

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
