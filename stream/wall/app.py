"""The wall's pages and what they ask for: an ASGI application that reads a `Wall` and, for operators, sends commands.

Whatever comes from a page is hostile: bounded, waited for only so long, and never believed. Whatever came from Kafka
is too: pages get it as JSON and put it into the document as text alone, and a strict Content-Security-Policy forbids
the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from difffake.errors import DiffFakeError
from stream.broker.contract import Broker
from stream.wall.access import Limiter, Operators, TooManyError
from stream.wall.actions import Action, ActionError, parse_action, perform
from stream.wall.audit import Audit
from stream.wall.events import EventStream, Hub
from stream.wall.figures import wall_metrics

if TYPE_CHECKING:
    from stream.wall.pictures import Pictures

log = structlog.get_logger()

#: A name in Kafka for what comes from the wall.
_BY = "{} (wall)"
_FAILURES, _ACTIONS, _WINDOW_S = 10, 60, 60.0
_AT_ONCE, _DRAWN_AT_ONCE = 4, 2
_MAX_DIGITS = 19
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True, slots=True)
class Door:
    """What the application is made of.

    Args:
        hub: the wall, and who wakes its pages.
        connect: opens a broker, for commands.
        operators: who may send them; nobody where it is empty.
        audit: where they are written down.
        pictures: of scored frames; None where they are off.
        hosts: names by which a browser may call this server; None: any. Keeps other sites from reaching a wall on
            this machine by a name of theirs that leads here.
    """

    hub: Hub
    connect: Callable[[], Broker]
    operators: Operators
    audit: Audit
    pictures: Pictures | None = None
    hosts: Collection[str] | None = None


def make_app(door: Door) -> ASGIApp:
    """The application."""
    pages, actions = _Pages(door), _Actions(door)
    app = Starlette(
        routes=[
            Route("/", pages.index),
            Route("/static/{name}", pages.static),
            Route("/events", pages.events),
            Route("/pictures/{key}", pages.picture),
            Route("/alerts/{alert}/thumbnail", pages.thumbnail),
            Route("/healthz", pages.health),
            Route("/metrics", pages.metrics),
            Route("/operator", actions.who),
            Route("/actions", actions.act, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refused, Exception: _broken},
    )
    return _Guard(app, door.hosts)


class _Guard:
    """Checks the host, and adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, None if hosts is None else {host.lower() for host in hosts}
        self._headers = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in self._headers if h[0] not in given)]
            await send(message)

        # Probes and Prometheus call by address; they learn nothing but whether Kafka answers, and counts.
        is_probe = scope["path"] in ("/healthz", "/metrics")
        if self._hosts is not None and not is_probe and _host(scope) not in self._hosts:
            refusal = _problem(421, "this wall is not served under that name", "give --allow-host NAME")
            await refusal(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


class _Pages:
    """Everything that only reads."""

    def __init__(self, door: Door) -> None:
        self._door = door
        # Threads are few, and operators' actions need some, too.
        self._drawing = asyncio.Semaphore(_DRAWN_AT_ONCE)
        self._metrics = wall_metrics(door.hub, door.audit)
        self._files = {
            file.name: (file.read_bytes(), _TYPES[suffix])
            for file in (files("stream.wall") / "static").iterdir()
            if (suffix := "." + file.name.rpartition(".")[2]) in _TYPES
        }
        self._tags = {name: f'"{hashlib.sha256(data).hexdigest()[:16]}"' for name, (data, _) in self._files.items()}

    async def index(self, request: Request) -> Response:
        return self._file("index.html", request)

    async def static(self, request: Request) -> Response:
        return self._file(request.path_params["name"], request)

    async def events(self, request: Request) -> Response:
        hub = self._door.hub
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        if hub.clients >= hub.wall.settings.max_clients:
            return _problem(503, "too many pages are open", "close some, or raise --max-clients", retry_s=10)
        last = request.headers.get("last-event-id") or request.query_params.get("last", "")
        return EventStream(hub, last, getattr(request.state, "let_go", lambda: None))  # type: ignore[return-value]

    async def picture(self, request: Request) -> Response:
        pictures, text = self._door.pictures, request.path_params["key"]
        # Of thousands of digits Python makes no number: an answer of 500, and a traceback in the log for each.
        key = int(text) if text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS else None
        found = None if pictures is None or key is None else self._door.hub.wall.scored(key)
        if pictures is None or found is None:
            return _problem(404, "no picture of that", "start the wall with --pictures")
        async with self._drawing:
            jpeg = await asyncio.to_thread(pictures.get, *found)
        # A page asks for each but once; browsers would keep them all.
        return _jpeg(jpeg, "no-store")

    async def thumbnail(self, request: Request) -> Response:
        return _jpeg(self._door.hub.wall.thumbnail(request.path_params["alert"]), "private, max-age=60")

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        wall = self._door.hub.wall
        return JSONResponse(
            {"connected": wall.is_connected, "pages": self._door.hub.clients, "pages_dropped": self._door.hub.dropped},
            200 if wall.is_connected else 503,
        )

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002
        page = generate_latest(self._metrics.registry)
        return Response(page, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4, "cache-control": "no-store"})

    def _file(self, name: str, request: Request) -> Response:
        if name not in self._files:
            return _problem(404, "no such page", "the wall is at /")
        headers = {"etag": self._tags[name], "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self._tags[name]:
            return Response(status_code=304, headers=headers)
        data, kind = self._files[name]
        return Response(data, media_type=kind, headers=headers)


class _Actions:
    """What operators do."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._failures = Limiter(_FAILURES, _WINDOW_S)
        self._acts = Limiter(_ACTIONS, _WINDOW_S)
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def who(self, request: Request) -> Response:
        """Whose token that is, so that a page can tell before it offers anything."""
        return JSONResponse({"name": await self._operator(request)}, headers={"cache-control": "no-store"})

    async def act(self, request: Request) -> Response:
        """Send one command."""
        who = await self._operator(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send application/json")
        self._limit(self._acts, who)
        self._acts.count(who)
        try:
            action = parse_action(await self._body(request))
            return await self._perform(action, who, _address(request))
        except ActionError as error:
            return _problem(400, str(error), error.hint)
        except DiffFakeError as error:
            return _problem(503, str(error), error.hint)

    async def _perform(self, action: Action, who: str, address: str) -> Response:
        door, told = self._door, action.told()
        wall = door.hub.wall
        if not wall.has(action.stream):
            return _problem(404, "the wall shows no such stream", "it may have been left out; reload the page")
        alert = wall.alert_of(action.alert) if action.alert is not None else None

        def send() -> str:
            door.audit.write("accepted", who=who, address=address, action=told)
            try:
                with closing(door.connect()) as broker:
                    record = perform(broker, wall.settings.topics.enrolments, action, alert, _BY.format(who))
            except Exception as error:
                door.audit.write(f"failed: {error}", who=who, address=address, action=told)
                raise
            door.audit.write("sent", who=who, address=address, action={**told, "id": record.id})
            return record.id

        async with self._at_once:
            return JSONResponse({"id": await asyncio.to_thread(send)})

    async def _operator(self, request: Request) -> str:
        address = _address(request)
        if not self._door.operators:
            raise HTTPException(403, "this wall is read-only: it was given no token")
        try:
            self._limit(self._failures, address)
        except HTTPException:
            self._door.hub.too_many += 1
            raise
        who = self._door.operators.who(request.headers.get("authorization"))
        if who is None:
            self._failures.count(address)
            told: dict[str, object] = {"path": request.url.path}
            await asyncio.to_thread(self._door.audit.write, "refused: no token", who="", address=address, action=told)
            raise HTTPException(401, "that is no operator's token", {"www-authenticate": "Bearer"})
        return who

    @staticmethod
    def _limit(limiter: Limiter, who: str) -> None:
        try:
            limiter.check(who)
        except TooManyError as error:
            raise HTTPException(429, "too many tries", {"retry-after": f"{error.wait_s:.0f}"}) from error

    async def _body(self, request: Request) -> bytes:
        settings, body = self._door.hub.wall.settings, b""
        try:
            async with asyncio.timeout(settings.request_s):
                async for part in request.stream():
                    body += part
                    if len(body) > settings.body_bytes:
                        raise HTTPException(413, "too large for an action", {"connection": "close"})
        except ClientDisconnect as error:  # nobody reads the answer; a traceback in the log would help nobody either
            raise HTTPException(400, "the request broke off", {"connection": "close"}) from error
        except TimeoutError as error:
            raise HTTPException(408, "the request did not come", {"connection": "close"}) from error
        return body


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"


def _host(scope: Scope) -> str:
    value = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
    if value.startswith("["):
        return value[1:].partition("]")[0]
    return value.partition(":")[0]


def _jpeg(data: bytes, cache: str) -> Response:
    if not data:
        return _problem(404, "no picture", "there may be one later")
    return Response(data, media_type="image/jpeg", headers={"cache-control": cache})


def _problem(status: int, error: str, hint: str, *, retry_s: int | None = None) -> Response:
    headers = {} if retry_s is None else {"retry-after": str(retry_s)}
    return JSONResponse({"error": error, "hint": hint}, status, headers={"cache-control": "no-store", **headers})


def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for it alone)
    headers = {"cache-control": "no-store", **(error.headers or {})}
    return JSONResponse({"error": error.detail, "hint": ""}, error.status_code, headers=headers)


def _broken(request: Request, error: Exception) -> Response:  # noqa: ARG001
    log.error("the wall failed to answer", exc_info=error)
    return _problem(500, "the wall failed to answer", "see its log")
