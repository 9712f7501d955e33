"""What comes out in every gear, and that no picture is another for what was not decoded."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise

import av
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_media import (
    AV1_GOP,
    FRAME_NS,
    H264_B,
    H264_BASE,
    H264_OPEN,
    H265_CLOSED,
    H265_OPEN,
    image,
    unit_records,
)

from difffake.picture import RgbConverter
from stream.decode import (
    DecodedFrame,
    DecoderState,
    DecodeSettings,
    Gear,
    InputError,
    LossReason,
    Lost,
    Payload,
    StreamDecoder,
)
from stream.decode.units import split_units

Options = tuple[tuple[str, str], ...]
Key = tuple[int, int, int, str]
S = 10**9
SLOW = DecodeSettings(fps=5, scrutinise_fps=12.5)
ALL = DecodeSettings(fps=None)
#: One reference in three; key frames every ten; without reordering.
H264_IN_ORDER: Options = (("x264-params", "keyint=10:min-keyint=10:bframes=0:scenecut=0"),)
H265_IN_ORDER: Options = (
    ("x265-params", "keyint=10:min-keyint=10:bframes=0:open-gop=0:repeat-headers=1:scenecut=0:log-level=none"),
)
IN_ORDER = [("video/h264", H264_BASE), ("video/h264", H264_IN_ORDER), ("video/h265", H265_IN_ORDER)]
IN_ORDER += [("video/av1", AV1_GOP)]
REORDERED = [
    ("video/h264", H264_B),
    ("video/h264", H264_OPEN),
    ("video/h265", H265_OPEN),
    ("video/h265", H265_CLOSED),
]


def digest(picture: object) -> str:
    return hashlib.sha256(np.ascontiguousarray(picture)).hexdigest()


def key(frame: DecodedFrame) -> Key:
    return frame.pts_ns, frame.offset, frame.index, digest(frame.image)


# segments

_X264 = "keyint=10:min-keyint=10:scenecut=0:b-adapt=0:bframes=3:weightp=0"
_X265 = "keyint=10:min-keyint=10:scenecut=0:b-adapt=0:bframes=3:repeat-headers=1:log-level=none"
_FRAGMENTED = (("movflags", "frag_keyframe+empty_moov+default_base_moof"),)
SEGMENTS: list[tuple[str, str, Options, Options]] = [
    ("mp4", "libx264", (("x264-params", _X264),), ()),
    ("mp4", "libx264", (("x264-params", _X264 + ":open-gop=1:b-pyramid=normal"),), ()),
    ("mp4", "libx264", (("x264-params", _X264),), _FRAGMENTED),
    ("mpegts", "libx264", (("x264-params", _X264),), ()),
    ("matroska", "libx264", (("x264-params", _X264 + ":slices=4"),), ()),
    ("mp4", "libx264", (("x264-params", "keyint=10:bframes=0:scenecut=0"),), ()),
    ("mp4", "libx265", (("x265-params", _X265 + ":open-gop=0"),), ()),
    ("mp4", "libx265", (("x265-params", _X265 + ":open-gop=1"),), ()),
    ("mpegts", "libx265", (("x265-params", _X265 + ":open-gop=1"),), ()),
    ("matroska", "libx265", (("x265-params", _X265 + ":temporal-layers=3"),), ()),
    ("mp4", "libsvtav1", (("preset", "12"), ("g", "10"), ("svtav1-params", "lp=1")), ()),
    ("matroska", "libsvtav1", (("preset", "12"), ("g", "10"), ("svtav1-params", "lp=1")), ()),
    ("mpegts", "mpeg2video", (("g", "10"), ("bf", "2")), ()),
    ("webm", "libvpx-vp9", (("g", "10"),), ()),
]


@cache
def scene(count: int = 48) -> np.ndarray:
    """Noise that moves: B-frames pay, and every picture is another."""
    rng = np.random.default_rng(1)
    big = np.kron(rng.integers(0, 256, (40, 80, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    return np.stack([big[n // 2 : n // 2 + 64, n : n + 96] for n in range(count)])


@cache
def segment(container: str, codec: str, options: Options, mux: Options, frames: int = 48) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=dict(mux)) as file:
        stream = file.add_stream(codec, rate=25, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for number, picture in enumerate(scene(frames)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


@cache
def plain(value: bytes) -> list[tuple[int, bool, str]]:
    """(ns after the first, key frame, digest) of every picture, by FFmpeg alone."""
    pictures = []
    with av.open(io.BytesIO(value)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        convert = RgbConverter()
        for frame in file.decode(stream):
            at = (frame.pts - (stream.start_time or 0)) * stream.time_base
            pictures.append((round(float(at) * S), frame.key_frame, digest(convert(frame))))
    return pictures


def due(gear: Gear, settings: DecodeSettings, value: bytes, base_ns: int = 0) -> list[tuple[int, str]]:
    """(number, digest) of the first picture, or key frame, in each cell of the grid."""
    fps = settings.scrutinise_fps if gear is Gear.SCRUTINISE and settings.fps else settings.fps
    seen, found = set(), []
    for number, (at_ns, is_key, picture) in enumerate(plain(value)):
        cell = at_ns if fps is None else int(((at_ns + base_ns) * fps + S // 50) // S)
        if cell not in seen and (is_key or gear is not Gear.WATCH):
            seen.add(cell)
            found.append((number, picture))
    return found


@pytest.mark.parametrize("fps", [None, 2.0, 5.0])
@pytest.mark.parametrize("gear", [Gear.WATCH, Gear.ANALYSE, Gear.SCRUTINISE])
@pytest.mark.parametrize(("container", "codec", "options", "mux"), SEGMENTS)
def test_what_is_due_of_a_segment_is_what_the_plain_decoder_shows(
    container: str, codec: str, options: Options, mux: Options, gear: Gear, fps: float | None
) -> None:
    settings = DecodeSettings(fps=fps, scrutinise_fps=12.5)
    value = segment(container, codec, options, mux)
    assert len(plain(value)) == 48
    decoded = StreamDecoder(settings).decode(Payload(value, (("pts-ns", b"0"),)), gear)
    frames = [(f.index, digest(f.image)) for f in decoded.frames]
    assert decoded.lost == []
    if gear is Gear.WATCH and container in ("mpegts", "webm") and codec in ("mpeg2video", "libvpx-vp9"):
        # Key frames alone are numbered where it is not known what lies between.
        assert [picture for _, picture in frames] == [picture for _, picture in due(gear, settings, value)]
    else:
        assert frames == due(gear, settings, value)
        assert decoded.pictures == 48


@pytest.mark.parametrize(("container", "codec", "options", "mux"), SEGMENTS)
def test_a_shed_segment_tells_what_would_have_been_analysed(
    container: str, codec: str, options: Options, mux: Options
) -> None:
    value = segment(container, codec, options, mux)
    decoder = StreamDecoder(SLOW)
    decoded = decoder.decode(Payload(value, (("pts-ns", b"0"),)), Gear.SHED)
    assert list(decoded.frames) == []
    want = [f.pts_ns for f in StreamDecoder(SLOW).decode(Payload(value, (("pts-ns", b"0"),))).frames]
    assert decoded.lost == [Lost(pts_ns, LossReason.SHED) for pts_ns in want]
    again = decoder.decode(Payload(value, (("pts-ns", str(2 * S).encode()),), offset=1))
    assert len(list(again.frames)) == len(want)


def test_a_shed_segment_is_not_decoded() -> None:
    value = bytearray(segment("mp4", "libx264", (("x264-params", _X264),), ()))
    begin, end = value.index(b"mdat") + 200, value.index(b"moov") - 8
    value[begin:end] = bytes(end - begin)
    decoded = StreamDecoder(SLOW).decode(Payload(bytes(value), (("pts-ns", b"0"),)), Gear.SHED)
    assert list(decoded.frames) == []
    assert {lost.reason for lost in decoded.lost} == {LossReason.SHED}
    assert len(decoded.lost) == 10


def test_a_shed_segment_without_a_picture_is_refused() -> None:
    with pytest.raises(InputError):
        StreamDecoder().decode(Payload(b"\x47" + bytes(187) * 4, (("content-type", b"video/mp2t"),)), Gear.SHED)


GEARS = st.lists(st.sampled_from(list(Gear)), min_size=6, max_size=6)


@settings(max_examples=25, deadline=None)
@given(GEARS, st.sampled_from(SEGMENTS[:8]))
def test_segments_in_changing_gears_follow_one_rule(
    gears: Sequence[Gear], kind: tuple[str, str, Options, Options]
) -> None:
    value = segment(*kind)
    decoder = StreamDecoder(SLOW)
    sampled = None
    for number, gear in enumerate(gears):
        base_ns = number * 1_920_000_000
        decoded = decoder.decode(Payload(value, (("pts-ns", str(base_ns).encode()),), offset=number), gear)
        got = [(f.index, digest(f.image)) for f in decoded.frames]
        lost = [x.pts_ns for x in decoded.lost]
        fps = 12.5 if gear is Gear.SCRUTINISE else 5.0
        want = []
        for index, (at_ns, is_key, picture) in enumerate(plain(value)):
            cell, last = (
                (((ns + S // 500) * 2 * fps) // (2 * S)) if ns is not None else -1 for ns in (base_ns + at_ns, sampled)
            )
            if cell > last and (is_key or gear is not Gear.WATCH):
                sampled = base_ns + at_ns
                want.append((index, picture))
        if gear is Gear.SHED:
            assert (got, len(lost)) == ([], len(want))
        else:
            assert (got, lost) == (want, [])


def test_images_in_changing_gears() -> None:
    decoder = StreamDecoder(SLOW)
    plan = [Gear.ANALYSE] * 20 + [Gear.SCRUTINISE] * 20 + [Gear.SHED] * 20 + [Gear.WATCH] * 20
    times: dict[Gear, list[int]] = {gear: [] for gear in Gear}
    for number, gear in enumerate(plan):
        record = Payload(image(".jpg"), (("pts-ns", str(number * FRAME_NS).encode()),), offset=number)
        decoded = decoder.decode(record, gear)
        times[gear] += [f.pts_ns // 10**6 for f in decoded.frames]
        times[gear] += [(x.pts_ns or 0) // 10**6 for x in decoded.lost]
    assert times[Gear.ANALYSE] == [0, 200, 400, 600]
    assert times[Gear.SCRUTINISE] == list(range(800, 1600, 80))
    assert times[Gear.SHED] == [1600, 1800, 2000, 2200]
    assert times[Gear.WATCH] == [2400, 2600, 2800, 3000]


# access units


def run(
    records: Sequence[Payload], gears: Sequence[Gear], settings: DecodeSettings
) -> tuple[list[list[Key]], list[list[Lost]], list[bytes], list[int | None]]:
    decoder = StreamDecoder(settings)
    frames: list[list[Key]] = []
    lost: list[list[Lost]] = []
    states, resumes = [], []
    for record, gear in zip(records, gears, strict=True):
        decoded = decoder.decode(record, gear)
        frames.append([key(f) for f in decoded.frames])
        lost.append(decoded.lost)
        states.append(msgspec.msgpack.encode(decoder.state()))
        resumes.append(decoder.resume_offset)
    decoded = decoder.drain()
    frames.append([key(f) for f in decoded.frames])
    return frames, [*lost, decoded.lost], states, resumes


@cache
def whole(kind: str, options: Options, count: int = 60) -> dict[int, str]:
    """pts -> digest of every picture, each access unit given to the decoder."""
    decoder = av.codec.CodecContext.create({"video/h264": "h264", "video/h265": "hevc"}.get(kind, "libdav1d"), "r")
    decoder.thread_count = 1
    times = []
    frames = []
    for record in unit_records(kind, options, count):
        packet = av.Packet(record.value)
        packet.pts = int(dict(record.headers)["pts-ns"])
        times.append(packet.pts)
        frames += decoder.decode(packet)
    frames += decoder.decode(None)
    convert = RgbConverter()
    found = {frame.pts: digest(convert(frame)) for frame in frames}
    assert sorted(found) == sorted(times)
    return found


@pytest.mark.parametrize("fps", [None, 2.0, 5.0])
@pytest.mark.parametrize(("kind", "options"), IN_ORDER + REORDERED)
def test_access_units_that_are_due_are_what_the_plain_decoder_shows(
    kind: str, options: Options, fps: float | None
) -> None:
    records = unit_records(kind, options, 60)
    frames, lost, _, _ = run(records, [Gear.ANALYSE] * 60, DecodeSettings(fps=fps))
    pictures = whole(kind, options)
    got = {pts_ns: picture for group in frames for pts_ns, _, _, picture in group}
    assert all(pictures[pts_ns] == picture for pts_ns, picture in got.items())
    assert len(got) == len({pts_ns * int(fps) // S if fps else pts_ns for pts_ns in pictures})
    assert not any(lost)


@pytest.mark.parametrize(("kind", "options"), IN_ORDER)
def test_a_picture_that_is_due_comes_out_with_its_own_record(kind: str, options: Options) -> None:
    records = unit_records(kind, options, 60)
    frames, _, _, _ = run(records, [Gear.ANALYSE] * 60, SLOW)
    assert all(offset == at for at, group in enumerate(frames) for _, offset, _, _ in group)


@pytest.mark.parametrize(("kind", "options"), IN_ORDER + REORDERED)
def test_watch_gives_key_frames_out_at_once(kind: str, options: Options) -> None:
    records = unit_records(kind, options, 60)
    frames, lost, _, _ = run(records, [Gear.WATCH] * 60, SLOW)
    pictures = whole(kind, options)
    got = [one for group in frames for one in group]
    assert all(offset == at for at, group in enumerate(frames) for _, offset, _, _ in group)
    assert all(pictures[pts_ns] == picture for pts_ns, _, _, picture in got)
    keys = {record.offset for record in records if split_units(record.value, kind)[0].is_key}
    assert {offset for _, offset, _, _ in got} <= keys
    assert len(got) >= 6
    assert all(b[0] // 200_000_000 > a[0] // 200_000_000 for a, b in pairwise(got))
    assert not any(lost)


@pytest.mark.parametrize("gear", [Gear.ANALYSE, Gear.SCRUTINISE])
@pytest.mark.parametrize(("kind", "options"), IN_ORDER + REORDERED)
def test_from_watch_a_closer_look_begins_in_the_middle_of_a_group(kind: str, options: Options, gear: Gear) -> None:
    records = unit_records(kind, options, 60)
    for change in (23, 24, 27):
        frames, lost, _, _ = run(records, [Gear.WATCH] * change + [gear] * (60 - change), ALL)
        pictures = whole(kind, options)
        got = [one for group in frames for one in group]
        assert all(pictures[pts_ns] == picture for pts_ns, _, _, picture in got)
        assert [a[0] for a in got] == sorted({a[0] for a in got})
        # After an open key frame of H.264 one picture may refer back to what was not decoded, and cannot be believed.
        told = {x.pts_ns for group in lost for x in group}
        assert not told or (options is H264_OPEN and len(told) == 1)
        assert {pts_ns for pts_ns in pictures if pts_ns > 10**18 + 28 * FRAME_NS} - told <= {a[0] for a in got}


@pytest.mark.parametrize(("kind", "options"), IN_ORDER + REORDERED)
def test_after_shed_units_pictures_wait_for_a_key_frame(kind: str, options: Options) -> None:
    records = unit_records(kind, options, 60)
    gears = [Gear.SHED if 22 <= n < 25 else Gear.ANALYSE for n in range(60)]
    frames, lost, _, _ = run(records, gears, ALL)
    pictures = whole(kind, options)
    got = {pts_ns: picture for group in frames for pts_ns, _, _, picture in group}
    told = {x.pts_ns: x.reason for group in lost for x in group}
    assert all(pictures[pts_ns] == picture for pts_ns, picture in got.items())
    assert got.keys() | told.keys() == pictures.keys()
    assert len(got) + len(told) == 60
    assert list(told.values()).count(LossReason.SHED) >= 3
    assert set(told.values()) == {LossReason.SHED, LossReason.WAITING_FOR_KEY_FRAME}


def test_shed_units_that_nobody_refers_to_cost_nothing_else() -> None:
    options: Options = (("x264-params", "keyint=30:min-keyint=30:bframes=0:scenecut=0"), ("profile", "baseline"))
    records = unit_records("video/h264", options, 30)
    # Made so by hand: the last picture before a key frame is no reference.
    record = records[29]
    at = record.value.rindex(b"\x00\x00\x01") + 3
    value = bytearray(record.value)
    value[at] &= 0x9F
    records[29] = Payload(bytes(value), record.headers, record.timestamp_ms, record.offset)
    frames, lost, _, _ = run(records, [Gear.ANALYSE] * 29 + [Gear.SHED], ALL)
    assert sum(map(len, frames)) == 29
    assert [x.reason for group in lost for x in group] == [LossReason.SHED]


@pytest.mark.parametrize("with_pts", [True, False])
@pytest.mark.parametrize("per_record", [1, 3])
@pytest.mark.parametrize(("kind", "options"), IN_ORDER + REORDERED)
def test_after_a_restart_anywhere_in_changing_gears_the_rest_is_the_same(
    kind: str, options: Options, per_record: int, with_pts: bool
) -> None:
    records = unit_records(kind, options, 60, per_record=per_record, with_pts=with_pts)
    rng = np.random.default_rng(5)
    for settings_ in (ALL, SLOW):
        gears: list[Gear] = []
        while len(gears) < len(records):
            gears += [list(Gear)[rng.integers(4)]] * int(rng.integers(1, 9))
        gears = gears[: len(records)]
        frames, lost, states, resumes = run(records, gears, settings_)
        for cut in range(0, len(records) - 1, 2):
            decoder = StreamDecoder(settings_)
            decoder.restore(msgspec.msgpack.decode(states[cut], type=DecoderState))
            assert decoder.resume_offset == resumes[cut]
            again: list[Key] = []
            losses: list[Lost] = []
            for record, gear in zip(records, gears, strict=True):
                if record.offset >= (resumes[cut] or 0):
                    # The gear of a record that was done before is not known any more.
                    replayed = record.offset <= cut
                    decoded = decoder.decode(record, Gear.SCRUTINISE if replayed else gear)
                    assert decoded.replayed == replayed
                    again += [key(f) for f in decoded.frames]
                    losses += decoded.lost
            decoded = decoder.drain()
            again += [key(f) for f in decoded.frames]
            losses += decoded.lost
            assert again == [one for group in frames[cut + 1 :] for one in group]
            assert losses == [one for group in lost[cut + 1 :] for one in group]


# FFmpeg does not see that a unit of H.265 breaks off.
@pytest.mark.parametrize(("kind", "options"), [one for one in IN_ORDER if one[0] != "video/h265"])
def test_damage_before_a_picture_that_is_due_is_told_with_it(kind: str, options: Options) -> None:
    records = unit_records(kind, options, 60)
    record = records[21]
    records[21] = dataclasses.replace(record, value=record.value[: len(record.value) // 2])
    frames, lost, _, _ = run(records, [Gear.ANALYSE] * 60, SLOW)
    pictures = whole(kind, options)
    got = {pts_ns: picture for group in frames for pts_ns, _, _, picture in group}
    assert all(pictures[pts_ns] == picture for pts_ns, picture in got.items())
    # Of the group that begins at 20, the picture at 25 needs the damaged one; that at 30 is a key frame.
    due_ns = {10**18 + n * FRAME_NS for n in range(0, 60, 5)}
    assert due_ns - got.keys() == {10**18 + 25 * FRAME_NS}
    told = [x for group in lost for x in group]
    assert told[0] == Lost(10**18 + 25 * FRAME_NS, LossReason.DAMAGED)
    assert {x.reason for x in told[1:]} <= {LossReason.WAITING_FOR_KEY_FRAME}
    assert {(x.pts_ns or 0) // 200_000_000 for x in told} == {(10**18 + 25 * FRAME_NS) // 200_000_000}


def test_units_wait_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.decode.access_units._MAX_WAITING", 3)
    for kind, options in IN_ORDER + REORDERED:
        records = unit_records(kind, options, 60)
        frames, _, _, _ = run(records, [Gear.WATCH] * 27 + [Gear.ANALYSE] * 33, ALL)
        pictures = whole(kind, options)
        got = {pts_ns: picture for group in frames for pts_ns, _, _, picture in group}
        assert all(pictures[pts_ns] == picture for pts_ns, picture in got.items())
        assert 10**18 + 35 * FRAME_NS in got
        slow, _, _, _ = run(records, [Gear.ANALYSE] * 60, DecodeSettings(fps=2.0))
        assert sum(map(len, slow)) == 5


def test_a_frame_does_not_change_when_the_decoder_goes_on() -> None:
    records = unit_records("video/h264", H264_IN_ORDER, 60)
    decoder = StreamDecoder(ALL)
    kept = [frame for record in records for frame in decoder.decode(record).frames]
    pictures = whole("video/h264", H264_IN_ORDER)
    assert all(digest(frame.image) == pictures[frame.pts_ns] for frame in kept)
    assert len(kept) == 60
