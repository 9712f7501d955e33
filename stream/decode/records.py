"""What the headers and the first bytes of a record say: its content type, its time."""

from __future__ import annotations

from stream.decode.contract import (
    CorruptInputError,
    Decoded,
    DecodeSettings,
    Payload,
    TooLargeError,
    UnknownTypeError,
)
from stream.decode.sniff import IMAGES, KNOWN, UNITS, canonical, sniff
from stream.decode.timeline import MAX_NS, MS

_TYPES_HINT = (
    "set the header content-type to image/jpeg, image/png, image/webp, video/mp4, video/mp2t, video/x-matroska, "
    "video/h264, video/h265 or video/av1"
)
_MAX_WARNINGS = 20


def identify(payload: Payload, current: str | None, settings: DecodeSettings, decoded: Decoded) -> str:
    """Bytes that are clearly of one kind overrule the header; otherwise the header decides, then the past."""
    value = payload.value
    if not value:
        raise CorruptInputError("an empty record", hint="send whole pictures, segments or access units")
    if len(value) > settings.max_bytes:
        raise TooLargeError(
            f"a record of {len(value)} bytes, over the limit of {settings.max_bytes}",
            hint="send shorter segments, or raise max_bytes",
        )
    said = canonical(header(payload, "content-type"))
    seen = sniff(value)
    if seen is not None:
        if said is not None and said != seen and said != "application/octet-stream":
            warn(decoded, f"content-type: the header says {said[:60]}, the bytes are {seen}")
        return seen
    if said in KNOWN:
        if said in IMAGES:
            raise CorruptInputError(f"{said}: the bytes are no such image", hint="send the file as it is")
        return said or ""
    if said in (None, "application/octet-stream") and current in UNITS:
        return current or ""
    raise UnknownTypeError(
        f"content type {said[:60]!r} is not known, nor are the bytes" if said else "the bytes are of no known type",
        hint=_TYPES_HINT,
    )


def header(payload: Payload, name: str) -> bytes | None:
    """The last one of that name, as Kafka clients read them; names in any case."""
    return next((value for key, value in reversed(payload.headers) if key.lower() == name), None)


def header_ns(payload: Payload, decoded: Decoded) -> int | None:
    """Time of a record by its header ``pts-ns``; None without one, and with a warning where it is no time."""
    text = header(payload, "pts-ns")
    if text is None:
        return None
    if text.isdigit() and len(text) <= 19 and int(text) < MAX_NS:
        return int(text)
    warn(decoded, f"pts-ns: {text[:40]!r} is no time in nanoseconds; the next best is taken")
    return None


def record_ns(payload: Payload) -> int | None:
    """Time of a record by the broker's timestamp, ns; None where that is none."""
    ns = payload.timestamp_ms * MS
    return ns if 0 <= ns < MAX_NS else None


def time_ns(payload: Payload) -> int | None:
    """Time of a record in which nothing could be read: by its header, else by the broker's timestamp, ns; None where
    neither is one."""
    said = header_ns(payload, Decoded("", iter(())))
    return record_ns(payload) if said is None else said


def warn(decoded: Decoded, text: str) -> None:
    """Add a warning, as long as there are few."""
    if len(decoded.warnings) < _MAX_WARNINGS:
        decoded.warnings.append(text)
