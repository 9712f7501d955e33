"""Records of a stream through `StreamDecoder`: images, segments, access units, time, restarts, damage."""

from __future__ import annotations

import dataclasses
import hashlib
from fractions import Fraction
from itertools import pairwise

import av
import msgspec
import numpy as np
import pytest
from stream_media import (
    FRAME_NS,
    H264_B,
    H264_OPEN,
    H265_CLOSED,
    H265_OPEN,
    UNIT_KINDS,
    image,
    pictures,
    segment,
    unit_records,
)

from difffake.picture import deinterlaced
from stream.decode import (
    CorruptInputError,
    DecodedFrame,
    DecoderState,
    DecodeSettings,
    InputError,
    LossReason,
    Lost,
    Payload,
    StreamDecoder,
    UnknownTypeError,
)

ALL = DecodeSettings(fps=None)
S = 10**9
FRAGMENTED = (("movflags", "frag_keyframe+empty_moov+default_base_moof"),)
Key = tuple[int, int, int, str]


def take(decoder: StreamDecoder, payload: Payload) -> tuple[list[DecodedFrame], list[Lost], list[str]]:
    decoded = decoder.decode(payload)
    return list(decoded.frames), decoded.lost, decoded.warnings


def key(frame: DecodedFrame) -> Key:
    return frame.pts_ns, frame.offset, frame.index, hashlib.sha256(frame.image).hexdigest()


def typed(value: bytes, kind: str = "", pts_ns: int | None = None, ms: int = 1000, offset: int = 0) -> Payload:
    headers = [("content-type", kind.encode())] if kind else []
    if pts_ns is not None:
        headers.append(("pts-ns", str(pts_ns).encode()))
    return Payload(value, tuple(headers), ms, offset)


def spacing(frames: list[DecodedFrame]) -> set[int]:
    return {b.pts_ns - a.pts_ns for a, b in pairwise(frames)}


# images


@pytest.mark.parametrize(
    ("extension", "kind"), [(".jpg", "image/jpeg"), (".png", "image/png"), (".webp", "image/webp")]
)
@pytest.mark.parametrize("with_header", [True, False])
def test_an_image_is_one_frame_at_the_time_of_its_record(extension: str, kind: str, with_header: bool) -> None:
    decoder = StreamDecoder()
    frames, lost, warnings = take(decoder, typed(image(extension), kind if with_header else "", ms=5000, offset=7))
    assert [(f.pts_ns, f.index, f.offset) for f in frames] == [(5 * S, 0, 7)]
    assert np.abs(frames[0].image.astype(int) - pictures(8)[0]).mean() < 25
    assert (lost, warnings, decoder.resume_offset) == ([], [], None)


def test_a_png_comes_out_to_the_bit_and_is_contiguous() -> None:
    frames, _, _ = take(StreamDecoder(), typed(image(".png")))
    assert np.array_equal(frames[0].image, pictures(8)[0][..., ::-1])
    assert frames[0].image.flags.c_contiguous


def test_the_pts_header_goes_before_the_record_timestamp() -> None:
    frames, _, _ = take(StreamDecoder(), typed(image(".jpg"), pts_ns=42))
    assert frames[0].pts_ns == 42


@pytest.mark.parametrize("text", [b"-5", b"1e9", b"", b"9" * 30, b"\xff\xfe"])
def test_a_pts_header_that_is_no_time_is_told_and_passed_over(text: bytes) -> None:
    frames, _, warnings = take(StreamDecoder(), Payload(image(".jpg"), (("pts-ns", text),), 3000, 0))
    assert frames[0].pts_ns == 3 * S
    assert warnings[0].startswith("pts-ns:")


def test_a_record_without_any_time_follows_the_one_before() -> None:
    decoder = StreamDecoder(ALL)
    times = [take(decoder, Payload(image(".jpg"), (), -1, n))[0][0].pts_ns for n in range(3)]
    assert times == [0, FRAME_NS, 2 * FRAME_NS]


# segments


@pytest.mark.parametrize(
    ("container", "options", "codec"),
    [
        ("mp4", (), "libx264"),
        ("mp4", FRAGMENTED, "libx264"),
        ("mp4", (), "libx265"),
        ("mp4", (), "libsvtav1"),
        ("mpegts", (), "libx264"),
        ("mpegts", (), "mpeg2video"),
        ("matroska", (), "libx264"),
        ("webm", (), "libvpx-vp9"),
    ],
)
def test_a_segment_gives_every_picture_in_order(
    container: str, options: tuple[tuple[str, str], ...], codec: str
) -> None:
    value = segment(container, 25, codec, options)
    frames, lost, warnings = take(StreamDecoder(ALL), typed(value, pts_ns=100 * S))
    assert len(frames) == 25
    assert [f.index for f in frames] == list(range(25))
    assert frames[0].pts_ns == 100 * S
    assert all(abs(step - FRAME_NS) < 2_000_000 for step in spacing(frames))
    assert np.abs(frames[20].image.astype(int) - pictures(25)[20]).mean() < 25
    assert (lost, warnings) == ([], [])


