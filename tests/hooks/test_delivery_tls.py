"""The same over TLS: whom it trusts, and that nobody holds it up."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from certificates import Certificates
from test_delivery import Server

from stream.hooks import HookSettings, Receiver


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Server]:
    one = Server()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.broker)
    one.socket = tls.wrap_socket(one.socket, server_side=True)
    one.handle_error = lambda *_: None  # type: ignore[method-assign]  # who does not trust it hangs up
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


def receiver(server: Server, ca: Path, **settings: float) -> Receiver:
    url = f"https://127.0.0.1:{server.server_port}/"
    return Receiver(HookSettings(url=url, **settings), ssl.create_default_context(cafile=ca))  # type: ignore[arg-type]


def test_an_alert_arrives_where_the_receiver_is_trusted_and_is_kept_where_not(
    server: Server, certificates: Certificates
) -> None:
    assert receiver(server, certificates.ca).post(b"{}", {}).is_done
    stranger = receiver(server, certificates.other_ca).post(b"secret", {})
    assert (stranger.status, stranger.is_final) == (0, False)
    assert "certificate" in stranger.reason
    assert [body for _, _, body in server.came] == [b"{}"]


def test_a_receiver_that_never_ends_is_left_in_time(server: Server, certificates: Certificates) -> None:
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            while not ended.wait(0.05):
                handler.wfile.write(b"H")
        except OSError:
            ended.set()  # we hung up

    server.answer = drip
    answer = receiver(server, certificates.ca, total_s=0.4).post(b"{}", {})
    assert (answer.status, answer.is_final) == (0, False)
    assert ended.wait(30.0)
