"""TLS and passwords on a real Apache Kafka: what works, and what each thing that is wrong is told as."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_kafka import ApacheKafka
from certificates import KEY_PASSWORD, Certificates
from media_files import write_video
from tiny import write_tiny_bundle

from stream.broker.contract import Broker, TopicPartition, TopicSpec
from stream.broker.errors import (
    AuthenticationError,
    BrokerError,
    ClientCertificateError,
    HostNameError,
    TlsError,
    TopicNotFoundError,
)
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.cli import main

pytestmark = pytest.mark.kafka

#: Told at once: much less than the time that a start waits for brokers that are away.
CONNECT_S = 20.0


@pytest.fixture
def kafka(apache_kafka: ApacheKafka) -> ApacheKafka:
    if apache_kafka.certificates is None:
        pytest.skip("no openssl to make certificates with")
    return apache_kafka


@pytest.fixture
def certificates(kafka: ApacheKafka) -> Certificates:
    assert kafka.certificates is not None
    return kafka.certificates


def settings(kafka: ApacheKafka, bootstrap: str, **changes: Any) -> KafkaSettings:
    """TLS, as it should be."""
    assert kafka.certificates is not None
    tls: dict[str, Any] = {"security_protocol": "SSL", "tls_ca": kafka.certificates.ca}
    return KafkaSettings(bootstrap_servers=bootstrap, connect_timeout_s=CONNECT_S, **tls | changes)


def scram(kafka: ApacheKafka, mechanism: str, **changes: Any) -> KafkaSettings:
    """SASL over TLS, as it should be."""
    told: dict[str, Any] = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": mechanism,
        "sasl_username": kafka.sasl_username,
        "sasl_password": kafka.sasl_password,
    }
    return settings(kafka, kafka.scram_bootstrap, **told | changes)


def passes_a_record(broker: Broker) -> bool:
    """Whether what is produced through the broker can be read through it."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    broker.ensure_topics([TopicSpec(name, 1)])
    producer = broker.plain_producer()
    producer.send(name, key=b"k", value=b"v")
    producer.flush(10)
    reader, partition = broker.reader(), TopicPartition(name, 0)
    return [r.value for r in reader.read(partition, None, reader.end_offset(partition))] == [b"v"]


def refused(wrong: KafkaSettings) -> BrokerError:
    """The error of a connection; it must come at once."""
    started = time.monotonic()
    with pytest.raises(BrokerError) as told:
        KafkaBroker(wrong).close()
    assert time.monotonic() - started < CONNECT_S
    assert told.value.hint
    return told.value


def test_tls(kafka: ApacheKafka) -> None:
    broker = KafkaBroker(settings(kafka, kafka.tls_bootstrap))
    assert passes_a_record(broker)
    broker.close()


@pytest.mark.parametrize("locked", [False, True])
def test_a_client_certificate(kafka: ApacheKafka, certificates: Certificates, locked: bool) -> None:
    key = certificates.locked_key if locked else certificates.client_key
    told = settings(kafka, kafka.mutual_tls_bootstrap, tls_certificate=certificates.client, tls_key=key)
    broker = KafkaBroker(replace(told, tls_key_password=KEY_PASSWORD if locked else None))
    assert passes_a_record(broker)
    broker.close()


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_password_over_tls(kafka: ApacheKafka, mechanism: str) -> None:
    broker = KafkaBroker(scram(kafka, mechanism))
    assert passes_a_record(broker)
    broker.close()
    error = refused(scram(kafka, mechanism, sasl_password="guessed"))  # noqa: S106
    assert type(error) is AuthenticationError
    assert "password" in error.hint
    assert "guessed" not in f"{error} {error.hint}"


def test_a_mechanism_that_the_broker_does_not_take(kafka: ApacheKafka) -> None:
    error = refused(scram(kafka, "PLAIN"))
    assert type(error) is AuthenticationError
    assert "mechanism" in error.hint


def test_a_broker_signed_by_nobody_we_trust(kafka: ApacheKafka, certificates: Certificates) -> None:
    for ca in (certificates.other_ca, None):
        error = refused(settings(kafka, kafka.tls_bootstrap, tls_ca=ca))
        assert type(error) is TlsError
        assert kafka.tls_bootstrap in str(error)
        assert "--tls-ca" in error.hint
    assert type(refused(scram(kafka, "SCRAM-SHA-256", tls_ca=certificates.other_ca))) is TlsError


def test_a_broker_by_another_name(kafka: ApacheKafka) -> None:
    elsewhere = settings(kafka, kafka.tls_bootstrap.replace("127.0.0.1", "localhost"))
    error = refused(elsewhere)
    assert type(error) is HostNameError
    assert "localhost" in str(error)
    assert "advertised.listeners" in error.hint
    unchecked = KafkaBroker(replace(elsewhere, tls_check_hostname=False))
    assert passes_a_record(unchecked)
    unchecked.close()


