"""What every client of Apache Kafka here shares: settings, how one connects, and errors in our words."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import kafka.errors
from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport
from kafka.record import util as kafka_checksums

from difffake.errors import MissingExtraError
from stream.broker.contract import DEFAULT_MAX_MESSAGE_BYTES
from stream.broker.errors import (
    AuthenticationError,
    BrokerError,
    BrokerUnavailableError,
    FencedError,
    MessageTooLargeError,
    StaleGroupError,
    TlsError,
    TopicNotFoundError,
)
from stream.broker.kafka_records import read_within_bounds
from stream.broker.kafka_refusals import Refusals
from stream.broker.kafka_sockets import plain_socket
from stream.broker.tls import TlsFailedError, tls_context

# Applications choose where its lines go; without a choice they would land on the terminal.
logging.getLogger("kafka").addHandler(logging.NullHandler())
# Their debug lines are every request as it is, a login with its password too.
for _name in ("kafka.protocol.parser", "kafka.net.connection"):
    logging.getLogger(_name).setLevel(logging.INFO)

Made = TypeVar("Made")

_connect_socket = KafkaNetSocket.sock_connect


async def _connect_or_close(self: Any, net: Any, sock: Any, address: Any, timeout_at: Any = None) -> Any:
    """kafka-python leaves the socket of a refused connection open: one for every try while a broker is away."""
    try:
        return await _connect_socket(self, net, sock, address, timeout_at=timeout_at)
    except BaseException:
        sock.close()
        raise


KafkaNetSocket.sock_connect = _connect_or_close

_shake_hands = KafkaSSLTransport.handshake


async def _shake_hands_or_close(self: Any) -> None:
    """Likewise the socket of a handshake that failed."""
    try:
        await _shake_hands(self)
    except BaseException:
        self.close()
        raise


KafkaSSLTransport.handshake = _shake_hands_or_close

KafkaNetSocket.socket = plain_socket

read_within_bounds()

MIB = 1024 * 1024
RECONNECT_MAX_S = 2.0
FRAME_OVERHEAD_BYTES = MIB


class _Secret(str):
    """Text that no log of a configuration shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach and use a cluster. Times in seconds, sizes in bytes.

    `connect_timeout_s`: how long a start waits for a broker (with backoff and jitter). `loss_timeout_s`: how long it
    may be gone later before `BrokerUnavailableError`. `session_timeout_s`: after this a silent member's partitions go
    to others. `max_poll_interval_s`: so long may pass between two polls. `transaction_timeout_s`: the broker
    aborts what is open longer.
    """

    bootstrap_servers: str = "localhost:9092"
    client_id: str = "difffake"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_key_password: str | None = field(default=None, repr=False)
    tls_check_hostname: bool = True
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 30.0
    loss_timeout_s: float = 60.0
    session_timeout_s: float = 10.0
    max_poll_interval_s: float = 300.0
    transaction_timeout_s: float = 60.0
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    fetch_bytes: int = 48 * MIB
    fetch_partition_bytes: int = 4 * MIB
    compression: Literal["gzip", "lz4", "snappy", "zstd"] | None = None
    metadata_max_age_s: float = 30.0

    @property
    def heartbeat_s(self) -> float:
        """At most a third of the session, so that two may get lost; often, for members learn of a rebalance by it."""
        return min(1.0, self.session_timeout_s / 3)

    def common(self) -> dict[str, Any]:
        """Configuration that all of kafka-python's clients take."""
        return {
            "bootstrap_servers": [server.strip() for server in self.bootstrap_servers.split(",")],
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "ssl_context": tls_context(self),
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password and _Secret(self.sasl_password),
            "bootstrap_timeout_ms": int(self.connect_timeout_s * 1000),
            # Half of the loss, so that a request to a broker that hangs is tried once more in time.
            "request_timeout_ms": int(min(30.0, self.loss_timeout_s / 2) * 1000),
            "reconnect_backoff_max_ms": int(RECONNECT_MAX_S * 1000),
            "metadata_max_age_ms": int(self.metadata_max_age_s * 1000),
            # One record may be larger than what a fetch asks for.
            "receive_message_max_bytes": self.fetch_bytes + self.max_message_bytes + FRAME_OVERHEAD_BYTES,
        }

    def check(self) -> None:
        """Raises what would otherwise come up late or unclear.

        Raises:
            MissingExtraError: CRC-32C would run in pure Python, at a tenth of the speed or less.
            TlsError: a TLS file that is not there, or of no use.
        """
        if kafka_checksums.crc32c_c is None:
            raise MissingExtraError(
                "Kafka's checksums would run in pure Python, far too slow for video",
                hint="Install the C module: pip install 'kafka-python[crc32c]'.",
            )
        for file in (self.tls_ca, self.tls_certificate, self.tls_key):
            if file is not None and not file.is_file():
                raise TlsError(f"the TLS file {file} does not exist", hint="Check the path in the Kafka settings.")
        tls_context(self)


