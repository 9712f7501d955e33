"""Terminals that are closed, and signals that do what Ctrl-C does."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from difffake.hangup import interrupted_by_signals, stop_signals

pytestmark = pytest.mark.usefixtures("hangup_by_default")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_it_interrupts_and_a_terminal_that_is_closed_only_once(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with interrupted_by_signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signum)
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signum) is before


def test_who_ignores_it_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_signals() == (signal.SIGTERM, signal.SIGINT)
        with interrupted_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_is_printed_to_a_terminal_that_was_closed_ends_nothing(tmp_path: Path) -> None:
    """Until then a scan of hours wrote no results: its progress could not be printed any more."""
    code = (
        "import signal, sys\n"
        "from difffake.hangup import interrupted_by_signals\n"
        "with interrupted_by_signals():\n"
        "    try:\n"
        "        print('begun', flush=True)\n"
        "        while True: signal.pause()\n"
        "    except KeyboardInterrupt:\n"
        "        print('much was done', flush=True)\n"
        "        print('much was done', file=sys.stderr, flush=True)\n"
        "        open(sys.argv[1], 'w').write('all of it')\n"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, str(tmp_path / "results")]
    # A session of its own, whose terminal is the first that it opens.
    opened = (
        f"import os, sys; os.setsid(); os.open({os.ttyname(theirs)!r}, os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", opened, *command], stdout=theirs, stderr=theirs)
    try:
        os.close(theirs)
        told = b""
        while not told.endswith(b"\n"):  # A terminal may hand out a line in parts.
            told += os.read(ours, 100)
        assert told == b"begun\r\n"
        os.close(ours)
        assert process.wait(60) == 0
        assert (tmp_path / "results").read_text() == "all of it"
    finally:
        process.kill()
        process.wait(30)
