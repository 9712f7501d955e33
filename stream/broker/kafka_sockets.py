"""The sockets under kafka-python: long reads, and not too many of them in a row; over TLS long writes, too.

kafka-python reads 4 KiB at a time, and after each read waits for the interpreter's lock again, beside threads that
decode: twenty times for every segment of video. And it reads on for as long as anything is there, before it puts what
it has read where the answer is to lie: an answer of many MiB would be held in pieces, for which the heap grows and
stays so.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

_READ_BYTES = 64 * 1024
#: So much is read before kafka-python must put it in its place.
_RUN_BYTES = 1 << 20


class _Socket(socket.socket):
    """Makes few reads of a long answer, and a pause after some."""

    _run = 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self._run >= _RUN_BYTES:
            self._run = 0
            raise BlockingIOError  # whoever waits for more is woken at once
        try:
            data = super().recv(max(size, _READ_BYTES), flags)
        except BlockingIOError:
            self._run = 0
            raise
        self._run += len(data)
        return data


class TlsSocket(ssl.SSLSocket):
    """Likewise, as far as TLS lets it: OpenSSL gives out one record of 16 KiB at a time, and takes one."""

    _run = 0

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:  # noqa: ARG002  (as long as we like)
        """See `socket.socket.recv`."""
        # Records are taken whole: nothing is left that OpenSSL has decrypted already, which would wake nobody.
        if self._run >= _RUN_BYTES:
            self._run = 0
            raise ssl.SSLWantReadError
        pieces: list[bytes] = []
        size = 0
        try:
            while size < _READ_BYTES and (data := super().recv(_READ_BYTES, flags)):
                pieces.append(data)
                size += len(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not pieces:
                self._run = 0
                raise
        self._run += size
        return b"".join(pieces)

    def send(self, data: Any, flags: int = 0) -> int:
        """See `socket.socket.send`; as much as there is room for: kafka-python copies the rest after every call."""
        view, sent = memoryview(data).cast("B"), 0
        try:
            while sent < len(view):
                sent += super().send(view[sent:], flags)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not sent:
                raise
        return sent


def plain_socket(_: Any, *arguments: int) -> socket.socket:
    """As `KafkaNetSocket.socket` makes it."""
    return _Socket(*arguments)
