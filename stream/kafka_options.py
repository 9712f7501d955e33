"""The options by which every command reaches Kafka, from flags and environment; secrets never on the command line."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import structlog
import typer

from difffake.errors import DiffFakeError
from stream.broker.contract import DEFAULT_MAX_MESSAGE_BYTES, Broker

if TYPE_CHECKING:
    from stream.broker.kafka_client import KafkaSettings

log = structlog.get_logger()

R = TypeVar("R")

#: A wait for a broker is told after so long, and then again.
_FIRST_TOLD_S, _TOLD_S = 2.0, 10.0
BOOTSTRAP_ENV = "DIFFFAKE_BOOTSTRAP_SERVERS"
SASL_PASSWORD_ENV, TLS_KEY_PASSWORD_ENV = "DIFFFAKE_SASL_PASSWORD", "DIFFFAKE_TLS_KEY_PASSWORD"
_MAX_PASSWORD_BYTES = 4096


class SecurityProtocol(StrEnum):
    """How brokers are spoken to."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(StrEnum):
    """How we say who we are."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """What a command was told about the cluster; importing it does not import kafka-python."""

    bootstrap_servers: str
    security_protocol: SecurityProtocol = SecurityProtocol.PLAINTEXT
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_key_password: str | None = field(default=None, repr=False)
    tls_check_hostname: bool = True
    sasl_mechanism: SaslMechanism | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES

    def settings(self, **more: Any) -> KafkaSettings:
        """The broker room's settings; ``more`` of them by name."""
        from stream.broker.kafka_client import KafkaSettings

        return KafkaSettings(
            bootstrap_servers=self.bootstrap_servers,
            security_protocol=self.security_protocol.value,
            tls_ca=self.tls_ca,
            tls_certificate=self.tls_certificate,
            tls_key=self.tls_key,
            tls_key_password=self.tls_key_password,
            tls_check_hostname=self.tls_check_hostname,
            sasl_mechanism=self.sasl_mechanism.value if self.sasl_mechanism else None,
            sasl_username=self.sasl_username,
            sasl_password=self.sasl_password,
            max_message_bytes=self.max_message_bytes,
            **more,
        )

    def broker(self, *, is_told: bool = True, **more: Any) -> Broker:
        """A connection; close it after use.

        Args:
            is_told: log that it has to be waited for.
            more: settings, by name.

        Raises:
            BrokerUnavailableError, AuthenticationError, MissingExtraError: see `stream.broker.kafka.KafkaBroker`.
        """
        from stream.broker.kafka import KafkaBroker

        settings = self.settings(**more)
        if not is_told:
            return KafkaBroker(settings)
        with _wait_told(settings.bootstrap_servers, settings.connect_timeout_s):
            return KafkaBroker(settings)


@contextmanager
def _wait_told(servers: str, most_s: float) -> Iterator[None]:
    """Log now and then that nobody has answered yet: a wrong address would be half a minute of silence."""
    is_over, began_s = threading.Event(), time.monotonic()

    def tell() -> None:
        wait_s = _FIRST_TOLD_S
        while not is_over.wait(wait_s):
            log.warning(f"waiting for Kafka at {servers[:200]} ({time.monotonic() - began_s:.0f} s of {most_s:.0f})")
            wait_s = _TOLD_S

    thread = threading.Thread(target=tell, name="kafka-wait", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def with_kafka(command: Callable[..., R]) -> Callable[..., R]:
    """Give a typer command whose parameter is ``kafka: KafkaOptions`` the options that it is made of.

    Where the parameter is ``KafkaOptions | None``, Kafka is asked for by ``--bootstrap-servers`` alone, never by the
    environment, and without it the command gets ``None``.

    >>> @with_kafka                                         # doctest: +SKIP
    ... def publish(sources: list[str], kafka: KafkaOptions) -> None: ...
    """
    own = inspect.signature(command, eval_str=True)
    optional = own.parameters["kafka"].annotation != KafkaOptions
    options = dict(inspect.signature(_options, eval_str=True).parameters)
    if optional:
        bootstrap = options["bootstrap_servers"]
        options["bootstrap_servers"] = bootstrap.replace(annotation=_AskedForServers)

    def run(**given: Any) -> R:
        told = {name: given.pop(name) for name in options}
        if optional and told["bootstrap_servers"] is None:
            return command(**given, kafka=None)
        return command(**given, kafka=_options(**told))

    rest = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own.parameters.values() if p.name != "kafka"]
    run.__signature__ = own.replace(parameters=[*rest, *options.values()])  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


