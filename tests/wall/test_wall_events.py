"""The wall's events: what a page is told, and which clients are let go."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from wall_client import Page, ask, dial, first_event
from wall_world import TOPICS, publish, score, served, until

from stream.broker.memory import MemoryBroker
from stream.wall.server import WallServer
from stream.wall.settings import WallSettings


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
