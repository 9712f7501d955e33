"""Certificates for one test run, made by openssl: a CA, a broker at 127.0.0.1, a client, and strangers to them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY_PASSWORD = "of the key"  # noqa: S105  (of a key that lives for one test run)


class OpensslMissing(RuntimeError):  # noqa: N818  (it names what is missing, nothing went wrong)
    """No certificates can be made here; the message says why."""


@dataclass(frozen=True)
class Certificates:
    """PEM files.

    `broker`: key and certificate of a broker that is called 127.0.0.1 and nothing else, signed by `ca`. `client` and
    `client_key`: likewise; `locked_key` is that key under `KEY_PASSWORD`. `stranger` and `stranger_key`: signed by
    `other_ca`, which nobody trusts.
    """

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def other_ca(self) -> Path:
        return self.folder / "other-ca.pem"

    @property
    def broker(self) -> Path:
        return self.folder / "broker-and-key.pem"

    @property
    def client(self) -> Path:
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        return self.folder / "client.key"

    @property
    def locked_key(self) -> Path:
        return self.folder / "locked.key"

    @property
    def stranger(self) -> Path:
        return self.folder / "stranger.pem"

    @property
    def stranger_key(self) -> Path:
        return self.folder / "stranger.key"

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """Raises `OpensslMissing`."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder)
        for ca, names in (("ca", ("broker", "client")), ("other-ca", ("stranger",))):
            # Python 3.13 takes no CA that does not say what its key is for.
            usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            _certificate(folder, ca, ["-addext", "basicConstraints=critical,CA:TRUE", *usage])
            for name in names:
                signed = ["-CA", str(folder / f"{ca}.pem"), "-CAkey", str(folder / f"{ca}.key")]
                leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"]
                _certificate(folder, name, [*signed, *leaf])
        made.broker.write_bytes((folder / "broker.key").read_bytes() + (folder / "broker.pem").read_bytes())
        lock = ["pkey", "-in", str(made.client_key), "-aes256", "-passout", f"pass:{KEY_PASSWORD}"]
        _openssl(*lock, "-out", str(made.locked_key))
        return made


def _certificate(folder: Path, name: str, more: list[str]) -> None:
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
    _openssl(*new, "-subj", f"/CN=difffake test {name}", *files, *more)


def _openssl(*arguments: str) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise OpensslMissing("no openssl to make certificates with")
    done = subprocess.run([openssl, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpensslMissing(f"openssl {arguments[0]} failed: {done.stderr.strip()[-300:]}")