def connect(make: Callable[..., Made], settings: KafkaSettings, **options: Any) -> Made:
    """A client of kafka-python that has reached a broker; it retries by itself with backoff and jitter.

    Raises:
        BrokerUnavailableError: none answered within `connect_timeout_s`.
        AuthenticationError: one answered and does not accept us.
        TlsError: and its leaves: no trusted connection.
    """
    network: list[Any] = []

    def keep(**configuration: Any) -> Any:
        network.append(kafka.KafkaConsumer.DEFAULT_CONFIG["kafka_client"](**configuration))
        if settings.security_protocol != "PLAINTEXT":
            Refusals(network[-1]._manager, settings)
        return network[-1]

    try:
        with translated(f"connecting to {settings.bootstrap_servers}"):
            return make(kafka_client=keep, **settings.common() | options)
    except BaseException:
        # Its constructor fails with its thread and sockets left open; or without a thread, which cannot be waited for.
        for client in network:
            with contextlib.suppress(Exception):
                client.close()
        raise


#: What comes of a broker that is away, or of a partition that has no leader for a moment.
TRANSIENT = (kafka.errors.RetriableError, kafka.errors.UnknownBrokerIdError)


def retried(call: Callable[[], Made], *, within_s: float) -> Made:
    """`call` until it succeeds; transient errors are tried again with backoff and jitter."""
    deadline = time.monotonic() + within_s
    delay_s = 0.1
    while True:
        try:
            return call()
        except kafka.errors.UnknownTopicOrPartitionError:
            raise  # transient to kafka-python; to us the answer
        except TRANSIENT:
            if time.monotonic() + delay_s > deadline:
                raise
            time.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311  (jitter, not a secret)
            delay_s = min(RECONNECT_MAX_S, 2 * delay_s)


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Errors of kafka-python leave as ours; `doing` says what could not be done."""
    try:
        yield
    except kafka.errors.KafkaError as error:
        raise as_ours(error, doing) from error


def as_ours(error: BaseException, doing: str) -> BrokerError:
    """The leaf of `BrokerError` for an error of kafka-python."""
    if isinstance(error, TlsFailedError):
        return error.ours
    message = f"{doing}: {str(error) or type(error).__name__}"
    for kinds, leaf, hint in _KINDS:
        if isinstance(error, kinds):
            return leaf(message, hint=hint)
    return BrokerError(message, hint="See the broker's own log for what it refused, and why.")


_KINDS: list[tuple[tuple[type[BaseException], ...], type[BrokerError], str]] = [
    (
        (
            kafka.errors.SaslAuthenticationFailedError,
            kafka.errors.AuthorizationError,
            kafka.errors.UnsupportedSaslMechanismError,
            kafka.errors.IllegalSaslStateError,
        ),
        AuthenticationError,
        "Check user, password and mechanism, and that the user may do this (ACLs).",
    ),
    (
        (
            kafka.errors.ProducerFencedError,
            kafka.errors.InvalidProducerEpochError,
            kafka.errors.InvalidProducerIdMappingError,
            kafka.errors.InvalidTxnStateError,
            kafka.errors.TransactionCoordinatorFencedError,
            kafka.errors.FencedInstanceIdError,
        ),
        FencedError,
        "Another process runs with the same id, or a transaction was open longer than its timeout. Stop this one.",
    ),
    (
        (
            kafka.errors.CommitFailedError,
            kafka.errors.UnknownMemberIdError,
            kafka.errors.IllegalGenerationError,
            kafka.errors.RebalanceInProgressError,
        ),
        StaleGroupError,
        "Poll again to join the group anew. If it happens often, work less between two polls.",
    ),
    (
        (kafka.errors.MessageSizeTooLargeError, kafka.errors.RecordListTooLargeError),
        MessageTooLargeError,
        "Raise the topic's max.message.bytes and our max_message_bytes, or send smaller messages.",
    ),
    (
        (kafka.errors.UnknownTopicOrPartitionError, kafka.errors.InvalidTopicError),
        TopicNotFoundError,
        "Create the topic first, or check its name.",
    ),
    (
        (kafka.errors.UnsupportedCodecError,),
        BrokerError,
        "A producer compressed these records. Install what reads them: pip install 'kafka-python[lz4,snappy,zstd]'.",
    ),
    (
        TRANSIENT,
        BrokerUnavailableError,
        "Check that a broker runs there, that host and port are right, and that it speaks the chosen protocol.",
    ),
]
