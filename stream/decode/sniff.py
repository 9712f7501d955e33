"""The content type of a record: what its bytes are, whatever its header calls them."""

from __future__ import annotations

JPEG, PNG, WEBP = "image/jpeg", "image/png", "image/webp"
MP4, TS, MATROSKA = "video/mp4", "video/mp2t", "video/x-matroska"
H264, H265, AV1 = "video/h264", "video/h265", "video/av1"

IMAGES = frozenset({JPEG, PNG, WEBP})
SEGMENTS = frozenset({MP4, TS, MATROSKA})
UNITS = frozenset({H264, H265, AV1})
KNOWN = IMAGES | SEGMENTS | UNITS

_ALIASES = {
    "image/jpg": JPEG,
    "image/pjpeg": JPEG,
    "image/x-png": PNG,
    "video/quicktime": MP4,
    "video/x-m4v": MP4,
    "video/iso.segment": MP4,
    "video/mpegts": TS,
    "video/mpeg-ts": TS,
    "video/x-mpegts": TS,
    "video/webm": MATROSKA,
    "video/matroska": MATROSKA,
    "video/avc": H264,
    "video/hevc": H265,
}
_MP4_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"moof", b"sidx", b"mdat", b"wide", b"free", b"skip", b"emsg"})
_TS_PACKET = 188


def canonical(header: bytes | None) -> str | None:
    """The content type that a header names, in the spelling used here; unknown ones as they are, lower case."""
    if header is None:
        return None
    name = header[:200].decode("ascii", "replace").split(";")[0].strip().lower()
    return _ALIASES.get(name, name) or None


def sniff(value: bytes) -> str | None:
    """The content type by the first bytes alone; None if they are of no kind that is decoded here.

    H.264 and H.265 are told apart only where a record begins with a parameter set, a delimiter or a key
    picture: the bytes of other units fit both.

    >>> sniff(bytes.fromhex("ffd8ffe0"))
    'image/jpeg'
    """
    if value.startswith(b"\xff\xd8\xff"):
        return JPEG
    if value.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if value[:4] == b"RIFF" and value[8:12] == b"WEBP":
        return WEBP
    if value.startswith(b"\x1aE\xdf\xa3"):
        return MATROSKA
    if value[4:8] in _MP4_BOXES:
        return MP4
    if _is_ts(value):
        return TS
    if is_annex_b(value):
        return _annex_b_codec(value)
    return AV1 if value.startswith(b"\x12\x00") and len(value) > 2 else None


def is_annex_b(value: bytes) -> bool:
    """Whether it begins with a start code (ITU-T H.264, Annex B)."""
    return value.startswith((b"\x00\x00\x01", b"\x00\x00\x00\x01"))


def _is_ts(value: bytes) -> bool:
    packets = min(len(value) // _TS_PACKET, 4)
    return packets > 0 and all(value[at * _TS_PACKET] == 0x47 for at in range(packets))


def _annex_b_codec(value: bytes) -> str | None:
    at = value.index(b"\x01") + 1
    head = value[at : at + 2]
    if len(head) < 2 or head[0] & 0x80:
        return None
    # H.265: layer 0 (even first byte), temporal id 1 as 0x01; no H.264 unit of these kinds has that there.
    if head[1] == 0x01 and not head[0] & 1 and head[0] >> 1 in (19, 20, 21, 32, 33, 34, 35, 39):
        return H265
    # H.264: parameter set, IDR slice, delimiter; odd, so that they are no H.265 of layer 0.
    kind, ref = head[0] & 0x1F, head[0] >> 5 & 3
    return H264 if (kind in (5, 7) and ref) or (kind == 9 and not ref) else None
