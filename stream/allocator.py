"""Bounds what the C library keeps back for threads."""

from __future__ import annotations

import ctypes
import os
import sys

_M_ARENA_MAX = -8
_LEAST = 2
#: By these whoever runs the process has said what they want.
_ASKED_FOR = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def bound_arenas(threads: int) -> bool:
    """Let all threads of this process share as many heaps as ``threads`` run at once; True where that was possible.

    glibc gives every new thread a heap of its own, up to eight a core, and a heap keeps what was freed in it: pictures
    that one thread decodes and another drops leave holes in each of them. To be called before threads begin. What the
    environment says of it holds.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _ASKED_FOR):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_ARENA_MAX, max(_LEAST, threads)) == 1)
