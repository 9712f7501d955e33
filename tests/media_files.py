"""Small media files of every kind that a scan may meet, made on the spot."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

#: Corners of the test picture: top left, top right, bottom left, bottom right.
CORNERS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 230, 230))


def corner_picture(width: int = 96, height: int = 64) -> U8:
    """Four coloured quarters: shows any turn or mirroring."""
    image = np.empty((height, width, 3), np.uint8)
    half_h, half_w = height // 2, width // 2
    image[:half_h, :half_w], image[:half_h, half_w:] = CORNERS[0], CORNERS[1]
    image[half_h:, :half_w], image[half_h:, half_w:] = CORNERS[2], CORNERS[3]
    return image


def seen_corners(image: U8) -> list[int]:
    """Which of `CORNERS` lies in each quarter of an image, in the same order."""
    h, w = image.shape[:2]
    points = [image[y, x].astype(int) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]
    return [int(np.abs(np.array(CORNERS) - p).sum(axis=1).argmin()) for p in points]


def write_video(
    path: Path,
    *,
    frames: int = 30,
    fps: int = 25,
    image: U8 | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    pts: list[int] | None = None,
    rotation: int | None = None,
    aspect: Fraction | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip whose picture brightens slightly from frame to frame; ``pts`` count milliseconds."""
    image = corner_picture() if image is None else image
    noise = np.random.default_rng(0).integers(0, 12, (frames, *image.shape), dtype=np.uint8)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=codec_options or {})
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = pixel_format
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(image + noise[i])
            if pts is not None:
                frame.pts, frame.time_base = pts[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000, layout="mono")
        for i in range(46):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_encrypted(path: Path) -> Path:
    """Common encryption (CENC), as DRM systems use it."""
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "00112233445566778899aabbccddeeff",
        "encryption_kid": "112233445566778899aabbccddeeff00",
    }
    return write_video(path, container_options=options)


def cut(source: Path, target: Path, share: float = 0.5) -> Path:
    """The first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share) | 1])  # odd: no whole number of transport packets
    return target


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG with this size in its header, whatever its rows."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_tiles(path: Path) -> Path:
    """A picture of two tiles side by side, as phones write theirs, but as AV1; nothing is in the tiles."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        inner = b"".join(parts)
        return struct.pack(">I", 8 + len(inner)) + kind + inner

    def full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
        return box(kind, struct.pack(">I", version << 24 | flags), *parts)

    # One row of two columns; items 2 and 3 are the tiles of item 1.
    items = [struct.pack(">BBBBHH", 0, 0, 0, 1, 192, 64), bytes(64), bytes(64)]
    names = [full(b"infe", struct.pack(">HH4sB", i + 1, 0, b"av01" if i else b"grid", 0), version=2) for i in range(3)]
    sizes = [full(b"ispe", struct.pack(">II", width, 64)) for width in (192, 96)]
    uses = struct.pack(">I HBB HBBB HBBB", 3, 1, 1, 1, 2, 2, 2, 0x83, 3, 2, 2, 0x83)

    def meta(first: int) -> bytes:
        places = [first + sum(map(len, items[:i])) for i in range(3)]
        located = [struct.pack(">HHHII", i + 1, 0, 1, places[i], len(items[i])) for i in range(3)]
        return full(
            b"meta",
            full(b"hdlr", struct.pack(">I4s12sB", 0, b"pict", b"", 0)),
            full(b"pitm", struct.pack(">H", 1)),
            full(b"iloc", struct.pack(">BBH", 0x44, 0, 3), *located),
            full(b"iinf", struct.pack(">H", 3), *names),
            full(b"iref", box(b"dimg", struct.pack(">HHHH", 1, 2, 2, 3))),
            box(b"iprp", box(b"ipco", *sizes, box(b"av1C", b"\x81\x00\x0c\x00")), full(b"ipma", uses)),
        )

    head = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    path.write_bytes(head + meta(len(head + meta(0)) + 8) + box(b"mdat", *items))
    return path
