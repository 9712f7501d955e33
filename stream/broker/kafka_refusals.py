"""A refused login or handshake, seen at once: kafka-python would try until its time is up, and not say why.

It even loses most refusals: an answer that arrives together with the end of the connection is dropped. So connections
that are closed in mid-login a few times running count as refused.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from kafka.errors import SaslAuthenticationFailedError

from stream.broker import tls

if TYPE_CHECKING:
    from stream.broker.kafka_client import KafkaSettings

ATTEMPTS = 4


class Refusals:
    """Watches every connection that a manager of kafka-python makes.

    Args:
        manager: of one client; its next connection after a refusal raises instead.
        settings: of that client.
    """

    def __init__(self, manager: Any, settings: KafkaSettings) -> None:
        self._settings, self._get_connection = settings, manager.get_connection
        self._refusal: SaslAuthenticationFailedError | None = None
        #: Running failures without a word: those in the handshake, and those after it.
        self._handshakes = self._logins = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        manager.get_connection = self._watched

    def _watched(self, *arguments: Any, **options: Any) -> Any:
        if self._refusal is not None:
            raise self._refusal
        connection = self._get_connection(*arguments, **options)
        if connection not in self._known:  # else it is one that is being made already
            self._known.add(connection)
            self._watch(connection)
        return connection

    def _watch(self, connection: Any) -> None:
        reached, was_reached = connection.connection_made, []

        def made(transport: Any) -> None:
            was_reached.append(True)
            reached(transport)

        connection.connection_made = made
        connection.init_future.add_callback(self._succeeded)
        connection.init_future.add_errback(lambda error: self._failed(error, was_reached=bool(was_reached)))

    def _succeeded(self, _: Any) -> None:
        self._handshakes = self._logins = 0

    def _failed(self, error: BaseException, *, was_reached: bool) -> None:
        # A broker that is away is neither: its connection is refused before there could be a handshake.
        self._logins += was_reached
        self._handshakes += not was_reached and "Handshake failed" in str(error)
        if isinstance(error, SaslAuthenticationFailedError):
            self._refusal = error
        elif (failed := tls.refused(error, self._settings)) is not None:
            self._refusal = failed
        elif self._handshakes + self._logins >= ATTEMPTS:
            if self._settings.sasl_mechanism and self._logins:
                self._refusal = SaslAuthenticationFailedError(
                    "Authentication failed: closed in mid-login by the broker"
                )
            else:
                self._refusal = tls.closed(self._settings, in_handshake=self._handshakes > 0)
