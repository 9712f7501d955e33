"""``difffake wall``: the live wall, a web page for a control room."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from difffake.errors import MissingExtraError
from stream.console import printable
from stream.kafka_options import KafkaOptions, with_kafka
from stream.logs import tell
from stream.topics import Topics

HTTP_ENV, TOKEN_FILE_ENV, AUDIT_ENV = "DIFFFAKE_WALL_HTTP", "DIFFFAKE_WALL_TOKEN_FILE", "DIFFFAKE_WALL_AUDIT"
#: A wall must say soon that Kafka is gone.
_LOSS_S, _CONNECT_S = 6.0, 6.0


@with_kafka
def wall(
    kafka: KafkaOptions,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", envvar=HTTP_ENV, help="Where the page is served.")
    ] = "127.0.0.1:8080",
    prefix: Annotated[str, typer.Option(help="Begins the names of all topics that are not input.")] = "difffake",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar=TOKEN_FILE_ENV,
            help="Operators: a name and a token on each line. Or one token in DIFFFAKE_WALL_TOKEN. Without any, the "
            "wall only shows.",
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar=AUDIT_ENV, help="Where to append what operators did, as JSON lines."),
    ] = None,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="Show a picture of each stream's last scored frame; reads the input topics."),
    ] = False,
    watch_inputs: Annotated[
        bool, typer.Option(help="Ask for the ends of silent input partitions, to tell a lost worker from no frames.")
    ] = True,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name under which browsers may call the wall; else any.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve HTTPS with this certificate, PEM.")
    ] = None,
    certificate_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM.")] = None,
    looked: Annotated[
        float, typer.Option(help="A stream is clean only if a face was scored within so many seconds.")
    ] = 10.0,
    max_streams: Annotated[
        int, typer.Option(min=1, help="Tiles; calm streams beyond are left out, and counted.")
    ] = 512,
    max_clients: Annotated[int, typer.Option(min=1, help="Pages served at once.")] = 64,
    group: Annotated[
        str | None, typer.Option(help="Consumer group, where groups need permission; nothing is committed in it.")
    ] = None,
) -> None:
    """Serve the live wall: a tile per stream, alerts on top, and operators' commands for those with a token."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"the wall needs a web server: {error}", hint="install it: pip install 'difffake[wall]'"
        ) from error
    from stream.wall.access import Operators
    from stream.wall.audit import Audit
    from stream.wall.server import WallServer, parse_address
    from stream.wall.settings import WallSettings

    if (certificate is None) != (certificate_key is None):
        raise typer.BadParameter("--certificate and --certificate-key go together")
    try:
        settings = WallSettings(
            topics=Topics.under(prefix), looked_s=looked, max_streams=max_streams, max_clients=max_clients
        )
    except (ValueError, msgspec.ValidationError) as error:
        raise typer.BadParameter(str(error)) from error
    operators, address = Operators.load(token_file), parse_address(http)
    # Before anything is served, so that a wrong address is told at once.
    kafka.broker().close()
    server = WallServer(
        lambda: kafka.broker(is_told=False, loss_timeout_s=_LOSS_S, connect_timeout_s=_CONNECT_S),
        address,
        settings=settings,
        operators=operators,
        audit=Audit(audit),
        with_pictures=pictures,
        group=group,
        watch_inputs=watch_inputs,
        hosts=allow_host,
        tls=None if certificate is None or certificate_key is None else (certificate, certificate_key),
        replay=_replay(kafka, prefix),
    )
    scheme = "http" if certificate is None else "https"
    acting = "operators may act" if operators else "read-only: no token was given"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    tell(f"wall: {scheme}://{printable(host)}:{server.port}/ ({acting})")
    server.run()


def _replay(kafka: KafkaOptions, prefix: str) -> str:
    words = ["difffake", "replay", "--bootstrap-servers", kafka.bootstrap_servers]
    return shlex.join(words if prefix == "difffake" else [*words, "--prefix", prefix])