def test_segments_with_sound_are_read_for_their_picture() -> None:
    assert len(take(StreamDecoder(ALL), typed(segment("mp4", 25, sound=True)))[0]) == 25


@pytest.mark.parametrize("jitter_ms", [0, -300, 300])
def test_segments_without_times_lie_end_to_end_though_their_timestamps_jitter(jitter_ms: int) -> None:
    decoder = StreamDecoder(ALL)
    frames = take(decoder, typed(segment("mp4"), ms=10_000))[0]
    frames += take(decoder, typed(segment("mp4"), ms=11_000 + jitter_ms, offset=1))[0]
    assert spacing(frames) == {FRAME_NS}
    assert frames[0].pts_ns == 10 * S


def test_a_gap_between_segments_stays_a_gap() -> None:
    decoder = StreamDecoder(ALL)
    take(decoder, typed(segment("mp4"), ms=10_000))
    assert take(decoder, typed(segment("mp4"), ms=60_000, offset=1))[0][0].pts_ns == 60 * S


def test_transport_streams_keep_their_own_time() -> None:
    decoder = StreamDecoder(ALL)
    frames = take(decoder, typed(segment("mpegts", 25, first=100), ms=10_000))[0]
    frames += take(decoder, typed(segment("mpegts", 25, first=125), ms=10_700, offset=1))[0]
    assert len(frames) == 50
    assert all(abs(step - FRAME_NS) < 20_000 for step in spacing(frames))


# sampling and time


def test_the_sampling_grid_goes_on_over_records() -> None:
    decoder = StreamDecoder(DecodeSettings(fps=5))
    frames = [
        f for n in range(6) for f in take(decoder, typed(segment("mp4", 7), pts_ns=n * 7 * FRAME_NS, offset=n))[0]
    ]
    assert [f.pts_ns for f in frames] == [n * 200_000_000 for n in range(9)]


def test_images_between_the_sampling_times_are_left_out() -> None:
    decoder = StreamDecoder(DecodeSettings(fps=5))
    frames = [f for n in range(50) for f in take(decoder, typed(image(".jpg"), pts_ns=n * FRAME_NS, offset=n))[0]]
    assert [f.pts_ns for f in frames] == [n * 200_000_000 for n in range(10)]


def test_what_is_not_after_the_last_picture_is_stale() -> None:
    decoder = StreamDecoder(ALL)
    take(decoder, typed(image(".jpg"), pts_ns=5 * S))
    for at, pts_ns in enumerate((5 * S, 4 * S), 1):
        frames, lost, _ = take(decoder, typed(image(".jpg"), pts_ns=pts_ns, offset=at))
        assert (frames, lost) == ([], [Lost(pts_ns, LossReason.STALE)])
    assert take(decoder, typed(image(".jpg"), pts_ns=6 * S, offset=3))[0][0].pts_ns == 6 * S


def test_a_clock_that_starts_again_goes_on_after_the_last_picture() -> None:
    decoder = StreamDecoder(ALL)
    take(decoder, typed(image(".jpg"), pts_ns=3600 * S, ms=10_000))
    frames, lost, warnings = take(decoder, typed(image(".jpg"), pts_ns=0, ms=12_500, offset=1))
    assert [f.pts_ns for f in frames] == [3600 * S + 2_500_000_000]
    assert (lost, warnings[0][:6]) == ([], "clock:")
    assert take(decoder, typed(image(".jpg"), pts_ns=S, ms=13_500, offset=2))[0][0].pts_ns == 3600 * S + 3_500_000_000


def test_time_may_leap_ahead() -> None:
    decoder = StreamDecoder(ALL)
    take(decoder, typed(image(".jpg"), pts_ns=0))
    assert take(decoder, typed(image(".jpg"), pts_ns=10**18, offset=1))[0][0].pts_ns == 10**18


# content types


def test_bytes_overrule_a_header_that_lies() -> None:
    decoder = StreamDecoder(ALL)
    decoded = decoder.decode(typed(segment("mp4"), "image/jpeg"))
    assert len(list(decoded.frames)) == 25
    assert decoded.content_type == "video/mp4"
    assert decoded.warnings == ["content-type: the header says image/jpeg, the bytes are video/mp4"]


