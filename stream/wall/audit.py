"""What operators did through the wall, and what was refused: a line in the log, and in a file where one is named."""

from __future__ import annotations

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
                    os.write(handle, data)
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise AuditError(f"{self._file}: cannot be written ({error})", hint="check --audit and the disk") from error
