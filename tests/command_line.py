"""`difffake` as it is typed, in this process."""

from __future__ import annotations

import pytest

from stream.cli import main


def run(*arguments: object) -> int:
    """Run a command; its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    code = left.value.code
    assert isinstance(code, int)
    return code
