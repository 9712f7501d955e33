"""One set of Kafka options for every command: flags, environment, secrets that never stand on a command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from stream import kafka_options
from stream.broker.errors import BrokerUnavailableError
from stream.kafka_options import KafkaOptions, with_kafka

SASL = ["--security-protocol", "SASL_SSL", "--sasl-mechanism", "SCRAM-SHA-512", "--sasl-username", "ada"]


class Told:
    """A command that keeps what it was given."""

    def __init__(self) -> None:
        self.required: KafkaOptions | None = None
        self.optional: KafkaOptions | None = None
        self.word = ""
        self.app = typer.Typer()

        @with_kafka
        def must(word: str, kafka: KafkaOptions, number: int = 3) -> None:
            """Needs Kafka."""
            self.word, self.required = word * number, kafka

        @with_kafka
        def may(kafka: KafkaOptions | None) -> None:
            self.optional = kafka
            self.word = "called"

        self.app.command("must")(must)
        self.app.command("may")(may)

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str]:
        done = CliRunner().invoke(self.app, arguments, env={"COLUMNS": "250", "TERM": "dumb"} | (env or {}))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.delenv("DIFFFAKE_BOOTSTRAP_SERVERS", raising=False)
    return Told()


def test_options_stand_beside_the_commands_own(told: Told, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    flags = ["--bootstrap-servers", "a:1,b:2", "--security-protocol", "SSL", "--tls-ca", str(ca)]
    assert (
        told.run("must", "ab", "--number", "2", *flags, "--no-tls-check-hostname", "--max-message-bytes", "5000")[0]
        == 0
    )
    assert told.word == "abab"
    assert told.required is not None
    settings = told.required.settings(loss_timeout_s=7.0)
    assert (settings.bootstrap_servers, settings.security_protocol, settings.tls_ca) == ("a:1,b:2", "SSL", ca)
    assert (settings.tls_check_hostname, settings.max_message_bytes, settings.loss_timeout_s) == (False, 5000, 7.0)
    assert settings.sasl_mechanism is None
    assert "Needs Kafka." in told.run("must", "--help")[1]


def test_everything_can_come_from_the_environment(told: Told) -> None:
    env = {
        "DIFFFAKE_BOOTSTRAP_SERVERS": "a:1",
        "DIFFFAKE_SECURITY_PROTOCOL": "SASL_SSL",
        "DIFFFAKE_SASL_MECHANISM": "SCRAM-SHA-256",
        "DIFFFAKE_SASL_USERNAME": "ada",
        "DIFFFAKE_SASL_PASSWORD": "secret",
        "DIFFFAKE_TLS_KEY_PASSWORD": "secret too",
    }
    assert told.run("must", "x", env=env)[0] == 0
    assert told.required is not None
    settings = told.required.settings()
    assert (settings.bootstrap_servers, settings.sasl_mechanism, settings.sasl_username) == (
        "a:1",
        "SCRAM-SHA-256",
        "ada",
    )
    assert (settings.sasl_password, settings.tls_key_password) == ("secret", "secret too")
    assert "secret" not in repr(told.required) + repr(settings)
    assert told.run("must", "x", "--bootstrap-servers", "b:2", env=env)[0] == 0
    assert told.required.bootstrap_servers == "b:2"


def test_the_password_comes_from_a_file(told: Told, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("se cret \n")
    flags = ["--bootstrap-servers", "a:1", *SASL, "--sasl-password-file"]
    assert told.run("must", "x", *flags, str(file), env={"DIFFFAKE_SASL_PASSWORD": "other"})[0] == 0
    assert told.required is not None
    assert told.required.sasl_password == "se cret "  # noqa: S105
    with pytest.raises(Exception, match="password cannot be read"):
        told.run("must", "x", *flags, str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--bootstrap-servers"),
        (["--bootstrap-servers", " ,"], "DIFFFAKE_BOOTSTRAP_SERVERS"),
        (["--bootstrap-servers", "a:1", *SASL], "DIFFFAKE_SASL_PASSWORD"),
        (["--bootstrap-servers", "a:1", "--security-protocol", "SASL_PLAINTEXT"], "--sasl-mechanism, --sasl-username"),
        (["--bootstrap-servers", "a:1", *SASL[2:]], "SASL_SSL"),
        (["--bootstrap-servers", "a:1", "--security-protocol", "TLS"], "SASL_PLAINTEXT"),
        (["--bootstrap-servers", "a:1", "--max-message-bytes", "3"], "1024"),
    ],
)
def test_what_cannot_be_is_wrong_usage(told: Told, flags: list[str], says: str) -> None:
    code, output = told.run("must", "x", *flags)
    assert code == 2
    assert says in output
    assert told.required is None


def test_a_password_on_the_command_line_is_no_option(told: Told) -> None:
    assert told.run("must", "x", "--bootstrap-servers", "a:1", *SASL, "--sasl-password", "secret")[0] == 2


def test_where_kafka_is_optional_it_must_be_asked_for(told: Told) -> None:
    assert told.run("may", env={"DIFFFAKE_BOOTSTRAP_SERVERS": "a:1"})[0] == 0
    assert (told.word, told.optional) == ("called", None)
    assert told.run("may", "--bootstrap-servers", "b:2")[0] == 0
    assert told.optional == KafkaOptions("b:2")


@pytest.mark.parametrize(("is_told", "lines"), [(True, 1), (False, 0)])
def test_a_broker_that_does_not_answer_is_told_while_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, is_told: bool, lines: int
) -> None:
    monkeypatch.setattr(kafka_options, "_FIRST_TOLD_S", 0.0)
    # Nobody listens at port 1, and the wait is over before it would be told again.
    options = KafkaOptions("127.0.0.1:1")
    with capture_logs() as told, pytest.raises(BrokerUnavailableError):
        options.broker(is_told=is_told, connect_timeout_s=1.0)
    events = [line["event"] for line in told if line["event"].startswith("waiting for Kafka at 127.0.0.1:1 (")]
    assert len(events) == lines
    assert all(event.endswith(" s of 1)") for event in events)
