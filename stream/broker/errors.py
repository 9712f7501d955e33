"""Every way a broker can fail, as a leaf of `BrokerError`: what to do about it is in its hint."""

from __future__ import annotations

from difffake.errors import DiffFakeError


class BrokerError(DiffFakeError, RuntimeError):
    """The broker refused something, or answered what it should not have."""

    exit_code = 30


class BrokerUnavailableError(BrokerError, ConnectionError):
    """No broker answered for as long as the settings allow."""

    exit_code = 31


class FencedError(BrokerError):
    """Another producer took over this transactional id: this process has been replaced and must stop its work."""

    exit_code = 32


class AuthenticationError(BrokerError, PermissionError):
    """The broker does not accept who we are, or does not let us do this."""

    exit_code = 33


class TopicNotFoundError(BrokerError, LookupError):
    """A topic that does not exist."""

    exit_code = 34


class MessageTooLargeError(BrokerError, ValueError):
    """A record beyond the limit of this client, of the topic, or of the broker."""

    exit_code = 35


class StaleGroupError(BrokerError):
    """The group went on without us: our generation is over and the offsets were refused.

    Not the end of the process: the transaction was aborted; drop the work since the last commit and poll again, which
    joins the group anew (and tells the listener which partitions are lost).
    """

    exit_code = 36


class TlsError(BrokerError, PermissionError):
    """No trusted connection: the broker's certificate is not accepted, there is no TLS at its port, or a file of ours
    cannot be used."""

    exit_code = 37


class HostNameError(TlsError):
    """The broker's certificate is trusted, but it is another host's."""

    exit_code = 38


class ClientCertificateError(TlsError):
    """The broker wants a certificate of us, or another one than ours."""

    exit_code = 39