_AskedForServers = Annotated[
    str | None,
    typer.Option("--bootstrap-servers", metavar="HOST:PORT,...", help="Brokers; without this no Kafka is used."),
]


def _options(
    *,
    bootstrap_servers: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", envvar=BOOTSTRAP_ENV, help="Brokers to begin with.")
    ] = None,
    security_protocol: Annotated[
        SecurityProtocol, typer.Option(envvar="DIFFFAKE_SECURITY_PROTOCOL", help="How brokers are spoken to.")
    ] = SecurityProtocol.PLAINTEXT,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="DIFFFAKE_TLS_CA", help="Who signs the brokers, PEM.")
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="DIFFFAKE_TLS_CERTIFICATE", help="Our certificate, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="DIFFFAKE_TLS_KEY",
            help=f"Our key, PEM; its password, if it has one, in {TLS_KEY_PASSWORD_ENV}.",
        ),
    ] = None,
    tls_check_hostname: Annotated[
        bool, typer.Option(envvar="DIFFFAKE_TLS_CHECK_HOSTNAME", help="Certificates must name their host.")
    ] = True,
    sasl_mechanism: Annotated[
        SaslMechanism | None, typer.Option(envvar="DIFFFAKE_SASL_MECHANISM", help="How we say who we are.")
    ] = None,
    sasl_username: Annotated[str | None, typer.Option(envvar="DIFFFAKE_SASL_USERNAME", help="Who we are.")] = None,
    sasl_password_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="DIFFFAKE_SASL_PASSWORD_FILE",
            help=f"Holds the password; or put it into {SASL_PASSWORD_ENV}.",
        ),
    ] = None,
    max_message_bytes: Annotated[
        int, typer.Option(min=1024, envvar="DIFFFAKE_MAX_MESSAGE_BYTES", help="Largest record sent or read.")
    ] = DEFAULT_MAX_MESSAGE_BYTES,
) -> KafkaOptions:
    if not bootstrap_servers or not bootstrap_servers.strip(", "):
        raise typer.BadParameter(f"where is Kafka? Give --bootstrap-servers HOST:PORT, or set {BOOTSTRAP_ENV}")
    password = None
    if security_protocol in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL):
        password = _password(sasl_password_file)
        missing = {
            "--sasl-mechanism": sasl_mechanism,
            "--sasl-username": sasl_username,
            f"the password (--sasl-password-file, or {SASL_PASSWORD_ENV})": password,
        }
        if not all(missing.values()):
            names = ", ".join(name for name, value in missing.items() if not value)
            raise typer.BadParameter(f"{security_protocol.value} needs {names}")
    elif sasl_mechanism or sasl_username or sasl_password_file:
        raise typer.BadParameter(
            f"{security_protocol.value} knows no SASL user: give --security-protocol SASL_SSL or SASL_PLAINTEXT"
        )
    return KafkaOptions(
        bootstrap_servers=bootstrap_servers,
        security_protocol=security_protocol,
        tls_ca=tls_ca,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_key_password=os.environ.get(TLS_KEY_PASSWORD_ENV),
        tls_check_hostname=tls_check_hostname,
        sasl_mechanism=sasl_mechanism,
        sasl_username=sasl_username,
        sasl_password=password,
        max_message_bytes=max_message_bytes,
    )


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(SASL_PASSWORD_ENV)
    try:
        with file.open("rb") as opened:
            return opened.read(_MAX_PASSWORD_BYTES).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DiffFakeError(
            f"{file}: the password cannot be read ({error})", hint="check --sasl-password-file and its rights"
        ) from error
