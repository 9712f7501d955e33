"""The wall's HTTP server: uvicorn, made to let go of whoever is too slow."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from difffake.errors import DiffFakeError
from difffake.hangup import stop_signals
from stream.broker.contract import Broker
from stream.wall.access import Operators
from stream.wall.app import Door, make_app
from stream.wall.audit import Audit
from stream.wall.events import Hub
from stream.wall.feed import Feed
from stream.wall.model import Wall
from stream.wall.settings import WallSettings

if TYPE_CHECKING:
    from stream.wall.pictures import Pictures

_KEEP_ALIVE_S = 15
_SHUTDOWN_S = 3
_START_S = 10.0
_LOOK_S = 0.1
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class AddressError(DiffFakeError, OSError):
    """An address that cannot be listened at."""

    exit_code = 45


class WallServer:
    """A wall that is read from Kafka and served; use `run`, or as a context manager, which serves in a thread.

    Args:
        connect: opens a broker; called often, from several threads.
        address: host and port; port 0 takes a free one.
        settings: see there.
        operators: who may act; nobody by default.
        audit: where that is written down.
        with_pictures: show pictures of scored frames, from the input topics.
        group: consumer group, where groups need permission.
        watch_inputs: see `stream.wall.feed.Feed`.
        hosts: names by which it may be called besides those of this machine; None: any, unless it listens on this
            machine alone.
        tls: certificate and key, PEM.
        replay: what a replay command begins with.

    Raises:
        AddressError: the address is taken, or none of this machine's; or certificate and key are of no use.
    """

    def __init__(
        self,
        connect: Callable[[], Broker],
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        settings: WallSettings | None = None,
        operators: Operators | None = None,
        audit: Audit | None = None,
        with_pictures: bool = False,
        group: str | None = None,
        watch_inputs: bool = True,
        hosts: Collection[str] | None = None,
        tls: tuple[Path, Path] | None = None,
        replay: str = "difffake replay",
    ) -> None:
        self.wall = Wall(settings)
        self.wall.has_pictures, self.wall.replay = with_pictures, replay
        self.hub = Hub(self.wall)
        self._pictures = _pictures(connect) if with_pictures else None
        self._feed = Feed(self.wall, connect, group=group, watch_inputs=watch_inputs, told=self.hub.told)
        self._socket = _listen(address)
        if hosts is not None or self._socket.getsockname()[0] in LOOPBACK:
            hosts = {*LOOPBACK, *(hosts or ())}
        door = Door(self.hub, connect, operators or Operators({}), audit or Audit(), self._pictures, hosts)
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(door),
                http=_protocol(self.hub),
                ws="none",
                lifespan="off",
                log_config=None,
                # Whoever sends nonsense must not fill the log.
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_SHUTDOWN_S,
                # Pages open some connections each; whoever opens more than this waits outside.
                limit_concurrency=8 * self.wall.settings.max_clients + 64,
                ssl_certfile=None if tls is None else str(tls[0]),
                ssl_keyfile=None if tls is None else str(tls[1]),
            )
        )
        try:
            self._server.config.load()
        except OSError as error:  # ssl.SSLError is one
            self._socket.close()
            raise AddressError(
                f"HTTPS cannot be served with these files: {error}", hint="check --certificate and --certificate-key"
            ) from error
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="wall-http", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT, or SIGHUP where that is not ignored; on the main thread."""
        # uvicorn listens to the first two itself, and raises them again once it has shut down: SIGTERM would then be
        # told as a death.
        for signum in stop_signals(with_interrupt=False):
            signal.signal(signum, self._leave)
        with self._feed:
            asyncio.run(self._serve())
        self._close()

    def __enter__(self) -> Self:
        self._feed.__enter__()
        self._thread.start()
        deadline = threading.Event()
        for _ in range(int(_START_S / _LOOK_S)):
            if self._server.started or not self._thread.is_alive():
                break
            deadline.wait(_LOOK_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_START_S)
        self._feed.__exit__()
        self._close()

    def _leave(self, _signum: int, _frame: FrameType | None) -> None:
        self._server.should_exit = True

    async def _serve(self) -> None:
        self.hub.open()
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        while not (serving.done() or self._server.should_exit):
            await asyncio.wait([serving], timeout=_LOOK_S)
        # Pages never end by themselves.
        self.hub.close()
        await serving

    def _close(self) -> None:
        if self._pictures is not None:
            self._pictures.close()
        with contextlib.suppress(OSError):
            self._socket.close()


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[::1]:PORT`` or ``:PORT``.

    >>> parse_address("0.0.0.0:8080"), parse_address("[::1]:80"), parse_address(":8080")
    (('0.0.0.0', 8080), ('::1', 80), ('127.0.0.1', 8080))

    Raises:
        AddressError: none of these.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise AddressError(f"not an address: {text[:80]!r}", hint="give HOST:PORT, as in 0.0.0.0:8080")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family)
    except OSError as error:
        raise AddressError(
            f"cannot listen at {host}:{port} ({error.strerror or error})",
            hint="is another wall running there? Give another address: --http HOST:PORT",
        ) from error


def _protocol(hub: Hub) -> type[asyncio.Protocol]:
    settings = hub.wall.settings

    class WallProtocol(H11Protocol):
        """Lets go of a client that takes its time over a request's head, or does not take its answer."""

        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # Given to the application with every request; see `stream.wall.events.EventStream`.
            self.app_state = {**self.app_state, "let_go": transport.abort}
            _give_up_after(transport.get_extra_info("socket"), settings.client_s)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            hub.dropped += isinstance(exc, TimeoutError)
            self._disarm()

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._disarm()  # the application has the request
            elif self._deadline is None:
                self._deadline = self.loop.call_later(settings.request_s, self._too_slow)

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_slow(self) -> None:
            self._deadline = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return WallProtocol


def _give_up_after(connection: socket.socket | None, seconds: float) -> None:
    """A peer that does not take what was sent is given up by the kernel, too: closing waits for it otherwise."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if connection is not None and option is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))


def _pictures(connect: Callable[[], Broker]) -> Pictures:
    """Loads decoders, whose memory only a wall that shows pictures needs."""
    from stream.wall.pictures import Pictures

    return Pictures(connect)
