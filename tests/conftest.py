"""What several rooms' tests share: real clips with free licences, fetched once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from apache_kafka import ApacheKafka, KafkaMissing
from certificates import Certificates, OpensslMissing
from hypothesis import settings
from tiny import write_tiny_bundle

from difffake.bundle import Bundle
from difffake.demo.clips import fetch_clips
from stream.broker.contract import Broker
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.broker.memory import MemoryBroker

# How long an example takes is the machine's affair, and it may be busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

CACHE = Path(__file__).parents[1] / ".cache" / "clips"


@pytest.fixture
def hangup_by_default() -> Iterator[None]:
    """SIGHUP is not ignored, though the tests run under nohup or whatever else ignores it."""
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def clips() -> dict[str, Path]:
    """Real video by name: woman, man, face_noface, noface_face, no_face."""
    return fetch_clips(CACHE)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small consistent bundle on disk; copy its folder before you damage it."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a CA, a broker and a client, and of strangers."""
    try:
        return Certificates.make(tmp_path_factory.mktemp("certificates"))
    except OpensslMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """One real Apache Kafka node for the session, which a test may kill and start again; with TLS where openssl is."""
    folder = tmp_path_factory.mktemp("kafka")
    try:
        certificates = Certificates.make(folder / "certificates")
    except OpensslMissing:
        certificates = None
    try:
        node = ApacheKafka(folder, certificates=certificates)
    except KafkaMissing as missing:
        pytest.skip(str(missing))
    with node:
        yield node


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> str:
    """Where a real Kafka answers: DIFFFAKE_TEST_BOOTSTRAP, else a node of our own."""
    given = os.environ.get("DIFFFAKE_TEST_BOOTSTRAP")
    return given or str(request.getfixturevalue("apache_kafka").bootstrap)


@pytest.fixture(autouse=True)
def _logs_as_by_default() -> Iterator[None]:
    """A command configures logging to the standard error that it found; the next test has another one."""
    yield
    structlog.reset_defaults()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """One in memory, and Apache Kafka."""
    if request.param == "memory":
        yield MemoryBroker()
        return
    real = KafkaBroker(KafkaSettings(bootstrap_servers=request.getfixturevalue("kafka_bootstrap")))
    yield real
    real.close()
