"""Enrolments and commands as the worker reads them: by stream, in order, the newest of a key, nonsense refused."""

from __future__ import annotations

import msgspec
import pytest

from stream.batcher import BatchSettings
from stream.broker.contract import TopicSpec
from stream.broker.memory import MemoryBroker
from stream.commands_log import CommandsLog, Pending
from stream.messages import BatchRecord, Command, CommandRecord, EnrolmentRecord, encode, enrolment_key
from stream.messages.codec import MessageError
from stream.messages.enrolments import BATCH_KEY, parse_enrolment_key

TOPIC = "difffake.enrolments"


class Told:
    """A broker with an enrolments topic, and a log of it."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.broker.ensure_topics([TopicSpec(TOPIC, 1, compacted=True)])
        self.log = CommandsLog(self.broker.reader(), TOPIC, 0.0)

    def send(self, key: bytes | None, value: bytes | None) -> None:
        producer = self.broker.plain_producer()
        producer.send(TOPIC, key=key, value=value)
        producer.flush(1.0)
        producer.close(1.0)
        self.log.refresh()


def command(stream: str, what: Command, person: int | str | None = None) -> CommandRecord:
    return CommandRecord(stream=stream, command=what, person=person, issued_ns=1, by="op", id="x")


def enrolment(stream: str, person: str) -> EnrolmentRecord:
    return EnrolmentRecord(stream=stream, person=person, anchors=b"bytes", issued_ns=1, by="op", id="x")


def batches(size: int | None = None, deadline_s: float | None = None) -> BatchRecord:
    return BatchRecord(size=size, deadline_s=deadline_s, issued_ns=1, by="op", id="x")


def test_a_stream_gets_its_own_entries_in_order_from_an_offset_on() -> None:
    told = Told()
    for record in (
        command("a", Command.FREEZE),
        command("b", Command.RESET, 3),
        enrolment("a", "Jane / Doe"),
        command("a", Command.UNFREEZE),
    ):
        told.send(record.key, encode(record))
    assert [e.offset for e in told.log.since("a", 0)] == [0, 2, 3]
    assert [e.offset for e in told.log.since("a", 1)] == [2, 3]
    assert [e.record.command for e in told.log.since("b", 0) if isinstance(e.record, CommandRecord)] == [Command.RESET]
    assert told.log.since("c", 0) == ()


def test_the_newest_of_a_key_takes_the_place_and_a_null_value_takes_an_enrolment_back() -> None:
    told = Told()
    first = enrolment("a", "Jane")
    told.send(first.key, encode(first))
    told.send(first.key, None)
    (entry,) = told.log.since("a", 0)
    assert (entry.offset, entry.person, entry.record) == (1, "Jane", None)


@pytest.mark.parametrize(
    ("what", "said", "left"),
    [
        (Command.ALERT_MUTE, {"value": 20.0}, None),
        (Command.ALERT_MUTE, {"value": 60.0}, None),
        (Command.ALERT_MUTE, {"value": 3600.0}, {"value": 3540.0}),
        (Command.ALERT_MUTE, {"value": 3600.0, "person": "Ada"}, {"value": 3540.0}),
        (Command.ALERT_MUTE, {}, {}),
        (Command.ALERT_MUTE, {"person": 0}, None),
        (Command.ALERT_UNMUTE, {"person": 0}, None),
        (Command.ALERT_BUDGET, {"value": 1.0, "person": 0}, {}),
        (Command.FREEZE, {}, {}),
        (Command.FREEZE, {"person": 0}, None),
        (Command.RESET, {"person": 0}, None),
        (Command.FORGET, {"person": 0}, None),
        (Command.FORGET, {"person": "Ada"}, {}),
    ],
)
def test_where_a_stream_begins_anew_what_is_left_of_a_command_counts(
    what: Command, said: dict[str, object], left: dict[str, object] | None
) -> None:
    applied: list[object] = []

    class Kept:
        """Stands for a stream's anchors, and for its alerts."""

        def apply(self, record: object) -> list[str]:
            applied.append(record)
            return []

    began_ns = 1_790_000_000_000_000_000

    def apply(ago_s: int, since_ns: int | None) -> CommandRecord:
        record = msgspec.structs.replace(command("a", what), issued_ns=began_ns - ago_s * 1_000_000_000, **said)
        applied.clear()
        Pending(0, "", record).apply(Kept(), Kept(), Kept(), since_ns)  # type: ignore[arg-type]
        return record

    before = apply(60, began_ns)
    assert applied == ([] if left is None else [msgspec.structs.replace(before, **left)])
    # What was told since then, and what is told while a stream goes on, is done as it was told.
    for ago_s, since_ns in ((-5, began_ns), (0, began_ns), (60, None)):
        record = apply(ago_s, since_ns)
        assert applied == [record]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b"{}"),
        (b"no slash", b"{}"),
        (b"a/b/c", b"{}"),
        (b"\xff/x", b"{}"),
        (b"a/Jane", b"not json"),
        (b"a/Jane", encode(enrolment("a", "Joan"))),
        (b"a/#freeze/#all", encode(command("b", Command.FREEZE))),
        (BATCH_KEY, encode(command("b", Command.FREEZE))),
        (BATCH_KEY, encode(batches(2)).replace(b'"size":2', b'"size":0')),
        (b"a/Jane", encode(batches(2))),
    ],
)
def test_nonsense_is_refused_and_counted(key: bytes | None, value: bytes) -> None:
    told = Told()
    told.send(key, value)
    assert told.log.refused == 1
    good = command("a", Command.FREEZE)
    told.send(good.key, encode(good))
    assert [e.offset for e in told.log.since("a", 0)] == [1]


