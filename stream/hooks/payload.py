"""An alert as a receiver gets it."""

from __future__ import annotations

import hashlib

import msgspec

from stream.hooks.settings import PayloadKind
from stream.messages import AlertRecord, AlertState

_MAX_SLACK = 1500
#: Slack reads these as the beginning of links, mentions and entities.
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def payload(alert: AlertRecord, kind: PayloadKind, *, thumbnails: bool) -> bytes:
    """The body, JSON in UTF-8."""
    if kind is PayloadKind.SLACK:
        return msgspec.json.encode({"text": slack_text(alert)})
    if not thumbnails:
        alert = msgspec.structs.replace(alert, thumbnail_jpeg=None)
    return msgspec.json.encode({"type": f"alert.{alert.state.value}", "alert": alert}, order="deterministic")


def idempotency_key(alert: AlertRecord, partition: int, offset: int) -> str:
    """The same for every attempt to send a record, and for no other: an alert opens and closes once, and may be updated
    often."""
    # An id of line breaks or other letters than ASCII cannot stand in a header: no attempt would ever be made with it.
    is_plain = alert.id.isascii() and alert.id.isprintable()
    name = alert.id if is_plain else hashlib.sha256(alert.id.encode()).hexdigest()
    once = f"{name}-{alert.state.value}"
    return f"{once}-{partition}-{offset}" if alert.state is AlertState.UPDATED else once


def slack_text(alert: AlertRecord) -> str:
    """A line or two for people; names from outside cannot mention anybody."""
    seen = f", seen by {alert.acknowledged_by}" if alert.acknowledged_by else ""
    why = f" ({alert.end_reason.value})" if alert.end_reason else ""
    where = f"{alert.first.topic}/{alert.first.partition} at {alert.first.offset}"
    lines = [
        f"{alert.state.value}{why}: {alert.kind.value} on {alert.stream}{seen}",
        alert.sentence,
        f"from {alert.start_ns / 1e9:.1f} s, input {where}, alert {alert.id}",
    ]
    text = "\n".join(" ".join(line.split()) for line in lines)[:_MAX_SLACK]
    return "".join(_ESCAPES.get(character, character) for character in text)
