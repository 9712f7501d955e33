"""What browsers and others ask of a wall."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Self

from wall_world import TOKEN

from stream.wall.server import WallServer

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
