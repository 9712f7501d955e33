"""The wall's HTTP door: what it serves, to whom, and what it lets go."""

from __future__ import annotations

import http.client
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from certificates import Certificates, OpensslMissing
from wall_client import ask, first_event
from wall_world import JPEG, publish, score, served, until

from stream.broker.memory import MemoryBroker
from stream.messages import Status
from stream.wall.server import AddressError, WallServer, parse_address


class TestPages:
    def test_nothing_of_a_page_may_be_inline_or_from_elsewhere(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        status, headers, body = ask(wall[0], "/")
        assert status == 200
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        page = body.decode()
        assert "http://" not in page
        assert "https://" not in page
        assert " style=" not in page
        assert " onclick" not in page

    @pytest.mark.parametrize(
        "path", ["/", "/static/main.js", "/events-not", "/alerts/1/thumbnail", "/healthz", "/metrics"]
    )
    def test_every_answer_has_the_headers_that_keep_it_in(
        self, wall: tuple[WallServer, MemoryBroker], path: str
    ) -> None:
        _, headers, _ = ask(wall[0], path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers

    def test_modules_have_their_type_and_are_not_sent_twice(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        status, headers, body = ask(wall[0], "/static/main.js")
        assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert b"import" in body
        again = ask(wall[0], "/static/main.js", if_none_match=headers["etag"])
        assert (again[0], again[2]) == (304, b"")

    @pytest.mark.parametrize(
        "path",
        [
            "/static/../settings.py",
            "/static/..%2fsettings.py",
            "/static/__init__.py",
            "/static/",
            "/etc/passwd",
            "/pictures/1",
            "/pictures/x",
            "/pictures/99999999999999999999999",
            "/pictures/" + "9" * 5000,
            "/pictures/%D9%A3",
            "/alerts/none/thumbnail",
        ],
    )
    def test_nothing_else_is_served(self, wall: tuple[WallServer, MemoryBroker], path: str) -> None:
        assert ask(wall[0], path)[0] == 404

    def test_an_alert_has_its_picture(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        status, headers, body = ask(wall[0], "/alerts/1/thumbnail")
        assert (status, headers["content-type"], body) == (200, "image/jpeg", JPEG)

    def test_a_stream_has_its_picture_where_pictures_are_wanted(self) -> None:
        done, jpeg = cv2.imencode(".jpg", np.full((72, 128, 3), 90, np.uint8))
        assert done
        with served(with_pictures=True) as (server, broker):
            producer = broker.plain_producer()
            producer.send("video.in", key=b"a", value=jpeg.tobytes(), headers=[("content-type", b"image/jpeg")])
            producer.close(5)
            publish(broker, score("a", status=Status.NO_FACE), score("b", offset=0))
            until(lambda: server.wall.has("b"))
            keys = {tile["id"]: tile["key"] for tile in first_event(server)[0]["streams"]}
            assert ask(server, f"/pictures/{keys['a']}")[0] == 404, "no face of it was scored"
            assert ask(server, f"/pictures/{keys['b']}")[0] == 404, "the record is another stream's"
            publish(broker, score("a", offset=0))
            until(lambda: ask(server, f"/pictures/{keys['a']}")[0] == 200)
            _, headers, body = ask(server, f"/pictures/{keys['a']}")
            assert (headers["content-type"], body[:3]) == ("image/jpeg", b"\xff\xd8\xff")

    def test_another_site_cannot_reach_it_by_a_name_that_leads_here(
        self, wall: tuple[WallServer, MemoryBroker]
    ) -> None:
        assert ask(wall[0], "/", host="evil.example")[0] == 421
        assert ask(wall[0], "/", host=f"localhost:{wall[0].port}")[0] == 200
        assert ask(wall[0], "/", host="[::1]:80")[0] == 200

    def test_its_names_can_be_given(self) -> None:
        with served(hosts=["wall.example"]) as (server, _):
            assert ask(server, "/", host="wall.example")[0] == 200
            assert ask(server, "/", host="other.example")[0] == 421
            # Probes call by address.
            until(lambda: ask(server, "/healthz", host="10.1.2.3:8080")[0] == 200)
            assert ask(server, "/metrics", host="10.1.2.3:8080")[0] == 200

    def test_health_is_whether_kafka_answers(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        assert ask(wall[0], "/healthz")[0] == 200


def test_https(tmp_path: Path) -> None:
    try:
        certificates = Certificates.make(tmp_path / "certificates")
    except OpensslMissing as missing:
        pytest.skip(str(missing))
    with served(tls=(certificates.broker, certificates.broker)) as (server, _):
        trust = ssl.create_default_context(cafile=certificates.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=trust)
        connection.request("GET", "/")
        with connection.getresponse() as answer:
            assert answer.status == 200
        connection.close()


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(AddressError, match="HTTPS"):
        WallServer(MemoryBroker, tls=(tmp_path / "no.pem", tmp_path / "nowhere.pem"))


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "address"),
        [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8080", ("::1", 8080)), (":1", ("127.0.0.1", 1))],  # noqa: S104
    )
    def test_host_and_port(self, text: str, address: tuple[str, int]) -> None:
        assert parse_address(text) == address

    @pytest.mark.parametrize("text", ["", "localhost", "localhost:", "localhost:x", "localhost:99999", "a:-1"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(AddressError):
            parse_address(text)

    def test_an_address_that_is_taken(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        with pytest.raises(AddressError, match=str(wall[0].port)):
            WallServer(MemoryBroker, ("127.0.0.1", wall[0].port))


#: In a process of its own: where a browser's tests ran before, this one's main thread has a loop already.
_WALL = """
from stream.broker.memory import MemoryBroker
from stream.wall.server import WallServer
server = WallServer(MemoryBroker)
print(server.port, flush=True)
try:
    server.run()
    print("left")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.usefixtures("hangup_by_default")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(signum: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", _WALL], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        server = SimpleNamespace(port=int(process.stdout.readline()))
        until(lambda: ask(server, "/")[0] == 200)  # type: ignore[arg-type]
        process.send_signal(signum)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(30)
    assert said.split()[-1] == ("interrupted" if signum == signal.SIGINT else "left")
    assert process.returncode == 0
