"""Pictures out of a self-contained segment: MP4 (also fragmented), MPEG-TS, Matroska, all from memory.

Nothing that a segment says can make FFmpeg open a file or an address: the demuxer is named, reads from memory, and
every further opening is refused. Decoders are those of video that is sent; FFmpeg's other hundreds stay out of reach.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NoReturn

import av
import av.container
import av.error
import av.stream
import av.video.stream
from av.codec.hwaccel import HWAccel

from difffake.media import reason
from stream.decode.contract import (
    CorruptInputError,
    DecodeSettings,
    EncryptedInputError,
    InputError,
    TooLargeError,
    UnknownTypeError,
)
from stream.decode.h264 import tells_delay
from stream.decode.hardware import HardwareUse
from stream.decode.mp4 import MAX_SAMPLES, claimed_samples, has_compressed_index
from stream.decode.runs import Run, RunDecoder, find_runs
from stream.decode.sniff import MATROSKA, MP4, TS
from stream.decode.timeline import NOMINAL_NS, S

_DEMUXERS = {MP4: "mp4", TS: "mpegts", MATROSKA: "matroska"}
_CODECS = ("h264", "hevc", "libdav1d", "av1", "vp8", "vp9", "libvpx-vp9", "mpeg2video", "mpeg4", "mjpeg")
#: How long an MPEG-TS is as a whole nobody asks; to learn it FFmpeg reads its end several times.
_OPEN_OPTIONS = {"max_streams": "64", "max_probe_packets": "500", "skip_estimate_duration_from_pts": "1"}
#: FFmpeg reads so much at once: each read takes the interpreter's lock.
_MAX_READ = 1 << 20
#: FFmpeg decodes the first picture of whatever it opens, to learn its pixel format, which its frames will say. Where
#: the rest stands in headers it is allowed no decoder: that takes a twentieth of the time.
_NO_CODEC = "none"
_HEADERS_SAY_ALL = ("h264", "hevc", "libdav1d", "av1")
_CODECS_HINT = "send H.264, H.265, AV1, VP8, VP9, MPEG-2 or MPEG-4 video"


@dataclass(frozen=True, slots=True)
class SegmentPicture:
    """A picture in display order. `at_ns`: after the segment's start, None where its container does not say;
    `end_ns`: where the picture ends, on the same scale."""

    frame: av.VideoFrame
    at_ns: int | None
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class SegmentLoss:
    """A packet or picture that could not be used, and when it would have been shown."""

    at_ns: int | None
    beyond_limit: bool


class Segment:
    """One segment, opened and taken apart, not decoded; its pictures can be decoded once.

    Attributes:
        start_ns: the container's own time of its start; None if it does not say.
        pixels: of a picture, as its header says.
        runs: see `stream.decode.runs`; None where it must be decoded whole.
    """

    def __init__(self, value: bytes, content_type: str, settings: DecodeSettings, hardware: HardwareUse) -> None:
        self._settings = settings
        self._name = content_type
        self._hardware = hardware
        if content_type == MP4:
            _check_tables(value)
        # Matroska's own times lack what FFmpeg makes of the first pictures.
        headers_alone = content_type in (MP4, TS)
        self._container = self._open(value, content_type, headers_alone=headers_alone)
        try:
            if headers_alone and not self._is_known():
                self._container.close()
                self._container = self._open(value, content_type)
            self._stream = self._choose()
        except BaseException:
            self.close()
            raise
        start, base = self._stream.start_time, self._stream.time_base
        self._base = base if base else None
        self.start_ns = _to_ns(start, base) if start is not None and base else None
        context = self._stream.codec_context
        self.pixels = context.width * context.height
        self._is_broken = False
        try:
            self._packets = self._demuxed()
        except BaseException:
            self.close()
            raise
        self.runs: list[Run] | None = None
        if not self._is_broken:
            self.runs = find_runs([p for p in self._packets if p.size], context, self._times_ns)

    def _open(self, value: bytes, content_type: str, *, headers_alone: bool = False) -> av.container.InputContainer:
        options = {**_OPEN_OPTIONS, "max_pixels": str(self._settings.max_pixels)}

        def opened(hwaccel: HWAccel | None) -> av.container.InputContainer:
            alone = headers_alone and hwaccel is None
            return av.open(
                io.BytesIO(value),
                mode="r",
                buffer_size=max(1, min(len(value), _MAX_READ)),
                format=_DEMUXERS[content_type],
                container_options={**options, "codec_whitelist": _NO_CODEC if alone else ",".join(_CODECS)},
                metadata_errors="replace",
                io_open=_refuse,
                hwaccel=hwaccel,
            )

        try:
            return self._hardware.open(opened)
        except InputError:
            raise
        except (av.error.FFmpegError, OSError, ValueError, OverflowError) as error:
            raise CorruptInputError(
                f"{content_type}: cannot be opened ({reason(error)})",
                hint="each record must be a whole segment; a fragment needs its initialisation segment before it",
            ) from error

    def _is_known(self) -> bool:
        """Whether all pictures that are there were told of by headers: how large they are, and their order."""
        return all(
            context is not None
            and context.name in _HEADERS_SAY_ALL
            and context.width > 0
            and context.height > 0
            and (context.name != "h264" or tells_delay(context.extradata or b""))
            for context in (stream.codec_context for stream in self._container.streams.video)
        )

    @property
    def aspect(self) -> float:
        """Width of a pixel over its height; known with the first picture."""
        return float(self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio or 1)

    def saw_picture(self) -> None:
        """The decoder has given one: now it is known whether the GPU made it."""
        self._hardware.saw(self._stream.codec_context)

    def run_decoder(self) -> RunDecoder:
        """For `runs`, which must not be None."""
        return RunDecoder(self._stream.codec_context, self.runs or [])

    def times_ns(self) -> Iterator[tuple[int | None, int | None]]:
        """When each picture is shown, and until when, in display order, without decoding any."""
        packets = [p for p in self._packets if p.size]
        if all(p.pts is not None for p in packets):
            packets.sort(key=lambda p: p.pts or 0)
        for packet in packets[: self._settings.max_frames]:
            at = self._ns(packet.pts)
            yield at, None if at is None else at + self._length_ns(packet.duration)

    def _times_ns(self, packet: av.Packet[av.video.stream.VideoStream]) -> tuple[int, int]:
        at = self._ns(packet.pts) or 0
        return at, at + self._length_ns(packet.duration)

    def _length_ns(self, duration: int | None) -> int:
        return _to_ns(duration, self._base) if duration and self._base else NOMINAL_NS

    def close(self) -> None:
        """Free the decoder."""
        self._container.close()

    def _choose(self) -> av.video.stream.VideoStream:
        pictures = [s for s in self._container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not pictures:
            raise CorruptInputError(f"{self._name}: no video in it", hint="give a segment that holds the picture")
        usable = [s for s in pictures if s.codec_context is not None and s.codec_context.name in _CODECS]
        if not usable:
            names = sorted({s.codec_context.name if s.codec_context else "unknown" for s in pictures})
            raise UnknownTypeError(f"{self._name}: no decoder for {', '.join(names)}", hint=_CODECS_HINT)
        if any("enc_key_id" in s.metadata for s in usable):
            raise _encrypted(self._name)
        default = av.stream.Disposition.default
        best = max(
            usable, key=lambda s: (bool(s.disposition & default), s.codec_context.width * s.codec_context.height)
        )
        if best.codec_context.width * best.codec_context.height > self._settings.max_pixels:
            raise too_large(best.codec_context.width, best.codec_context.height, self._settings.max_pixels)
        best.codec_context.options = {"max_pixels": str(self._settings.max_pixels)}
        best.codec_context.thread_count = 1
        return best

    def pictures(self, *, only_keys: bool = False) -> Iterator[SegmentPicture | SegmentLoss]:
        """Every picture and every loss until the end or a bound; or those of key frames alone."""
        settings, pictures, pixels, errors = self._settings, 0, 0, 0
        for item in self._decoded(only_keys):
            if isinstance(item, SegmentLoss):
                errors += 1
                is_far = item.at_ns is not None and abs(item.at_ns) > settings.max_duration_s * S
                yield SegmentLoss(None, item.beyond_limit) if is_far else item
                # A segment of nothing but rubbish is not worth a day of error handling.
                if errors > settings.max_frames:
                    return
                continue
            pictures, pixels = pictures + 1, pixels + item.frame.width * item.frame.height
            at = item.at_ns
            if pictures > settings.max_frames or pixels > settings.max_decoded_pixels:
                yield SegmentLoss(at, beyond_limit=True)
                return
            if at is not None and abs(at) > settings.max_duration_s * S:
                yield SegmentLoss(None, beyond_limit=True)
                continue
            yield item

    def _demuxed(self) -> list[av.Packet[av.video.stream.VideoStream]]:
        """All packets of the picture, the last one empty; raises `EncryptedInputError`."""
        packets: list[av.Packet[av.video.stream.VideoStream]] = []
        source = self._container.demux(self._stream)
        # No more can give a picture or an error before a bound is met.
        most = 2 * self._settings.max_frames + 64
        while len(packets) < most:
            try:
                packet = next(source)
            except (StopIteration, IndexError):
                # PyAV 18 at the end of an MPEG-TS in which streams have appeared that its header did not announce.
                break
            except (av.error.FFmpegError, OSError, ValueError):
                self._is_broken = True
                break
            if packet.stream_index != self._stream.index:
                continue
            if packet.has_sidedata("encryption_info"):
                raise _encrypted(self._name)
            packets.append(packet)
        return packets

    def _decoded(self, only_keys: bool) -> Iterator[SegmentPicture | SegmentLoss]:
        context = self._stream.codec_context
        for packet in self._packets:
            if only_keys and not packet.is_keyframe:
                continue
            try:
                frames = packet.decode()
                if frames:
                    self.saw_picture()
                if only_keys:
                    frames += context.decode(None)
                    context.flush_buffers()
            except (av.error.FFmpegError, ValueError):
                yield SegmentLoss(self._ns(packet.pts), beyond_limit=False)
                continue
            for frame in frames:
                if not isinstance(frame, av.VideoFrame):
                    continue
                at = self._ns(frame.pts)
                if frame.is_corrupt:
                    yield SegmentLoss(at, beyond_limit=False)
                else:
                    yield SegmentPicture(frame, at, None if at is None else at + self._length_ns(frame.duration))
        if self._is_broken:
            yield SegmentLoss(None, beyond_limit=False)

    def _ns(self, pts: int | None) -> int | None:
        if pts is None or self._base is None:
            return None
        now = _to_ns(pts, self._base)
        if self.start_ns is None:
            self.start_ns = now
        return now - self.start_ns


def _to_ns(ticks: int, base: Fraction) -> int:
    """Towards zero, as `int` of a fraction, which would cost more than to take a packet apart."""
    ns = abs(ticks) * base.numerator * S // base.denominator
    return ns if ticks >= 0 else -ns


def too_large(width: int, height: int, max_pixels: int) -> TooLargeError:
    """For a picture beyond the bound."""
    return TooLargeError(
        f"{width} x {height} pixels, over the limit of {max_pixels / 1e6:.0f} megapixels",
        hint="scale it down before it is sent, or raise max_pixels",
    )


def _check_tables(value: bytes) -> None:
    if has_compressed_index(value):
        raise CorruptInputError("video/mp4: its index is compressed", hint="write it anew, for instance with ffmpeg")
    samples = claimed_samples(value)
    if samples > MAX_SAMPLES:
        raise TooLargeError(
            f"video/mp4: claims {samples} samples, over the limit of {MAX_SAMPLES}", hint="send shorter segments"
        )


def _encrypted(name: str) -> EncryptedInputError:
    return EncryptedInputError(f"{name}: the video is encrypted", hint="DiffFake opens no DRM: send it decrypted")


def _refuse(*_: Any) -> NoReturn:
    raise CorruptInputError(
        "the segment refers to another file or address", hint="each record must be complete; nothing else is opened"
    )
