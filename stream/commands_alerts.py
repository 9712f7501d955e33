"""``difffake alerts``: what an operator says about the alerts of a stream, to every worker and without a restart."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from difffake.results import EVIDENCES
from stream.broker.contract import Broker, TopicPartition
from stream.commands_operate import (
    ByOption,
    EnrolmentsTopic,
    PersonOption,
    StreamOption,
    TopicOption,
    check_names,
    operator,
    print_line,
)
from stream.kafka_options import KafkaOptions, with_kafka
from stream.messages import AlertRecord, AlertState, EvidenceName, MessageError, decode
from stream.operate import acknowledge_alert, mute_alerts, parse_person, set_alert_budget, unmute_alerts

app = typer.Typer(help="Alerts of a stream: budget, mute, acknowledge.", no_args_is_help=True, rich_markup_mode=None)

EvidenceOption = Annotated[
    str | None, typer.Option(metavar="|".join(EVIDENCES), help="Only this evidence; else all of them.")
]


@app.command(short_help="Set how many false alerts a stream may raise")
@with_kafka
def budget(
    per_day: Annotated[
        str, typer.Argument(metavar="NUMBER|default", help="False alerts per stream-day; default: as the workers.")
    ],
    stream: StreamOption,
    kafka: KafkaOptions,
    evidence: EvidenceOption = None,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Set how many false alerts a stream may raise: fewer means later alerts."""
    which, by = _evidence(evidence), operator(by)
    check_names(stream, None)
    wanted = None if per_day == "default" else _positive(per_day)
    with closing(kafka.broker()) as broker:
        record = set_alert_budget(broker, topic, stream=stream, per_day=wanted, evidence=which, by=by)
    print_line(f"{stream}: alert budget {per_day}, sent as {record.id}")


@app.command(short_help="Hear no alerts of a stream")
@with_kafka
def mute(
    stream: StreamOption,
    kafka: KafkaOptions,
    person: PersonOption = None,
    evidence: EvidenceOption = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of stream time; else until `unmute`.")
    ] = None,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Hear no alerts of a stream; open ones are closed. Scores go on."""
    who, which, by = parse_person(person), _evidence(evidence), operator(by)
    check_names(stream, who)
    with closing(kafka.broker()) as broker:
        record = mute_alerts(broker, topic, stream=stream, person=who, evidence=which, seconds=seconds, by=by)
    print_line(f"{stream}: muted, sent as {record.id}")


@app.command(short_help="Take a mute back")
@with_kafka
def unmute(
    stream: StreamOption,
    kafka: KafkaOptions,
    person: PersonOption = None,
    evidence: EvidenceOption = None,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Take a mute back: just that of this person and evidence, or without either all mutes of the stream.

    Other mutes hold on: somebody who was muted with everybody stays muted. Workers then warn in their log.
    """
    who, which, by = parse_person(person), _evidence(evidence), operator(by)
    check_names(stream, who)
    with closing(kafka.broker()) as broker:
        record = unmute_alerts(broker, topic, stream=stream, person=who, evidence=which, by=by)
    print_line(f"{stream}: unmuted, sent as {record.id}")


@app.command(short_help="Say that you have seen an alert")
@with_kafka
def ack(
    alert: Annotated[str, typer.Argument(metavar="ID", help="Id of an open alert, or how it begins.")],
    stream: StreamOption,
    kafka: KafkaOptions,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
    alerts_topic: Annotated[str, typer.Option(help="Topic of alerts.")] = "difffake.alerts",
) -> None:
    """Say that you have seen an alert: it is told once more, and then only when it gets worse."""
    by = operator(by)
    check_names(stream, None)
    with closing(kafka.broker()) as broker:
        found = _open_alert(broker, alerts_topic, stream, alert)
        record = acknowledge_alert(broker, topic, found, by=by)
    print_line(f"{stream}: {found.kind.value} {found.id} acknowledged, sent as {record.id}")


def _open_alert(broker: Broker, topic: str, stream: str, prefix: str) -> AlertRecord:
    """The open alert of a stream whose id begins so; read from the topic, from its beginning."""
    last: dict[str, AlertRecord] = {}
    reader = broker.reader()
    try:
        for number in range(broker.partitions(topic)):
            partition = TopicPartition(topic, number)
            for record in reader.read(partition, None, reader.end_offset(partition)):
                if record.value is None or record.key != stream.encode():
                    continue
                try:
                    alert = decode(record.value, AlertRecord)
                except MessageError:
                    continue
                last[alert.id] = alert
                if alert.state is AlertState.CLOSED:
                    del last[alert.id]
    finally:
        reader.close()
    found = [alert for id_, alert in last.items() if id_.startswith(prefix)]
    if len(found) != 1:
        known = ", ".join(sorted(last)) or "none"
        raise typer.BadParameter(f"{len(found)} open alerts of {stream} begin so; open: {known}")
    return found[0]


def _evidence(name: str | None) -> EvidenceName | None:
    if name is not None and name not in EVIDENCES:
        raise typer.BadParameter(f"--evidence: one of {', '.join(EVIDENCES)}")
    return name  # type: ignore[return-value]


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise typer.BadParameter("give a number of false alerts per stream-day above 0, or `default`")
    return number
