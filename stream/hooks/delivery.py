"""One attempt to deliver: a POST that follows nothing, reads little, and ends in time whatever the receiver does."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from stream.hooks.settings import HookSettings

_MAX_ANSWER_BYTES = 4096
_MAX_RETRY_AFTER_S = 300.0
#: The longest date of HTTP, of RFC 850, has 33 characters.
_MAX_DATE = 64
#: Of a name that stands for more, so many are tried.
_MAX_ADDRESSES = 4
#: Where clouds hand out credentials, beside the link-local addresses: AWS by IPv6, Alibaba, Oracle.
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
#: IPv4 in the last 32 bits, by translation (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: Answers that say "not now": all others of 400 to 499 say "never".
_NOT_NOW = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an attempt.

    Args:
        status: of HTTP; 0 where there was no answer.
        reason: in words.
        retry_after_s: how long the receiver wants to be left alone, 300 s at most.
    """

    status: int
    reason: str
    retry_after_s: float = 0.0

    @property
    def is_done(self) -> bool:
        """The receiver has it."""
        return 200 <= self.status < 300

    @property
    def is_final(self) -> bool:
        """Another attempt would get the same answer: refused, or sent elsewhere, which is not followed."""
        return 300 <= self.status < 500 and self.status not in _NOT_NOW


class Receiver:
    """Where alerts are posted to.

    Args:
        settings: its address and how long it may take.
        tls: of ``https``; the system's authorities by default.
        clock: seconds since the epoch, for tests.
    """

    def __init__(
        self, settings: HookSettings, tls: ssl.SSLContext | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        parts = urlsplit(settings.url)
        self._settings, self._host, self._is_tls = settings, parts.hostname or "", parts.scheme == "https"
        self._clock = clock
        self._port = parts.port or (443 if self._is_tls else 80)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._tls = tls or (ssl.create_default_context() if self._is_tls else None)

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send; never raises for what a receiver or the network does."""
        try:
            sock = self._connect()
        except (OSError, ValueError) as error:  # TLS errors are OSErrors; a name beyond IDNA's bounds is a ValueError
            return Answer(0, f"no connection: {error}")
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.sock = sock
        try:
            with _ended_after(self._settings.total_s, sock):
                connection.request("POST", self._target, body, {**headers, "Connection": "close"})
                response = connection.getresponse()
                # It has it by then, or has not: whatever its words turn out to be.
                with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                    response.read(_MAX_ANSWER_BYTES)
            wish_s = _retry_after_s(response.getheader("Retry-After"), self._clock())
            return Answer(response.status, response.reason[:80], wish_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(0, f"no answer: {type(error).__name__}: {error}"[:200])
        finally:
            connection.close()
            sock.close()

    def _connect(self) -> socket.socket:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = [info for info in found if _is_allowed(str(info[4][0]))][:_MAX_ADDRESSES]
        problems: list[Exception] = []
        for family, kind, protocol, _, address in addresses:
            try:
                return self._connect_to(socket.socket(family, kind, protocol), address)
            except (OSError, ValueError) as error:  # one of a name's addresses may be dead, or of a network not ours
                problems.append(error)
        raise problems[0] if problems else OSError(f"{self._host} is at no address that may be posted to")

    def _connect_to(self, sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
        try:
            sock.settimeout(self._settings.connect_s)
            sock.connect(address)
            if self._tls is not None:
                with _ended_after(self._settings.connect_s, sock):
                    sock = self._tls.wrap_socket(sock, server_hostname=self._host)
            sock.settimeout(self._settings.total_s)
        except BaseException:
            sock.close()
            raise
        return sock


def _is_allowed(address: str) -> bool:
    """Receivers within one's own network are usual; the addresses at which clouds hand out credentials are none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = ip if mapped is None else mapped
    if ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return not (ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA)


@contextlib.contextmanager
def _ended_after(seconds: float, sock: socket.socket) -> Iterator[None]:
    """Timeouts of a socket are per read: one byte now and then would keep it alive for ever.

    Wrapping a socket for TLS leaves nothing in the one that was wrapped: a copy of its descriptor is what is shut.
    """
    same = socket.socket(fileno=os.dup(sock.fileno()))
    deadline = threading.Timer(seconds, _shut, (same,))
    deadline.daemon = True
    deadline.start()
    try:
        yield
    finally:
        deadline.cancel()
        deadline.join()
        same.close()


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


def _retry_after_s(header: str | None, now_s: float) -> float:
    """Seconds, or a date of HTTP (RFC 9110, 10.2.3) less ``now_s``; 0 for a date that has passed and for nonsense."""
    if header is None:
        return 0.0
    if header.isascii() and header.isdigit():
        return min(float(header[:9]), _MAX_RETRY_AFTER_S)
    if len(header) > _MAX_DATE:
        return 0.0
    try:
        until = parsedate_to_datetime(header)
        # A date of HTTP is in UTC, whether it says so or not.
        until_s = (until.replace(tzinfo=UTC) if until.tzinfo is None else until).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, until_s - now_s), _MAX_RETRY_AFTER_S)
