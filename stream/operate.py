"""What operators tell the workers: enrolments, withdrawals, commands and batches, on the enrolments topic.

The topic has one partition: its offsets are the order in which every worker applies them, and a replay too.
"""

from __future__ import annotations

import time
import unicodedata
import uuid

from difffake.errors import AnchorError
from stream.broker.contract import Broker, Headers, TopicSpec
from stream.broker.errors import TopicNotFoundError
from stream.messages import (
    AlertRecord,
    BatchRecord,
    Command,
    CommandRecord,
    EnrolmentRecord,
    EvidenceName,
    encode,
    enrolment_key,
)

#: Who withdrew an enrolment: its record is a tombstone and has no other place for that.
BY_HEADER = "by"
_FLUSH_S = 30.0


def parse_person(text: str | None) -> int | str | None:
    """A person as an operator writes it: a number, with or without ``#``, is one of the stream's scores.

    >>> parse_person("#3"), parse_person("3"), parse_person("Ada"), parse_person(None)
    (3, 3, 'Ada', None)
    """
    if text is None:
        return None
    digits = text.removeprefix("#")
    return int(digits) if digits.isascii() and digits.isdigit() else unicodedata.normalize("NFC", text)


def check_addressable(name: str) -> None:
    """Refuse a name that commands would take for a number of the scores.

    Raises:
        AnchorError: nothing but digits.
    """
    if not isinstance(parse_person(name), str):
        raise AnchorError(
            f"{name!r} is no name: `--person {name}` means the person of that number in the scores",
            hint=f"give a name with a letter in it, such as 'guest {name.removeprefix('#')}'",
        )


def send_command(
    broker: Broker, topic: str, command: Command, *, stream: str, person: int | str | None, by: str
) -> CommandRecord:
    """Tell every worker; returns when the broker has it.

    Args:
        person: an enrolled name, the number of a person in the stream's scores, or None for everybody.
        by: the operator.

    Raises:
        TopicNotFoundError: no worker has ever run on this cluster, or with other topics.
        BrokerError: and its leaves.
        MessageError: names beyond their bounds.
    """
    return _send_command(broker, topic, command, by, stream=stream, person=person)


def set_alert_budget(
    broker: Broker, topic: str, *, stream: str, per_day: float | None, evidence: EvidenceName | None = None, by: str
) -> CommandRecord:
    """Set how many false alerts a stream may raise, and so the level at which its alerts open.

    Args:
        per_day: false alerts per stream-day, of all evidence together; None: as the workers are set.
        evidence: whose level follows from it; None: all of them that have no budget of their own.

    Raises:
        TopicNotFoundError, BrokerError, MessageError: as `send_command`.
    """
    return _send_command(broker, topic, Command.ALERT_BUDGET, by, stream=stream, evidence=evidence, value=per_day)


def mute_alerts(
    broker: Broker,
    topic: str,
    *,
    stream: str,
    person: int | str | None = None,
    evidence: EvidenceName | None = None,
    seconds: float | None = None,
    by: str,
) -> CommandRecord:
    """Hear no alerts of a stream; open ones are closed.

    Args:
        person: an enrolled name or a number of the scores; None: everybody.
        evidence: None: all of them.
        seconds: of stream time from now on; None: until `unmute_alerts`.

    Raises:
        TopicNotFoundError, BrokerError, MessageError: as `send_command`.
    """
    return _send_command(
        broker, topic, Command.ALERT_MUTE, by, stream=stream, person=person, evidence=evidence, value=seconds
    )


def unmute_alerts(
    broker: Broker,
    topic: str,
    *,
    stream: str,
    person: int | str | None = None,
    evidence: EvidenceName | None = None,
    by: str,
) -> CommandRecord:
    """Take back a mute of just this person and evidence; of nobody and none in particular: every mute of the stream.

    Raises:
        TopicNotFoundError, BrokerError, MessageError: as `send_command`.
    """
    return _send_command(broker, topic, Command.ALERT_UNMUTE, by, stream=stream, person=person, evidence=evidence)


def acknowledge_alert(broker: Broker, topic: str, alert: AlertRecord, *, by: str) -> CommandRecord:
    """Say that an operator has seen an alert: it is told once more, with the name, and then only when it gets worse.

    Raises:
        TopicNotFoundError, BrokerError, MessageError: as `send_command`.
    """
    person = alert.person if alert.person >= 0 else None
    return _send_command(
        broker,
        topic,
        Command.ALERT_ACKNOWLEDGE,
        by,
        stream=alert.stream,
        person=person,
        evidence=alert.evidence,
        alert=alert.id,
    )


def set_batch(broker: Broker, topic: str, *, size: int | None, deadline_s: float | None, by: str) -> BatchRecord:
    """Tell every worker how to put batches together.

    Args:
        size: the most frames in one, 1 to 1024; None: as each worker was started.
        deadline_s: longest wait of a frame for company, 0 to 10 s; None: as each worker was started.

    Raises:
        TopicNotFoundError, BrokerError: as `send_command`.
        MessageError: a number beyond its bounds.
    """
    record = BatchRecord(size=size, deadline_s=deadline_s, issued_ns=time.time_ns(), by=by, id=uuid.uuid4().hex)
    data = encode(record)
    _check(broker, topic)
    _send(broker, topic, record.key, data)
    return record


def _send_command(
    broker: Broker,
    topic: str,
    command: Command,
    by: str,
    *,
    stream: str,
    person: int | str | None = None,
    evidence: EvidenceName | None = None,
    value: float | None = None,
    alert: str | None = None,
) -> CommandRecord:
    record = CommandRecord(
        stream=stream,
        command=command,
        person=person,
        evidence=evidence,
        value=value,
        alert=alert,
        issued_ns=time.time_ns(),
        by=by,
        id=uuid.uuid4().hex,
    )
    data = encode(record)
    _check(broker, topic)
    _send(broker, topic, record.key, data)
    return record


def send_enrolment(broker: Broker, topic: str, *, stream: str, person: str, anchors: bytes, by: str) -> EnrolmentRecord:
    """Enrol a person in every worker; makes the topic if no worker has yet.

    Args:
        anchors: an anchor file with this one person.

    Raises:
        AnchorError: a name of digits alone, which no command could address.
        BrokerError: and its leaves.
        MessageError: an anchor beyond its bounds.
    """
    check_addressable(person)
    record = EnrolmentRecord(
        stream=stream, person=person, anchors=anchors, issued_ns=time.time_ns(), by=by, id=uuid.uuid4().hex
    )
    value = encode(record)
    broker.ensure_topics([TopicSpec(topic, partitions=1, compacted=True)])
    _send(broker, topic, record.key, value)
    return record


def withdraw_enrolment(broker: Broker, topic: str, *, stream: str, person: str, by: str) -> None:
    """Take an enrolment back, in every worker.

    Raises:
        TopicNotFoundError, BrokerError: as `send_command`.
    """
    _check(broker, topic)
    _send(broker, topic, enrolment_key(stream, person), None, [(BY_HEADER, by.encode())])


def _check(broker: Broker, topic: str) -> None:
    try:
        broker.partitions(topic)
    except TopicNotFoundError as error:
        raise TopicNotFoundError(
            f"there is no topic {topic}: no worker has run here",
            hint="check --bootstrap-servers and --topic; `difffake work` and `difffake enroll` make the topic",
        ) from error


def _send(broker: Broker, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> None:
    producer = broker.plain_producer()
    try:
        producer.send(topic, key=key, value=value, headers=headers)
        producer.flush(_FLUSH_S)
    finally:
        producer.close(_FLUSH_S)
