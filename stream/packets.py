"""Compressed pictures out of files and live addresses, not decoded, each with a time that never jumps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.bitstream
import av.container
import av.error
import av.stream
import av.video.stream

from difffake.errors import (
    MediaEncryptedError,
    MediaFormatError,
    MediaNotFoundError,
    MediaTruncatedError,
    NoVideoError,
)
from difffake.limits import Limits
from difffake.media import local_path, reason, without_secrets
from difffake.video import open_video

S = 1_000_000_000
AS_FRAMES_HINT = "publish it as pictures (--as frames), or re-encode it to H.264"
#: Publishing decodes nothing, so that no length is too long for it.
UNBOUNDED = Limits(max_duration_s=1e9, max_frames=1 << 40)

_ADDRESS = re.compile(r"^(?!file:)[a-zA-Z][a-zA-Z0-9+.-]+://")
_PICTURE_NS = 40_000_000
#: Times that jump further than this between two packets are a clock that was set, not a pause.
_JUMP_NS = 10 * S
_OPEN_TIMEOUT_S, _READ_TIMEOUT_S = 15.0, 15.0
_LOCAL_PROTOCOLS = "file,crypto,data"
_MAX_REORDER = 34
_MAX_WARNINGS = 20
_DECODERS = {"libdav1d": "av1", "libaom-av1": "av1", "libvpx": "vp8", "libvpx-vp9": "vp9"}
#: Start codes, and parameter sets before every key frame, also where only the file's header has them; temporal
#: delimiters. Each filter makes one packet of one.
_FILTERS = {
    "h264": "h264_mp4toannexb,dump_extra=freq=keyframe",
    "hevc": "hevc_mp4toannexb,dump_extra=freq=keyframe",
    "av1": "av1_metadata=td=insert",
}


@dataclass(slots=True)
class SourceReport:
    """What there is to say about a source, complete when its records have ended.

    Args:
        warnings: ``"code: what happened"``.
        left_out: pictures that no record holds, because a decoder that starts there cannot make them.
    """

    warnings: list[str] = field(default_factory=list)
    left_out: int = 0

    def warn(self, text: str) -> None:
        """Add a warning, up to a bound."""
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(text)


@dataclass(frozen=True, slots=True)
class TimedPacket:
    """One coded picture in decoding order.

    Args:
        data: the packet; H.264 and H.265 with start codes.
        pts_ns, dts_ns, end_ns: nanoseconds from the start of the source, where the first key frame is shown.
        anew: a key frame after a beginning or a gap: nothing before it leads to it.
    """

    data: av.Packet[Any]
    pts_ns: int
    dts_ns: int
    end_ns: int
    anew: bool


@dataclass(frozen=True, slots=True)
class PacketSource:
    """An open source; made by `open_packets`."""

    container: av.container.InputContainer
    stream: av.video.stream.VideoStream
    name: str

    @property
    def codec(self) -> str:
        """Its name, whichever decoder stands for it."""
        name = self.stream.codec_context.name
        return _DECODERS.get(name, name)

    def packets(self, report: SourceReport) -> Iterator[TimedPacket]:
        """Packets from the first key frame on; where times jump, they go on without a gap at the next key frame.

        Raises:
            MediaFormatError: pictures without times.
            MediaTruncatedError: it breaks off before the first picture.
            MediaEncryptedError: encrypted.
        """
        rate = self.stream.average_rate or self.stream.guessed_rate
        picture_ns = round(S / rate) if rate and 1 <= rate <= 1000 else _PICTURE_NS
        filters = _FILTERS.get(self.codec)
        to_units = av.bitstream.BitStreamFilterContext(filters, self.stream) if filters else None
        shift_ns = last_dts_ns = end_ns = 0
        waiting = True
        for packet in _with_dts(self._demuxed(report), self.name):
            pts_ns, dts_ns, length_ns = (_ns(t, packet) for t in (packet.pts, packet.dts, packet.duration))
            if not waiting and not last_dts_ns < dts_ns + shift_ns < last_dts_ns + _JUMP_NS:
                report.warn(f"clock: its times jump at {end_ns / S:.1f} s; they go on from there")
                waiting = True
            anew = waiting
            if waiting:
                if not packet.is_keyframe:
                    report.left_out += 1
                    continue
                shift_ns, waiting = end_ns - pts_ns, False
            last_dts_ns = dts_ns + shift_ns
            until_ns = pts_ns + shift_ns + (length_ns or picture_ns)
            try:
                (data,) = to_units.filter(packet) if to_units else (packet,)
            except (av.error.FFmpegError, ValueError):
                report.warn("damaged: a picture could not be read; it is left out")
                report.left_out += 1
                continue
            end_ns = max(end_ns, until_ns)
            yield TimedPacket(data, pts_ns + shift_ns, last_dts_ns, until_ns, anew)

    def _demuxed(self, report: SourceReport) -> Iterator[av.Packet[Any]]:
        packets = self.container.demux(self.stream)
        got = False
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                if not got:
                    raise MediaTruncatedError(
                        f"{self.name}: breaks off before a picture ({reason(error)})", hint="copy or download it again"
                    ) from error
                report.warn(f"interrupted: reading failed ({reason(error)})")
                return
            if packet.has_sidedata("encryption_info"):
                raise _encrypted(self.name)
            if packet.size:  # the last one is empty: it flushes decoders
                got = True
                yield packet


def is_address(source: str | Path) -> bool:
    """Whether a source is a live address rather than a path."""
    return _ADDRESS.match(str(source)) is not None


@contextmanager
def open_packets(source: str | Path) -> Iterator[PacketSource]:
    """Open a file or an address for copying.

    Raises:
        MediaFormatError: a still picture, or no video that a copy can be made of.
        MediaNotFoundError, MediaEmptyError, MediaTruncatedError, NoVideoError, MediaEncryptedError: see
            `difffake.video.open_video`.
    """
    if is_address(source):
        name = without_secrets(str(source))
        container = _open(lambda: _open_address(str(source)), name)
    else:
        path = local_path(source)
        name = path.name
        # Says everything that can be wrong with a file in one place.
        with open_video(path, limits=UNBOUNDED) as video:
            if video.info.kind == "image" or video.info.container.endswith("_pipe") or video.info.container == "image2":
                raise MediaFormatError(f"{name}: a picture, not a video", hint="publish pictures with --as frames")
            if video.info.container == "avi" and video.info.codec != "mjpeg":
                raise MediaFormatError(f"{name}: AVI does not say when pictures are shown", hint=AS_FRAMES_HINT)
        options = {"protocol_whitelist": _LOCAL_PROTOCOLS}
        container = _open(lambda: av.open(f"file:{path}", options=options, metadata_errors="replace"), name)
    with container:
        yield PacketSource(container, _choose(container, name), name)


def _choose(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    found = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not found:
        raise NoVideoError(f"{name}: no video in it", hint="give the address or file that holds the picture")
    usable = [s for s in found if s.codec_context is not None]
    if not usable:
        raise MediaFormatError(f"{name}: a kind of video that is not known here", hint=AS_FRAMES_HINT)
    if any("enc_key_id" in s.metadata for s in usable):
        raise _encrypted(name)
    default = av.stream.Disposition.default
    return max(usable, key=lambda s: (bool(s.disposition & default), s.codec_context.width * s.codec_context.height))


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


def _with_dts(packets: Iterator[av.Packet[Any]], name: str) -> Iterator[av.Packet[Any]]:
    """Matroska has no decoding times; FFmpeg works them out, but not for the first packets: counted back from there."""
    early: list[av.Packet[Any]] = []
    for packet in packets:
        if packet.pts is None or not packet.time_base or (packet.dts is None and len(early) >= _MAX_REORDER):
            raise MediaFormatError(
                f"{name}: its pictures have no times, which a copy needs",
                hint="publish it as pictures (--as frames), or put it into MP4 first",
            )
        if packet.dts is None:
            early.append(packet)
            continue
        yield from _counted_back(early, packet.dts)
        early = []
        yield packet
    if early:  # a handful of pictures in all, none of them reordered far enough to tell
        yield from _counted_back(early, min(packet.pts or 0 for packet in early) + 1)


def _counted_back(early: list[av.Packet[Any]], dts: int) -> Iterator[av.Packet[Any]]:
    for back, packet in enumerate(early):
        packet.dts = dts - (len(early) - back) * max(packet.duration or 1, 1)
        yield packet


def _ns(ticks: int | None, packet: av.Packet[Any]) -> int:
    base = packet.time_base
    return (ticks or 0) * base.numerator * S // base.denominator


def _encrypted(name: str) -> MediaEncryptedError:
    return MediaEncryptedError(f"{name}: the video is encrypted", hint="DiffFake opens no DRM: publish it decrypted")
