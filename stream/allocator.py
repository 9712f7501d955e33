"""Bounds what the C library keeps back: memory that was freed, but has something in use behind it."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LEAST_HEAPS = 2
_LARGE_BYTES, _TRIM_BYTES = 4 * 2**20, 64 * 2**20
#: Begin the names by which whoever runs the process has said what they want.
_ASKED_FOR = ("MALLOC_", "GLIBC_TUNABLES")


def bound_heaps(threads: int) -> bool:
    """Let all threads of this process share as many heaps as ``threads`` run at once, and keep large blocks out of
    them; True where that was possible.

    glibc gives every new thread a heap of its own, up to eight a core: pictures that one thread decodes and another
    drops leave holes in each of them. Blocks beyond a size it takes from the system and gives back whole; but it
    raises that size, up to 32 MiB, with every such block that is freed: after that what was fetched from Kafka leaves
    holes, too. To be called before threads begin. What the environment says of it holds.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(_ASKED_FOR) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = (
        (_M_ARENA_MAX, max(_LEAST_HEAPS, threads)),
        (_M_MMAP_THRESHOLD, _LARGE_BYTES),
        (_M_TRIM_THRESHOLD, _TRIM_BYTES),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)
