"""What operators did through the wall, and what was refused: a line in the log, and in a file where one is named."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import structlog

from difffake.errors import DiffFakeError

log = structlog.get_logger()


class AuditError(DiffFakeError, OSError):
    """The audit file cannot be written: nothing is done then."""

    exit_code = 44


class Audit:
    """Appends JSON lines; every line is on the disk before the action is sent. Thread-safe.

    Args:
        file: created where it does not exist, readable by its owner alone; None: the log only.

    Attributes:
        counts: outcomes, by their first word.

    Raises:
        AuditError: it cannot be written.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._lock = file, threading.Lock()
        self._is_torn = file is not None and _is_torn(file)
        self.counts: Counter[str] = Counter()
        if file is not None:
            self._append(b"")

    def write(self, outcome: str, *, who: str, address: str, action: dict[str, object]) -> None:
        """Write down what is to be done, was done, or was refused.

        Args:
            outcome: ``accepted``, ``sent``, ``failed`` or ``refused``, with the reason.
            who: the operator; empty where nobody knows.
            address: from where.
            action: what.

        Raises:
            AuditError: it cannot be written.
        """
        with self._lock:
            self.counts[outcome.partition(":")[0]] += 1
        line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "who": who, "address": address}
        line |= {"outcome": outcome}
        # A warning: the command line logs nothing below.
        log.warning("operator action", **line, action=action)
        if self._file is not None:
            self._append(msgspec.json.encode({**line, "action": action}) + b"\n")

    def _append(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            with self._lock:
                handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                try:
                    # What follows a line that was cut off is a line of its own.
                    data = b"\n" * self._is_torn + data
                    written = os.write(handle, data)
                    if written < len(data):  # a disk that is nearly full takes a part, and says nothing
                        self._is_torn = True
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    self._is_torn = False
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise AuditError(f"{self._file}: cannot be written ({error})", hint="check --audit and the disk") from error


def _is_torn(file: Path) -> bool:
    """Whether its last line was cut off."""
    try:
        with file.open("rb") as there:
            return bool(there.seek(0, os.SEEK_END)) and there.seek(-1, os.SEEK_END) >= 0 and there.read(1) != b"\n"
    except OSError:  # none yet, or not for us to read
        return False
