"""The HTTP door of a worker, and of hooks: ``/metrics`` for Prometheus, ``/startupz``, ``/livez`` and ``/readyz`` for
whoever watches over the process.

It stands beside the loop and never in its way: threads of its own, a page that is rendered once a second at the most,
and bounds on everything that comes from outside. A request must be whole, and its answer taken, within seconds; when
more connections are open than there is room for, the oldest is given up, so that a probe always gets through.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import BinaryIO, Protocol, Self, cast

import structlog
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from difffake.errors import DiffFakeError
from stream.health import Answer, Health

log = structlog.get_logger()

DEFAULT_PORT = 9464
_MAX_CONNECTIONS = 32
#: Of a request line with its headers.
_MAX_REQUEST_BYTES = 16 << 10
#: From the first byte of a request to the last of its answer, s.
_PATIENCE_S = 10.0
#: For requests under way when the door closes, s.
_CLOSING_S = 2.0
#: A page is not rendered anew within so long, s: many scrapers cost no more than one.
_FRESH_S = 1.0


class Served(Protocol):
    """What a door tells of: `stream.metrics.instruments.Metrics`, `stream.metrics.processes.ProcessMetrics`."""

    registry: CollectorRegistry
    health: Health

    def http(self, path: str, code: int) -> None:
        """A request was answered; from any thread."""


class AddressError(DiffFakeError, OSError):
    """The address that was asked for cannot be served."""

    exit_code = 46


def parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT``, ``[IPV6]:PORT`` or ``HOST`` with the usual port; port 0 takes any that is free.

    Raises:
        AddressError: it is none of these.
    """
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]") or "0.0.0.0"  # noqa: S104  (asked for by leaving it out)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"not an address: {address[:80]!r}", hint=f"give HOST:PORT, as in 0.0.0.0:{DEFAULT_PORT}")
    return host, int(port)


def next_address(address: str, steps: int) -> str:
    """The address whose port is so many further; any free port stays any free port.

    Raises:
        AddressError: it is none, or there is no such port.
    """
    host, port = parse_address(address)
    if port and port + steps > 65535:
        raise AddressError(
            f"no port {port + steps} for worker {steps}", hint="begin with a smaller one: --http HOST:PORT"
        )
    return f"[{host}]:{port and port + steps}" if ":" in host else f"{host}:{port and port + steps}"


