"""Segments are opened by their headers alone: what headers do not say is found out as FFmpeg does it."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from stream.decode import DecodeSettings, Payload, StreamDecoder
from stream.decode.h264 import tells_delay

SPS = b"\x00\x00\x01\x67"
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def encoded(container: str, options: dict[str, str], aspect: Fraction | None = None, **mux: str) -> bytes:
    big = np.kron(np.random.default_rng(1).integers(0, 256, (40, 80, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    out = io.BytesIO()
    with av.open(out, "w", format=container, options=mux) as file:
        stream = file.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(big[number // 2 :][:64, number:][:, :96].copy(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def without_usability(sps: bytes) -> bytes:
    """A sequence parameter set of main profile, with no cropping, without its usability information."""
    bits = "".join(f"{byte:08b}" for byte in sps.replace(b"\x00\x00\x03", b"\x00\x00"))
    at = 24

    def golomb() -> int:
        nonlocal at
        zeros = bits.index("1", at) - at
        at += 2 * zeros + 1
        return int(bits[at - zeros - 1 : at], 2) - 1

    golomb(), golomb()
    assert golomb() == 0  # the order of pictures is written
    golomb(), golomb()
    at += 1
    golomb(), golomb()
    at += 2  # frames only, direct inference
    assert bits[at : at + 2] == "01"  # no cropping, usability information
    kept = bits[: at + 1] + "01"
    kept += "0" * (-len(kept) % 8)
    return int(kept, 2).to_bytes(len(kept) // 8, "big")


def stripped(value: bytes) -> bytes:
    out = io.BytesIO()
    with av.open(io.BytesIO(value)) as source, av.open(out, "w", format="mpegts") as file:
        stream = source.streams.video[0]
        target = file.add_stream_from_template(stream, opaque=True)
        for packet in source.demux(stream):
            if not packet.size:
                continue
            data = bytes(packet)
            if (at := data.find(SPS)) >= 0:
                end = data.index(b"\x00\x00\x01", at + 4)
                data = data[: at + 4] + without_usability(data[at + 4 : end].rstrip(b"\x00")) + data[end:]
            new = av.Packet(data)
            new.pts, new.dts, new.time_base, new.duration = packet.pts, packet.dts, packet.time_base, packet.duration
            new.is_keyframe, new.stream = packet.is_keyframe, target
            file.mux(new)
    return out.getvalue()


def extradata(value: bytes) -> bytes:
    with av.open(io.BytesIO(value)) as file:
        return file.streams.video[0].codec_context.extradata or b""


@pytest.mark.parametrize(("container", "mux"), [("mpegts", {}), ("mp4", {}), ("mp4", FRAGMENTED)])
def test_an_encoders_headers_say_how_far_pictures_come_out_of_turn(container: str, mux: dict[str, str]) -> None:
    assert tells_delay(extradata(encoded(container, {"profile": "main"}, **mux)))
    assert tells_delay(extradata(encoded(container, {"tune": "zerolatency", "profile": "baseline"}, **mux)))


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01" * 7, b"\x00\x00\x01\x67\x42", b"\x00\x00\x01\x65" + bytes(20)])
def test_damaged_headers_say_nothing(data: bytes) -> None:
    assert not tells_delay(data)


def test_where_headers_do_not_say_it_no_picture_is_lost() -> None:
    value = stripped(encoded("mpegts", {"profile": "main", "bf": "3"}))
    assert not tells_delay(extradata(value))
    decoded = StreamDecoder(DecodeSettings(fps=None)).decode(Payload(value, (("pts-ns", b"0"),)))
    assert [frame.pts_ns for frame in decoded.frames] == [number * 40_000_000 for number in range(40)]
    assert decoded.lost == []


@pytest.mark.parametrize(("container", "mux"), [("mpegts", {}), ("mp4", FRAGMENTED)])
def test_pictures_of_wide_pixels_are_stretched(container: str, mux: dict[str, str]) -> None:
    value = encoded(container, {"profile": "main"}, Fraction(4, 3), **mux)
    decoded = StreamDecoder(DecodeSettings(fps=5)).decode(Payload(value, (("pts-ns", b"0"),)))
    assert {frame.image.shape for frame in decoded.frames} == {(64, 128, 3)}