def test_a_client_certificate_that_is_missing_or_not_accepted(kafka: ApacheKafka, certificates: Certificates) -> None:
    nothing = settings(kafka, kafka.mutual_tls_bootstrap)
    error = refused(nothing)
    assert type(error) is ClientCertificateError
    assert "none was given" in str(error)
    assert "--tls-certificate" in error.hint
    stranger = replace(nothing, tls_certificate=certificates.stranger, tls_key=certificates.stranger_key)
    error = refused(stranger)
    assert type(error) is ClientCertificateError
    assert str(certificates.stranger) in str(error)
    assert "trust store" in error.hint


def test_files_of_no_use_are_named_before_anything_is_connected(certificates: Certificates, tmp_path: Path) -> None:
    tls = KafkaSettings(bootstrap_servers="127.0.0.1:1", security_protocol="SSL", tls_ca=certificates.ca)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    mixed = replace(tls, tls_certificate=certificates.client, tls_key=certificates.stranger_key)
    locked = replace(tls, tls_certificate=certificates.client, tls_key=certificates.locked_key)
    for wrong, words in (
        (replace(tls, tls_ca=text), str(text)),
        (mixed, "mismatch"),
        (locked, "locked"),
        (replace(locked, tls_key_password="guessed"), "locked"),  # noqa: S106
    ):
        error = refused(wrong)
        assert type(error) is TlsError
        assert words in str(error)
        assert "guessed" not in f"{error} {error.hint} {wrong!r}"


def test_tls_to_a_port_without_it(kafka: ApacheKafka) -> None:
    error = refused(settings(kafka, kafka.bootstrap))
    assert type(error) is TlsError
    assert "port" in error.hint


def test_every_refusal_has_an_exit_code_of_its_own() -> None:
    kinds = (BrokerError, AuthenticationError, TlsError, HostNameError, ClientCertificateError)
    assert len({kind.exit_code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_no_password_in_the_logs_at_any_level(
    kafka: ApacheKafka, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    if mechanism == "PLAIN":
        told = replace(
            scram(kafka, mechanism), bootstrap_servers=kafka.sasl_bootstrap, security_protocol="SASL_PLAINTEXT"
        )
    else:
        told = scram(kafka, mechanism)
    secret = "5cd4-not-to-be-told"  # noqa: S105
    wrong = replace(told, sasl_password=secret, tls_key_password=KEY_PASSWORD)
    refused(wrong)
    KafkaBroker(told).close()
    assert len(caplog.records) > 20  # kafka-python does speak at this level
    logged = "\n".join(record.getMessage() + str(record.args) for record in caplog.records)
    for password in (secret, KEY_PASSWORD, f"'{kafka.sasl_password}'", f"\\x00{kafka.sasl_password}"):
        assert password not in f"{logged} {wrong!r}"


@pytest.mark.slow
def test_from_video_to_scores_over_tls_with_a_password(
    kafka: ApacheKafka,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`publish`, `work` and `tail` as a person types them; the password is in the environment."""
    for name, value in {
        "BOOTSTRAP_SERVERS": kafka.scram_bootstrap,
        "SECURITY_PROTOCOL": "SASL_SSL",
        "TLS_CA": str(certificates.ca),
        "SASL_MECHANISM": "SCRAM-SHA-512",
        "SASL_USERNAME": kafka.sasl_username,
        "SASL_PASSWORD": kafka.sasl_password,
    }.items():
        monkeypatch.setenv(f"DIFFFAKE_{name}", value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    prefix, topic = f"p-{uuid.uuid4().hex[:8]}", f"in-{uuid.uuid4().hex[:8]}"
    bundle = write_tiny_bundle(tmp_path / "tiny", identity=True).path
    clip = write_video(tmp_path / "clip.mp4", frames=25, image=np.full((128, 192, 3), 90, np.uint8))

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return int(str(left.value.code))

    publish = ["publish", clip, "--stream", "a", "--topic", topic, "--fast", "--create-topic", 1]
    assert run(*publish) == 0
    work = ["work", "--topic", topic, "--group", prefix, "--prefix", prefix, "--bundle", str(bundle), "--threads", "1"]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-m", "stream.cli", *work], stdout=log, stderr=log)
    try:
        tail = ["tail", "--json", "--topic", f"{prefix}.scores", "--from-beginning", "--count", 2, "--seconds", 60]
        until = time.monotonic() + 60
        while run(*tail) == TopicNotFoundError.exit_code and time.monotonic() < until and worker.poll() is None:
            time.sleep(0.5)  # until the worker has made its topics
    finally:
        worker.terminate()
        worker.wait(30)
    printed = capsys.readouterr().out
    scores = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [score["stream"] for score in scores] == ["a", "a"], (tmp_path / "log").read_text()
    assert worker.returncode == 0
    monkeypatch.setenv("DIFFFAKE_SASL_PASSWORD", "guessed")
    assert run(*publish) == AuthenticationError.exit_code
    told = capsys.readouterr().err
    assert "password" in told
    assert "guessed" not in told
    monkeypatch.setenv("DIFFFAKE_TLS_CA", str(certificates.other_ca))
    assert run(*publish) == TlsError.exit_code
