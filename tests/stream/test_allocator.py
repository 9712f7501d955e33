"""Heaps of the C library: as many as asked for, and no larger than pays, unless the environment says otherwise."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from stream.allocator import HeapGrowth

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
#: How glibc counts blocks.
_COUNTS = """
import ctypes, mmap, time
from stream.allocator import bound_heaps


class Counts(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.mallinfo2.restype = ctypes.c_void_p, [ctypes.c_void_p], Counts
"""
#: A large block is freed; how many more blocks are mapped once there is another.
_LARGE = """
done = bound_heaps(2, look_s=3600)
libc.free(libc.malloc(ctypes.c_size_t(24 << 20)))
before = libc.mallinfo2().hblks
block = libc.malloc(ctypes.c_size_t(8 << 20))
print(done, libc.mallinfo2().hblks - before)
"""
#: Blocks are taken until there is one for which the heap does not grow, among work that touches no new pages, and then
#: one for which it does, among work that does little else.
_GROWS = """
done = bound_heaps(2, look_s=0.01)


def comes(is_growth, meanwhile):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        meanwhile()
        before = libc.mallinfo2()
        libc.malloc(ctypes.c_size_t(1 << 20))
        after = libc.mallinfo2()
        if (after.arena > before.arena) is is_growth and (after.hblks > before.hblks) is not is_growth:
            return True
    return False


def touch():
    pages = mmap.mmap(-1, 32 << 20)
    for at in range(0, 32 << 20, mmap.PAGESIZE):
        pages[at] = 1
    pages.close()


def work():
    until = time.process_time() + 0.01
    while time.process_time() < until:
        pass


print(done, comes(False, work) + comes(True, touch))
"""
_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other heaps")
_COUNTED = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc counts blocks so, from 2.33 on"
)


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


@_COUNTED
def test_large_blocks_stay_out_of_them_after_larger_ones_were_freed() -> None:
    assert run(_COUNTS + _LARGE) == ("True", 1)
    assert run(_COUNTS + _LARGE, MALLOC_ARENA_MAX="5") == ("False", 0)


@_COUNTED
def test_heaps_grow_only_while_page_faults_are_many() -> None:
    assert run(_COUNTS + _GROWS) == ("True", 2)


def looked(growth: HeapGrowth, seconds: int, faults_per_s: int) -> list[bool]:
    """What a look a second says of a process that keeps a core busy."""
    now = growth.faults, growth.cpu_s
    return [growth.told(now[0] + n * faults_per_s, now[1] + n) for n in range(1, seconds + 1)]


def test_growth_is_allowed_until_a_load_has_found_room_and_again_for_a_larger_one() -> None:
    growth = HeapGrowth(50_000, 1.0)
    assert growth.is_allowed
    assert looked(growth, 3, 40_000) == [True] * 3
    assert True not in looked(growth, 60, 800)[10:]
    # Whatever comes together once is mapped, and that is all.
    assert True not in looked(growth, 1, 12_000) + looked(growth, 60, 800)
    assert True not in looked(growth, 600, 2_000)
    assert looked(growth, 3, 40_000) == [True] * 3
    assert True not in looked(growth, 60, 800)[10:]


def test_a_process_that_does_nothing_changes_nothing() -> None:
    growth = HeapGrowth(50_000, 1.0)
    assert looked(growth, 1, 40_000) == [True]
    assert growth.told(90_000, 2.0) is growth.told(90_000, 2.0) is True
