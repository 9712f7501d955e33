"""kafka-python's reading of records, where what a producer wrote must not end who reads it.

- Names of headers are UTF-8 by Kafka's protocol, and brokers do not check: kafka-python calls a whole batch corrupt for
  one that is not, for ever, and whoever reads that partition ends there. Here they are read as Java clients read them.
- A header without name and value takes two bytes on the wire and a hundred in memory; a batch of some kilobytes may
  unpack to gigabytes (but for snappy, whose format cannot: 21 to 1 at the most). Both are read as a record that says in
  a header, `stream.broker.contract.REFUSED`, what is the matter: the last one of the batch in place of all its records.
"""

from __future__ import annotations

import gzip
import io
from typing import Any

import kafka.codec as codecs
from kafka.record import default_records
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from stream.broker.contract import REFUSED

MAX_HEADERS = 1000
#: Eight of the largest messages that are ever asked for.
MAX_UNPACKED_BYTES = 128 << 20
_STEP_BYTES = 256 << 10

_read, _unpack = DefaultRecordBatch._read_msg, DefaultRecordBatch._maybe_uncompress


class _TooLargeError(Exception):
    """A batch that unpacks to more than there is room for."""


class _Lenient(bytearray):
    """Bytes whose text is read with U+FFFD where it is no UTF-8."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return found if isinstance(found, int) else _Lenient(found)

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        """See `bytearray.decode`."""
        return super().decode(encoding, errors)


def _read_any_header(self: Any) -> Any:
    at = self._pos
    try:
        found = _read(self)
    except UnicodeDecodeError:
        # Slower, and for what is left of the batch: nobody but such producers pays for it.
        self._buffer, self._pos = _Lenient(self._buffer), at
        found = _read(self)
    if len(found.headers) > MAX_HEADERS:
        found._headers = [(REFUSED, b"a record of %d headers, over %d" % (len(found.headers), MAX_HEADERS))]
    return found


def _unpack_within_bounds(self: Any) -> None:
    try:
        _unpack(self)
    except _TooLargeError:
        why = b"%d records that unpack to more than %d MiB" % (self.records_count, MAX_UNPACKED_BYTES >> 20)
        one = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
        one.append(self.last_offset - self.base_offset, 0, None, None, [(REFUSED, why)])
        self._buffer, self._pos = bytearray(one.build())[self.HEADER_STRUCT.size :], 0
        self._num_records, self._decompressed = 1, True


def _all_of(stream: Any) -> bytes:
    pieces, size = list[bytes](), 0
    with stream:
        while piece := stream.read(_STEP_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_UNPACKED_BYTES:
                raise _TooLargeError
    return b"".join(pieces)


def _gunzip(data: Any) -> bytes:
    return _all_of(gzip.GzipFile(fileobj=io.BytesIO(data), mode="r"))


def _unzstd(data: bytes) -> bytes:
    return _all_of(codecs.zstd.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True))


def _unlz4(data: bytes) -> bytes:
    return _all_of(codecs.lz4.open(io.BytesIO(data)))


def read_within_bounds() -> None:
    """From now on, in this process."""
    DefaultRecordBatch._read_msg = _read_any_header
    DefaultRecordBatch._maybe_uncompress = _unpack_within_bounds
    default_records.gzip_decode, default_records.zstd_decode = _gunzip, _unzstd
    if hasattr(codecs.lz4, "open"):
        default_records.lz4_decode = _unlz4
