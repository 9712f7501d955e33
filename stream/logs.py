"""Standard error as a log: what cannot be written there is left out.

A worker whose log lies on a disk that is full, or goes into a pipe that nobody reads any more, must not end of it: it
would look at nothing for the sake of a line about what it looks at.
"""

from __future__ import annotations

import sys
from typing import TextIO


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
    print(line, file=LenientLog(), flush=True)
