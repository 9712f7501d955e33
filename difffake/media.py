"""What a file or address is, before any of it is decoded."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import av
import av.container
import av.error
import av.video.stream

from difffake.errors import LimitExceededError, MediaChangedError, MediaEmptyError, MediaNotFoundError


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header says. ``width`` and ``height`` are as coded; ``rotation`` in degrees counter-clockwise is
    known only after the first frame. ``fps`` and ``duration_s`` are ``None`` where unknown."""

    kind: str  # "video", "image"; "live": at an address, and no picture
    container: str
    codec: str
    width: int
    height: int
    fps: float | None
    duration_s: float | None
    pixel_format: str
    interlaced: bool
    rotation: int = 0


#: A file may lie there, and be had as often as it is asked for.
WEB_SCHEMES = frozenset({"http", "https"})
#: More than any picture within `Limits` has, at 16 bits without compression.
MAX_STILL_BYTES = 1 << 29
_FETCH_S = 300.0
#: Formats that show what other files or addresses hold. One that is scanned as a file is whatever somebody sent: it
#: would have files of ours opened, and a list without an end is asked for more for ever.
_REFERRING = frozenset({"concat", "dash", "hls", "imf", "rtsp", "sap", "sdp", "vobsub"})
_LISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0")
_FILE_ADDRESS = re.compile(r"file://(localhost(?=/))?", re.IGNORECASE)
#: What a `Path` makes of an address.
_PATH_OF_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/[^/]")


def local_path(source: str | Path) -> Path:
    """The path that a source names which is no address of the network: ``file:`` addresses are taken apart, as
    `Path.as_uri` writes them."""
    text = str(source)
    address = None if isinstance(source, Path) else _FILE_ADDRESS.match(text)
    return Path(unquote(text[address.end() :], errors="surrogateescape") if address else text)


