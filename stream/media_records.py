"""Video as records for a topic: self-contained segments and access units by stream copy, or pictures.

Segments and access units keep the bytes of the source: nothing is decoded, nothing loses quality. Sound is left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import cv2

from difffake.errors import LimitExceededError, MediaFormatError
from difffake.media import reason
from difffake.video import open_video
from stream.decode.sniff import AV1, H264, H265, JPEG, MATROSKA, MP4, PNG, TS, WEBP
from stream.packets import AS_FRAMES_HINT, UNBOUNDED, PacketSource, S, SourceReport, TimedPacket, open_packets

_NANOSECOND = Fraction(1, S)
#: Codec -> the container whose segments stand alone without a re-encode.
_CONTAINERS = {
    "h264": TS,
    "hevc": TS,
    "mpeg2video": TS,
    "av1": MP4,
    "vp9": MP4,
    "mpeg4": MP4,
    "vp8": MATROSKA,
    "mjpeg": MATROSKA,
}
_MUXERS: dict[str, tuple[str, dict[str, str]]] = {
    TS: ("mpegts", {}),
    MP4: ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    MATROSKA: ("matroska", {}),
}
_UNITS = {"h264": H264, "hevc": H265, "av1": AV1}
_IMAGES = {"jpeg": JPEG, "png": PNG, "webp": WEBP}


@dataclass(frozen=True, slots=True)
class MediaRecord:
    """One record's value, with times in nanoseconds from the start of its source.

    Args:
        value: the bytes.
        content_type: of the wire contract.
        pts_ns: of the first picture shown.
        end_ns: where the last picture ends.
        due_ns: when a live source would have it whole.
        pictures: how many it holds.
    """

    value: bytes
    content_type: str
    pts_ns: int
    end_ns: int
    due_ns: int
    pictures: int


def segments(
    source: str | Path, report: SourceReport, *, segment_s: float = 2.0, max_bytes: int = 16 << 20
) -> Iterator[MediaRecord]:
    """Self-contained segments, cut at the first key frame after ``segment_s``; a longer group of pictures stays whole.

    MPEG-TS where the codec allows, else fragmented MP4 or Matroska. Pictures that lead an open group of pictures are
    left out, and counted: they need the segment before.

    Raises:
        MediaFormatError: a codec that no segment can carry, or packets without times.
        LimitExceededError: a group of pictures over ``max_bytes``.
        MediaNotFoundError, MediaEmptyError, MediaTruncatedError, NoVideoError, MediaEncryptedError: see
            `difffake.video.open_video`.
    """
    with open_packets(source) as opened:
        if opened.codec not in _CONTAINERS:
            raise MediaFormatError(
                f"{opened.name}: {opened.codec} cannot be cut into segments as it is", hint=AS_FRAMES_HINT
            )
        held: list[TimedPacket] = []
        size = 0
        for packet in opened.packets(report):
            is_full = bool(held) and packet.pts_ns - held[0].pts_ns >= segment_s * S
            if held and (packet.anew or (is_full and packet.data.is_keyframe)):
                yield _segment(held, opened)
                held, size = [], 0
            if held and packet.pts_ns < held[0].pts_ns:
                report.left_out += 1
                continue
            held.append(packet)
            size += packet.data.size
            if size > max_bytes:
                raise LimitExceededError(
                    f"{opened.name}: {(packet.pts_ns - held[0].pts_ns) / S:.0f} s without a key frame, "
                    f"over {max_bytes >> 20} MiB",
                    hint="publish access units (--as units) or pictures (--as frames), or raise --max-message-bytes",
                )
        if held:
            yield _segment(held, opened)


def units(source: str | Path, report: SourceReport) -> Iterator[MediaRecord]:
    """One access unit a record, in decoding order: Annex B for H.264 and H.265, a temporal unit for AV1.

    Raises:
        MediaFormatError: another codec, or packets without times.
        MediaNotFoundError, MediaEmptyError, MediaTruncatedError, NoVideoError, MediaEncryptedError: see
            `difffake.video.open_video`.
    """
    with open_packets(source) as opened:
        if opened.codec not in _UNITS:
            raise MediaFormatError(f"{opened.name}: no access units of {opened.codec}", hint=AS_FRAMES_HINT)
        content_type, key_ns = _UNITS[opened.codec], 0
        for packet in opened.packets(report):
            key_ns = packet.pts_ns if packet.anew else key_ns
            if packet.pts_ns < key_ns:
                report.left_out += 1
                continue
            yield MediaRecord(
                bytes(packet.data), content_type, packet.pts_ns, packet.end_ns, max(packet.dts_ns, 0), pictures=1
            )


def frames(source: str | Path, report: SourceReport, *, fps: float = 5.0, quality: int = 95) -> Iterator[MediaRecord]:
    """Pictures at a rate, as JPEG; a JPEG, PNG or WebP file goes as it is.

    Raises:
        MediaNotFoundError, MediaEmptyError, MediaFormatError, MediaTruncatedError, NoVideoError, MediaEncryptedError,
        LimitExceededError: see `difffake.video.open_video`.
    """
    with open_video(source, fps=fps, limits=UNBOUNDED) as video:
        for frame in video:
            if video.still is not None:
                value, content_type = video.still.data, _IMAGES[video.still.header.codec]
            else:
                bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
                value, content_type = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes(), JPEG
            pts_ns = round(frame.pts_s * S)
            yield MediaRecord(value, content_type, pts_ns, pts_ns + round(S / fps), pts_ns, pictures=1)
        for warning in video.warnings:
            report.warn(warning)


def _segment(held: list[TimedPacket], source: PacketSource) -> MediaRecord:
    content_type = _CONTAINERS[source.codec]
    muxer, options = _MUXERS[content_type]
    target, first_ns = io.BytesIO(), held[0].dts_ns
    try:
        with av.open(target, "w", format=muxer, options=options) as container:
            # `opaque`: the codec need not be one that can be encoded here.
            out = container.add_stream_from_template(source.stream, opaque=True)
            for timed in held:
                packet = timed.data
                packet.stream, packet.time_base = out, _NANOSECOND
                packet.pts, packet.dts = timed.pts_ns - first_ns, timed.dts_ns - first_ns
                packet.duration = timed.end_ns - timed.pts_ns
                container.mux_one(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaFormatError(
            f"{source.name}: cannot be copied into {content_type} ({reason(error)})", hint=AS_FRAMES_HINT
        ) from error
    end_ns = max(timed.end_ns for timed in held)
    return MediaRecord(target.getvalue(), content_type, held[0].pts_ns, end_ns, end_ns, len(held))
