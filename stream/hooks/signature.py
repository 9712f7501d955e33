"""Who sent it, when, and that nobody changed it: HMAC-SHA256 over the time and the body."""

from __future__ import annotations

import hashlib
import hmac

SIGNATURE_HEADER = "X-DiffFake-Signature"
_MAX_HEADER = 256


def sign(secret: bytes, body: bytes, now_s: int) -> str:
    """The header's value: ``t=SECONDS,v1=HEX``, the HMAC of ``b"SECONDS." + body``."""
    return f"t={now_s},v1={_mac(secret, body, now_s)}"


def verify(secret: bytes, header: str, body: bytes, now_s: float, tolerance_s: float = 300.0) -> bool:
    """What a receiver does: whether the body is ours, and no more than ``tolerance_s`` old.

    >>> verify(b"secret", sign(b"secret", b"{}", 1000), b"{}", 1001.0)
    True
    """
    fields = dict(part.partition("=")[::2] for part in header[:_MAX_HEADER].split(","))
    at, mac = fields.get("t", ""), fields.get("v1", "")
    if not (at.isascii() and at.isdigit() and len(at) < 16 and mac.isascii()):
        return False
    is_ours = hmac.compare_digest(mac, _mac(secret, body, int(at)))
    return is_ours and abs(now_s - int(at)) <= tolerance_s


def _mac(secret: bytes, body: bytes, now_s: int) -> str:
    return hmac.new(secret, b"%d." % now_s + body, hashlib.sha256).hexdigest()
