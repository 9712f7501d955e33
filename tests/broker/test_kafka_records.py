"""Batches of records as some producers write them, read by kafka-python under our hand."""

from __future__ import annotations

import pytest
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

import stream.broker.kafka_client  # noqa: F401  (what connects us to Kafka changes how records are read)


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
