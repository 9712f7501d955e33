"""Frames out of files, images and live addresses: in order, upright, in 8-bit RGB, at a chosen rate, within limits.

Everything that a file can do wrong ends in one of the errors of `difffake.errors`, or, where part of it could be
decoded, in a line of `VideoSource.warnings`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.container
import av.error
import av.logging
import av.stream
import av.video.stream
import numpy as np
import numpy.typing as npt

from difffake.clock import SampleClock
from difffake.errors import (
    ArgumentError,
    DiffFakeError,
    LimitExceededError,
    MediaEmptyError,
    MediaEncryptedError,
    MediaFormatError,
    MediaNotFoundError,
    MediaTruncatedError,
    NoVideoError,
)
from difffake.hardware import HardwareUse, Hwaccel
from difffake.limits import Limits
from difffake.media import (
    MAX_STILL_BYTES,
    WEB_SCHEMES,
    HeldFile,
    VideoInfo,
    bytes_at,
    check_readable,
    describe,
    is_list,
    local_path,
    reason,
    self_contained_formats,
    without_secrets,
)
from difffake.picture import Deinterlacer, RgbConverter, rotation_deg
from difffake.stills import HEADER_BYTES, Still, StillHeader, decode_still_bytes, still_codec, still_header

U8 = npt.NDArray[np.uint8]

# FFmpeg prints its own account of broken files to stderr; ours is the error or the warning.
av.logging.set_level(None)

_LIVE_SCHEMES = frozenset({"http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
_URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://")
_STILL_FORMATS = frozenset({"apng", "image2", "jpeg_pipe", "png_pipe", "webp_pipe"})
_LOCAL_PROTOCOLS = "file,crypto,data"
_OPEN_TIMEOUT_S, _READ_TIMEOUT_S = 15.0, 15.0
_TS_PACKET = 188
_MAX_LOST = 10_000
_MAX_WARNINGS = 20
#: Demuxers skip damaged stretches without a word: a silence this long is told.
_GAP_S = 3.0
_NO_DRM_HINT = "DiffFake opens no DRM: scan the decrypted source"


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: ``index`` counts decoded frames of the stream (not the yielded ones), ``pts_s`` seconds from
    the start of the file, ``image`` upright RGB ``(H, W, 3) uint8``, C-contiguous."""

    index: int
    pts_s: float
    image: U8


def open_video(
    source: str | Path,
    *,
    fps: float | None = None,
    limits: Limits | None = None,
    stop_s: float | None = None,
    hwaccel: Hwaccel = Hwaccel.OFF,
) -> VideoSource:
    """Open a file, a still image or a live address.

    Args:
        source: a path, or an address with one of the schemes http(s), rtmp(s), rtp, rtsp(s), srt, tcp, udp.
        fps: frames yielded per second of video, taken by timestamp; ``None`` yields all of them.
        limits: `Limits()` if not given.
        stop_s: read no further than this many seconds.
        hwaccel: where it is decoded; see `difffake.hardware`.

    Raises:
        MediaNotFoundError: no such file, or the address does not answer.
        MediaChangedError: another file has taken its place meanwhile.
        MediaEmptyError: a file of zero bytes, or without a frame.
        MediaFormatError: neither image nor video.
        MediaTruncatedError: it breaks off before anything can be decoded.
        NoVideoError: no picture in it (cover art is none).
        MediaEncryptedError: encrypted.
        LimitExceededError: larger or longer than ``limits``.
        EngineHostError: `Hwaccel.CUDA` on a host without a GPU that decodes.
        ArgumentError: a rate or an end that is not positive; a source that is neither path nor address.

    Those before the last two may also be raised while iterating.

    >>> with open_video("clip.mp4", fps=5) as video:      # doctest: +SKIP
    ...     for frame in video:
    ...         print(frame.pts_s, frame.image.shape)
    """
    for what, value in (("fps", fps), ("stop_s", stop_s)):
        if value is not None and not (isinstance(value, Real) and value > 0):
            raise ArgumentError(f"{what} must be positive, not {value!r}", hint="give a number, or None for no bound")
    if not isinstance(source, str | Path):
        raise ArgumentError(
            f"a source is a path or an address, not {type(source).__name__}",
            hint="write bytes into a file; give pictures to Detector.scan_frames",
        )
    return VideoSource(source, fps, limits or Limits(), stop_s, hwaccel)


