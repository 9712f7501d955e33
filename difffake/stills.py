"""Still images as one-frame videos: recognised by their first bytes, measured from their header, then decoded."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt

from difffake.errors import MediaFormatError, MediaTruncatedError

U8 = npt.NDArray[np.uint8]

#: A start-of-frame segment of a JPEG lies behind its metadata, which may hold a thumbnail: read this much.
HEADER_BYTES = 1 << 20
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Chunks of a PNG that its picture needs. Others hold text and profiles that a few bytes can blow up to gigabytes.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"gAMA", b"sRGB"})
_WEBP_ANIMATION = 0x02
#: Each scan of a progressive JPEG is a pass over the whole picture; encoders write about ten.
_MAX_JPEG_SCANS = 200
_DAMAGED_HINT = "open it in an image viewer, save it again, or fetch it again from its source"


@dataclass(frozen=True, slots=True)
class StillHeader:
    """What the header of an image says: codec ``"jpeg" | "png" | "webp"``, the size before EXIF rotation, and whether
    it is an animation, of which only the first picture is decoded."""

    codec: str
    width_px: int
    height_px: int
    animated: bool = False


@dataclass(frozen=True, slots=True)
class Still:
    """A whole JPEG, PNG or WebP file in memory, not decoded yet."""

    header: StillHeader
    data: bytes = field(repr=False)


def still_codec(head: bytes) -> str | None:
    """Which of them begins so, ``"jpeg" | "png" | "webp"``; 12 bytes will do."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def still_header(head: bytes, name: str) -> StillHeader | None:
    """Recognise a JPEG, PNG or WebP by its first bytes, `HEADER_BYTES` or all of it; ``None`` for everything else.
    ``name`` is for the error.

    Raises:
        MediaTruncatedError: an image by its first bytes, but it ends within its header.
        MediaFormatError: an animated WebP.
    """
    codec = still_codec(head)
    if codec is None:
        return None
    size = _SIZES[codec](head)
    if size is None:
        raise MediaTruncatedError(f"{name}: the {codec.upper()} ends within its header", hint=_DAMAGED_HINT)
    if codec == "webp" and head[12:16] == b"VP8X" and head[20] & _WEBP_ANIMATION:
        raise MediaFormatError(f"{name}: an animated WebP", hint="convert it to MP4 or GIF, or save one picture of it")
    return StillHeader(codec, *size, animated=codec == "png" and b"acTL" in head[: max(head.find(b"IDAT"), 0)])


def decode_still_bytes(data: bytes, header: StillHeader, name: str, max_pixels: int | None = None) -> U8:
    """Decode an image to RGB ``(H, W, 3) uint8``, upright by its EXIF orientation; more bits become 8. ``max_pixels``
    binds a file whose later headers contradict its first one.

    Raises:
        MediaTruncatedError: the file ends before the image does.
        MediaFormatError: the image is damaged.
    """
    if not _is_complete(data, header.codec):
        raise MediaTruncatedError(f"{name}: the {header.codec.upper()} breaks off", hint=_DAMAGED_HINT)
    if header.codec == "png":
        data = _plain_png(data)
    try:
        if header.codec == "jpeg" and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
            raise ValueError("too many scans")
        # OpenCV knows every EXIF orientation, but its libraries print to stderr: FFmpeg, which does not, looks first.
        with av.open(io.BytesIO(data), mode="r", format=f"{header.codec}_pipe") as container:
            if max_pixels is not None:
                container.streams.video[0].codec_context.options = {"max_pixels": str(max_pixels)}
            frame = next(container.decode(video=0))
        if (frame.width, frame.height) != (header.width_px, header.height_px):
            raise ValueError("two headers that contradict each other")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (av.error.FFmpegError, OSError, StopIteration, ValueError, cv2.error):
        image = None
    if image is None:
        raise MediaFormatError(f"{name}: the {header.codec.upper()} is damaged", hint=_DAMAGED_HINT)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _is_complete(data: bytes, codec: str) -> bool:
    # Decoders fill what is missing with grey and print to stderr, so the end is looked for first. Cameras and
    # messengers append bytes after the end marker: it need not be last.
    if codec == "png":
        return b"IEND" in data
    if codec == "jpeg":
        return b"\xff\xd9" in data[max(data.rfind(b"\xff\xda"), 0) :]
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


def _plain_png(data: bytes) -> bytes:
    """The same picture without the chunks that it does not need."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if kind in _PNG_CHUNKS:
            kept.append(data[at:end])
        if kind == b"IEND":
            break
        at = end
    return b"".join(kept)


def _png_size(head: bytes) -> tuple[int, int] | None:
    return struct.unpack_from(">II", head, 16) if len(head) >= 24 else None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    if len(head) < 30:
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


_SIZES = {"png": _png_size, "jpeg": _jpeg_size, "webp": _webp_size}
