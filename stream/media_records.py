"""Video as records for a topic: self-contained segments and access units by stream copy, or pictures.

Segments and access units keep the bytes of the source: nothing is decoded, nothing loses quality. Sound is left out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import av.bitstream
import av.container
import av.error
import av.stream
import av.video.stream
import cv2

from difffake.errors import (
    LimitExceededError,
    MediaEncryptedError,
    MediaFormatError,
    MediaNotFoundError,
    MediaTruncatedError,
    NoVideoError,
)
from difffake.media import reason, without_secrets
from difffake.stills import read_still_header
from difffake.video import Limits, open_video
from stream.decode.sniff import AV1, H264, H265, JPEG, MATROSKA, MP4, PNG, TS, WEBP

_ADDRESS = re.compile(r"^(?!file:)[a-zA-Z][a-zA-Z0-9+.-]+://")
_S = 1_000_000_000
_PICTURE_NS = 40_000_000
#: Times that jump further than this between two packets are a clock that was set, not a pause.
_JUMP_NS = 10 * _S
_OPEN_TIMEOUT_S, _READ_TIMEOUT_S = 15.0, 15.0
_LOCAL_PROTOCOLS = "file,crypto,data"
_UNBOUNDED = Limits(max_duration_s=1e9, max_frames=1 << 40)
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
_MUXERS = {
    TS: ("mpegts", {}),
    MP4: ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    MATROSKA: ("matroska", {}),
}
#: Codec -> content type of its access units, and the filter that gives them start codes or temporal delimiters.
_UNITS = {
    "h264": (H264, "h264_mp4toannexb"),
    "hevc": (H265, "hevc_mp4toannexb"),
    "av1": (AV1, "av1_metadata=td=insert"),
}
_DECODERS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
_IMAGES = {"jpeg": JPEG, "png": PNG, "webp": WEBP}
_FRAMES_HINT = "publish it as pictures (--as frames), or re-encode it to H.264"


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


@dataclass(slots=True)
class SourceReport:
    """What there is to say about a source, complete when its records have ended.

    Args:
        warnings: ``"code: what happened"``.
        left_out: pictures that no record holds, because a decoder that starts there cannot make them.
    """

    warnings: list[str] = field(default_factory=list)
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class _Timed:
    """A packet with its times from the start of the source; `anew`: what came before does not lead to it."""

    packet: av.Packet
    pts_ns: int
    dts_ns: int
    end_ns: int
    anew: bool


def is_address(source: str | Path) -> bool:
    """Whether a source is a live address rather than a path."""
    return _ADDRESS.match(str(source)) is not None


def segments(
    source: str | Path, report: SourceReport, *, segment_s: float = 2.0, max_bytes: int = 16 << 20
) -> Iterator[MediaRecord]:
    """Self-contained segments, cut at the first key frame after ``segment_s``; a longer group of pictures stays whole.

    MPEG-TS where the codec allows, else fragmented MP4 or Matroska.

    Raises:
        MediaFormatError: a codec that no segment can carry, or packets without times.
        LimitExceededError: a group of pictures over ``max_bytes``.
        MediaNotFoundError, MediaEmptyError, MediaTruncatedError, NoVideoError, MediaEncryptedError: see
            `difffake.video.open_video`.
    """
    with _opened(source) as (container, stream, name):
        content_type = _CONTAINERS.get(_codec(stream))
        if content_type is None:
            raise MediaFormatError(f"{name}: {_codec(stream)} cannot be cut into segments as it is", hint=_FRAMES_HINT)
        held: list[_Timed] = []
        size = 0
        for timed in _packets(container, stream, name, report):
            packet = timed.packet
            full = bool(held) and timed.pts_ns - held[0].pts_ns >= segment_s * _S
            if held and packet.is_keyframe and (full or timed.anew):
                yield _segment(held, stream, content_type)
                held, size = [], 0
            if held and timed.pts_ns < held[0].pts_ns:
                report.left_out += 1  # leads an open group of pictures: needs the segment before
                continue
            held.append(timed)
            size += packet.size
            if size > max_bytes:
                raise LimitExceededError(
                    f"{name}: no key frame within {size >> 20} MiB of video, {_since(held):.0f} s",
                    hint="publish access units (--as units) or pictures (--as frames), or raise --max-message-bytes",
                )
        if held:
            yield _segment(held, stream, content_type)


def units(source: str | Path, report: SourceReport) -> Iterator[MediaRecord]:
    """One access unit a record, in decoding order: Annex B for H.264 and H.265, a temporal unit for AV1.

    Raises:
        MediaFormatError: another codec, or packets without times.
        MediaNotFoundError, MediaEmptyError, MediaTruncatedError, NoVideoError, MediaEncryptedError: see
            `difffake.video.open_video`.
    """
    with _opened(source) as (container, stream, name):
        if _codec(stream) not in _UNITS:
            raise MediaFormatError(f"{name}: no access units of {_codec(stream)}", hint=_FRAMES_HINT)
        content_type, filters = _UNITS[_codec(stream)]
        to_units = av.bitstream.BitStreamFilterContext(filters, stream)
        key_ns = 0
        for timed in _packets(container, stream, name, report):
            if timed.anew:
                key_ns = timed.pts_ns
            if timed.pts_ns < key_ns:
                report.left_out += 1
                continue
            value = b"".join(bytes(packet) for packet in to_units.filter(timed.packet))
            yield MediaRecord(value, content_type, timed.pts_ns, timed.end_ns, timed.dts_ns, 1)


def frames(source: str | Path, report: SourceReport, *, fps: float = 5.0, quality: int = 95) -> Iterator[MediaRecord]:
    """Pictures at a rate, as JPEG; a JPEG, PNG or WebP file goes as it is.

    Raises:
        MediaNotFoundError, MediaEmptyError, MediaFormatError, MediaTruncatedError, NoVideoError, MediaEncryptedError,
        LimitExceededError: see `difffake.video.open_video`.
    """
    with open_video(source, fps=fps, limits=_UNBOUNDED) as video:
        still = video.info.kind == "image"
        path = Path(str(source).removeprefix("file://"))
        header = read_still_header(path) if still else None
        for frame in video:
            if header is not None:
                value, content_type = path.read_bytes(), _IMAGES[header.codec]
            else:
                bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
                value, content_type = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes(), JPEG
            pts_ns = round(frame.pts_s * _S)
            yield MediaRecord(value, content_type, pts_ns, pts_ns + round(_S / fps), pts_ns, 1)
        report.warnings += video.warnings


def _since(held: list[_Timed]) -> float:
    return (held[-1].pts_ns - held[0].pts_ns) / _S


def _segment(held: list[_Timed], stream: av.video.stream.VideoStream, content_type: str) -> MediaRecord:
    muxer, options = _MUXERS[content_type]
    target = io.BytesIO()
    with av.open(target, "w", format=muxer, options=options) as container:
        out = container.add_stream_from_template(stream)
        first = held[0].packet.dts
        for timed in held:
            packet = timed.packet
            packet.stream = out
            if first is not None and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts - first, packet.dts - first
            container.mux_one(packet)
    end_ns = max(timed.end_ns for timed in held)
    return MediaRecord(target.getvalue(), content_type, held[0].pts_ns, end_ns, end_ns, len(held))


def _codec(stream: av.video.stream.VideoStream) -> str:
    name = stream.codec_context.name
    return _DECODERS.get(name, name)


@contextmanager
def _opened(
    source: str | Path,
) -> Iterator[tuple[av.container.InputContainer, av.video.stream.VideoStream, str]]:
    if is_address(source):
        name = without_secrets(str(source))
        container = _open(lambda: _open_address(str(source)), name)
    else:
        path = Path(str(source).removeprefix("file://"))
        name = path.name
        # Says everything that can be wrong with a file in one place.
        with open_video(path, limits=_UNBOUNDED) as video:
            if video.info.kind == "image":
                raise MediaFormatError(f"{name}: a picture, not a video", hint="publish pictures with --as frames")
        options = {"protocol_whitelist": _LOCAL_PROTOCOLS}
        container = _open(lambda: av.open(f"file:{path}", options=options, metadata_errors="replace"), name)
    with container:
        found = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not found:
            raise NoVideoError(f"{name}: no video in it", hint="give the address or file that holds the picture")
        usable = [s for s in found if s.codec_context is not None]
        if not usable:
            raise MediaFormatError(f"{name}: a kind of video that is not known here", hint=_FRAMES_HINT)
        if any("enc_key_id" in s.metadata for s in usable):
            raise MediaEncryptedError(
                f"{name}: the video is encrypted", hint="DiffFake opens no DRM: publish it decrypted"
            )
        default = av.stream.Disposition.default
        yield (
            container,
            max(usable, key=lambda s: (bool(s.disposition & default), s.codec_context.width * s.codec_context.height)),
            name,
        )


def _open(attempt: Callable[[], av.container.InputContainer], name: str) -> av.container.InputContainer:
    try:
        return attempt()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, av.error.InvalidDataError):
            raise MediaFormatError(f"{name}: no video there", hint="check the address") from error
        raise MediaNotFoundError(
            f"{name}: does not answer ({reason(error)})", hint="check the address, the network and the access rights"
        ) from error


def _open_address(address: str) -> av.container.InputContainer:
    options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
    return av.open(address, options=options, timeout=(_OPEN_TIMEOUT_S, _READ_TIMEOUT_S), metadata_errors="replace")


def _packets(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, name: str, report: SourceReport
) -> Iterator[_Timed]:
    """Packets from the first key frame on; where times jump, they go on without a gap at the next key frame."""
    rate = stream.average_rate or stream.guessed_rate
    picture_ns = round(_S / rate) if rate and 1 <= rate <= 1000 else _PICTURE_NS
    shift_ns = last_dts_ns = end_ns = 0
    waiting = True
    for packet in _demuxed(container, stream, name, report):
        base = packet.time_base
        if packet.pts is None or packet.dts is None or not base:
            raise MediaFormatError(
                f"{name}: its pictures have no times, which a copy needs",
                hint="publish it as pictures (--as frames), or put it into MP4 or Matroska first",
            )
        pts_ns, dts_ns = (ticks * base.numerator * _S // base.denominator for ticks in (packet.pts, packet.dts))
        if not waiting and not last_dts_ns < dts_ns + shift_ns < last_dts_ns + _JUMP_NS:
            report.warnings.append(f"clock: its times jump at {end_ns / _S:.1f} s; they go on from there")
            waiting = True
        anew = waiting
        if waiting:
            if not packet.is_keyframe:
                report.left_out += 1
                continue
            shift_ns, waiting = end_ns - pts_ns, False
        last_dts_ns = dts_ns + shift_ns
        length_ns = packet.duration * base.numerator * _S // base.denominator if packet.duration else picture_ns
        end_ns = max(end_ns, pts_ns + shift_ns + length_ns)
        yield _Timed(packet, pts_ns + shift_ns, last_dts_ns, pts_ns + shift_ns + length_ns, anew)


def _demuxed(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, name: str, report: SourceReport
) -> Iterator[av.Packet]:
    packets = container.demux(stream)
    got = False
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, OSError) as error:
            if not got:
                raise MediaTruncatedError(
                    f"{name}: breaks off before a picture ({reason(error)})", hint="copy or download it again"
                ) from error
            report.warnings.append(f"interrupted: reading failed ({reason(error)})")
            return
        if packet.size:  # the last one is empty: it flushes decoders
            got = True
            yield packet
