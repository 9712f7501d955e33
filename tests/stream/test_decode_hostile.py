"""Records that mean harm: each is a typed error or counted, soon and within bounds."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import struct
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from stream_media import H264_B, image, segment, unit_records

from stream.decode import (
    CorruptInputError,
    DecodeSettings,
    InputError,
    LossReason,
    Payload,
    StreamDecoder,
    TooLargeError,
    sniff,
)
from stream.decode.contract import TimelineState
from stream.decode.timeline import Timeline
from stream.decode.units import split_units

ALL = DecodeSettings(fps=None)


def refused(value: bytes, settings: DecodeSettings = ALL) -> InputError:
    decoder = StreamDecoder(settings)
    with pytest.raises(InputError) as caught:
        list(decoder.decode(Payload(value)).frames)
    assert caught.value.hint
    frames = list(decoder.decode(Payload(image(".jpg"), offset=1)).frames)
    assert len(frames) == 1, "a refused record must not stop its stream"
    return caught.value


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_empty_and_oversized_records() -> None:
    assert isinstance(refused(b""), CorruptInputError)
    assert isinstance(refused(image(".jpg") + bytes(5000), DecodeSettings(max_bytes=5000)), TooLargeError)


def test_pictures_that_claim_to_be_enormous() -> None:
    png = image(".png")
    huge = png[:16] + struct.pack(">II", 30_000, 30_000) + png[24:]
    assert isinstance(refused(huge), TooLargeError)
    jpeg = bytearray(image(".jpg"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 30_000, 30_000)
    assert isinstance(refused(bytes(jpeg)), TooLargeError)
    webp = b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    webp += (16_000).to_bytes(3, "little") * 2 + bytes(80)
    assert isinstance(refused(webp), TooLargeError)


def test_a_jpeg_with_a_second_larger_size_is_refused() -> None:
    jpeg = image(".jpg")
    at = jpeg.index(b"\xff\xc0")
    length = int.from_bytes(jpeg[at + 2 : at + 4], "big") + 2
    second = bytearray(jpeg[at : at + length])
    second[5:9] = struct.pack(">HH", 20_000, 20_000)
    assert isinstance(refused(jpeg[: at + length] + bytes(second) + jpeg[at + length :]), CorruptInputError)


def test_text_that_unpacks_to_gigabytes_is_left_packed() -> None:
    png = image(".png")
    bomb = png_chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(200_000_000), 9))
    profile = png_chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(200_000_000), 9))
    before = resident_mib()
    frames = list(StreamDecoder().decode(Payload(png[:33] + bomb + profile + png[33:])).frames)
    assert len(frames) == 1
    assert resident_mib() - before < 100


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    jpeg = image(".jpg")
    at = jpeg.index(b"\xff\xda")
    assert isinstance(refused(jpeg[:at] + jpeg[at:-2] * 1000 + jpeg[-2:]), CorruptInputError)


def resident_mib() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def test_an_mp4_that_claims_more_samples_than_memory_holds() -> None:
    value = bytearray(segment("mp4"))
    at = value.index(b"stsz")
    value[at + 8 : at + 16] = struct.pack(">II", 1, 0x0FFFFFFF)
    before = resident_mib()
    assert isinstance(refused(bytes(value)), TooLargeError)
    at = (runs := bytearray(segment("mp4"))).index(b"stts")
    runs[at + 12 : at + 16] = struct.pack(">I", 0x7FFFFFFF)
    assert isinstance(refused(bytes(runs)), TooLargeError)
    assert resident_mib() - before < 100


def test_a_video_larger_than_the_bound() -> None:
    small = DecodeSettings(fps=None, max_pixels=50 * 50)
    for container in ("mp4", "mpegts", "matroska"):
        assert isinstance(refused_by(segment(container), small), TooLargeError | CorruptInputError)
    decoder = StreamDecoder(small)
    decoded = [decoder.decode(record) for record in unit_records("video/h264", H264_B, 5)[:1]]
    assert list(decoded[0].frames) == []


def refused_by(value: bytes, settings: DecodeSettings) -> InputError:
    with pytest.raises(InputError) as caught:
        list(StreamDecoder(settings).decode(Payload(value)).frames)
    return caught.value


def test_a_segment_of_too_many_pictures_is_cut_and_says_so() -> None:
    decoder = StreamDecoder(DecodeSettings(fps=None, max_frames=10))
    decoded = decoder.decode(Payload(segment("mp4", 25)))
    assert len(list(decoded.frames)) == 10
    assert decoded.lost[-1].reason is LossReason.BEYOND_LIMIT


def test_a_segment_that_lasts_for_years_does_not_carry_the_clock_away() -> None:
    value = bytearray(segment("matroska", 25))
    decoder = StreamDecoder(DecodeSettings(fps=None, max_duration_s=0.5))
    decoded = decoder.decode(Payload(bytes(value), timestamp_ms=1000))
    frames = list(decoded.frames)
    assert frames[-1].pts_ns <= 1_500_000_000
    assert decoded.lost


def test_a_damaged_picture_days_after_its_segment_is_lost_without_a_time() -> None:
    whole, out = av.open(io.BytesIO(segment("mp4", 25))), io.BytesIO()
    with whole, av.open(out, "w", format="mp4") as file:
        stream = file.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(whole.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
        rubbish = av.Packet(bytes(64))
        rubbish.stream, rubbish.time_base = stream, Fraction(1)
        rubbish.pts = rubbish.dts = 40 * 3600
        file.mux(rubbish)
    decoder = StreamDecoder(ALL)
    decoded = decoder.decode(Payload(out.getvalue()))
    assert len(list(decoded.frames)) == 25
    assert [(lost.pts_ns, lost.reason) for lost in decoded.lost] == [(None, LossReason.BEYOND_LIMIT)]


def test_a_loss_after_the_clock_began_anew_has_a_time_that_fits() -> None:
    timeline = Timeline.make(None, 10.0)
    timeline.set_state(TimelineState(last_ns=1, shift_ns=2**63 - 2**62))
    assert timeline.shifted(2**62 - 1) is None
    timeline.set_state(TimelineState(last_ns=1, shift_ns=5))
    assert timeline.shifted(2) == 7


@pytest.mark.parametrize("container", ["mp4", "mpegts", "matroska"])
def test_a_segment_that_breaks_off_gives_what_came_before_or_an_error(container: str) -> None:
    value = segment(container, 25)
    outcomes = set()
    for share in (0.02, 0.3, 0.6, 0.9):
        try:
            frames = list(StreamDecoder(ALL).decode(Payload(value[: int(len(value) * share)])).frames)
            outcomes.add("frames" if frames else "none")
        except InputError as error:
            outcomes.add(error.kind)
    assert "none" not in outcomes
    assert "corrupt" in outcomes


def test_no_segment_opens_another_file(tmp_path: Path) -> None:
    target = tmp_path / "secret.mp4"
    target.write_bytes(segment("mp4"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile {target}\n".encode()
    for value in (playlist, concat, str(target).encode(), b"file:" + str(target).encode()):
        for kind in ("video/mp4", "video/mp2t", "video/x-matroska", "image/jpeg", "video/h264", "text/plain"):
            with pytest.raises(InputError):
                list(StreamDecoder().decode(Payload(value, (("content-type", kind.encode()),))).frames)


def test_a_movie_that_refers_to_another_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "other.mov"
    target.write_bytes(segment("mov"))
    value = segment("mov")
    alias = b"\x00\x00\x00\x00" + str(target).encode() + b"\x00"
    dref = b"url " + b"\x00\x00\x00\x00"
    at = value.index(b"dref")
    entry = struct.pack(">I", 8 + len(alias)) + b"url " + alias
    hurt = value[: at - 4] + struct.pack(">I", 16 + len(entry)) + value[at : at + 12] + entry
    assert dref[:4] in entry
    with pytest.raises(InputError):
        list(StreamDecoder().decode(Payload(hurt)).frames)


def test_sound_alone_and_rare_codecs_are_refused() -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=44100)
        tone = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        tone.sample_rate, tone.pts = 44100, 0
        file.mux(stream.encode(tone))
        file.mux(stream.encode(None))
    assert isinstance(refused(out.getvalue()), CorruptInputError)
    refused(segment("matroska", 5, "ffv1"))


def test_units_that_are_no_units() -> None:
    header = (("content-type", b"video/h264"),)
    length_prefixed = b"\x00\x00\x00\x20\x65" + bytes(range(1, 32))
    for value in (length_prefixed, b"\x00\x00\x01", b"\x01" * 50):
        with pytest.raises(CorruptInputError):
            list(StreamDecoder().decode(Payload(value, header)).frames)


def test_more_units_in_a_record_than_allowed() -> None:
    record = unit_records("video/h264", H264_B, per_record=40)[0]
    decoder = StreamDecoder(DecodeSettings(max_frames=20))
    with pytest.raises(TooLargeError):
        decoder.decode(record)


def test_every_prefix_of_every_kind_is_named_or_not() -> None:
    values = [image(".jpg"), image(".png"), image(".webp"), segment("mp4"), segment("mpegts"), segment("matroska")]
    values += [unit_records("video/h264", H264_B)[0].value, unit_records("video/h264", H264_B)[1].value]
    for value in values:
        for length in range(40):
            sniff(value[:length])
    assert [sniff(v) for v in values[:7]] == [
        "image/jpeg",
        "image/png",
        "image/webp",
        "video/mp4",
        "video/mp2t",
        "video/x-matroska",
        "video/h264",
    ]


def test_settings_that_bound_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        dataclasses.replace(DecodeSettings(), max_bytes=0)


def fuzzer() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_decode.py"
    spec = importlib.util.spec_from_file_location("fuzz_decode", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_decode"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [11, 12])
def test_mutated_records_give_frames_typed_errors_or_losses(seed: int) -> None:
    outcome = fuzzer().run(200, seed)
    assert outcome["UNEXPECTED"] == 0
    assert outcome["records with frames"] > 20
    assert outcome["refused: corrupt"] > 20


@pytest.mark.parametrize("content_type", ["video/h264", "video/h265"])
@pytest.mark.parametrize("value", [b"", b"\xff" * 40, b"\x00\x00\x01"])
def test_bytes_without_a_unit_hold_no_access_unit(content_type: str, value: bytes) -> None:
    """A damaged key frame of a segment may hold no start code at all."""
    assert split_units(value, content_type) == []