def test_the_last_word_on_batches_counts_as_a_whole_and_can_be_taken_back() -> None:
    told, started = Told(), BatchSettings(size=8, deadline_s=0.02)
    assert told.log.batch(started) == started
    for record, wanted in (
        (batches(size=16), BatchSettings(size=16, deadline_s=0.02)),
        (batches(deadline_s=0.0), BatchSettings(size=8, deadline_s=0.0)),
        (batches(1, 0.5), BatchSettings(size=1, deadline_s=0.5)),
        (batches(), started),
        (batches(2), BatchSettings(size=2, deadline_s=0.02)),
    ):
        told.send(record.key, encode(record))
        assert told.log.batch(started) == wanted
    told.broker.compact(TOPIC)
    again = CommandsLog(told.broker.reader(), TOPIC, 0.0)
    again.refresh()
    assert again.batch(started) == BatchSettings(size=2, deadline_s=0.02)
    told.send(BATCH_KEY, None)
    assert told.log.batch(started) == started
    assert told.log.refused == 0


@pytest.mark.parametrize("records", [1, 5], ids=["shorter than before", "longer"])
def test_a_topic_that_was_made_again_is_read_from_its_beginning(records: int) -> None:
    told, started = Told(), BatchSettings()
    for record in (command("a", Command.FREEZE), command("a", Command.RESET), batches(2)):
        told.send(record.key, encode(record))
    offset = told.log.since("a", 0)[-1].offset + 1
    told.broker.delete_topic(TOPIC)
    told.broker.ensure_topics([TopicSpec(TOPIC, 1, compacted=True)])
    for number in range(records - 1):
        other = command(f"b{number}", Command.FREEZE)
        told.send(other.key, encode(other))
    new = command("a", Command.UNFREEZE)
    told.send(new.key, encode(new))
    assert told.log.batch(started) == started
    applied = [entry.record for entry in told.log.since("a", offset)]
    assert applied == [new]
    assert [entry.record for entry in told.log.since("a", 0)] == [new]


def test_what_another_worker_has_applied_before_us_is_not_applied_once_more() -> None:
    told = Told()
    first = command("a", Command.RESET)
    told.send(first.key, encode(first))
    late = CommandsLog(told.broker.reader(), TOPIC, 1e6)
    late.refresh()
    second = command("a", Command.FREEZE)
    told.send(second.key, encode(second))
    ahead = told.log.since("a", 0)[-1].offset + 1
    assert late.since("a", ahead) == []


def test_no_streams_name_makes_the_key_of_batches() -> None:
    assert enrolment_key("#workers", "batch") != BATCH_KEY


@pytest.mark.parametrize(("stream", "person"), [("a", "Jane"), ("studio/1", "J#1"), ("50%", "a/b%2F"), ("#x", "é")])
def test_keys_of_enrolments_name_stream_and_person(stream: str, person: str) -> None:
    assert parse_enrolment_key(enrolment_key(stream, person)) == (stream, person)


def test_a_newer_version_stops_the_worker() -> None:
    told = Told()
    newer = encode(command("a", Command.FREEZE)).replace(b'"version":3', b'"version":99')
    with pytest.raises(MessageError, match="newer"):
        told.send(command("a", Command.FREEZE).key, newer)


def test_a_command_from_before_alerts_had_commands_still_holds() -> None:
    told = Told()
    new = encode(command("a", Command.FREEZE, 3))
    old = new.replace(b'"version":3', b'"version":2')
    for field in (b'"evidence":null,', b'"value":null,', b'"alert":null,'):
        assert field in old
        old = old.replace(field, b"")
    told.send(command("a", Command.FREEZE, 3).key, old)
    (entry,) = told.log.since("a", 0)
    assert entry.record == command("a", Command.FREEZE, 3)
    told.send(b"a/#freeze/#all", new.replace(b'"version":3', b'"version":1'))
    assert told.log.refused == 1
