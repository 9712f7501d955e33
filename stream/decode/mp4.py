"""How many samples an MP4 claims to have, before FFmpeg makes room for them.

Its tables are run-length coded, or leave out what is constant: a few bytes claim two thousand million samples, for
which FFmpeg's index takes gigabytes (ISO/IEC 14496-12, 8.6.1, 8.7.3, 8.8.8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

#: About 100 MB of FFmpeg's index; an hour of 50 pictures a second with sound has 350,000.
MAX_SAMPLES = 4_000_000
_TABLES = re.compile(b"stsz|stz2|stts|ctts|trun|saiz")


def claimed_samples(value: bytes) -> int:
    """The sum over all tables. They are looked for everywhere but in the media data, not only where they belong:
    what FFmpeg makes of boxes that lie about their sizes need not be known."""
    return sum(
        _count(value, match.end(), match[0])
        for begin, end in _regions(value)
        for match in _TABLES.finditer(value, begin, end)
    )


def has_compressed_index(value: bytes) -> bool:
    """Whether its index is deflated (QuickTime's `cmov`), which hides what it claims."""
    return any(value.find(b"cmov", begin, end) >= 0 for begin, end in _regions(value))


def _regions(value: bytes) -> Iterator[tuple[int, int]]:
    """All but the contents of `mdat` boxes at the top level."""
    at = begin = 0
    while at + 8 <= len(value):
        size, header = int.from_bytes(value[at : at + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(value[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = len(value) - at
        if size < header:
            break
        if value[at + 4 : at + 8] == b"mdat":
            yield begin, at
            begin = min(at + size, len(value))
        at += size
    yield begin, len(value)


def _count(value: bytes, at: int, table: bytes) -> int:
    def number(offset: int) -> int:
        return int.from_bytes(value[at + offset : at + offset + 4], "big")

    if table in (b"stsz", b"stz2"):
        return number(8)
    if table == b"trun":
        return number(4)
    if table == b"saiz":
        return number(13 if number(0) & 1 else 5)
    runs = min(number(4), (len(value) - at - 8) // 8)
    pairs = np.frombuffer(value, ">u4", count=max(runs, 0) * 2, offset=min(at + 8, len(value)))
    return int(pairs[::2].sum(dtype=np.int64))
