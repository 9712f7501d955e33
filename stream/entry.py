"""Where the command ``difffake`` begins."""

from __future__ import annotations

import sys


def main() -> None:
    """Import the command line and run it: Ctrl-C while it is still being imported shows no traceback either."""
    try:
        from stream.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    run()
