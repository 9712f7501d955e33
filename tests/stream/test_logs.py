"""A log that cannot be written ends no work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from stream.cli import main
from stream.logs import tell


@contextlib.contextmanager
def reader_gone() -> Iterator[TextIO]:
    ours, theirs = os.pipe()
    os.close(ours)
    with contextlib.suppress(BrokenPipeError), os.fdopen(theirs, "w", buffering=1) as file:
        yield file


@contextlib.contextmanager
def disk_full() -> Iterator[TextIO]:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with contextlib.suppress(OSError), Path("/dev/full").open("w", buffering=1) as file:
        yield file


@contextlib.contextmanager
def closed() -> Iterator[TextIO]:
    with Path(os.devnull).open("w") as file:
        file.close()
        yield file


@pytest.mark.parametrize("log", [reader_gone, disk_full, closed])
def test_a_log_that_cannot_be_written_stops_nobody(
    log: Callable[[], contextlib.AbstractContextManager[TextIO]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    with log() as file, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", file)
        with pytest.raises(SystemExit):
            main(["work", "--help"])
        structlog.get_logger().warning("commit failed", failures=1)
        tell("working")
        told.append("both")
    assert told == ["both"]


def test_a_log_that_can_be_written_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["work", "--help"])
    structlog.get_logger().warning("commit failed", failures=1)
    tell("working")
    said = capsys.readouterr().err
    assert all(word in said for word in ("commit failed", "failures", "working"))


def test_a_traceback_in_the_log_tells_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["work", "--help"])
    capsys.readouterr()

    def fail(headers: dict[str, str]) -> str:
        return headers["other"]

    try:
        fail({"authorization": "".join(["Bearer ", "sec", "ret"])})
    except KeyError:
        structlog.get_logger().exception("it failed")
    told = capsys.readouterr().err
    assert "it failed" in told
    assert "KeyError: 'other'" in told
    assert "Bearer secret" not in told
