"""Where the command ``difffake`` begins."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from types import FrameType

from difffake.errors import out_of_memory


def main() -> None:
    """Import the command line and run it: Ctrl-C while it is still being imported shows no traceback either."""
    if os.getpid() == 1:
        # The first process of a container has no default for SIGTERM: it would be ignored, and what listens to it only
        # later, or never, be killed when the grace is over. Commands that drain replace this.
        signal.signal(signal.SIGTERM, _leave)
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        # A name or an arrow that this terminal has no letters for must not end the work of hours.
        sys.stdout.reconfigure(errors="replace")
    try:
        from stream.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        # Of several hundred MiB most are needed here: that it is too little shows here first.
        if (no_memory := out_of_memory(error)) is None:
            raise
        print(f"error: {no_memory}. {no_memory.hint}", file=sys.stderr)  # noqa: T201
        sys.exit(no_memory.exit_code)
    run()


def _leave(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    main()
