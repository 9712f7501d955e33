"""TLS to a broker: our side of it, and why a handshake fails, in words.

kafka-python makes its context at every connection, where a damaged file looks like a broker that is away and a locked
key asks for its password on the terminal; and it tries again whatever a handshake said. So the context is made once,
before anything is connected, and an answer that no second try would change ends the first one.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import kafka.errors

from stream.broker.errors import BrokerError, ClientCertificateError, HostNameError, TlsError
from stream.broker.kafka_sockets import TlsSocket

if TYPE_CHECKING:
    from stream.broker.kafka_client import KafkaSettings

_FILES_HINT = "Give PEM files, the key that belongs to the certificate, and DIFFFAKE_TLS_KEY_PASSWORD if it is locked."
_PORT_HINT = "Check that this port speaks TLS and that a proxy on the way lets it pass."
#: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_NAME_CODES = (62, 64)
#: Alerts by which a broker says that it wants another certificate of us, or one at all. Java says "bad certificate" or
#: "certificate required" where none came; before TLS 1.3 also "handshake failure".
_ALERTS_ABOUT_US = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "UNSUPPORTED_CERTIFICATE",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
    "HANDSHAKE_FAILURE",
)


class TlsFailedError(kafka.errors.SaslAuthenticationFailedError):  # type: ignore[misc]
    """``ours``, as kafka-python's clients take it: they give up at once, as on a refused login."""

    def __init__(self, ours: BrokerError) -> None:
        super().__init__(str(ours))
        self.ours = ours


def tls_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """Our side of TLS; None where none is spoken.

    Raises:
        TlsError: a file that is damaged, is no PEM, or does not fit the others.
    """
    if settings.security_protocol not in ("SSL", "SASL_SSL"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.tls_check_hostname
    if settings.tls_ca is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(settings.tls_ca)
        except OSError as error:  # ssl.SSLError is one
            raise TlsError(f"{settings.tls_ca} cannot be read as a CA: {_words(error)}", hint=_FILES_HINT) from error
    if settings.tls_certificate is not None:
        try:
            # An empty password is a wrong one; without any, OpenSSL would ask for it on the terminal.
            context.load_cert_chain(settings.tls_certificate, settings.tls_key, settings.tls_key_password or "")
        except OSError as error:
            names = " with ".join(str(file) for file in (settings.tls_certificate, settings.tls_key) if file)
            # OpenSSL says no more of a key whose password is missing or wrong.
            said = "the key is locked or no PEM" if "PEM lib" in str(error) else _words(error)
            raise TlsError(f"{names} cannot be used: {said}", hint=_FILES_HINT) from error
    return context


def refused(error: BaseException, settings: KafkaSettings) -> TlsFailedError | None:
    """What ended a connection, if it was TLS and trying again would change nothing."""
    found = _ssl_error(error)
    at, reason = settings.bootstrap_servers, (found.reason or "") if found is not None else ""
    ours: BrokerError
    if isinstance(found, ssl.SSLCertVerificationError):
        said = f"the certificate of the broker is not accepted ({at}): {found.verify_message}"
        if found.verify_code in _NAME_CODES:
            hint = (
                "Connect by a name that the certificate holds, on --bootstrap-servers and in the brokers' "
                "advertised.listeners. --no-tls-check-hostname takes any name, and with it anybody's certificate."
            )
            ours = HostNameError(said, hint=hint)
        else:
            ours = TlsError(said, hint="Give the CA that signed it with --tls-ca, and see that neither has expired.")
    elif any(alert in reason for alert in _ALERTS_ABOUT_US):
        ours = _about_us(settings, f"the broker said {reason.lower().replace('_', ' ')!r}")
    elif found is not None and not isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        ours = TlsError(f"no TLS with {at}: {_words(found)}", hint=_PORT_HINT)
    else:
        return None
    return TlsFailedError(ours)


def closed(settings: KafkaSettings, *, in_handshake: bool) -> TlsFailedError:
    """For connections that were closed again and again, without a word, in the handshake or right after it."""
    at = settings.bootstrap_servers
    if not in_handshake and settings.tls_certificate is None:
        # The answer "certificate required" comes after our side is done, and is often lost with the connection.
        return TlsFailedError(_about_us(settings, "each connection was closed right after the handshake"))
    return TlsFailedError(TlsError(f"no TLS with {at}: closed in mid-handshake by the broker", hint=_PORT_HINT))


def _about_us(settings: KafkaSettings, said: str) -> ClientCertificateError:
    if settings.tls_certificate is None:
        wanted = "a client certificate is wanted, and none was given"
        hint = "Give --tls-certificate and --tls-key."
    else:
        wanted = f"our certificate {settings.tls_certificate} is not accepted"
        hint = "Give one that a CA in the broker's trust store has signed and that has not expired."
    return ClientCertificateError(f"{settings.bootstrap_servers}: {wanted} ({said})", hint=hint)


def _ssl_error(error: BaseException) -> ssl.SSLError | None:
    """The error of TLS that kafka-python's stands for: its argument, or what it was raised from."""
    for one in (error, *error.args, error.__cause__, error.__context__):
        if isinstance(one, ssl.SSLError):
            return one
    return None


def _words(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return str(reason).lower().replace("_", " ")