@pytest.mark.parametrize("kind", ["Image/JPEG; q=1", "image/jpg", "application/octet-stream"])
def test_spellings_of_content_types(kind: str) -> None:
    assert take(StreamDecoder(), typed(image(".jpg"), kind))[2] == []


@pytest.mark.parametrize("kind", ["", "text/plain", "application/octet-stream"])
def test_what_is_of_no_known_type_is_refused_with_a_hint(kind: str) -> None:
    with pytest.raises(UnknownTypeError) as caught:
        StreamDecoder().decode(typed(b"hello, world " * 30, kind))
    assert "content-type" in caught.value.hint


def test_access_units_are_told_apart_without_a_header() -> None:
    for kind, options in UNIT_KINDS:
        decoder = StreamDecoder(ALL)
        kinds = set()
        for record in unit_records(kind, options, 20, typed=False):
            decoded = decoder.decode(record)
            kinds.add(decoded.content_type)
            list(decoded.frames)
        assert kinds == {kind}


# access units


def run(records: list[Payload], settings: DecodeSettings = ALL) -> tuple[list[Key], list[Lost]]:
    decoder = StreamDecoder(settings)
    frames: list[Key] = []
    lost: list[Lost] = []
    for record in records:
        decoded = decoder.decode(record)
        frames += [key(f) for f in decoded.frames]
        lost += decoded.lost
    decoded = decoder.drain()
    frames += [key(f) for f in decoded.frames]
    return frames, lost + decoded.lost


@pytest.mark.parametrize("with_pts", [True, False])
@pytest.mark.parametrize("per_record", [1, 4])
@pytest.mark.parametrize(("kind", "options"), UNIT_KINDS)
def test_every_access_unit_becomes_a_frame_at_its_time(
    kind: str, options: tuple[tuple[str, str], ...], per_record: int, with_pts: bool
) -> None:
    frames, lost = run(unit_records(kind, options, per_record=per_record, with_pts=with_pts))
    assert len(frames) == 40
    assert {b[0] - a[0] for a, b in pairwise(frames)} == {FRAME_NS}
    assert frames[0][0] == 10**18
    assert lost == []


@pytest.mark.parametrize(("kind", "options"), UNIT_KINDS)
def test_a_frame_names_the_record_that_held_it(kind: str, options: tuple[tuple[str, str], ...]) -> None:
    records = unit_records(kind, options)
    held = {int(dict(r.headers)["pts-ns"]): r.offset for r in records}
    assert {pts: offset for pts, offset, _, _ in run(records)[0]} == held


def test_pictures_without_reordering_come_out_at_once() -> None:
    decoder = StreamDecoder(ALL)
    for record in unit_records("video/h264", (("profile", "baseline"), ("g", "10"))):
        assert [f.offset for f in take(decoder, record)[0]] == [record.offset]


def test_before_the_first_key_frame_pictures_are_counted_as_waiting() -> None:
    records = unit_records("video/h264", H264_B)
    frames, lost = run(records[5:])
    assert frames
    assert {x.reason for x in lost} == {LossReason.WAITING_FOR_KEY_FRAME}
    assert len(frames) + len(lost) == 35
    assert frames == run(records)[0][-len(frames) :]


