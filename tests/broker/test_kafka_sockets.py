"""The sockets under kafka-python: nothing is lost, what is held at once is bounded, nobody waits for what is there."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Certificates

from stream.broker.kafka_client import KafkaSettings
from stream.broker.kafka_sockets import plain_socket
from stream.broker.tls import tls_context

MIB = 1 << 20
#: A run, and the read in the middle of which it became too long.
MOST_IN_A_RUN = MIB + 2 * 64 * 1024
PATIENCE_S = 20.0

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["plain", "tls"])
def connected(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Our socket, which does not block, and the broker's, which does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ours = stack.enter_context(plain_socket(None, socket.AF_INET, socket.SOCK_STREAM))
        ours.connect(listener.getsockname())
        theirs = stack.enter_context(listener.accept()[0])
        theirs.settimeout(PATIENCE_S)
        if request.param == "tls":
            ours, theirs = _shaken(ours, theirs, request.getfixturevalue("certificates"))
            stack.callback(ours.close)
            stack.callback(theirs.close)
        ours.setblocking(False)
        yield ours, theirs


def _shaken(ours: socket.socket, theirs: socket.socket, certificates: Certificates) -> Pair:
    broker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    broker.load_cert_chain(certificates.broker)
    context = tls_context(KafkaSettings(security_protocol="SSL", tls_ca=Path(certificates.ca)))
    assert context is not None
    found: list[socket.socket] = []
    answer = threading.Thread(target=lambda: found.append(broker.wrap_socket(theirs, server_side=True)))
    answer.start()
    mine = context.wrap_socket(ours, server_hostname="127.0.0.1")
    answer.join()
    return mine, found[0]


@contextlib.contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def run(sock: socket.socket) -> bytes:
    """What kafka-python takes in one go, before it puts it in its place."""
    pieces = []
    while True:
        try:
            pieces.append(sock.recv(4096))
        except (BlockingIOError, ssl.SSLWantReadError):
            return b"".join(pieces)


def test_a_long_answer_is_read_whole_and_in_short_runs(connected: Pair) -> None:
    ours, theirs = connected
    answer = bytes(range(251)) * (5 * MIB // 251)
    got = b""
    runs: list[bytes] = []
    with beside(lambda: theirs.sendall(answer)):
        while len(got) < len(answer):
            assert select.select([ours], [], [], PATIENCE_S)[0], f"nobody wakes us at {len(got)} bytes"
            runs.append(run(ours))
            got += runs[-1]
    assert got == answer
    assert max(map(len, runs)) <= MOST_IN_A_RUN


def test_what_waits_already_is_read_in_long_runs(connected: Pair) -> None:
    ours, theirs = connected
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
    theirs.sendall(bytes(3 * 16 * 1024))
    assert select.select([ours], [], [], PATIENCE_S)[0]
    reads: list[int] = []
    while sum(reads) < 3 * 16 * 1024:
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            reads.append(len(ours.recv(4096)))
    assert len(reads) < 12, "4 KiB at a time"


def test_a_long_request_is_written_whole_while_it_is_read_slowly(connected: Pair) -> None:
    ours, theirs = connected
    request = bytes(range(241)) * (3 * MIB // 241)
    got = bytearray()

    def read() -> None:
        while len(got) < len(request):
            got.extend(theirs.recv(10_000))

    with beside(read):
        left = memoryview(request)
        while left:
            assert select.select([], [ours], [], PATIENCE_S)[1]
            with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                left = left[ours.send(left) :]
    assert bytes(got) == request


def test_an_answer_that_ends_is_told_as_its_end(connected: Pair) -> None:
    ours, theirs = connected
    theirs.sendall(b"last words")
    with beside(lambda: _close(theirs)):
        got = list(iter(lambda: _read(ours), b""))
        ours.close()
    assert b"".join(got) == b"last words"


def _read(ours: socket.socket) -> bytes:
    """As kafka-python does: it waits only where it is told that there is nothing yet."""
    while True:
        try:
            return ours.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            assert select.select([ours], [], [], PATIENCE_S)[0]


def _close(theirs: socket.socket) -> None:
    if isinstance(theirs, ssl.SSLSocket):
        with contextlib.suppress(OSError):  # we do not say farewell
            theirs.unwrap()
    theirs.close()