def _may_be_still(container: av.container.InputContainer) -> bool:
    """Whether this is one of the formats in which FFmpeg sees a JPEG, PNG or WebP. A camera's JPEGs without end are one
    too, of which no server knows the length."""
    name = container.format.name
    return name in _STILL_FORMATS or (name == "mjpeg" and container.size > 0)


class VideoSource:
    """Frames of one source, read once; use as a context manager. Made by `open_video`.

    Attributes:
        info: what the header says; a file that turned out to hold one picture is an image at the end of the iteration.
        name: the file's name, or the address without secrets.
        path: of a file; None for an address.
        still: the bytes of a JPEG, PNG or WebP; None for everything else.
        warnings: ``"code: what happened"``, complete when the iteration has ended.
        lost_s: times of sampled frames that could not be decoded, seconds.
        decode_errors: how many frames or packets could not be decoded.
    """

    def __init__(
        self,
        source: str | Path,
        fps: float | None,
        limits: Limits,
        stop_s: float | None,
        hwaccel: Hwaccel = Hwaccel.OFF,
    ) -> None:
        self.warnings: list[str] = []
        self.lost_s: list[float] = []
        self.decode_errors = 0
        self._limits, self._stop_s = limits, stop_s
        self._container: av.container.InputContainer | None = None
        self._file: HeldFile | None = None
        self.still: Still | None = None
        self._yielded = 0
        try:
            self._open(source, hwaccel)
        except BaseException:
            self.close()
            raise
        self._clock = SampleClock(fps, 1 / (self.info.fps or 25.0), self._container_start_s())

    info: VideoInfo

    def _open(self, source: str | Path, hwaccel: Hwaccel) -> None:
        scheme = _URL.match(str(source))
        if scheme and scheme[1].lower() != "file":
            self.path: Path | None = None
            self.name = without_secrets(str(source))
            self._hardware = HardwareUse(hwaccel, self.name)
            self._open_live(str(source), scheme[1].lower())
        else:
            self.path = local_path(source)
            # A name that is no UTF-8 can be opened, but not written into JSON.
            self.name = (self.path.name or str(self.path)).encode(errors="replace").decode()
            self._hardware = HardwareUse(hwaccel, self.name)
            self._open_file(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release file, decoder and connection."""
        if self._container is not None:
            self._container.close()
            self._container = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def sha256(self) -> str | None:
        """Of the file that was read, before it is closed; None of an address.

        Raises:
            MediaChangedError: it was written to meanwhile.
        """
        return None if self._file is None else self._file.sha256()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the sampled frames in display order; see `open_video` for what may be raised."""
        if self.still is not None:
            yield Frame(0, 0.0, decode_still_bytes(self.still.data, self.still.header, self.name))
        elif self._container is not None:
            yield from self._frames(self._container)

    # opening

    def _open_live(self, url: str, scheme: str) -> None:
        if scheme not in _LIVE_SCHEMES:
            raise MediaNotFoundError(
                f"{self.name}: cannot open {scheme} addresses", hint=f"use one of {', '.join(sorted(_LIVE_SCHEMES))}"
            )
        options = {"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {}
        try:
            container = self._hardware.open(
                lambda hwaccel: av.open(
                    url, mode="r", options=options, timeout=(_OPEN_TIMEOUT_S, _READ_TIMEOUT_S), hwaccel=hwaccel
                )
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, av.error.InvalidDataError):
                # FFmpeg knows no JPEG behind which others follow, as phones write them.
                if scheme in WEB_SCHEMES and self._is_still_at(url):
                    return
                raise MediaFormatError(f"{self.name}: no video at this address", hint="check the address") from error
            raise self._no_answer(error) from error
        self._container = container
        if scheme in WEB_SCHEMES and _may_be_still(container) and self._is_still_at(url):
            container.close()
            self._container = None
            return
        self._begin(container, scheme)

    def _is_still_at(self, url: str) -> bool:
        """Fetch and begin what would be a still picture if it lay in a file: the same bytes, the same result."""
        try:
            data = bytes_at(url, lambda head: still_codec(head) is not None, (_OPEN_TIMEOUT_S, _READ_TIMEOUT_S))
        except (av.error.FFmpegError, OSError) as error:
            raise self._no_answer(error) from error
        header = still_header(data[:HEADER_BYTES], self.name)
        if header is not None:
            self._begin_still(header, data)
        return header is not None

    def _no_answer(self, error: Exception) -> MediaNotFoundError:
        return MediaNotFoundError(
            f"{self.name}: the address does not answer ({reason(error)})",
            hint="check the address, the network and the access rights",
        )

    def _open_file(self, path: Path) -> None:
        check_readable(path)
        self._file = HeldFile(path)
        header = still_header(self._file.read(HEADER_BYTES), self.name)
        if header is not None:
            if self._file.size_bytes > MAX_STILL_BYTES:
                raise LimitExceededError(
                    f"{self.name}: an image in more than {MAX_STILL_BYTES >> 20} MiB",
                    hint="save it again in an image viewer",
                )
            self._begin_still(header, self._file.read(MAX_STILL_BYTES))
            return
        # `file:` keeps a file whose name looks like a protocol a file; the list keeps playlists from the network.
        options = {"protocol_whitelist": _LOCAL_PROTOCOLS, "format_whitelist": self_contained_formats()}
        options |= {"max_pixels": str(self._limits.max_pixels)}
        try:
            container = self._hardware.open(
                lambda hwaccel: av.open(
                    f"file:{path}", mode="r", options=options, metadata_errors="replace", hwaccel=hwaccel
                )
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(self._file.read(16)) from error
        self._container = container
        self._file.check_named()
        self._begin(container, None)

    def _begin_still(self, header: StillHeader, data: bytes) -> None:
        self._check_size(header.width_px, header.height_px)
        self.still = Still(header, data)
        if header.animated:
            self.warnings.append("animation: only the first picture of it is looked at")
        self.info = VideoInfo(
            "image", header.codec, header.codec, header.width_px, header.height_px, None, None, "rgb24", False
        )

    def _unreadable(self, head: bytes) -> DiffFakeError:
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") or head.startswith(b"\x1aE\xdf\xa3"):
            return MediaTruncatedError(
                f"{self.name}: the video breaks off before its index",
                hint="wait if it is still being written, else copy or download it again; "
                "a recording that was cut off can sometimes be repaired with untrunc",
            )
        if is_list(head):
            return MediaFormatError(
                f"{self.name}: neither a video nor an image, but a list of others",
                hint="give the videos that it names, or the address that it comes from",
            )
        return MediaFormatError(
            f"{self.name}: neither a video nor an image, whatever its name says",
            hint="give a video (mp4, mov, mkv, webm, ts, avi ...) or an image (jpg, png, webp)",
        )

    def _begin(self, container: av.container.InputContainer, scheme: str | None) -> None:
        stream = self._choose_stream(container)
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        self.info = describe(container, stream, scheme)
        duration = self.info.duration_s or 0.0
        if duration > self._limits.max_duration_s and self._stop_s is None:
            raise LimitExceededError(
                f"{self.name}: {duration:.0f} s long, over the limit of {self._limits.max_duration_s:.0f} s",
                hint="scan the beginning with --duration, or raise the limit with --set max_duration_s=...",
            )
        self._stream = stream
        self._to_rgb = RgbConverter(float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1))

    def _choose_stream(self, container: av.container.InputContainer) -> av.video.stream.VideoStream:
        pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not pictures:
            kinds = sorted({s.type for s in container.streams if s.type != "video"})
            raise NoVideoError(
                f"{self.name}: no video in it" + (f", only {' and '.join(kinds)}" if kinds else ""),
                hint="give the file that holds the picture",
            )
        usable = [s for s in pictures if s.codec_context is not None]
        if not usable:
            raise MediaFormatError(
                f"{self.name}: no decoder for this kind of video", hint="convert it to H.264, H.265, VP9 or AV1"
            )
        for stream in usable:
            if "enc_key_id" in stream.metadata:
                raise MediaEncryptedError(f"{self.name}: the video is encrypted", hint=_NO_DRM_HINT)
        # A phone's HEIC is a grid of small pictures; FFmpeg hands them out one by one, and any of them looks whole.
        if any(s.disposition & av.stream.Disposition.dependent for s in usable):
            raise MediaFormatError(
                f"{self.name}: a picture in tiles, as phones write HEIC", hint="save it as JPEG, PNG or WebP"
            )
        default = av.stream.Disposition.default
        best = max(
            usable, key=lambda s: (bool(s.disposition & default), s.codec_context.width * s.codec_context.height)
        )
        best.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
        if not best.codec_context.is_hwaccel:
            # Several threads of FFmpeg race where a file is damaged: every scan of it saw other pictures.
            best.codec_context.thread_count = 1
        return best

    def _check_size(self, width: int, height: int) -> None:
        self._limits.check_size(self.name, width, height)

    def _container_start_s(self) -> float | None:
        start = self._container.start_time if self._container is not None else None
        return start / 1e6 if start is not None else None

    # decoding

    def _frames(self, container: av.container.InputContainer) -> Iterator[Frame]:
        deinterlacer = Deinterlacer()
        began, decoded, end_s = time.monotonic(), 0, 0.0
        for raw in deinterlacer.run(self._decoded(container), self._stream):
            if decoded == 0:
                self.info = replace(self.info, rotation=rotation_deg(raw), interlaced=deinterlacer.active)
            before_s = self._clock.last_s
            now_s = self._clock.read(raw.time if raw.pts is not None else None)
            if decoded and now_s - before_s > _GAP_S and len(self.warnings) < _MAX_WARNINGS:
                self.warnings.append(f"gap: no new picture for {now_s - before_s:.1f} s at {before_s:.1f} s")
            if self._is_past_end(now_s, began):
                return
            index, decoded = decoded, decoded + 1
            end_s = now_s + (float(raw.duration * raw.time_base) if raw.duration and raw.time_base else 0.0)
            if not self._clock.is_due(now_s):
                continue
            if self._yielded >= self._limits.max_frames:
                self.warnings.append(f"cut: stopped after {self._yielded} frames, the limit max_frames")
                return
            self._check_size(max(raw.width, self._to_rgb.width_px(raw)), raw.height)
            self._yielded += 1
            yield Frame(index, now_s, self._to_rgb(raw))
        self._conclude(decoded, end_s)

    def _decoded(self, container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
        """Decode packet by packet, so that one that is broken costs no more than itself."""
        packets = container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                self._count_lost(None)
                self.warnings.append(f"interrupted: reading failed ({reason(error)})")
                return
            if packet.has_sidedata("encryption_info"):
                raise MediaEncryptedError(f"{self.name}: the video is encrypted", hint=_NO_DRM_HINT)
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError):
                self._count_lost(packet.pts)
                continue
            if frames:
                self._hardware.saw(self._stream.codec_context)
            for frame in frames:
                if frame.is_corrupt:
                    self._count_lost(frame.pts)
                else:
                    yield frame

    def _count_lost(self, pts: int | None) -> None:
        self.decode_errors += 1
        base = self._stream.time_base
        if pts is None or not base:
            return
        at_s = max(float(pts * base) - (self._clock.start_s or 0.0), 0.0)
        if len(self.lost_s) < _MAX_LOST and self._clock.is_lost_due(at_s):
            self.lost_s.append(at_s)

    def _is_past_end(self, now_s: float, began: float) -> bool:
        limit = self._limits.max_duration_s
        # A live source whose timestamps stand still must end too.
        age_s = max(now_s, time.monotonic() - began) if self.path is None else now_s
        if self._stop_s is not None and age_s >= self._stop_s:
            return True
        if age_s >= limit:
            self.warnings.append(f"cut: stopped after {limit:.0f} s, the limit max_duration_s")
            return True
        return False

    def _conclude(self, decoded: int, end_s: float) -> None:
        """At the end of the source: was that all of it?"""
        if decoded == 0:
            if self.decode_errors:
                hint = "copy or download it again"
                if self.path is None:
                    hint = (
                        "download the file and scan that: of an MP4 whose index comes last, some servers send no parts"
                    )
                raise MediaTruncatedError(
                    f"{self.name}: not one frame could be decoded, it is damaged or breaks off", hint=hint
                )
            raise MediaEmptyError(f"{self.name}: a video without a single frame", hint="record or export it again")
        if self._clock.restarts:
            self.warnings.append(f"clock: timestamps started again {self._clock.restarts} times")
        if decoded == 1 and not self.decode_errors:
            # A GIF, or an MP4 of one picture: no swap tool for video made it, and there is no motion to read.
            self.info = replace(self.info, kind="image")
        if self.decode_errors:
            self.warnings.append(f"damaged: {self.decode_errors} frames or packets could not be decoded")
        missing = self._missing(end_s)
        if missing:
            self.warnings.append(f"truncated: {missing}")

    def _missing(self, end_s: float) -> str:
        if self.path is None:
            return ""
        duration = self.info.duration_s
        if duration is not None and duration - end_s > max(0.5, 2 * self._clock.frame_s, 0.02 * duration):
            return f"the picture ends at {end_s:.1f} s of {duration:.1f} s"
        if self._file is not None and self.info.container == "mpegts" and self._file.size_bytes % _TS_PACKET:
            return f"the file ends within a packet, at {end_s:.1f} s"
        return ""
