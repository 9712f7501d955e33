"""SIGTERM and SIGINT: the first drains the worker, a second one, or a drain that takes too long, ends the process.

Whatever was not committed by then is done again by the next owner, and nothing is seen twice. Where a worker's thread
runs beside the main one, as in the demonstration, Ctrl-C waits for a moment at which no lock is held.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import structlog

from stream.worker import Worker

log = structlog.get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: When everything should have been over for so long, what is left undone is left undone for good, s.
_GRACE_S = 2.0


class StopSignals:
    """Listens to the signals, on the main thread; use as a context manager, around everything.

    Until there is a worker a signal ends the program by SystemExit: the first process of a container, which has no
    default for SIGTERM, would otherwise have to be killed.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._watchdog: threading.Timer | None = None
        self._before: dict[int, Any] = {}

    def drain(self, worker: Worker) -> None:
        """From now on the first signal drains this worker."""
        self._worker = worker

    def __enter__(self) -> Self:
        self._before = {signum: signal.signal(signum, self._stop) for signum in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog.join()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _stop(self, signum: int, _frame: FrameType | None) -> None:
        if self._worker is None:
            sys.exit(0 if signum == signal.SIGTERM else 128 + signum)
        if self._watchdog is None:
            self._watchdog = threading.Timer(self._worker.settings.drain_timeout_s + _GRACE_S, self._give_up)
            self._watchdog.daemon = True
            self._watchdog.start()
            self._worker.stop()
        else:
            os._exit(128 + signum)

    def _give_up(self) -> None:
        """Decoders or brokers that do not answer hold nobody up."""
        has_left = self._worker is not None and self._worker.has_left
        log.error("draining took too long", left_group=has_left)
        sys.stderr.flush()
        os._exit(0 if has_left else 1)


class HeldInterrupt:
    """Holds Ctrl-C back until `check`; use as a context manager on the main thread, around what threads share with it.

    Python raises KeyboardInterrupt between any two steps of the main thread, also between taking a lock and being ready
    to give it back: the threads that wait for this lock would never end. A second Ctrl-C ends the process.
    """

    def __init__(self) -> None:
        self._has_come = self._is_held = False

    def check(self) -> None:
        """Interrupt here, if the user has asked for it.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        if self._has_come:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        # Where interrupts are ignored, as in a background job of a shell, or are somebody else's, they stay so.
        self._is_held = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._is_held:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_held:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self._has_come:
            os._exit(128 + signum)
        self._has_come = True
