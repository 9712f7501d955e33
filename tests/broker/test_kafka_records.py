"""Batches of records as some producers write them, read by kafka-python under our hand."""

from __future__ import annotations

import tracemalloc

import pytest
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

import stream.broker.kafka_client  # noqa: F401  (what connects us to Kafka changes how records are read)
from stream.broker.contract import REFUSED, Record
from stream.broker.kafka_records import MAX_HEADERS
from stream.partition import StreamIdError, stream_id

#: Of Kafka's record batches.
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4


def batch_of(*values: bytes, codec: int = 0, headers: int = 0, base: int = 0) -> DefaultRecordBatch:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 30)
    for offset, value in enumerate(values):
        builder.append(offset, 1000 + offset, b"key", value, [("", None)] * headers)
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return DefaultRecordBatch(bytes(data))


def why(found: object) -> str:
    """A record of kafka-python becomes a dead letter; the reason."""
    headers = tuple((str(name), bytes(value)) for name, value in found.headers)  # type: ignore[attr-defined]
    assert [name for name, _ in headers] == [REFUSED]
    with pytest.raises(StreamIdError) as caught:
        stream_id(Record("t", 0, 0, found.key, found.value, headers, 0))  # type: ignore[attr-defined]
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_batches_are_unpacked_as_they_were_packed(codec: int) -> None:
    values = [bytes([number]) * 400_000 for number in range(7)]
    assert [record.value for record in batch_of(*values, codec=codec)] == values


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_batch_that_unpacks_without_end_is_one_record_that_says_so(codec: int) -> None:
    batch = batch_of(b"first", bytes(150 << 20), b"last", codec=codec, base=70)
    assert batch.size_in_bytes < 1 << 20
    tracemalloc.start()
    try:
        (found,) = batch
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 140 << 20
    assert (found.offset, found.key, found.value) == (72, None, None)
    assert batch.next_offset == 73
    assert "3 records that unpack to more than 128 MiB" in why(found)


def test_a_record_of_endless_headers_keeps_none_of_them() -> None:
    few, many = next(iter(batch_of(b"x", headers=MAX_HEADERS))), next(iter(batch_of(b"x", headers=MAX_HEADERS + 1)))
    assert len(few.headers) == MAX_HEADERS
    assert (many.key, many.value) == (b"key", b"x")
    assert "1001 headers, over 1000" in why(many)


class _Written(str):
    """Text that is written as other bytes."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return super().encode("latin-1", errors) if encoding == "utf-8" else super().encode(encoding, errors)


@pytest.mark.parametrize("compression", [0, 1])
def test_a_header_whose_name_is_no_utf_8_ends_nobody(compression: int) -> None:
    builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 20)
    names = ["pts-ns", _Written("tilt\xfft"), "größe"]
    for offset, name in enumerate(names):
        builder.append(offset, 1000 + offset, b"key", bytes([offset]) * 300, [(name, b"1"), ("null", None)])
    batch = DefaultRecordBatch(bytes(builder.build()))
    assert batch.validate_crc()
    found = list(batch)
    assert [record.value for record in found] == [bytes([offset]) * 300 for offset in range(3)]
    assert [type(record.value) for record in found] == [bytes] * 3
    assert [record.key for record in found] == [b"key"] * 3
    assert [record.timestamp for record in found] == [1000, 1001, 1002]
    assert [[(str(name), value) for name, value in record.headers] for record in found] == [
        [(name, b"1"), ("null", None)] for name in ("pts-ns", "tilt\ufffdt", "größe")
    ]
