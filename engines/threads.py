"""Whether as many threads can be started as a runtime is going to start: ONNX Runtime waits for ever where it can start
some of its own, but not all, and the process that it waits in hears no signal."""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
from pathlib import Path

from difffake.errors import OutOfMemoryError, out_of_memory

#: Of those that are tried, some may still be there, to the system, when the runtime starts its own.
_SPARE = 4
#: More than any runtime starts by itself.
_MOST = 256


def check_threads(threads: int) -> None:
    """Start as many threads as a runtime will, all at once, and let them go.

    Args:
        threads: inside one run, the caller's included; 0: as many as there are cores, as runtimes count them.

    Raises:
        OutOfMemoryError: there is no memory for them, or there may be no more (``ulimit -u``, a container's limit).
    """
    wanted = min(threads or _cores(), _MOST) - 1
    if wanted < 1:
        return
    may_end, ended, started = threading.Event(), threading.Semaphore(0), 0

    def wait() -> None:
        may_end.wait()
        ended.release()

    try:
        for _ in range(wanted + _SPARE):
            # `threading.Thread.start` would wait for a thread that finds no memory for its first step.
            _thread.start_new_thread(wait, ())
            started += 1
    except (RuntimeError, MemoryError) as error:
        raise out_of_memory(error) or OutOfMemoryError(str(error), hint="ask for fewer: --threads 1") from error
    finally:
        may_end.set()
        for _ in range(started):
            ended.acquire(timeout=1.0)


def _cores() -> int:
    """Physical ones: whoever may start just as many threads must not be refused for twice as many."""
    siblings = set()
    for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list"):
        with contextlib.suppress(OSError):
            siblings.add(file.read_text())
    return len(siblings) or os.cpu_count() or 1
