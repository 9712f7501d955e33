"""The wall's HTTP door: what it serves, to whom, and what it lets go."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import cv2
import msgspec
import numpy as np
import pytest
from certificates import Certificates, OpensslMissing
from prometheus_client.parser import text_string_to_metric_families
from wall_world import JPEG, TOKEN, TOPICS, alert, publish, score, served, until

from stream.broker.contract import TopicPartition
from stream.broker.memory import MemoryBroker
from stream.messages import Command, CommandRecord, Status, decode_enrolment
from stream.metrics.processes import WALL
from stream.wall.access import Operators
from stream.wall.audit import Audit
from stream.wall.server import AddressError, WallServer, parse_address
from stream.wall.settings import WallSettings

BEARER = {"authorization": f"Bearer {TOKEN}"}
JSON = {"content-type": "application/json"}


def ask(
    server: WallServer, path: str, method: str = "GET", *, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


class Page:
    """What a browser does with the wall's events."""

    def __init__(self, server: WallServer, last_event_id: str = "") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self.connection.request("GET", "/events", headers={"last-event-id": last_event_id} if last_event_id else {})
        self.answer = self.connection.getresponse()
        self.last_id = ""

    def event(self) -> dict[str, Any]:
        fields: dict[str, str] = {}
        while "data" not in fields:
            line = self.answer.readline().decode().rstrip("\n")
            assert line or fields or not self.answer.isclosed(), "the wall closed the stream"
            name, _, value = line.partition(": ")
            if name in ("id", "data"):
                fields[name] = value
        self.last_id = fields["id"]
        return dict(json.loads(fields["data"]))

    def until(self, condition: Any) -> dict[str, Any]:
        for _ in range(200):
            if condition(event := self.event()):
                return event
        raise AssertionError("the wall never said it")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self.connection.close()


def first_event(server: WallServer, last_event_id: str = "") -> tuple[dict[str, Any], str]:
    """And its id."""
    with Page(server, last_event_id) as page:
        return page.event(), page.last_id


