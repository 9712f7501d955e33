"""One attempt at a real server: what it may do to us, and what it gets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.hooks import Answer, HookError, HookSettings, Receiver, sign, verify
from stream.hooks.delivery import _is_allowed, _retry_after_s
from stream.hooks.settings import check_secret

SECRET = b"0123456789abcdef"


class Server(ThreadingHTTPServer):
    """Answers as it is told, and keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: reply(handler, 204)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.came.append((self.path, dict(self.headers), body))
                server.answer(self)

            def do_GET(self) -> None:
                raise AssertionError("a redirect was followed")

            def log_message(self, *_: object) -> None:
                """Quiet."""

        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, path: str = "/hook?a=1") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


def reply(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a thread of its own."""
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield one
    finally:
        one.shutdown()
        thread.join()
        one.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def test_a_body_arrives_as_it_was_with_its_headers(server: Server) -> None:
    answer = Receiver(HookSettings(url=server.url())).post(b"{}", {"Idempotency-Key": "k"})
    assert (answer.status, answer.is_done, answer.is_final) == (204, True, False)
    ((path, headers, body),) = server.came
    assert (path, headers["Idempotency-Key"], body) == ("/hook?a=1", "k", b"{}")


@pytest.mark.parametrize(
    ("status", "done", "final"),
    [(200, True, False), (302, False, True), (400, False, True), (410, False, True)]
    + [(s, False, False) for s in (408, 425, 429, 500, 503)],
)
def test_what_an_answer_means(server: Server, status: int, done: bool, final: bool) -> None:
    server.answer = lambda handler: reply(handler, status, Location=server.url("/elsewhere"), Retry_After="7")
    answer = Receiver(HookSettings(url=server.url())).post(b"{}", {})
    assert (answer.status, answer.is_done, answer.is_final) == (status, done, final)
    assert answer.retry_after_s == 7.0
    assert len(server.came) == 1


@pytest.mark.parametrize("header", ["-1", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 400, "1e9", "2.5", ""])
def test_a_wish_to_be_left_alone_is_bounded(server: Server, header: str) -> None:
    server.answer = lambda handler: reply(handler, 503, Retry_After=header)
    assert Receiver(HookSettings(url=server.url())).post(b"{}", {}).retry_after_s in (0.0, 300.0)


@pytest.mark.parametrize(
    "header",
    ["Fri, 15 Jan 2027 08:00:07 GMT", "Friday, 15-Jan-27 08:00:07 GMT", "Fri Jan 15 08:00:07 2027"],
    ids=["today's", "rfc-850", "asctime"],
)
@pytest.mark.parametrize(("early_s", "wait_s"), [(0.0, 7.0), (7.0, 14.0), (3600.0, 300.0), (-8.0, 0.0)])
def test_a_wish_to_be_left_alone_until_a_date_is_heard_and_bounded(
    server: Server, header: str, early_s: float, wait_s: float
) -> None:
    server.answer = lambda handler: reply(handler, 429, Retry_After=header)
    receiver = Receiver(HookSettings(url=server.url()), clock=lambda: 1_800_000_000.0 - early_s)
    assert receiver.post(b"{}", {}).retry_after_s == wait_s


@pytest.mark.parametrize(
    "header",
    [
        "soon",
        "Fri, 45 Jan 2027 08:00:07 GMT",
        "Fri, 15 Jan 99999999999999999999 08:00:07 GMT",
        "Fri, 15 Jan 2027 08:00:07 +99999999999999999999",
        "Fri, 15 Jan 2027 08:00:07 GMT, " * 9,
        "\xb2",
    ],
)
def test_a_wish_that_nobody_understands_takes_nothing_from_the_answer(server: Server, header: str) -> None:
    server.answer = lambda handler: reply(handler, 200, Retry_After=header)
    answer = Receiver(HookSettings(url=server.url())).post(b"{}", {})
    assert (answer.is_done, answer.retry_after_s) == (True, 0.0)


@settings(deadline=None)
@given(header=st.text(max_size=80), now_s=st.floats(0, 1e10))
def test_whatever_a_wish_is_it_is_bounded(header: str, now_s: float) -> None:
    assert 0.0 <= _retry_after_s(header, now_s) <= 300.0


def test_a_receiver_that_never_ends_is_left_in_time(server: Server) -> None:
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            while not ended.wait(0.05):
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: y\r\n"[:1])
        except OSError:
            ended.set()  # we hung up

    server.answer = drip
    answer = Receiver(HookSettings(url=server.url(), total_s=0.4)).post(b"{}", {})
    assert answer.status == 0
    assert not answer.is_final
    assert ended.wait(30.0)


def test_a_handshake_that_never_ends_is_left_in_time() -> None:
    """Each read of it came in time: hooks stood still for hours, and all alerts with them."""
    ended, listening = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                connection.sendall(b"\x16\x03\x03\x40\x00")  # a handshake of 16 KiB begins
                while not ended.wait(0.05):
                    connection.sendall(b"\x02")
            except OSError:
                ended.set()  # we hung up

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    url = f"https://localhost:{listening.getsockname()[1]}/"
    answers: list[Answer] = []
    receiver = Receiver(HookSettings(url=url, connect_s=0.4))
    posting = threading.Thread(target=lambda: answers.append(receiver.post(b"{}", {})), daemon=True)
    posting.start()
    posting.join(30.0)
    ended.set()
    thread.join(30.0)
    listening.close()
    assert [(answer.status, answer.is_final) for answer in answers] == [(0, False)]


@pytest.mark.parametrize(
    "words",
    [
        b"Transfer-Encoding: chunked\r\n\r\nno length at all\r\n",
        b"Content-Length: 4000\r\n\r\nbreaks off",
        b"Transfer-Encoding: chunked\r\n\r\n40\r\nbreaks off",
    ],
    ids=["nonsense", "short", "short-chunk"],
)
def test_who_has_said_yes_is_not_told_again_whatever_comes_behind_it(server: Server, words: bytes) -> None:
    def speak(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + words)
        handler.close_connection = True

    server.answer = speak
    assert Receiver(HookSettings(url=server.url())).post(b"{}", {}).is_done


def test_an_endless_answer_is_not_read_to_its_end(server: Server) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            return

    server.answer = flood
    assert Receiver(HookSettings(url=server.url())).post(b"{}", {}).is_done


def test_nobody_there_and_nonsense_are_told_and_may_be_tried_again(server: Server) -> None:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        gone = Receiver(HookSettings(url=f"http://127.0.0.1:{bound.getsockname()[1]}/")).post(b"{}", {})
    assert (gone.status, gone.is_final) == (0, False)
    server.answer = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9\r\n") and None
    assert Receiver(HookSettings(url=server.url())).post(b"{}", {}).status == 0


def test_a_dead_address_of_a_name_does_not_hide_the_one_where_the_receiver_is(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        found = socket.getaddrinfo("127.0.0.1", bound.getsockname()[1], type=socket.SOCK_STREAM)
        # As `localhost` that is ::1 first, or a name with an address of a protocol that this host does not speak.
        unknown = [(-1, socket.SOCK_STREAM, 0, "", found[0][4])]
        found = unknown + found + socket.getaddrinfo("127.0.0.1", server.server_port, type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert Receiver(HookSettings(url="http://receiver.example/")).post(b"{}", {}).is_done
        found.pop()
        gone = Receiver(HookSettings(url="http://receiver.example/")).post(b"{}", {})
    assert (gone.status, gone.is_final) == (0, False)


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "fe80::1%eth0", "::ffff:169.254.169.254", "0.0.0.0", "224.0.0.1"),  # noqa: S104
        *("fd00:ec2::254", "100.100.100.200", "::ffff:100.100.100.200", "192.0.0.192", "64:ff9b::169.254.169.254"),
    ],
)
def test_addresses_that_are_nobodys_receiver_are_not_posted_to(address: str) -> None:
    assert not _is_allowed(address)
    assert _is_allowed("127.0.0.1")
    assert _is_allowed("10.0.0.7")
    assert _is_allowed("2606:4700::1111")
    assert _is_allowed("64:ff9b::10.0.0.7")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "host/path",
        "https://",
        "https://user:secret@host/",
        "https://host/#a",
        "http://host:99999/",
        "http://host/ x",
        "http://host/\r\nX: y",
        "http://höst/",
        "https://host/" + "a" * 3000,
    ],
)
def test_addresses_that_are_none_are_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(HookError) as caught:
        HookSettings(url=url)
    assert "secret" not in str(caught.value)
    assert "--url" in caught.value.hint


@settings(deadline=None)
@given(body=st.binary(max_size=50), other=st.binary(max_size=50), now_s=st.integers(0, 1 << 33))
def test_a_signature_is_of_one_body_one_secret_and_one_time(body: bytes, other: bytes, now_s: int) -> None:
    header = sign(SECRET, body, now_s)
    assert verify(SECRET, header, body, now_s + 299)
    assert not verify(SECRET, header, body, now_s + 301)
    assert not verify(b"another secret..", header, body, now_s)
    assert verify(SECRET, header, other, now_s) is (other == body)
    assert not verify(SECRET, header.replace(f"t={now_s}", f"t={now_s + 1}"), body, now_s)


@settings(deadline=None)
@given(header=st.text(max_size=300))
def test_nonsense_is_no_signature(header: str) -> None:
    assert not verify(SECRET, header, b"{}", 1000.0)


def test_a_short_secret_is_refused_with_a_command_that_makes_a_long_one() -> None:
    with pytest.raises(HookError) as caught:
        check_secret(b"hunter2")
    assert "secrets.token_hex" in caught.value.hint
