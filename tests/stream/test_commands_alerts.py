"""``difffake alerts`` and ``difffake hooks``, as a person types them."""

from __future__ import annotations

import signal
from typing import Any

import msgspec
import pytest
from test_cli_kafka import records, run
from test_tail import alert

from stream.broker.contract import TopicSpec
from stream.broker.memory import MemoryBroker
from stream.hooks import Hooks
from stream.kafka_options import KafkaOptions
from stream.messages import AlertState, CommandRecord, decode_enrolment, encode


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """The cluster that every command of the test reaches."""
    one = MemoryBroker()
    one.ensure_topics([TopicSpec("difffake.enrolments", 1, compacted=True), TopicSpec("difffake.alerts", 2)])

    def connected(_options: KafkaOptions, **_more: Any) -> MemoryBroker:
        return one

    monkeypatch.setattr(KafkaOptions, "broker", connected)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("DIFFFAKE_BOOTSTRAP_SERVERS", "memory:1")
    monkeypatch.setenv("DIFFFAKE_OPERATOR", "ada")
    return one


def sent(broker: MemoryBroker) -> list[CommandRecord]:
    found = [decode_enrolment(record.value or b"") for record in records(broker, "difffake.enrolments")]
    return [record for record in found if isinstance(record, CommandRecord)]


def test_what_is_typed_is_what_workers_get(broker: MemoryBroker) -> None:
    assert run("alerts", "budget", "0.5", "--stream", "s") == 0
    assert run("alerts", "budget", "default", "--stream", "s", "--evidence", "anchor") == 0
    assert run("alerts", "mute", "--stream", "s", "--person", "#3", "--seconds", 60) == 0
    assert run("alerts", "unmute", "--stream", "s", "--person", "Bob", "--evidence", "identity", "--by", "eve") == 0
    assert [(r.command.value, r.person, r.evidence, r.value, r.by) for r in sent(broker)] == [
        ("alert-budget", None, None, 0.5, "ada"),
        ("alert-budget", None, "anchor", None, "ada"),
        ("alert-mute", 3, None, 60.0, "ada"),
        ("alert-unmute", "Bob", "identity", None, "eve"),
    ]


@pytest.mark.usefixtures("broker")
def test_no_summary_of_a_command_is_cut_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("alerts", "--help") == 0
    summaries = capsys.readouterr().out.partition("Commands:")[2]
    assert "unmute  Take a mute back" in summaries
    assert "..." not in summaries


def test_the_help_says_that_an_unmute_takes_back_just_that_mute(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("alerts", "unmute", "--help") == 0
    assert "hold on" in capsys.readouterr().out


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(
    "arguments",
    [
        ["budget", "0"],
        ["budget", "inf"],
        ["budget", "many"],
        ["budget", "1", "--evidence", "luck"],
        ["mute", "--seconds", "0"],
        ["mute", "--person", ""],
    ],
)
def test_nonsense_is_wrong_usage(arguments: list[str]) -> None:
    assert run("alerts", *arguments, "--stream", "s") == 2


def test_an_open_alert_is_acknowledged_by_how_its_id_begins(
    broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = broker.plain_producer()
    for number, state in ((11, AlertState.OPENED), (12, AlertState.OPENED), (12, AlertState.CLOSED)):
        producer.send("difffake.alerts", key=b"a", value=encode(alert(number, state)))
    other = msgspec.structs.replace(alert(13), stream="b")
    producer.send("difffake.alerts", key=b"b", value=encode(other))
    producer.send("difffake.alerts", key=b"a", value=b"nonsense")
    producer.close(1.0)
    assert run("alerts", "ack", "1", "--stream", "a") == 0
    (record,) = sent(broker)
    assert (record.command.value, record.alert, record.evidence, record.by) == (
        "alert-acknowledge",
        "11",
        "artifact",
        "ada",
    )
    assert run("alerts", "ack", "12", "--stream", "a") == 2
    assert "open: 11" in capsys.readouterr().err


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize(
    ("arguments", "secret", "code"),
    [
        (["--url", "ftp://receiver/"], None, 47),
        (["--url", "https://receiver/"], "short", 47),
        (["--url", "https://receiver/", "--ca", "missing.pem"], None, 47),
        (["--url", "https://receiver/", "--max-age", "0"], None, 2),
        (["--url", "https://receiver/", "--state", "lost"], None, 2),
        ([], None, 2),
    ],
)
def test_hooks_that_cannot_be_used_are_refused_at_once(
    arguments: list[str], secret: str | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret is not None:
        monkeypatch.setenv("DIFFFAKE_HOOK_SECRET", secret)
    assert run("hooks", *arguments) == code


@pytest.mark.usefixtures("broker", "hangup_by_default")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_hooks_leave_in_order_when_they_are_told_to(signum: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    monkeypatch.setattr(Hooks, "step", lambda _self: signal.raise_signal(signum))
    try:
        assert run("hooks", "--url", "https://receiver/") == 0
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
