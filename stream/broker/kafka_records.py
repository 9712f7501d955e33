"""kafka-python's reading of records, where what a producer wrote must not end who reads it.

Names of headers are UTF-8 by Kafka's protocol, and brokers do not check: kafka-python calls a whole batch corrupt for
one that is not, for ever, and whoever reads that partition ends there. Here they are read as Java clients read them.
"""

from __future__ import annotations

from typing import Any

from kafka.record.default_records import DefaultRecordBatch

_read = DefaultRecordBatch._read_msg


class _Lenient(bytearray):
    """Bytes whose text is read with U+FFFD where it is no UTF-8."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return found if isinstance(found, int) else _Lenient(found)

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        """See `bytearray.decode`."""
        return super().decode(encoding, errors)


def _read_leniently(self: Any) -> Any:
    at = self._pos
    try:
        return _read(self)
    except UnicodeDecodeError:
        # Slower, and for what is left of the batch: nobody but such producers pays for it.
        self._buffer, self._pos = _Lenient(self._buffer), at
        return _read(self)


def read_any_header_name() -> None:
    """From now on, in this process."""
    DefaultRecordBatch._read_msg = _read_leniently
