"""What `difffake hooks` may be told; frozen once read."""

from __future__ import annotations

import math
from enum import StrEnum
from urllib.parse import urlsplit

import msgspec

from difffake.errors import DiffFakeError
from stream.messages import AlertState

_MAX_URL = 2048
_MIN_SECRET_BYTES = 16


class HookError(DiffFakeError, ValueError):
    """A receiver that cannot be used."""

    exit_code = 47


class PayloadKind(StrEnum):
    """How an alert is written: the record as in ``docs/schema/alerts.json``, or a message for a chat like Slack."""

    JSON = "json"
    SLACK = "slack"


class HookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one receiver.

    Args:
        url: where to; ``http`` or ``https``, without name and password.
        payload: how.
        states: which records of an alert are sent.
        thumbnails: whether the face goes along, in `PayloadKind.JSON`.
        connect_s, total_s: longest waits for a connection to each address of the host, and for all of an answer.
        first_wait_s, longest_wait_s: before an attempt is repeated; doubled each time, with full jitter.
        give_up_s: an alert is tried for no longer than this.
        max_age_s: alerts older than this are not sent any more: nobody wants yesterday's, all at once.
        waiting: alerts in memory; beyond that Kafka keeps them.
    """

    url: str = msgspec.field()
    payload: PayloadKind = PayloadKind.JSON
    states: tuple[AlertState, ...] = (AlertState.OPENED, AlertState.CLOSED)
    thumbnails: bool = True
    connect_s: float = 5.0
    total_s: float = 10.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    give_up_s: float = 900.0
    max_age_s: float = 3600.0
    waiting: int = 256

    def __post_init__(self) -> None:
        numbers = {n: v for n in self.__struct_fields__ if type(v := getattr(self, n)) in (int, float)}
        if wrong := {n: v for n, v in numbers.items() if not (math.isfinite(v) and v > 0)}:
            raise ValueError(f"settings of hooks must be positive: {wrong}")
        if not self.states:
            raise ValueError("states: at least one of opened, updated, closed")
        check_url(self.url)


def check_url(url: str) -> None:
    """Refuse an address that is none.

    Raises:
        HookError: not ``http(s)://host/...``, or one with a password in it, which would be logged.
    """
    hint = "give --url https://HOST/PATH; secrets belong into DIFFFAKE_HOOK_SECRET"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise HookError(f"the receiver's address is none: {error}", hint=hint) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise HookError("the receiver's address is not http(s)://HOST/PATH", hint=hint)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise HookError("the receiver's address holds a name, a password or a fragment", hint=hint)
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise HookError("the receiver's address holds characters that no address has, or too many", hint=hint)


def check_secret(secret: bytes) -> None:
    """Refuse a secret that can be guessed.

    Raises:
        HookError: too short.
    """
    if len(secret) < _MIN_SECRET_BYTES:
        raise HookError(
            f"a secret of {len(secret)} bytes, under {_MIN_SECRET_BYTES}",
            hint="make one: python -c 'import secrets; print(secrets.token_hex(32))'",
        )
