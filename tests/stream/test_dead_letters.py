"""Dead letters: the original bytes, and why they could not be used."""

from __future__ import annotations

from typing import Any

import message_strategies as made
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difffake.errors import MediaFormatError
from stream.broker.contract import Record
from stream.messages import DeadLetter, MessageError


def record(**changed: Any) -> Record:
    given_: dict[str, Any] = {
        "topic": "video.in",
        "partition": 3,
        "offset": 17,
        "key": b"studio-1",
        "value": b"\x00no picture",
        "headers": (("content-type", b"image/jpeg"), ("content-type", b"twice"), ("raw", b"\xff")),
        "timestamp_ms": 1234,
    }
    return Record(**(given_ | changed))


def parsed(letter: DeadLetter) -> DeadLetter:
    sent = record(topic="difffake.deadletters", offset=0, key=letter.key, value=letter.value, headers=letter.headers)
    return DeadLetter.parse(sent)


def test_a_dead_letter_holds_the_original_and_says_why() -> None:
    failed = record()
    letter = DeadLetter.from_record(failed, MediaFormatError("no image", hint="send JPEG"), "decode")
    assert (letter.key, letter.value, letter.original) == (failed.key, failed.value, failed.headers)
    assert dict(letter.headers[3:]) == {
        "difffake-error-version": b"1",
        "difffake-error-topic": b"video.in",
        "difffake-error-partition": b"3",
        "difffake-error-offset": b"17",
        "difffake-error-timestamp-ms": b"1234",
        "difffake-error-stage": b"decode",
        "difffake-error-class": b"MediaFormatError",
        "difffake-error-message": b"no image",
        "difffake-error-hint": b"send JPEG",
        "difffake-error-value-bytes": b"11",
    }
    assert parsed(letter) == letter


@given(
    st.none() | st.binary(max_size=8),
    st.none() | st.binary(max_size=8),
    st.lists(st.tuples(made.topics, st.binary(max_size=8)), max_size=3).map(tuple),
    st.text(max_size=3000),
)
def test_every_dead_letter_can_be_read(
    key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...], message: str
) -> None:
    failed = record(key=key, value=value, headers=headers, timestamp_ms=-1)
    letter = DeadLetter.from_record(failed, RuntimeError(message), "decode")
    assert parsed(letter) == letter
    assert parsed(letter).original == headers
    assert "bug" in letter.error.hint


def test_a_dead_letter_that_fails_again_says_why_it_failed_last() -> None:
    first = DeadLetter.from_record(record(), RuntimeError("first"), "decode")
    second = DeadLetter.from_record(record(headers=first.headers), RuntimeError("second"), "decode")
    assert second.original == record().headers
    assert parsed(second).error.message == "second"


def test_a_dead_letter_too_large_to_be_sent_says_how_large_the_original_was() -> None:
    letter = parsed(DeadLetter.from_record(record(), RuntimeError("large"), "send").without_value())
    assert letter.value is None
    assert letter.error.value_bytes == 11


@pytest.mark.parametrize(
    "change",
    [
        {"difffake-error-version": b"2"},
        {"difffake-error-version": b"one"},
        {"difffake-error-offset": b"-5"},
        {"difffake-error-topic": b"a/b"},
        {"difffake-error-message": b"\xff"},
        {"difffake-error-hint": b"x" * 2049},
    ],
)
def test_headers_that_are_no_dead_letter_are_refused(change: dict[str, bytes]) -> None:
    good = dict(DeadLetter.from_record(record(), RuntimeError("x"), "decode").headers)
    with pytest.raises(MessageError, match="dead letter"):
        DeadLetter.parse(record(headers=tuple((good | change).items())))
    with pytest.raises(MessageError, match="dead letter"):
        DeadLetter.parse(record(headers=tuple((k, v) for k, v in good.items() if k not in change)))
