"""A stream's time where its producer's clock leaps: for one record, for good, at the end of its 33 bits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_media import UNIT_KINDS, image, unit_records

from stream.decode import DecoderState, DecodeSettings, LossReason, Lost, Payload, StreamDecoder
from stream.decode.timeline import Timeline

S, HOUR_S = 10**9, 3600
NOW_MS = 1_800_000_000_000
JPEG = image(".jpg")
ALL = DecodeSettings(fps=None)
#: MPEG-TS counts 90,000 to the second in 33 bits.
WRAP_NS = round(2**33 / 90_000 * S)


def payload(number: int, pts_ns: int, ms: int | None = None) -> Payload:
    """The record after so many seconds."""
    return Payload(JPEG, (("pts-ns", str(pts_ns).encode()),), NOW_MS + 1000 * number if ms is None else ms, number)


def seen(decoder: StreamDecoder, *payloads: Payload) -> list[float | Lost]:
    """Seconds of the frames, and what was lost."""
    found: list[float | Lost] = []
    for one in payloads:
        decoded = decoder.decode(one)
        found += [frame.pts_ns / S for frame in decoded.frames]
        found += decoded.lost
    return found


@pytest.mark.parametrize("ahead_s", [10 * HOUR_S, 50 * 365 * 24 * HOUR_S, -10 * HOUR_S, -30])
@pytest.mark.parametrize("records", [1, 3])
def test_a_glitch_moves_the_streams_time_neither_for_itself_nor_for_good(ahead_s: int, records: int) -> None:
    times_s = [100 * HOUR_S + n + (ahead_s if 4 <= n < 4 + records else 0) for n in range(10)]
    found = seen(StreamDecoder(ALL), *(payload(n, max(at, 0) * S) for n, at in enumerate(times_s)))
    assert found == [100.0 * HOUR_S + n for n in range(10)]


@pytest.mark.parametrize("ms", [-1, 0, 1000])
def test_a_glitch_backwards_is_over_when_it_is_over_also_without_timestamps(ms: int) -> None:
    times_s = [1000, 1001, 0, 1002, 1003]
    found = seen(StreamDecoder(ALL), *(payload(n, at * S, ms) for n, at in enumerate(times_s)))
    assert found == [1000, 1001, 1001.04, 1002, 1003]


def test_what_comes_late_when_a_glitch_is_over_is_stale() -> None:
    decoder = StreamDecoder(ALL)
    found = seen(decoder, payload(0, 1000 * S), payload(1, 0), payload(2, 999 * S), payload(3, 1003 * S))
    assert found[:2] + found[3:] == [1000, 1001, 1003]
    assert isinstance(found[2], Lost)
    assert found[2].reason is LossReason.STALE


@pytest.mark.parametrize("begins_s", [0, 3, 200 * HOUR_S, 50 * 365 * 24 * HOUR_S])
def test_an_encoder_that_starts_again_goes_on_after_the_last_picture(begins_s: int) -> None:
    times_s = [100 * HOUR_S + n for n in range(5)] + [begins_s + n for n in range(5, 50)]
    found = seen(StreamDecoder(ALL), *(payload(n, at * S) for n, at in enumerate(times_s)))
    assert found == [100.0 * HOUR_S + n for n in range(50)]


def test_the_end_of_33_bits_is_no_gap_and_what_comes_from_before_it_is_late() -> None:
    raw_ns = [(WRAP_NS - 5 * S + n * S) % WRAP_NS for n in range(20)]
    found = seen(StreamDecoder(ALL), *(payload(n, at) for n, at in enumerate(raw_ns)))
    assert found == [(WRAP_NS - 5 * S + n * S) / S for n in range(20)]
    raw_ns[7] = WRAP_NS - S
    found = seen(StreamDecoder(ALL), *(payload(n, at) for n, at in enumerate(raw_ns)))
    assert isinstance(found.pop(7), Lost)
    assert found == [(WRAP_NS - 5 * S + n * S) / S for n in range(20) if n != 7]


def test_a_gap_that_the_records_confirm_is_one() -> None:
    times_s = [0, 1, 10 * HOUR_S, 10 * HOUR_S + 1]
    found = seen(StreamDecoder(ALL), *(payload(n, at * S, NOW_MS + 1000 * at) for n, at in enumerate(times_s)))
    assert found == times_s


@pytest.mark.parametrize("ms", [-1, 0, 1000, 1_200_000_000_000])
def test_without_a_timestamp_to_believe_time_may_leap_ahead(ms: int) -> None:
    found = seen(StreamDecoder(ALL), payload(0, 0, ms), payload(1, 10 * HOUR_S * S, ms))
    assert found == [0, 10 * HOUR_S]


def test_what_is_published_faster_than_it_was_filmed_keeps_its_gaps_of_an_hour() -> None:
    times_s = [0, 1, HOUR_S, 2 * HOUR_S, 3 * HOUR_S]
    found = seen(StreamDecoder(ALL), *(payload(n, at * S, NOW_MS + n) for n, at in enumerate(times_s)))
    assert found == times_s


def test_a_lost_picture_whose_time_leaps_has_none() -> None:
    """Coverage stood still until the stream came there."""
    timeline = Timeline.make(None, 10.0)
    timeline.place(5 * S, NOW_MS)
    assert timeline.shifted(10 * HOUR_S * S, NOW_MS + 40) is None
    assert timeline.shifted(10 * HOUR_S * S, NOW_MS + 10 * HOUR_S * 1000) == 10 * HOUR_S * S
    assert timeline.shifted(6 * S, NOW_MS + 40) == 6 * S
    timeline.place(100 * S, NOW_MS + 40)
    assert timeline.shifted(5 * S, NOW_MS + 80) is None
    assert timeline.shifted(99 * S, NOW_MS + 80) == 99 * S


GLITCHES_S = st.sampled_from([0, 0, 0, 0, -2 * HOUR_S, 2 * HOUR_S, -30 * HOUR_S, 40 * HOUR_S, 10**9])


@settings(max_examples=200)
@given(st.lists(GLITCHES_S, min_size=1, max_size=40), st.integers(0, 40))
def test_whatever_the_clock_does_every_record_is_told_time_rises_and_passes_as_records_say(
    glitches_s: list[int], moves_at: int
) -> None:
    decoder, found = StreamDecoder(ALL), list[float | Lost]()
    for number, glitch_s in enumerate(glitches_s):
        if number == moves_at:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(decoder.state()), type=DecoderState)
            decoder = StreamDecoder(ALL)
            decoder.restore(state)
        found += seen(decoder, payload(number, (40 * HOUR_S + number + glitch_s) * S))
    assert len(found) == len(glitches_s)
    times_s = [at for at in found if not isinstance(at, Lost)]
    assert times_s == sorted(set(times_s))
    assert times_s[-1] - times_s[0] <= len(glitches_s) + 20
    undisturbed = StreamDecoder(ALL)
    again = seen(undisturbed, *(payload(n, (40 * HOUR_S + n + g) * S) for n, g in enumerate(glitches_s)))
    assert again == found


@pytest.mark.parametrize("off_s", [10 * HOUR_S, -10 * HOUR_S])
@pytest.mark.parametrize(("kind", "options"), UNIT_KINDS)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_glitch_among_access_units_changes_nothing_else_wherever_a_worker_takes_over(
    kind: str, options: tuple[tuple[str, str], ...], off_s: int, damaged: bool
) -> None:
    base_ns = NOW_MS * 10**6
    records = unit_records(kind, options, base_ns=base_ns)
    middle = len(records) // 2
    raw_ns = int(dict(records[middle].headers)["pts-ns"]) + off_s * S
    headers = tuple((k, str(raw_ns).encode() if k == "pts-ns" else v) for k, v in records[middle].headers)
    value = records[middle].value
    value = value[: len(value) // 2] + b"\x55" * (len(value) // 2) if damaged else value
    odd = [*records]
    odd[middle] = Payload(value, headers, records[middle].timestamp_ms, records[middle].offset)

    whole, given_, states = StreamDecoder(ALL), list[list[float | Lost]](), list[DecoderState]()
    for record in odd:
        given_.append(seen(whole, record))
        states.append(whole.state())
    times_s = [at for group in given_ for at in group if not isinstance(at, Lost)]
    assert times_s == sorted(set(times_s))
    assert base_ns / S - 1 <= min(times_s)
    assert max(times_s) <= base_ns / S + 3
    assert all(
        one.pts_ns is None or one.reason is LossReason.STALE or abs(one.pts_ns - base_ns) < 3 * S
        for group in given_
        for one in group
        if isinstance(one, Lost)
    )
    for cut in range(0, len(odd) - 1, 3):
        decoder = StreamDecoder(ALL)
        decoder.restore(states[cut])
        first = decoder.resume_offset
        again = seen(decoder, *(one for one in odd if one.offset >= (odd[cut].offset + 1 if first is None else first)))
        assert again == [one for group in given_[cut + 1 :] for one in group]
