"""Heaps of the C library: as many as asked for, unless the environment says otherwise."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Threads that allocate at once; then how many heaps glibc says there are.
_CODE = """
import ctypes, os, threading
from stream.allocator import bound_arenas

done = bound_arenas({threads})
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


def heaps(threads: int, **environment: str) -> tuple[str, int]:
    code = _CODE.format(threads=threads)
    kept = {"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=kept | environment)  # fmt: skip
    said, count = done.stdout.split()
    return said, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other heaps")
def test_threads_share_heaps() -> None:
    assert heaps(3) == ("True", 3)
    assert heaps(1) == ("True", 2)
    said, count = heaps(2, MALLOC_ARENA_MAX="5")
    assert (said, count) == ("False", 5)
