"""Keeps what the C library holds back small, and the same for ever: memory that was freed, but has something in use
behind it.

glibc takes a block from a heap, or has the system map memory for it, which it gives back whole. A heap is as large as
the most that was ever in it at once, and then some, for its holes. So a process with many pictures in flight grows
whenever more of them come together than ever before: ever more seldom, and for ever. But heaps of a moderate size have
room for nearly all, and what is mapped beyond that costs little: a page fault for every 4 KiB. So heaps grow only as
long as those faults are too many.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LEAST_HEAPS = 2
_TRIM_BYTES = 64 * 2**20
#: Blocks from this size on are mapped where no heap has room for them: while heaps may grow, and while they may not.
#: Smaller ones are a small share of all bytes.
_GROWING_BYTES, _GROWN_BYTES = 4 * 2**20, 128 * 2**10
#: Page faults in a second of processor time that are no reason to let heaps grow: half a percent of it, where a fault
#: costs 2 us, as it does in a virtual machine.
_FAULTS_PER_S = 2_500
#: So many faults beyond those, and they may; then for the processor time in which so many would be no reason.
_TOO_MANY = 15_000
_LOOK_S = 1.0
#: Begin the names by which whoever runs the process has said what they want.
_ASKED_FOR = ("MALLOC_", "GLIBC_TUNABLES")

#: Page faults and processor time of a process since it began.
_Usage = Callable[[], tuple[int, float]]


class HeapGrowth:
    """Whether heaps may grow for large blocks; they may at first.

    Args:
        faults, cpu_s: page faults and processor time of the process so far.
    """

    def __init__(self, faults: int, cpu_s: float) -> None:
        self.faults, self.cpu_s = faults, cpu_s
        self._excess = 0.0
        self.is_allowed = True

    def told(self, faults: int, cpu_s: float) -> bool:
        """Take what there is of them now; whether heaps may grow from now on."""
        more = faults - self.faults - _FAULTS_PER_S * (cpu_s - self.cpu_s)
        self.faults, self.cpu_s = faults, cpu_s
        self._excess = min(max(0.0, self._excess + more), _TOO_MANY)
        self.is_allowed = self._excess > 0 if self.is_allowed else self._excess >= _TOO_MANY
        return self.is_allowed


def bound_heaps(threads: int, look_s: float = _LOOK_S) -> bool:
    """Let all threads of this process share as many heaps as ``threads`` run at once, and let those grow no more than
    is worth it; True where that was possible.

    glibc gives every new thread a heap of its own, up to eight a core: pictures that one thread decodes and another
    drops leave holes in each of them. And it maps ever fewer blocks: with every one that is freed it raises the size
    from which on it does, up to 32 MiB. To be called once, before threads begin. What the environment says of heaps
    holds.

    Args:
        threads: see above.
        look_s: how often to look whether heaps may grow, s.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(_ASKED_FOR) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = (
        (_M_ARENA_MAX, max(_LEAST_HEAPS, threads)),
        (_M_MMAP_THRESHOLD, _GROWING_BYTES),
        (_M_TRIM_THRESHOLD, _TRIM_BYTES),
    )
    if not all(mallopt(name, value) == 1 for name, value in settings):
        return False

    def let_grow(is_allowed: bool) -> None:
        # To change the size while others allocate is safe: it is one word, and either value serves.
        mallopt(_M_MMAP_THRESHOLD, _GROWING_BYTES if is_allowed else _GROWN_BYTES)

    used = _usage()
    if used()[0]:  # else nobody counts them
        threading.Thread(target=_watch, args=(used, let_grow, look_s), name="heaps", daemon=True).start()
    return True


def _usage() -> _Usage:
    import resource  # not on every system

    def used() -> tuple[int, float]:
        now = resource.getrusage(resource.RUSAGE_SELF)
        return now.ru_minflt, now.ru_utime + now.ru_stime

    return used


def _watch(used: _Usage, let_grow: Callable[[bool], None], look_s: float) -> None:
    growth, never = HeapGrowth(*used()), threading.Event()
    while not never.wait(look_s):
        was_allowed = growth.is_allowed
        if growth.told(*used()) is not was_allowed:
            let_grow(growth.is_allowed)
