"""SIGTERM and SIGINT: the first drains the worker, a second one, or a drain that takes too long, ends the process.

SIGHUP drains it, too, and is never the second (`difffake.hangup`). Whatever was not committed by then is done again by
the next owner, and nothing is seen twice. Where a worker's thread runs beside the main one, as in the demonstration,
Ctrl-C waits for a moment at which no lock is held.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import structlog

from difffake.hangup import stop_signals
from stream.worker import Worker

log = structlog.get_logger()

#: When everything should have been over for so long, what is left undone is left undone for good, s.
_GRACE_S = 2.0
#: So long what was begun may take to end before there is a worker, s.
_STARTING_S = 15.0


class StopSignals:
    """Listens to the signals, on the main thread; use as a context manager, around everything.

    Until there is a worker a signal ends the program by SystemExit: the first process of a container, which has no
    default for SIGTERM, would otherwise have to be killed. Python runs its handlers between two steps of the main
    thread: where that stands still in a library, none. So the system tells a thread of this one's, too, which waits for
    the end, and ends the process where it does not come.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._signals = stop_signals()
        #: Somebody asked, or hung up.
        self._is_asked = self._is_hung_up = False
        self._is_first = threading.Lock()
        self._before: dict[int, Any] = {}
        self._heard, self._told = socket.socketpair()
        self._told.setblocking(False)
        self._watchdog = threading.Thread(target=self._watch, name="stop-signals", daemon=True)

    def drain(self, worker: Worker) -> None:
        """From now on the first signal drains this worker."""
        self._worker = worker

    @property
    def are_heard(self) -> bool:
        """Whether anybody asked, or hung up."""
        return self._is_asked or self._is_hung_up

    def __enter__(self) -> Self:
        self._watchdog.start()
        self._before_fd = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        self._before = {signum: signal.signal(signum, self._stop) for signum in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._before_fd)
        self._told.close()
        self._watchdog.join()
        self._heard.close()

    def _stop(self, signum: int, _frame: FrameType | None) -> None:
        is_again = self._is_asked
        if signum == signal.SIGHUP:
            if is_again or self._is_hung_up:
                return
            self._is_hung_up = True
        else:
            self._is_asked = True
        if self._worker is None:
            sys.exit(128 + signum if signum == signal.SIGINT else 0)
        if is_again:
            os._exit(128 + signum)
        self._stop_once(self._worker)

    def _stop_once(self, worker: Worker) -> None:
        """By whoever hears of it first: the handler, or the thread."""
        if self._is_first.acquire(blocking=False):
            worker.stop()

    def _watch(self) -> None:
        end_s: float | None = None
        is_asked = False
        while True:
            self._heard.settimeout(None if end_s is None else max(0.001, end_s - time.monotonic()))
            try:
                signals = self._heard.recv(64)
            except TimeoutError:
                return self._give_up()
            if not signals:
                return None
            for signum in (signum for signum in signals if signum in self._signals):
                # The second ends the process at once, by its handler; where that does not run, a moment later.
                is_again = is_asked and signum != signal.SIGHUP
                is_asked = is_asked or signum != signal.SIGHUP
                patience_s = 0.0 if is_again else self._patience_s
                if self._worker is not None:
                    # The handler comes with the worker's next step; probes are to know at once.
                    self._stop_once(self._worker)
                end_s = min(end_s or float("inf"), time.monotonic() + patience_s + _GRACE_S)

    @property
    def _patience_s(self) -> float:
        return _STARTING_S if self._worker is None else self._worker.settings.drain_timeout_s

    def _give_up(self) -> None:
        """Decoders, brokers or libraries that do not answer hold nobody up."""
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