def dial(server: WallServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


@pytest.fixture(scope="module")
def wall() -> Iterator[tuple[WallServer, MemoryBroker]]:
    """Read-only, with one stream and its alert."""
    with served() as (server, broker):
        publish(broker, score("a"), alert(stream="a"))
        until(lambda: server.wall.has("a") and server.wall.thumbnail("1"))
        yield server, broker


@pytest.fixture
def acting(tmp_path: Path) -> Iterator[tuple[WallServer, MemoryBroker, Path]]:
    """With an operator, and a file for what she does."""
    audit = tmp_path / "audit.jsonl"
    with served(operators=Operators({"ada": TOKEN}), audit=Audit(audit)) as (server, broker):
        publish(broker, score("a"), alert(stream="a"))
        until(lambda: server.wall.has("a") and server.wall.thumbnail("1"))
        yield server, broker, audit


def commands(broker: MemoryBroker) -> list[CommandRecord]:
    reader, partition = broker.reader(), TopicPartition(TOPICS.enrolments, 0)
    found = [decode_enrolment(r.value or b"") for r in reader.read(partition, None, reader.end_offset(partition))]
    return [record for record in found if isinstance(record, CommandRecord)]


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


class TestEvents:
    def test_asking_for_the_head_alone_opens_nothing(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        status, headers, body = ask(wall[0], "/events", "HEAD")
        assert (status, headers["content-type"], body) == (200, "text/event-stream; charset=utf-8", b"")

    def test_a_page_gets_everything_first_and_then_what_changes(self) -> None:
        with served() as (server, broker):
            publish(broker, score("a"))
            until(lambda: server.wall.has("a"))
            with Page(server) as page:
                assert page.answer.getheader("content-type") == "text/event-stream; charset=utf-8"
                first = page.event()
                assert first["whole"]
                assert [tile["id"] for tile in first["streams"]] == ["a"]
                publish(broker, score("b"))
                event = page.until(lambda event: event["streams"])
            assert (event["whole"], [tile["id"] for tile in event["streams"]]) == (False, ["b"])

    def test_it_goes_on_after_its_last_event(self) -> None:
        with served() as (server, broker):
            publish(broker, score("a"), score("b"))
            until(lambda: server.wall.has("a") and server.wall.has("b"))
            _, last_id = first_event(server)
            revision = server.wall.revision
            publish(broker, score("b"))
            until(lambda: server.wall.revision > revision)
            event, _ = first_event(server, last_id)
            assert not event["whole"]
            assert [tile["id"] for tile in event["streams"]] == ["b"]

    @pytest.mark.parametrize("last", ["deadbeef-1", "x", "-", "99999999", "9" * 4000])
    def test_an_id_of_another_life_or_of_none_gets_everything(
        self, wall: tuple[WallServer, MemoryBroker], last: str
    ) -> None:
        assert first_event(wall[0], last)[0]["whole"]
        assert first_event(wall[0], f"{wall[0].wall.epoch}-{last}")[0]["whole"]

    def test_pages_beyond_the_bound_are_told_to_wait(self) -> None:
        with served(settings=WallSettings(max_clients=1)) as (server, _):
            with Page(server) as page:
                page.event()
                status, headers, _ = ask(server, "/events")
                assert status == 503
                assert int(headers["retry-after"]) > 0
            until(lambda: server.hub.clients == 0)
            first_event(server)

    def test_kafka_gone_and_back(self) -> None:
        def is_clean(event: dict[str, Any]) -> bool:
            return any(tile["state"] == "clean" for tile in event["streams"])

        with served() as (server, broker):
            publish(broker, score("a"))
            with Page(server) as page:
                page.until(is_clean)
                broker.disconnect()
                event = page.until(lambda event: not event["wall"]["connected"])
                assert event["wall"]["since"] > 0
                assert [tile["why"] for tile in event["streams"]] == ["disconnected"]
                assert ask(server, "/healthz")[0] == 503
                broker.reconnect()
                publish(broker, score("a"))
                assert page.until(is_clean)["wall"]["connected"]

    def test_what_cannot_be_read_is_counted_and_stops_nothing(self) -> None:
        with served() as (server, broker):
            producer = broker.plain_producer()
            for value in (b"", b"{}", b"\xff", b"[" * 5000, b'{"version":99}'):
                producer.send(TOPICS.scores, key=b"a", value=value)
                producer.send(TOPICS.alerts, key=b"a", value=value)
            producer.close(10)
            publish(broker, score("a"))
            until(lambda: server.wall.has("a"))
            assert first_event(server)[0]["wall"]["unread"] == 10


class TestSlowClients:
    def test_one_that_never_reads_is_let_go_and_holds_nobody_up(self) -> None:
        settings = WallSettings(client_s=2.0, interval_s=0.01, tick_s=0.05, max_streams=64)
        with served(settings=settings) as (server, broker), socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect(("127.0.0.1", server.port))
            lazy.sendall(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
            until(lambda: server.hub.clients == 1)

            def is_dropped() -> bool:
                publish(broker, *(score(f"stream-{number:04}-{'x' * 900}") for number in range(64)))
                return server.hub.dropped > 0

            until(is_dropped)
            until(lambda: server.hub.clients == 0)
            until(lambda: first_event(server)[0]["wall"]["shown"] == 64)

    def test_a_request_that_never_ends_is_let_go(self) -> None:
        with (
            served(settings=WallSettings(request_s=0.5)) as (server, _),
            dial(server) as slow,
            dial(server) as silent,
        ):
            slow.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n")
            assert ended(slow), "closed without an answer"
            assert ended(silent)

    def test_headers_without_end_are_refused(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        with dial(wall[0]) as endless:
            endless.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ")
            with pytest.raises(OSError, match=r"(?i)reset|pipe"):
                endless.sendall(b"a" * (64 << 20))
        assert ask(wall[0], "/")[0] == 200

    def test_a_wall_ends_with_pages_open(self) -> None:
        with served() as (server, _):
            page = Page(server)
            page.event()
        with page:
            rest = page.answer.read()
        assert (b"\n\n" + rest).endswith(b"\n"), "what was sent is whole, and it ends"


def ended(connection: socket.socket) -> bool:
    """Whether the wall let go of it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


class TestActions:
    FREEZE = {"act": "freeze", "stream": "a", "person": 3}  # noqa: RUF012

    def test_without_a_token_the_wall_only_shows(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        status, _, body = ask(wall[0], "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        assert status == 403
        assert b"read-only" in body
        assert ask(wall[0], "/operator", **BEARER)[0] == 403
        assert commands(wall[1]) == []

    def test_a_forged_token_is_refused_counted_and_written_down(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, audit = acting
        for number in range(10):
            status, headers, _ = ask(
                server, "/actions", "POST", body=self.FREEZE, authorization=f"Bearer {number:032}", **JSON
            )
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        status, headers, _ = ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        assert status == 429, "the right one, too: whoever guesses must not learn by it"
        assert int(headers["retry-after"]) > 0
        assert commands(broker) == []
        lines = [msgspec.json.decode(line) for line in audit.read_bytes().splitlines()]
        assert [line["outcome"] for line in lines] == ["refused: no token"] * 10
        assert {line["address"] for line in lines} == {"127.0.0.1"}

    def test_what_happens_is_counted_for_prometheus_without_a_stream_s_name(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)[0] == 200
        broker.disconnect()
        assert ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)[0] == 503
        for number in range(11):
            ask(server, "/operator", authorization=f"Bearer {number:032}")
        with Page(server) as page:
            page.event()
            status, headers, body = ask(server, "/metrics")
        broker.reconnect()
        assert (status, headers["cache-control"]) == (200, "no-store")
        told = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        assert {name[0] for name in told if name[0].startswith("difffake_")} == set(WALL)
        assert told.keys() >= {("process_resident_memory_bytes",)}
        expected = {
            ("difffake_wall_records_total", "score"): 1,
            ("difffake_wall_records_total", "alert"): 1,
            ("difffake_wall_streams",): 1,
            ("difffake_wall_open_alerts",): 1,
            ("difffake_wall_pages",): 1,
            ("difffake_wall_actions_total", "sent"): 1,
            ("difffake_wall_actions_total", "failed"): 1,
            ("difffake_wall_logins_refused_total", "no_token"): 10,
            ("difffake_wall_logins_refused_total", "too_many"): 1,
        }
        assert {name: told[name] for name in expected} == expected

    def test_what_an_operator_does_reaches_the_workers_and_the_audit(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, audit = acting
        assert json.loads(ask(server, "/operator", **BEARER)[2]) == {"name": "ada"}
        status, _, body = ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        assert status == 200
        (command,) = commands(broker)
        assert (command.command, command.stream, command.person, command.by) == (Command.FREEZE, "a", 3, "ada (wall)")
        assert json.loads(body) == {"id": command.id}
        lines = [msgspec.json.decode(line) for line in audit.read_bytes().splitlines()]
        assert [(line["outcome"], line["who"], line["address"]) for line in lines] == [
            ("accepted", "ada", "127.0.0.1"),
            ("sent", "ada", "127.0.0.1"),
        ]
        assert lines[1]["action"] == {**self.FREEZE, "id": command.id}
        assert TOKEN not in audit.read_text()

    @pytest.mark.parametrize(
        ("action", "command", "fields"),
        [
            ({"act": "reset", "person": "Ada"}, Command.RESET, {"person": "Ada"}),
            ({"act": "unfreeze"}, Command.UNFREEZE, {"person": None}),
            ({"act": "gear-scrutinise", "person": 1}, Command.GEAR_SCRUTINISE, {"person": None}),
            ({"act": "mute", "seconds": 600}, Command.ALERT_MUTE, {"value": 600.0, "person": None}),
            ({"act": "mute", "evidence": "identity"}, Command.ALERT_MUTE, {"value": None, "evidence": "identity"}),
            ({"act": "unmute"}, Command.ALERT_UNMUTE, {}),
            ({"act": "budget", "per_day": 0.5}, Command.ALERT_BUDGET, {"value": 0.5}),
            ({"act": "budget", "per_day": None}, Command.ALERT_BUDGET, {"value": None}),
            ({"act": "acknowledge", "alert": "1"}, Command.ALERT_ACKNOWLEDGE, {"alert": "1", "evidence": "identity"}),
        ],
    )
    def test_every_action_is_the_command_of_that_name(
        self,
        acting: tuple[WallServer, MemoryBroker, Path],
        action: dict[str, Any],
        command: Command,
        fields: dict[str, Any],
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", "POST", body={**action, "stream": "a"}, **BEARER, **JSON)[0] == 200
        (sent,) = commands(broker)
        assert sent.command is command
        assert {name: getattr(sent, name) for name in fields} == fields

    @pytest.mark.parametrize(
        ("status", "body", "headers"),
        [
            (400, b"", JSON),
            (400, b"{}", JSON),
            (400, b"[" * 4000, JSON),
            (400, b"\xff\xfe", JSON),
            (400, {"act": "forget", "stream": "a"}, JSON),
            (400, {"act": "freeze", "stream": ""}, JSON),
            (400, {"act": "freeze", "stream": "a", "person": -1}, JSON),
            (400, {"act": "freeze", "stream": "a", "topic": "x"}, JSON),
            (400, {"act": "mute", "stream": "a", "seconds": -5}, JSON),
            (400, {"act": "budget", "stream": "a", "per_day": 0}, JSON),
            (400, {"act": "acknowledge", "stream": "a", "alert": "none"}, JSON),
            (404, {"act": "freeze", "stream": "nobody"}, JSON),
            (413, b"x" * 5000, JSON),
            (415, {"act": "freeze", "stream": "a"}, {"content-type": "text/plain"}),
            (415, b"act=freeze", {"content-type": "application/x-www-form-urlencoded"}),
        ],
    )
    def test_what_is_no_action_is_refused(
        self, acting: tuple[WallServer, MemoryBroker, Path], status: int, body: Any, headers: dict[str, str]
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", "POST", body=body, **BEARER, **headers)[0] == status
        assert commands(broker) == []

    def test_other_methods_and_tokens_in_addresses_do_nothing(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", **BEARER)[0] == 405
        assert ask(server, f"/actions?token={TOKEN}", "POST", body=self.FREEZE, **JSON)[0] == 401
        assert commands(broker) == []

    def test_a_body_that_never_comes_is_not_waited_for(self) -> None:
        settings = WallSettings(request_s=3.0)  # long enough for a slow machine to send the head
        with served(settings=settings, operators=Operators({"ada": TOKEN})) as (server, _), dial(server) as slow:
            slow.sendall(
                f"POST /actions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
                "content-type: application/json\r\ncontent-length: 100\r\n\r\n{".encode()
            )
            assert slow.recv(100).startswith(b"HTTP/1.1 408")

    def test_an_action_that_cannot_be_sent_says_so(self, acting: tuple[WallServer, MemoryBroker, Path]) -> None:
        server, broker, audit = acting
        broker.disconnect()
        status, _, body = ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        broker.reconnect()
        assert status == 503
        assert json.loads(body)["hint"]
        assert b'"failed: ' in audit.read_bytes()

    def test_no_audit_no_action(self, acting: tuple[WallServer, MemoryBroker, Path]) -> None:
        server, broker, audit = acting
        audit.unlink()
        audit.mkdir()
        assert ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)[0] == 503
        assert commands(broker) == []


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
