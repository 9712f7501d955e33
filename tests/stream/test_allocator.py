"""Heaps of the C library: as many as asked for, unless the environment says otherwise."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

#: Threads that allocate at once; then how many heaps glibc says there are.
_CODE = """
import ctypes, os, threading
from stream.allocator import bound_heaps

done = bound_heaps({threads})
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
gate = threading.Barrier(24)


def allocate():
    gate.wait()
    held = [libc.malloc(ctypes.c_size_t(4000)) for _ in range(200)]
    gate.wait()
    for one in held:
        libc.free(one)


threads = [threading.Thread(target=allocate) for _ in range(24)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
buffer, size = ctypes.c_char_p(), ctypes.c_size_t()
libc.open_memstream.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.open_memstream(ctypes.byref(buffer), ctypes.byref(size)))
libc.malloc_info(0, file)
libc.fclose(file)
print(done, ctypes.string_at(buffer, size.value).count(b"<heap nr="))
"""
#: A large block is freed; how many more blocks are mapped once there is another, as glibc counts them.
_LARGE = """
import ctypes
from stream.allocator import bound_heaps


class Counts(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


done = bound_heaps(2)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.mallinfo2.restype = ctypes.c_void_p, [ctypes.c_void_p], Counts
libc.free(libc.malloc(ctypes.c_size_t(24 << 20)))
before = libc.mallinfo2().hblks
block = libc.malloc(ctypes.c_size_t(8 << 20))
print(done, libc.mallinfo2().hblks - before)
"""
_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other heaps")


def run(code: str, **environment: str) -> tuple[str, int]:
    kept = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=kept | environment)  # fmt: skip
    said, count = done.stdout.split()
    return said, int(count)


@_GLIBC
def test_threads_share_heaps() -> None:
    assert run(_CODE.format(threads=3)) == ("True", 3)
    assert run(_CODE.format(threads=1)) == ("True", 2)
    assert run(_CODE.format(threads=2), MALLOC_ARENA_MAX="5") == ("False", 5)


@_GLIBC
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc before 2.33 does not count so")
def test_large_blocks_stay_out_of_them_after_larger_ones_were_freed() -> None:
    assert run(_LARGE) == ("True", 1)
    assert run(_LARGE, MALLOC_ARENA_MAX="5") == ("False", 0)
