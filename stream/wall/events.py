"""Server-sent events: a page is told what changed since it last was, as often as it can take it.

There is no queue: a page that reads slowly gets the newest state less often, and one that does not read at all is let
go, here or by the kernel (`stream.wall.server`). After a broken connection a browser sends the id of the last event
that it has, and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
from starlette.types import Receive, Scope, Send

from stream.wall.model import Wall

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
    (b"x-content-type-options", b"nosniff"),
]


class Hub:
    """Wakes the pages that wait for changes; shares what is the same for many of them.

    Args:
        wall: what they are told of.
    """

    def __init__(self, wall: Wall) -> None:
        self.wall = wall
        self.clients = self.dropped = 0
        #: Tries of operators that were not looked at, because there were too many from their address.
        self.too_many = 0
        self.is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._last: tuple[int | None, int, bytes, int] | None = None

    def open(self) -> None:
        """Called once, on the server's loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Lets every page go; on the server's loop."""
        self.is_closing = True
        self._changed.set()

    def told(self) -> None:
        """Something has changed; from any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(self._changed.set)

    async def wait(self, since: int | None, timeout_s: float) -> None:
        """Until something has changed after a revision, or the time is over."""
        if since is None or self.wall.revision > since:
            return
        self._changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    def event(self, since: int | None) -> tuple[bytes, int]:
        """One event with all that changed after a revision, and the revision after it."""
        now = self.wall.revision
        if self._last is not None and self._last[:2] == (since, now):
            return self._last[2:]
        changes = self.wall.changes(since)
        data = msgspec.json.encode(changes.body)
        head = f"id: {self.wall.epoch}-{changes.revision}\nevent: wall\ndata: ".encode()
        event = head + data + b"\n\n"
        self._last = (since, now, event, changes.revision)
        return event, changes.revision

    def revision_of(self, event_id: str) -> int | None:
        """The revision in the id of an event; None where it is not of this wall's life."""
        epoch, _, number = event_id.partition("-")
        if epoch != self.wall.epoch or not (number.isascii() and number.isdigit() and len(number) < 19):
            return None
        return int(number) if int(number) <= self.wall.revision else None


class EventStream:
    """The ASGI response of one page.

    Args:
        hub: what it is told by.
        last_event_id: of the last event that the page has; empty for a new one.
        let_go: ends the connection without waiting for what was not read.
    """

    def __init__(self, hub: Hub, last_event_id: str, let_go: Callable[[], None]) -> None:
        self._hub, self._since, self._let_go = hub, hub.revision_of(last_event_id), let_go

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the page goes, or takes nothing for too long."""
        hub, settings = self._hub, self._hub.wall.settings
        gone = asyncio.ensure_future(_disconnected(receive))
        hub.clients += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await self._send(send, b"retry: 2000\n\n")
            while not (hub.is_closing or gone.done()):
                event, self._since = hub.event(self._since)
                await self._send(send, event)
                await asyncio.wait([gone], timeout=settings.interval_s)
                await hub.wait(self._since, settings.tick_s)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            hub.dropped += 1
            self._let_go()
        finally:
            hub.clients -= 1
            gone.cancel()

    async def _send(self, send: Send, body: bytes) -> None:
        async with asyncio.timeout(self._hub.wall.settings.client_s):
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