class Door:
    """Serves the metrics and probes of one process; use as a context manager.

    Args:
        address: see `parse_address`.
        metrics: what is served.

    Raises:
        AddressError: the address is taken, or not this machine's.
    """

    def __init__(self, address: str, metrics: Served) -> None:
        host, port = parse_address(address)
        try:
            self._server = _Server(host, port, metrics)
        except OSError as error:
            raise AddressError(
                f"cannot serve HTTP on {address}: {error.strerror or error}",
                hint="stop what listens there, or give another address: --http HOST:PORT",
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="http", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are served."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Take no more requests; those under way are given a moment."""
        self._server.shutdown()
        self._server.wait(_CLOSING_S)
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        host, port = self.address
        log.info("serving metrics and probes", address=f"{host}:{port}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for every connection, and no more connections than there is room for."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, metrics: Served) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.metrics = metrics
        self._page_lock = threading.Lock()
        #: Content type -> page, and when it was rendered.
        self._pages: dict[str, tuple[bytes, float]] = {}
        self._open_lock = threading.Condition()
        #: Connections, the oldest first, and since when they are open.
        self._open: dict[socket.socket, float] = {}
        super().__init__((host, port), _Handler)

    # -- pages -------------------------------------------------------------------------------------------------------
    def page(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that was asked for, and its content type."""
        is_open = "application/openmetrics-text" in accept
        content_type = openmetrics.CONTENT_TYPE_LATEST if is_open else CONTENT_TYPE_PLAIN_0_0_4
        with self._page_lock:
            page, rendered_s = self._pages.get(content_type, (b"", float("-inf")))
            if time.monotonic() - rendered_s > _FRESH_S:
                render: Callable[[Collector], bytes] = openmetrics.generate_latest if is_open else generate_latest
                page = render(self.metrics.registry)
                self._pages[content_type] = page, time.monotonic()
        return page, content_type

    # -- connections -------------------------------------------------------------------------------------------------
    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """A connection came."""
        connection = cast(socket.socket, request)
        with self._open_lock:
            while len(self._open) >= _MAX_CONNECTIONS:
                self._give_up(next(iter(self._open)))
            self._open[connection] = time.monotonic()
        super().process_request(connection, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """A connection is done with."""
        with self._open_lock:
            self._open.pop(cast(socket.socket, request), None)
            self._open_lock.notify_all()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """A few times a second: whoever takes too long is given up."""
        before = time.monotonic() - _PATIENCE_S
        with self._open_lock:
            for connection in [c for c, since in self._open.items() if since < before]:
                self._give_up(connection)

    def _give_up(self, connection: socket.socket) -> None:
        """With the lock held: its thread finds it closed."""
        del self._open[connection]
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def wait(self, timeout_s: float) -> None:
        """Until no connection is open, or for so long."""
        with self._open_lock:
            self._open_lock.wait_for(lambda: not self._open, timeout_s)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Connections break; that is no event."""
        log.debug("a connection broke")


class _Request:
    """The bytes of a request, and no more of them than there may be."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self.left = raw, _MAX_REQUEST_BYTES

    def readline(self, limit: int = -1) -> bytes:
        most = self.left if limit < 0 else min(limit, self.left)
        line = self._raw.readline(most) if most else b""
        self.left -= len(line)
        return line

    def close(self) -> None:
        self._raw.close()

    @property
    def closed(self) -> bool:
        return self._raw.closed


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, and the connection is closed."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "difffake", ""
    timeout = _PATIENCE_S
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._request = _Request(cast(BinaryIO, self.rfile))
        self.rfile = self._request  # type: ignore[assignment]

    def do_GET(self) -> None:
        """Answer."""
        if self._request.left <= 0:
            self.request_version = self.protocol_version
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers are too large\n")
            return
        path = self.path.partition("?")[0]
        health = self.server.metrics.health
        if path == "/metrics":
            self._metrics()
        elif path == "/startupz":
            self._probe(health.startup())
        elif path == "/livez":
            self._probe(health.live())
        elif path == "/readyz":
            self._probe(health.ready())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "/metrics, /startupz, /livez, /readyz\n")

    do_HEAD = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What is no request that we know, without a word of it in the answer."""
        self.request_version = self.protocol_version  # whatever it said of itself
        self._answer(HTTPStatus(code), f"{HTTPStatus(code).phrase}\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Probes come every few seconds."""

    def _metrics(self) -> None:
        try:
            body, content_type = self.server.page(self.headers.get("Accept", ""))
        except Exception:  # no figure is worth a probe that fails beside it
            log.exception("metrics cannot be told")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "metrics cannot be told, see the log\n")
            return
        self._answer(HTTPStatus.OK, body, content_type)

    def _probe(self, answer: Answer) -> None:
        body = json.dumps({"ok": answer.ok, "why": answer.why}) + "\n"
        self._answer(HTTPStatus.OK if answer.ok else HTTPStatus.SERVICE_UNAVAILABLE, body, "application/json")

    def _answer(self, status: HTTPStatus, body: str | bytes, content_type: str = "text/plain; charset=utf-8") -> None:
        data = body.encode() if isinstance(body, str) else body
        self.close_connection = True
        self._count(status)
        if self.request_version == "HTTP/0.9":
            return  # no status, no headers: nobody speaks it
        self.send_response(status)
        for name, value in (
            ("Content-Type", content_type),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _count(self, status: HTTPStatus) -> None:
        path = getattr(self, "path", "").partition("?")[0]
        known = path in ("/metrics", "/startupz", "/livez", "/readyz")
        self.server.metrics.http(path if known else "other", status)