def check_readable(path: Path) -> None:
    """Raise what a file is before it is opened.

    Raises:
        MediaNotFoundError: it is not there, is no regular file, may not be read, or no file can have this name.
        MediaEmptyError: it has no bytes.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # the latter of a NUL, and of letters that no system can write
        hint = "check the path and its spelling"
        if isinstance(error, PermissionError):
            hint = "check the permissions of the folders that it lies in"
        if _PATH_OF_ADDRESS.match(str(path)):
            hint = "give an address as text: a Path takes one of its slashes away"
        raise MediaNotFoundError(f"{path}: {reason(error)}", hint=hint) from error
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise MediaNotFoundError(f"{path}: no right to look into this folder", hint="check its permissions")
    if not path.is_file():
        raise MediaNotFoundError(f"{path}: not a regular file", hint="give a video or image file")
    if status.st_size == 0:
        raise MediaEmptyError(f"{path.name}: the file is empty (0 bytes)", hint="copy or download it again")
    if not os.access(path, os.R_OK):
        raise MediaNotFoundError(f"{path.name}: no right to read it", hint="check its permissions")


class HeldFile:
    """A file that is held open until `close`, so that it can be said at the end which bytes were read.

    Raises:
        MediaNotFoundError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise MediaNotFoundError(f"{path}: {reason(error)}", hint="check the path and its permissions") from error
        self._before = os.fstat(self._file.fileno())

    @property
    def size_bytes(self) -> int:
        """When it was opened."""
        return self._before.st_size

    def read(self, size: int = -1) -> bytes:
        """From its beginning, so many bytes or all."""
        self._file.seek(0)
        return self._file.read(size)

    def check_named(self) -> None:
        """Whether the path still leads to it: asked after another reader has opened that.

        Raises:
            MediaChangedError: it is another file by now.
        """
        try:
            is_same = os.path.samestat(self._path.stat(), self._before)
        except OSError:
            is_same = False
        if not is_same:
            raise self._changed("replaced")

    def sha256(self) -> str:
        """Of what was read, also where another file has taken its place since.

        Raises:
            MediaChangedError: it was written to meanwhile: nobody can say which bytes were read.
        """
        try:
            self._file.seek(0)
            digest = hashlib.file_digest(self._file, "sha256").hexdigest()
            after = os.fstat(self._file.fileno())
        except OSError as error:  # a file server that does not keep what was replaced
            raise self._changed(reason(error)) from error
        if (after.st_size, after.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise self._changed("written to")
        return digest

    def _changed(self, what: str) -> MediaChangedError:
        name = self._path.name.encode(errors="replace").decode()
        return MediaChangedError(
            f"{name}: it changed while it was read ({what})", hint="scan it when nobody writes it any more, or a copy"
        )

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


def bytes_at(url: str, is_wanted: Callable[[bytes], bool], timeout: tuple[float, float]) -> bytes:
    """All that lies at an address of the web, fetched by FFmpeg as it fetches videos; nothing where it is not wanted.

    Args:
        is_wanted: asked of the first bytes.
        timeout: for the answer, and for each part, s.

    Raises:
        LimitExceededError: it does not end.
        av.error.FFmpegError, OSError: no answer.
    """
    parts: list[bytes] = []
    size, began = 0, time.monotonic()
    with av.open(url, mode="r", format="data", timeout=timeout) as container:
        try:
            for packet in container.demux(container.streams[0]):
                parts.append(bytes(packet))
                size += len(parts[-1])
                if len(parts) == 1 and not is_wanted(parts[0]):
                    return b""
                if size > MAX_STILL_BYTES or time.monotonic() - began > _FETCH_S:
                    raise LimitExceededError(
                        f"{without_secrets(url)}: a picture that does not end, after {size >> 20} MiB",
                        hint="download it and scan the file; of a camera give the address of its video",
                    )
        except (av.error.FFmpegError, OSError):
            pass  # of a server that does not say how much comes, this is the end
    return b"".join(parts)


def describe(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, scheme: str | None
) -> VideoInfo:
    """What the header says of the stream that was chosen; ``scheme``: of an address, which has no length; None of a
    file."""
    context, name = stream.codec_context, container.format.name
    rate = stream.average_rate or stream.guessed_rate
    # Pictures that FFmpeg reads (TIFF, BMP, AVIF): one is no film, and is judged as a picture. Other addresses than
    # those of the web may go on for ever in these formats.
    is_picture = name.endswith("_pipe") or name == "image2" or container.metadata.get("major_brand") == "avif"
    is_picture &= scheme is None or scheme in WEB_SCHEMES
    return VideoInfo(
        kind="image" if is_picture else "video" if scheme is None else "live",
        container=name,
        codec=context.name,
        width=context.width,
        height=context.height,
        fps=float(rate) if rate and 0 < rate <= 1000 else None,
        duration_s=_duration_s(container, stream) if scheme is None else None,
        pixel_format=context.pix_fmt or "unknown",
        interlaced=False,
    )


def _duration_s(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float | None:
    """Length of the picture; the container's own, which sound may stretch, only where nothing else is known."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        # Matroska writes when the last picture ends, also where the first one does not begin at 0.
        begins_s = max(container.start_time or 0, 0) / 1e6
        return max(int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - begins_s, 0.0)
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


@cache
def self_contained_formats() -> str:
    """What FFmpeg may take a file for, as its option ``format_whitelist``."""
    return ",".join(sorted(av.formats_available - _REFERRING))


def is_list(head: bytes) -> bool:
    """Whether a file begins as playlists and manifests do."""
    return head.removeprefix(b"\xef\xbb\xbf").startswith(_LISTS)


def reason(error: Exception) -> str:
    """An error of FFmpeg or of the system in one short line, for the inside of a sentence."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0][:120].lower()


def without_secrets(url: str) -> str:
    """The address for messages and reports: no user, no password, no query. A password may hold any letter unescaped:
    rather too much goes."""
    scheme, slashes, rest = url.partition("//")
    before = rest.split("?")[0]
    if "@" in before:
        rest = before.rpartition("@")[2]
    elif "@" in rest and "/" not in before:  # a password with a question mark in it
        rest = rest.rpartition("@")[2]
    return scheme + slashes + rest.split("?")[0]
