"""SIGHUP: a terminal was closed, or the connection to it lost.

It asks to end in order, as SIGTERM does, and is no second signal that ends at once: an interactive shell passes it on,
and the kernel sends it again when that shell has gone; systemd sends it right behind SIGTERM. Who ignores it from the
start, by ``nohup``, goes on ignoring it.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def stop_signals(*, with_interrupt: bool = True) -> tuple[signal.Signals, ...]:
    """The signals by which somebody asks this process to end in order."""
    asked = (signal.SIGTERM, signal.SIGINT) if with_interrupt else (signal.SIGTERM,)
    return asked if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*asked, signal.SIGHUP)


def let_go_of_terminal() -> None:
    """Where the terminal is gone, what is printed goes nowhere: an error of it would end what must yet be done."""
    for output in (1, 2):
        try:
            os.write(output, b"")
        except OSError as error:
            if error.errno == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, output)
                os.close(nowhere)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP do what Ctrl-C does: what was done is kept and told. Only the main thread listens.

    Raises:
        KeyboardInterrupt: one of them came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    has_come = False

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        nonlocal has_come
        is_again, has_come = has_come and signum == signal.SIGHUP, True
        let_go_of_terminal()
        if not is_again:
            raise KeyboardInterrupt

    before = {signum: signal.signal(signum, interrupt) for signum in stop_signals(with_interrupt=False)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
