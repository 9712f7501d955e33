"""The line between a worker and its supervisor (`stream.supervisor`), held by the worker.

It is a socket whose other end the supervisor alone holds. While the worker lives it says so every few seconds; when the
line breaks, because the supervisor closed it or was killed, the worker drains. So no signal has to be passed on, which
a worker that was told by somebody else already would take for the second one, and nobody goes on working alone.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from enum import Enum
from types import TracebackType
from typing import Self

from stream.health import Health, Phase

#: Seconds between two words.
BEAT_S = 1.0


class Word(Enum):
    """What a worker says, a byte each."""

    STARTING = b"s"
    WORKING = b"w"  # the loop has turned over: engines are open, brokers were found
    DONE = b"d"  # it leaves because it was to, and is not started again


class Lifeline:
    """A worker's end; use as a context manager on the main thread, around whatever listens to signals.

    Args:
        fd: of the socket; inherited.
        health: of the worker. Who hangs says nothing.
    """

    def __init__(self, fd: int, health: Health) -> None:
        self._socket = socket.socket(fileno=fd)
        self._health = health
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._hold, name="lifeline", daemon=True)

    def hold(self) -> None:
        """From now on a line that breaks is a SIGHUP, which drains and is never the second signal. Whoever ignores
        that (``nohup``) set it so for a terminal; it is the supervisor's to heed here."""
        self._thread.start()

    def leave(self, *, is_done: bool) -> None:
        """The worker has drained: a line that breaks means nothing any more. ``is_done``: nobody had asked it to."""
        self._is_over.set()
        if is_done:
            self._say(Word.DONE)

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        signal.signal(signal.SIGHUP, self._before)
        self._socket.close()

    def _hold(self) -> None:
        line = select.poll()
        line.register(self._socket, select.POLLIN)
        while not self._is_over.is_set():
            if self._health.live().ok:
                self._say(Word.STARTING if self._health.phase is Phase.STARTING else Word.WORKING)
            if line.poll(BEAT_S * 1000):
                break  # nothing is ever said on this side: it is the end
        if not self._is_over.is_set():
            os.kill(os.getpid(), signal.SIGHUP)

    def _say(self, word: Word) -> None:
        try:
            self._socket.send(word.value, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # nobody listens: the line says so itself; or has not listened for hours
            return
