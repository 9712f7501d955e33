"""``difffake work --workers N``: several workers of one group beside each other, each a process of its own.

An interpreter runs one thread of Python at a time, so one process does not fill a host of many cores. The supervisor
starts the processes, starts those again that end or hang, and ends them all when it is told to. It does nothing else:
each worker has its own connection to Kafka, its own networks, its own HTTP door, and would go on without it if it were
not asked to drain when the supervisor dies (`stream.lifeline`).
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

import stream
from difffake.errors import out_of_memory
from difffake.hangup import stop_signals
from stream.lifeline import Word

log = structlog.get_logger()

#: How often it is looked who has ended, hangs, or is to be started again, s.
_TICK_S = 0.5
#: Who says nothing for so long hangs: it is killed, and started again, s. Of that, reading the program takes some.
_SILENCE_S = 120.0
#: Before a worker that ended is started again: twice as long each time, up to the most, s.
_FIRST_AGAIN_S, _MOST_AGAIN_S = 1.0, 30.0
#: Who has worked for so long begins with the shortest wait again, s.
_STEADY_S = 60.0
#: After a worker's own time to drain, and its grace, s.
_GRACE_S = 5.0


def worker_command(arguments: Sequence[str]) -> list[str]:
    """How ``difffake ARGUMENTS`` is started once more, by this interpreter, from where this program was read.

    Args:
        arguments: of the command line.
    """
    # Unless the program itself lies there, nothing is read from the folder in which it was called.
    is_here = Path(stream.__file__).parents[1] == Path.cwd()
    return [sys.executable, *([] if is_here else ["-P"]), "-m", "stream.entry", *arguments]


@dataclass(slots=True, eq=False)
class _Member:
    """One worker, whichever process it is at the moment."""

    number: int
    command: Callable[[int, int], Sequence[str]]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    line: socket.socket | None = None
    #: By the monotonic clock: when it last said anything, first said that it works, and is to be started again.
    heard_s: float = 0.0
    works_since_s: float | None = None
    again_s: float | None = None
    is_done: bool = False
    wait_s: float = _FIRST_AGAIN_S

    def start(self) -> None:
        """A process, and a line to it."""
        self.line, theirs = socket.socketpair()
        self.line.setblocking(False)
        self.heard_s, self.works_since_s, self.again_s, self.is_done = time.monotonic(), None, None, False
        try:
            with theirs:
                # In a session of its own: signals of the terminal are the supervisor's to hear.
                self.process = subprocess.Popen(  # noqa: S603  (ourselves)
                    self.command(self.number, theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=self.environment,
                )
        except BaseException:
            self.hang_up()
            raise

    def hear(self) -> None:
        """What it has said by now."""
        try:
            said = self.line.recv(4096) if self.line is not None else b""
        except OSError:
            said = b""
        if said:
            self.heard_s = time.monotonic()
            if Word.WORKING.value in said and self.works_since_s is None:
                self.works_since_s = self.heard_s
            self.is_done = self.is_done or Word.DONE.value in said

    def hang_up(self) -> None:
        """It drains."""
        if self.line is not None:
            self.line.close()
            self.line = None


class Supervisor:
    """Keeps workers running; use `run` on the main thread.

    Until one of them has worked, an error of one ends all: what is wrong is wrong for each of them, and whoever started
    us is to hear of it. Who ends otherwise without having been told to, or is killed, is started again.

    Args:
        count: how many workers.
        command: a worker's number, from 0 on, and the file descriptor of its line -> what is started.
        drain_s: so long a worker takes to drain at the most, s.
        silence_s: see `_SILENCE_S`.
        environment: of the workers; ours by default.
    """

    def __init__(
        self,
        count: int,
        command: Callable[[int, int], Sequence[str]],
        *,
        drain_s: float,
        silence_s: float = _SILENCE_S,
        environment: dict[str, str] | None = None,
    ) -> None:
        ours = dict(os.environ) if environment is None else environment
        self._members = [_Member(number, command, ours) for number in range(count)]
        self._drain_s, self._silence_s = drain_s, silence_s
        self._code = 0
        self._have_worked = False
        #: Since we were told to stop: when those that are left are killed.
        self._end_s: float | None = None

    def run(self) -> int:
        """Until all have left in order, or we are told to stop; returns the exit code."""
        with _Signals() as signals, selectors.DefaultSelector() as selector:
            selector.register(signals, selectors.EVENT_READ)
            try:
                for member in self._members:
                    member.start()
                while any(member.process or member.again_s is not None for member in self._members):
                    selector.select(self._patience_s())
                    for signum, is_again in signals.heard():
                        if is_again:
                            self._kill("asked to stop a second time: a worker was killed")
                            return 128 + signum
                        self._stop()
                    self._look()
            finally:
                self._kill("a worker was killed")
        return self._code

    def _patience_s(self) -> float:
        waits = [m.again_s for m in self._members if m.again_s is not None]
        return max(0.0, min([*waits, time.monotonic() + _TICK_S]) - time.monotonic())

    def _look(self) -> None:
        now_s = time.monotonic()
        for member in self._members:
            member.hear()
            self._have_worked = self._have_worked or member.works_since_s is not None
            if member.process is not None and (code := member.process.poll()) is not None:
                self._ended(member, code)
            elif member.process is not None and self._end_s is None and now_s - member.heard_s > self._silence_s:
                log.error("a worker hangs: it is killed", worker=member.number, silent_s=round(now_s - member.heard_s))
                member.process.kill()
            elif member.again_s is not None and now_s >= member.again_s:
                self._start_again(member)
        if self._end_s is not None and now_s > self._end_s:
            self._kill("a worker did not drain in time, and was killed")

    def _ended(self, member: _Member, code: int) -> None:
        is_killed, code = code < 0, abs(code) + 128 * (code < 0)
        member.hear()
        member.hang_up()
        member.process = None
        if self._end_s is not None or member.is_done:
            self._code = self._code or code
        elif code and not is_killed and not self._have_worked:
            log.error("a worker ended before any had worked: all are stopped", worker=member.number, exit_code=code)
            self._code = self._code or code
            self._stop()
        else:
            self._again(member, exit_code=code)

    def _again(self, member: _Member, **why: object) -> None:
        now_s = time.monotonic()
        if member.works_since_s is not None and now_s - member.works_since_s > _STEADY_S:
            member.wait_s = _FIRST_AGAIN_S
        log.error("a worker ended, and is started again", worker=member.number, in_s=member.wait_s, **why)
        member.again_s = now_s + member.wait_s
        member.wait_s = min(2 * member.wait_s, _MOST_AGAIN_S)

    def _start_again(self, member: _Member) -> None:
        try:
            member.start()
        except OSError as error:  # no memory, no process more
            self._again(member, error=str(out_of_memory(error) or error))

    def _stop(self) -> None:
        if self._end_s is None:
            self._end_s = time.monotonic() + self._drain_s + _GRACE_S
        for member in self._members:
            member.again_s = None
            member.hang_up()

    def _kill(self, why: str) -> None:
        """Whoever is left."""
        for member in self._members:
            member.again_s = None
            member.hang_up()
            if member.process is not None:
                member.process.kill()
                member.process.wait()
                log.error(why, worker=member.number)
                member.process = None
                self._code = self._code or 1


class _Signals:
    """Those that ask us to end, and the one that says that a worker has; use as a context manager."""

    def __init__(self) -> None:
        self._signals = stop_signals()
        self._heard, self._told = socket.socketpair()
        for end in (self._heard, self._told):
            end.setblocking(False)
        self._is_asked = False

    def fileno(self) -> int:
        """For a selector."""
        return self._heard.fileno()

    def heard(self) -> list[tuple[int, bool]]:
        """What came since the last time, and whether somebody had asked before; a lost terminal (SIGHUP) never asks
        twice."""
        try:
            said = self._heard.recv(4096)
        except BlockingIOError:
            return []
        found = []
        for signum in (signum for signum in said if signum in self._signals):
            is_hangup = signum == signal.SIGHUP
            found.append((signum, self._is_asked and not is_hangup))
            self._is_asked = self._is_asked or not is_hangup
        return found

    def __enter__(self) -> Self:
        self._before_fd = signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        self._before = {signum: signal.signal(signum, lambda *_: None) for signum in (*self._signals, signal.SIGCHLD)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._before_fd)
        self._told.close()
        self._heard.close()