@pytest.mark.parametrize("damage", ["none", "missing", "garbled"])
@pytest.mark.parametrize("fps", [None, 7.0])
@pytest.mark.parametrize(("kind", "options"), UNIT_KINDS)
@pytest.mark.parametrize(("per_record", "with_pts"), [(1, True), (1, False), (4, False)])
def test_after_a_restart_anywhere_the_rest_is_the_same_to_the_bit(
    kind: str, options: tuple[tuple[str, str], ...], fps: float | None, damage: str, per_record: int, with_pts: bool
) -> None:
    settings = DecodeSettings(fps=fps)
    records = unit_records(kind, options, per_record=per_record, with_pts=with_pts)
    middle = len(records) // 3
    if damage == "missing":
        del records[middle]
    elif damage == "garbled":
        value = bytearray(records[middle].value)
        value[len(value) // 2 :: 7] = b"\x55" * len(value[len(value) // 2 :: 7])
        records[middle] = dataclasses.replace(records[middle], value=bytes(value))
    whole = StreamDecoder(settings)
    given: list[list[Key]] = []
    lost: list[list[Lost]] = []
    states: list[bytes] = []
    resumes: list[int | None] = []
    for record in records:
        decoded = whole.decode(record)
        given.append([key(f) for f in decoded.frames])
        lost.append(decoded.lost)
        states.append(msgspec.msgpack.encode(whole.state()))
        resumes.append(whole.resume_offset)
    for cut in range(len(records) - 1):
        decoder = StreamDecoder(settings)
        decoder.restore(msgspec.msgpack.decode(states[cut], type=DecoderState))
        resume = resumes[cut]
        assert decoder.resume_offset == resume
        # Older records are read again where another stream of the partition needs them: they change nothing.
        first = 0 if cut % 2 or resume is None else resume
        frames: list[Key] = []
        losses: list[Lost] = []
        for record in records:
            if record.offset >= first:
                decoded = decoder.decode(record)
                frames += [key(f) for f in decoded.frames]
                losses += decoded.lost
        assert frames == [k for group in given[cut + 1 :] for k in group]
        assert losses == [x for group in lost[cut + 1 :] for x in group]


def test_the_resume_offset_moves_on_with_the_key_frames() -> None:
    decoder = StreamDecoder(ALL)
    resumes = []
    for record in unit_records("video/h264", H264_B):
        take(decoder, record)
        resumes.append(decoder.resume_offset)
    assert resumes == sorted(resumes, key=lambda x: -1 if x is None else x)
    assert resumes[0] == 0
    assert len(set(resumes)) >= 4
    assert all(r is not None and n - r <= 14 for n, r in enumerate(resumes))


def test_parameter_sets_in_a_record_of_their_own_survive_a_restart() -> None:
    records = unit_records("video/h264", H264_B, 20)
    # This encoder writes its parameter sets before each key frame: they are moved to a record at the beginning.
    sets = records[0].value[: records[0].value.index(b"\x00\x00\x01\x06")]
    assert sets in records[-6].value + b"".join(r.value for r in records[10:])
    bare = [dataclasses.replace(r, value=r.value.replace(sets, b""), offset=r.offset + 1) for r in records]
    stream = [dataclasses.replace(records[0], value=sets, offset=0), *bare]
    want = [k[::3] for k in run(records)[0]]
    assert [k[::3] for k in run(stream)[0]] == want
    decoder = StreamDecoder(ALL)
    got = [k for record in stream[:15] for k in map(key, take(decoder, record)[0])]
    later = StreamDecoder(ALL)
    later.restore(decoder.state())
    resume = later.resume_offset or 0
    assert resume >= 10
    got += [k for record in stream[resume:] for k in map(key, take(later, record)[0])]
    got += [key(f) for f in later.drain().frames]
    assert [k[::3] for k in got] == want


def test_after_a_damaged_unit_pictures_are_lost_until_the_next_key_frame() -> None:
    records = unit_records("video/h264", H264_B)
    whole = dict.fromkeys(run(records)[0])
    hurt = dataclasses.replace(records[12], value=records[12].value[: len(records[12].value) // 2])
    decoder = StreamDecoder(ALL)
    frames, lost, damaged = [], [], []
    for record in [*records[:12], hurt, *records[13:]]:
        decoded = decoder.decode(record)
        frames += [key(f) for f in decoded.frames]
        lost += decoded.lost
        if decoded.damage is not None:
            damaged.append(record.offset)
            assert isinstance(decoded.damage, CorruptInputError)
    frames += [key(f) for f in decoder.drain().frames]
    assert damaged == [12]
    assert all(frame in whole for frame in frames)
    assert len(frames) + len(lost) == 40
    assert {x.reason for x in lost} == {LossReason.DAMAGED, LossReason.WAITING_FOR_KEY_FRAME}


@pytest.mark.parametrize(
    ("kind", "options"), [("video/h264", H264_B), ("video/h264", H264_OPEN), ("video/h265", H265_OPEN)]
)
def test_a_missing_unit_never_gives_a_wrong_picture(kind: str, options: tuple[tuple[str, str], ...]) -> None:
    records = unit_records(kind, options)
    whole = dict.fromkeys(run(records)[0])
    for missing in range(1, 30):
        frames, lost = run(records[:missing] + records[missing + 1 :])
        assert all(frame in whole for frame in frames)
        assert len(frames) + len(lost) == 39


def test_a_poison_record_between_access_units_changes_nothing() -> None:
    records = unit_records("video/h265", H265_CLOSED)
    want = run(records)[0]
    decoder = StreamDecoder(ALL)
    got: list[Key] = []
    for record in records:
        got += map(key, take(decoder, dataclasses.replace(record, offset=record.offset * 2))[0])
        with pytest.raises(InputError):
            decoder.decode(Payload(b"poison", (("content-type", b"video/h265"),), 0, record.offset * 2 + 1))
    got += map(key, decoder.drain().frames)
    assert [k[::3] for k in got] == [k[::3] for k in want]


def test_a_change_of_kind_gives_out_what_was_held_back() -> None:
    decoder = StreamDecoder(ALL)
    frames = []
    for record in unit_records("video/h264", H264_B, 10):
        frames += take(decoder, record)[0]
    held_back = 10 - len(frames)
    assert held_back > 0
    for at, record in enumerate(unit_records("video/h265", H265_CLOSED, 10, base_ns=2 * 10**18)):
        frames += take(decoder, dataclasses.replace(record, offset=10 + at))[0]
    frames += take(decoder, typed(image(".jpg"), pts_ns=3 * 10**18, offset=99))[0]
    assert len(frames) == 21
    assert spacing(frames[:10]) == {FRAME_NS}
    assert decoder.resume_offset is None


def test_a_key_frame_too_long_ago_no_longer_holds_the_offset_back() -> None:
    decoder = StreamDecoder(DecodeSettings(fps=None, max_gop_records=5))
    warnings = []
    for record in unit_records("video/h264", H264_B)[:9]:
        warnings += take(decoder, record)[2]
    assert decoder.resume_offset is None
    assert [w[:9] for w in warnings] == ["key frame"]


def test_segments_and_images_after_a_restart_are_not_given_twice() -> None:
    records = [typed(segment("mp4", 13), ms=1000 + 520 * n, offset=n) for n in range(3)]
    records += [typed(image(".jpg"), ms=10_000 + 40 * n, offset=3 + n) for n in range(10)]
    decoder = StreamDecoder(DecodeSettings(fps=5))
    given, states = [], []
    for record in records:
        given.append([key(f) for f in take(decoder, record)[0]])
        states.append(decoder.state())
    for cut, state in enumerate(states):
        later = StreamDecoder(DecodeSettings(fps=5))
        later.restore(state)
        assert later.resume_offset is None
        got = [k for record in records for k in map(key, take(later, record)[0])]
        assert got == [k for group in given[cut + 1 :] for k in group]


def test_the_next_record_waits_until_all_frames_are_taken() -> None:
    decoder = StreamDecoder(ALL)
    decoder.decode(typed(segment("mp4")))
    with pytest.raises(RuntimeError):
        decoder.decode(typed(segment("mp4"), offset=1))


@pytest.mark.parametrize("joined_at", [0, 15])
@pytest.mark.parametrize("with_pts", [True, False])
def test_open_key_frames_become_places_to_restart_from(joined_at: int, with_pts: bool) -> None:
    # Pictures after an open key frame of H.264 take back references that a decoder that starts there has never seen.
    records = unit_records("video/h264", H264_OPEN, 130, with_pts=with_pts)[joined_at:]
    whole = StreamDecoder(ALL)
    given, states, resumes = [], [], []
    for record in records:
        given.append([key(f) for f in take(whole, record)[0]])
        states.append(whole.state())
        resumes.append(whole.resume_offset)
    given.append([key(f) for f in whole.drain().frames])
    assert len({r for r in resumes if r is not None}) > 4
    for cut in range(40, len(records), 3):
        decoder = StreamDecoder(ALL)
        decoder.restore(states[cut])
        again = [r for r in records if r.offset >= (resumes[cut] or 0)]
        frames = [k for record in again for k in map(key, take(decoder, record)[0])]
        frames += [key(f) for f in decoder.drain().frames]
        assert frames == [k for group in given[cut + 1 :] for k in group]


def test_interlaced_pictures_are_made_progressive() -> None:
    # Two fields that contradict each other: woven, neighbouring lines differ; taken from one field, they do not.
    comb = np.zeros((64, 96, 3), np.uint8)
    comb[::2] = 255
    frame = av.VideoFrame.from_ndarray(comb, format="rgb24").reformat(format="yuv420p")
    assert deinterlaced(frame) is frame
    encoder = av.codec.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 96, 64, "yuv420p", Fraction(1, 25)
    encoder.options = {"x264-params": "tff=1:keyint=1:qp=1"}
    encoder.flags |= av.codec.context.Flags.interlaced_dct
    frame.pts = 0
    packets = encoder.encode(frame) + encoder.encode(None)
    decoder = StreamDecoder(ALL)
    frames = [f for p in packets for f in decoder.decode(Payload(bytes(p), (), 0, 0)).frames]
    frames += decoder.drain().frames
    assert len(frames) == 1
    assert np.abs(np.diff(frames[0].image.astype(int), axis=0)).mean() < 60
