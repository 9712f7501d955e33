"""``difffake hooks``: alerts to a web address, in a process of its own."""

from __future__ import annotations

import os
import signal
import ssl
import uuid
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from difffake.hangup import stop_signals
from stream.hooks import HookError, Hooks, HookSettings, PayloadKind, Receiver
from stream.hooks.figures import hook_metrics
from stream.hooks.settings import check_secret
from stream.kafka_options import KafkaOptions, with_kafka
from stream.logs import tell
from stream.messages import AlertState
from stream.probes import Door

SECRET_ENV = "DIFFFAKE_HOOK_SECRET"  # noqa: S105  (its name)
HTTP_ENV = "DIFFFAKE_HOOK_HTTP"


@with_kafka
def hooks(
    url: Annotated[str, typer.Option(metavar="URL", envvar="DIFFFAKE_HOOK_URL", help="Where alerts are posted to.")],
    kafka: KafkaOptions,
    payload: Annotated[
        PayloadKind, typer.Option(help="json: the record as in docs/schema; slack: a message for a chat.")
    ] = PayloadKind.JSON,
    state: Annotated[
        list[AlertState] | None,
        typer.Option(help="Records that are sent, may be given several times; opened and closed by default."),
    ] = None,
    thumbnails: Annotated[bool, typer.Option(help="Send the face along (json).")] = True,
    group: Annotated[
        str, typer.Option(help="Consumer group: one for each receiver; more processes of one group share the work.")
    ] = "difffake-hooks",
    topic: Annotated[str, typer.Option(help="Topic of alerts.")] = "difffake.alerts",
    give_up: Annotated[float, typer.Option(help="Seconds after which an alert is not tried again.")] = 900.0,
    max_age: Annotated[float, typer.Option(help="Seconds after which an alert is not sent any more.")] = 3600.0,
    ca: Annotated[Path | None, typer.Option(help="Who signs the receiver's certificate, PEM.")] = None,
    http: Annotated[
        str | None,
        typer.Option(
            envvar=HTTP_ENV,
            metavar="HOST:PORT",
            help="Serve /metrics, /startupz, /livez and /readyz there, in containers 0.0.0.0:9464; off by default.",
        ),
    ] = None,
) -> None:
    """Post alerts to a receiver: signed with DIFFFAKE_HOOK_SECRET, tried again, at least once, in order."""
    secret = os.environ.get(SECRET_ENV, "").encode() or None
    if secret is not None:
        check_secret(secret)
    try:
        settings = HookSettings(
            url=url,
            payload=payload,
            states=tuple(state or (AlertState.OPENED, AlertState.CLOSED)),
            thumbnails=thumbnails,
            give_up_s=give_up,
            max_age_s=max_age,
        )
    except HookError:
        raise
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        tls = None if ca is None else ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise HookError(f"{ca} holds no certificates: {error}", hint="give --ca a PEM file") from error
    with ExitStack() as stack:
        broker = stack.enter_context(closing(kafka.broker()))
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        runner = Hooks(broker, topic, Receiver(settings, tls), settings, secret=secret, group=group, name=name)
        for signum in stop_signals():
            signal.signal(signum, lambda *_: runner.stop())
        if http:
            stack.enter_context(Door(http, hook_metrics(runner)))
        signed = "signed" if secret is not None else f"not signed: {SECRET_ENV} is not set"
        tell(f"posting alerts of {topic} as {group}, {signed}")
        runner.run()
        for what, count in sorted(runner.counts.items()):
            tell(f"  {what}: {count}")
