"""What operators send, as workers read it."""

from __future__ import annotations

import pytest
from hypothesis import given
from message_strategies import names, streams

from difffake.errors import AnchorError
from stream.alerts import Alerts
from stream.broker.contract import Broker, TopicPartition, TopicSpec
from stream.broker.errors import TopicNotFoundError
from stream.broker.memory import MemoryBroker
from stream.commands_log import CommandsLog
from stream.messages import Command, CommandRecord, EnrolmentRecord, MessageError
from stream.operate import (
    mute_alerts,
    parse_person,
    send_command,
    send_enrolment,
    set_alert_budget,
    unmute_alerts,
    withdraw_enrolment,
)

TOPIC = "difffake.enrolments"


def log_of(broker: Broker) -> CommandsLog:
    """As a worker that starts now has it."""
    log = CommandsLog(broker.reader(), TOPIC, 0.0)
    log.refresh()
    assert log.refused == 0
    return log


@pytest.fixture
def broker() -> Broker:
    one = MemoryBroker()
    one.ensure_topics([TopicSpec(TOPIC, 1, compacted=True)])
    return one


@given(stream=streams, person=names.filter(lambda name: isinstance(parse_person(name), str)))
def test_an_enrolment_reaches_the_worker_until_it_is_withdrawn(stream: str, person: str) -> None:
    broker = MemoryBroker()
    sent = send_enrolment(broker, TOPIC, stream=stream, person=person, anchors=b"file", by="me")
    (entry,) = log_of(broker).since(stream, 0)
    assert (entry.person, entry.record) == (person, sent)
    assert isinstance(sent, EnrolmentRecord)
    assert (sent.anchors, sent.by) == (b"file", "me")
    withdraw_enrolment(broker, TOPIC, stream=stream, person=person, by="you")
    (entry,) = log_of(broker).since(stream, 0)
    assert (entry.offset, entry.person, entry.record) == (1, person, None)
    reader, partition = broker.reader(), TopicPartition(TOPIC, 0)
    (tombstone,) = reader.read(partition, 1, 2)
    assert tombstone.headers == (("by", b"you"),)


def test_the_topic_is_made_for_an_enrolment_as_a_worker_makes_it() -> None:
    broker = MemoryBroker()
    send_enrolment(broker, TOPIC, stream="s", person="Ada", anchors=b"old", by="me")
    assert broker.partitions(TOPIC) == 1
    send_enrolment(broker, TOPIC, stream="s", person="Ada", anchors=b"new", by="me")
    broker.compact(TOPIC)
    reader, partition = broker.reader(), TopicPartition(TOPIC, 0)
    assert [record.offset for record in reader.read(partition, None, reader.end_offset(partition))] == [1]


def test_commands_reach_the_worker_in_their_order(broker: Broker) -> None:
    told: list[tuple[Command, int | str | None]] = [
        (Command.FREEZE, None),
        (Command.RESET, 3),
        (Command.UNFREEZE, "Ada/#%"),
        (Command.FORGET, "3"),
    ]
    sent = [send_command(broker, TOPIC, what, stream="s", person=who, by="me") for what, who in told]
    send_command(broker, TOPIC, Command.FREEZE, stream="other", person=None, by="me")
    entries = log_of(broker).since("s", 0)
    assert [entry.record for entry in entries] == sent
    assert [(r.command, r.person, r.by) for r in sent] == [(what, who, "me") for what, who in told]
    assert len({record.id for record in sent}) == len(sent)
    assert all(isinstance(entry.record, CommandRecord) for entry in entries)
    times = [record.issued_ns for record in sent]
    assert times == sorted(times)


def test_commands_about_alerts_reach_the_alerts_and_none_takes_the_place_of_another(broker: Broker) -> None:
    said = {"stream": "s", "by": "me"}
    sent = [
        set_alert_budget(broker, TOPIC, per_day=1.0, **said),
        set_alert_budget(broker, TOPIC, per_day=0.1, evidence="identity", **said),
        mute_alerts(broker, TOPIC, person=3, seconds=60.0, **said),
        mute_alerts(broker, TOPIC, person=3, evidence="artifact", **said),
        mute_alerts(broker, TOPIC, person="Ada", evidence="artifact", **said),
        unmute_alerts(broker, TOPIC, person=3, evidence="artifact", **said),
    ]
    entries = log_of(broker).since("s", 0)
    assert [entry.record for entry in entries] == sent
    whole, alerts = Alerts(), Alerts()
    told = [whole.apply(record) for record in sent]
    assert told[:-1] == [[]] * 5
    assert "still muted by the mute of #3" in told[-1][0]
    assert [entry.apply(None, None, alerts) for entry in entries] == told  # type: ignore[arg-type]
    assert alerts.to_state() == whole.to_state() != Alerts().to_state()
    set_alert_budget(broker, TOPIC, per_day=None, **said)
    assert [e.record for e in log_of(broker).since("s", 0)][:-1] == sent[1:]


def test_nothing_is_told_to_a_cluster_without_workers() -> None:
    with pytest.raises(TopicNotFoundError, match="no worker") as caught:
        send_command(MemoryBroker(), TOPIC, Command.FREEZE, stream="s", person=None, by="me")
    assert "--bootstrap-servers" in caught.value.hint
    with pytest.raises(TopicNotFoundError, match="no worker"):
        withdraw_enrolment(MemoryBroker(), TOPIC, stream="s", person="Ada", by="me")


def test_what_no_worker_could_read_is_not_sent(broker: Broker) -> None:
    with pytest.raises(MessageError):
        send_command(broker, TOPIC, Command.FREEZE, stream="", person=None, by="me")
    with pytest.raises(MessageError):
        send_enrolment(broker, TOPIC, stream="s", person="Ada", anchors=bytes(9 << 20), by="me")
    assert log_of(broker).since("s", 0) == ()


@pytest.mark.parametrize("name", ["3", "007", "#12"])
def test_a_name_that_no_command_could_address_is_not_enrolled(broker: Broker, name: str) -> None:
    with pytest.raises(AnchorError, match="number") as caught:
        send_enrolment(broker, TOPIC, stream="s", person=name, anchors=b"file", by="me")
    assert "letter" in caught.value.hint
    assert log_of(broker).since("s", 0) == ()


@pytest.mark.parametrize(
    ("text", "person"),
    [
        (None, None),
        ("3", 3),
        ("#12", 12),
        ("Ada", "Ada"),
        ("#Ada", "#Ada"),
        ("３", "３"),
        ("-1", "-1"),
        ("e\u0301", "é"),
    ],
)
def test_a_person_is_a_number_or_a_name_as_enrolled(text: str | None, person: int | str | None) -> None:
    assert parse_person(text) == person
