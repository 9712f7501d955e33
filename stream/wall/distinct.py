"""How many different names were heard of, in a fixed amount of memory."""

from __future__ import annotations

import hashlib
import math


class DistinctCount:
    """Linear counting: a name sets one bit of many, and the bits that are left tell how many names there were.

    Whang, Vander-Zanden and Taylor (1990), "A linear-time probabilistic counting algorithm for database applications".
    With the default 2**17 bytes the standard error is below 1 % up to some millions of names.

    Args:
        size_bytes: memory.
    """

    def __init__(self, size_bytes: int = 1 << 17) -> None:
        self._bits = bytearray(size_bytes)
        self._set = 0

    def add(self, name: str) -> None:
        """Hear of a name, again or for the first time."""
        digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest()
        at = int.from_bytes(digest, "little") % (len(self._bits) * 8)
        mask = 1 << (at & 7)
        if not self._bits[at >> 3] & mask:
            self._bits[at >> 3] |= mask
            self._set += 1

    @property
    def estimate(self) -> int:
        """About how many there were."""
        size = len(self._bits) * 8
        return round(-size * math.log((size - min(self._set, size - 1)) / size))
