"""The worker's HTTP door: what probes say, and what it does not let anybody do to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import stream.probes
from stream.health import Health, Phase
from stream.metrics.instruments import Metrics
from stream.probes import _MAX_REQUEST_BYTES, DEFAULT_PORT, AddressError, Door, parse_address


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(30.0, clock=clock)


@pytest.fixture
def metrics(health: Health) -> Metrics:
    return Metrics(health=health)


@pytest.fixture
def door(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(stream.probes, "_FRESH_S", 0.0)
    with Door("127.0.0.1:0", metrics) as one:
        yield one


def ask(door: Door, path: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*door.address, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def send(door: Door, data: bytes) -> bytes:
    """What comes back for these bytes, until the door closes the connection."""
    with socket.create_connection(door.address, timeout=20) as connection:
        found = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                found += part
        except (ConnectionResetError, BrokenPipeError):
            pass  # the door closed while there was more to say
        return found


def test_the_life_of_a_worker_as_its_supervisor_sees_it(door: Door, health: Health, clock: Clock) -> None:
    def seen() -> tuple[int, ...]:
        return tuple(ask(door, path)[0] for path in ("/startupz", "/livez", "/readyz"))

    assert seen() == (503, 200, 503), "starting: alive, so that it is not killed while it builds an engine"
    clock.now_s += 1000
    assert seen() == (503, 200, 503)
    health.running(partitions=0)
    assert seen() == (200, 200, 503), "no partition"
    health.running(partitions=2)
    assert seen() == (200, 200, 200)
    clock.now_s += 31
    assert seen() == (200, 503, 503), "the loop hangs"
    health.turn()
    assert seen() == (200, 200, 200)
    health.draining()
    assert seen() == (200, 200, 503), "draining: alive, so that it is not killed while it finishes"
    health.stopped()
    assert seen() == (200, 200, 503)
    _, body, headers = ask(door, "/readyz")
    assert json.loads(body) == {"ok": False, "why": Phase.STOPPED.value}
    assert headers["Content-Type"] == "application/json"


def test_metrics_in_both_formats(door: Door, health: Health) -> None:
    health.running(partitions=1)
    status, body, headers = ask(door, "/metrics")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert {f.name: f.samples[0].value for f in parse_text(body)}["difffake_ready"] == 1
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    status, body, headers = ask(door, "/metrics?name=x", Accept=accept)
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert {f.name: f.samples for f in parse_openmetrics(body)}["difffake_ready"][0].value == 1
    assert ask(door, "/metrics", "HEAD")[1] == ""


def test_requests_are_counted_under_names_that_nobody_can_make_up(door: Door) -> None:
    for path in ("/metrics", "/livez", "/admin", "/<script>", "/metrics/../etc"):
        ask(door, path)
    found = {
        (s.labels["path"], s.labels["code"]): s.value
        for f in parse_text(ask(door, "/metrics")[1])
        for s in f.samples
        if s.name == "difffake_http_requests_total"
    }
    assert found == {("/metrics", "200"): 1, ("/livez", "200"): 1, ("other", "404"): 3}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_nothing_can_be_changed(door: Door, method: str) -> None:
    status, body, headers = ask(door, "/metrics", method)
    assert status == 501
    assert method not in body
    assert headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * (_MAX_REQUEST_BYTES - 24), b"431"),
        (b"GET /" + b"x" * (_MAX_REQUEST_BYTES - 5), b"431"),
        (b"GET /livez HTTP/7.0\r\n\r\n", b"505"),
        (b"GET /livez SPDY\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls hello\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /<b>x</b> HTTP/1.1\r\n\r\n", b"404"),
    ],
)
def test_bad_requests_are_refused_and_not_repeated(door: Door, data: bytes, status: bytes) -> None:
    found = send(door, data)
    assert found.startswith(b"HTTP/1.1 " + status), found[:100]
    assert len(found) < 1000
    assert b"<b>" not in found
    assert ask(door, "/livez")[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * 10_000_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 10_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 1_000_000 + b"\r\n",
    ],
)
def test_a_flood_of_bytes_is_cut_off(door: Door, data: bytes) -> None:
    # Whether the refusal is read before the connection breaks is up to the network.
    assert send(door, data)[:12] in (b"", b"HTTP/1.1 431")
    assert ask(door, "/livez")[0] == 200


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"GET /metrics\r\n", b"GET"])
def test_what_is_no_request_gets_little_of_an_answer(door: Door, data: bytes) -> None:
    assert len(send(door, data)) < 1000
    assert ask(door, "/livez")[0] == 200


def test_who_says_nothing_is_given_up(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.probes, "_PATIENCE_S", 0.3)
    with Door("127.0.0.1:0", metrics) as door, socket.create_connection(door.address, timeout=20) as idle:
        idle.sendall(b"GET /livez HTTP/1.1\r\n")
        assert idle.recv(100) == b"", "closed, without an answer to half a request"
        assert ask(door, "/livez")[0] == 200


def test_a_drip_of_bytes_does_not_hold_a_connection_for_ever(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.probes, "_PATIENCE_S", 0.5)
    with Door("127.0.0.1:0", metrics) as door, socket.create_connection(door.address, timeout=20) as slow:
        broken = False
        for _ in range(400):  # a header that grows by a byte at a time
            try:
                slow.sendall(b"x")
            except OSError:
                broken = True
                break
            time.sleep(0.05)
        assert broken


def test_a_crowd_of_connections_keeps_no_probe_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.probes, "_PATIENCE_S", 1e6)
    crowd = [socket.create_connection(door.address, timeout=20) for _ in range(100)]
    try:
        assert ask(door, "/livez")[0] == 200
        assert ask(door, "/metrics")[0] == 200
        assert crowd[0].recv(1) == b"", "whoever has been there longest makes room"
    finally:
        for one in crowd:
            one.close()


def test_a_scraper_that_never_reads_holds_nobody_up(door: Door, metrics: Metrics) -> None:
    with socket.create_connection(door.address, timeout=20) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        done = threading.Event()

        def work() -> None:
            for _ in range(1000):
                metrics.committed(0.01)
            done.set()

        threading.Thread(target=work).start()
        assert done.wait(30)
        assert ask(door, "/metrics")[0] == 200


def test_metrics_that_cannot_be_told_are_an_error_and_probes_go_on(
    door: Door, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "collect", lambda: 1 / 0)
    assert ask(door, "/metrics")[0] == 500
    assert ask(door, "/livez")[0] == 200


def test_many_scrapes_cost_one_page(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, collect = [], metrics.collect
    monkeypatch.setattr(metrics, "collect", lambda: (pages.append(1), list(collect()))[1])
    monkeypatch.setattr(stream.probes, "_FRESH_S", 1e6)
    with Door("127.0.0.1:0", metrics) as door:
        for _ in range(20):
            ask(door, "/metrics")
    assert len(pages) == 1


def test_a_scrape_during_shutdown_is_answered_or_refused(metrics: Metrics) -> None:
    door = Door("127.0.0.1:0", metrics)
    found: list[object] = []

    def scrape() -> None:
        while not found or found[-1] == 200:
            try:
                status, body, _ = ask(door, "/metrics")
                assert body.startswith("# HELP")
                found.append(status)
            except (ConnectionError, http.client.RemoteDisconnected) as error:
                found.append(error)

    with door:
        assert ask(door, "/metrics")[0] == 200
        threads = [threading.Thread(target=scrape) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert 200 in found
    with pytest.raises(ConnectionRefusedError):
        ask(door, "/metrics")


def test_an_address_that_cannot_be_served_is_named(door: Door, metrics: Metrics) -> None:
    host, port = door.address
    with pytest.raises(AddressError, match=f"{host}:{port}") as caught:
        Door(f"{host}:{port}", metrics)
    assert "--http" in caught.value.hint
    with pytest.raises(AddressError, match="cannot serve"):
        Door("192.0.2.1:0", metrics)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1:9464", ("10.0.0.1", 9464)),
        (":9000", ("0.0.0.0", 9000)),  # noqa: S104
        ("localhost", ("localhost", DEFAULT_PORT)),
        ("[::1]:80", ("::1", 80)),
        ("[::]", ("::", DEFAULT_PORT)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["host:port", "host:70000", "host:-1", "host:", "host:9²"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="not an address"):
        parse_address(address)
