"""The wire contract: what is written is read back, and nothing else is read."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import message_strategies as made
import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from difffake.results import EVIDENCES, Level
from stream.messages import (
    AlertEnd,
    AlertKind,
    AlertRecord,
    AlertState,
    AnchorsRecord,
    BatchRecord,
    Command,
    CommandRecord,
    EnrolmentRecord,
    EvidenceName,
    Face,
    FaceEvidence,
    Message,
    MessageError,
    PartitionRecord,
    ScoreRecord,
    Source,
    StateKey,
    StateRecord,
    Status,
    alert_id,
    bounded,
    decode,
    decode_enrolment,
    decode_state,
    digest_of,
    encode,
    enrolment_key,
    pack_arrays,
    unpack_arrays,
)
from stream.messages.codec import current_version

KINDS: list[type[Message]] = [
    ScoreRecord,
    AlertRecord,
    StateRecord,
    AnchorsRecord,
    PartitionRecord,
    EnrolmentRecord,
    CommandRecord,
    BatchRecord,
]
SOURCE = Source(topic="video.in", partition=3, offset=17, index=2)


def evidence(**changed: Any) -> FaceEvidence:
    given_ = {"score": 1.5, "log_density": -1.5, "p_value": 0.25, "accumulated": 0.125, "level": Level.NOTHING}
    return FaceEvidence(**(given_ | changed))


def face(**changed: Any) -> Face:
    given_: dict[str, Any] = {
        "person": 4,
        "name": None,
        "track": 9,
        "box_px": (-1.0, 0.0, 99.5, 120.0),
        "confidence": 0.9,
        "quality": "ok",
        "evidence": {"artifact": evidence()},
        "missing": {"anchor": "no anchor yet", "identity": "no anchor yet"},
        "anchor": None,
    }
    return Face(**(given_ | changed))


def score(**changed: Any) -> ScoreRecord:
    given_: dict[str, Any] = {
        "stream": "studio-1",
        "pts_ns": 1_700_000_000_123_456_789,
        "source": SOURCE,
        "status": Status.SCORED,
        "reason": "",
        "faces": (face(),),
        "model_id": "m",
        "difffake": "0.1.0",
    }
    return ScoreRecord(**(given_ | changed))


def alert(**changed: Any) -> AlertRecord:
    given_: dict[str, Any] = {
        "id": "a1",
        "state": AlertState.OPENED,
        "kind": AlertKind.SPIKE,
        "evidence": "artifact",
        "stream": "studio-1",
        "person": 4,
        "name": None,
        "start_ns": 10,
        "end_ns": None,
        "end_reason": None,
        "p_value": 1e-6,
        "level": Level.STRONG,
        "accumulated": 8.0,
        "alert_level": 7.5,
        "budget_per_day": 0.01,
        "acknowledged_by": None,
        "first": SOURCE,
        "last": SOURCE,
        "sentence": "something",
        "thumbnail_jpeg": b"\xff\xd8",
        "model_id": "m",
        "difffake": "0.1.0",
    }
    return AlertRecord(**(given_ | changed))


def state(**changed: Any) -> StateRecord:
    given_: dict[str, Any] = {
        "topic": "video.in",
        "partition": 3,
        "stream": "studio/1",
        "next_offset": 18,
        "last_pts_ns": 5,
        "people": b"",
        "tracker": b"",
        "finder": b"",
        "evidence": b"",
        "anchors": {},
        "decoder": b"",
        "resume_offset": None,
        "commands_offset": 0,
    }
    return StateRecord(**(given_ | changed))


def command(**changed: Any) -> CommandRecord:
    given_: dict[str, Any] = {
        "stream": "studio-1",
        "command": Command.FREEZE,
        "person": None,
        "issued_ns": 1,
        "by": "operator",
        "id": "c1",
    }
    return CommandRecord(**(given_ | changed))


def again(message: Message, **changed: Any) -> bytes:
    """The bytes of a message with fields changed that its struct would not take."""
    module = msgspec.json if message.FORMAT == "json" else msgspec.msgpack
    fields = module.decode(encode(message))
    return module.encode(fields | changed)


@given(made.messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    data = encode(message)
    back = decode(data, type(message))
    assert back == message
    assert encode(back) == data


@given(made.scores | made.alerts | made.commands)
def test_json_holds_no_nan_and_stays_json(message: Message) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(encode(message), parse_constant=refuse)["version"] == current_version(type(message))


def test_evidences_are_those_of_a_scan() -> None:
    assert get_args(EvidenceName) == EVIDENCES


def test_equal_messages_are_equal_bytes_whatever_the_order_of_their_making() -> None:
    both = {"artifact": evidence(), "identity": evidence(score=2.0)}
    turned = dict(reversed(both.items()))
    assert encode(score(faces=(face(evidence=both),))) == encode(score(faces=(face(evidence=turned),)))
    assert encode(state(anchors={2: b"b", 10: b"c"})) == encode(state(anchors={10: b"c", 2: b"b"}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_cannot_be_said_in_json_becomes_null_where_null_has_a_meaning(value: float) -> None:
    unknown = evidence(log_density=value, accumulated=value)
    found = decode(encode(score(faces=(face(evidence={"anchor": unknown}),))), ScoreRecord)
    assert found.faces[0].evidence["anchor"] == evidence(log_density=None, accumulated=None)


@pytest.mark.parametrize(
    "message",
    [
        score(faces=(face(evidence={"artifact": evidence(score=math.nan)}),)),
        score(faces=(face(evidence={"artifact": evidence(p_value=1.01)}),)),
        score(faces=(face(evidence={"artifact": evidence(p_value=-0.01)}),)),
        score(faces=(face(evidence={"artifact": evidence(score=np.float32(1))}),)),
        score(faces=(face(evidence={"gut feeling": evidence()}),)),
        score(faces=(face(box_px=(1.0, 2.0, 3.0)),)),
        score(faces=(face(person=-2),)),
        score(faces=(face(),) * 513),
        score(pts_ns=1 << 63),
        score(pts_ns=1.5),
        score(status="FINE"),
        score(stream=""),
        score(stream="x" * 1025),
        score(stream="\ud800"),
        score(reason="x" * 2049),
        score(source=Source(topic="a/b", partition=0, offset=0, index=0)),
        score(source=Source(topic="ends-with-newline\n", partition=0, offset=0, index=0)),
        score(source=Source(topic="t", partition=0, offset=-1, index=0)),
        alert(thumbnail_jpeg=bytes((8 << 10) + 1)),
        alert(evidence="luck"),
        state(next_offset=-1),
        state(anchors={-1: b""}),
        state(people=bytes(16 << 20)),
        command(person=-1),
        command(person=""),
    ],
)
def test_a_message_that_no_reader_would_take_is_not_written(message: Message) -> None:
    with pytest.raises(MessageError, match=message.NAME) as caught:
        encode(message)
    assert caught.value.hint
    assert caught.value.exit_code == 40


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=60))
@example(data=b"[" * 100_000)
@example(data=b'{"deep":' + b"[" * 100_000)
@example(data=b"\x91" * 100_000)
@example(data=b"\x82\xa4deep" + b"\x91" * 100_000)
@example(data=b'{"version":1}')
@example(data=b'{"version":1e999}')
@example(data=b'{"version":"1"}')
@example(data=b'{"version":1,"stream":"\xff"}')
@example(data=b"")
def test_bytes_that_are_no_message_are_refused_as_such(kind: type[Message], data: bytes) -> None:
    with pytest.raises(MessageError, match=kind.NAME):
        decode(data, kind)


@given(made.messages, st.data())
def test_a_damaged_message_is_refused_or_still_one(message: Message, data: st.DataObject) -> None:
    damaged = bytearray(encode(message))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(damaged), type(message))
    except MessageError:
        return
    assert decode(encode(found), type(message)) == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_beyond_its_bound_is_refused_before_it_is_read(kind: type[Message]) -> None:
    with pytest.raises(MessageError, match="over"):
        decode(b" " * (kind.MAX_BYTES + 1), kind)


@pytest.mark.parametrize("message", [score(), alert(), state(), command()])
def test_other_versions_are_refused_with_what_to_do(message: Message) -> None:
    with pytest.raises(MessageError, match="newer difffake") as caught:
        decode(again(message, version=current_version(type(message)) + 1, surprise=1), type(message))
    assert "upgrade" in caught.value.hint
    with pytest.raises(MessageError, match="unknown difffake"):
        decode(again(message, version=0), type(message))


def test_readers_of_scores_and_alerts_pass_over_fields_that_they_do_not_know() -> None:
    assert decode(again(score(), surprise={"a": [1]}), ScoreRecord) == score()
    assert decode(again(alert(), surprise=None), AlertRecord) == alert()


@pytest.mark.parametrize("message", [state(), command()])
def test_state_and_commands_are_taken_whole_or_not_at_all(message: Message) -> None:
    with pytest.raises(MessageError, match="surprise"):
        decode(again(message, surprise=1), type(message))


def test_an_alert_has_an_end_exactly_when_it_is_closed() -> None:
    closed: dict[str, Any] = {"state": AlertState.CLOSED, "end_ns": 10, "end_reason": AlertEnd.CALM}
    assert alert(**closed).end_ns == 10
    for wrong in (
        {"end_ns": 20},
        {"end_reason": AlertEnd.GONE},
        {"state": AlertState.CLOSED},
        closed | {"end_ns": 9},
        closed | {"end_reason": None},
    ):
        with pytest.raises(ValueError, match="alert"):
            alert(**wrong)
    with pytest.raises(MessageError, match="has an end"):
        decode(again(alert(), end_ns=20), AlertRecord)


def test_an_alert_keeps_its_id_when_the_input_is_read_again_and_shares_it_with_no_other() -> None:
    asked: tuple[Any, ...] = ("a", 1, AlertKind.SPIKE, "artifact", SOURCE)
    others = [
        ("b", *asked[1:]),
        ("a", 2, *asked[2:]),
        (*asked[:2], AlertKind.SUSTAINED, *asked[3:]),
        (*asked[:3], "identity", SOURCE),
        (*asked[:4], msgspec.structs.replace(SOURCE, offset=18)),
        (*asked[:4], msgspec.structs.replace(SOURCE, index=3)),
        (*asked[:4], msgspec.structs.replace(SOURCE, partition=4)),
    ]
    # The same in every release: a worker of a later one may read the input again.
    assert alert_id(*asked) == "ccec9ff52ea3e088a6bf71a4a8f6e7d3"
    assert len({alert_id(*a) for a in [asked, *others]}) == len(others) + 1


@given(made.states | made.anchors | made.partition_states)
def test_state_is_found_by_its_key(record: StateRecord | AnchorsRecord | PartitionRecord) -> None:
    assert decode_state(record.key, encode(record)) == record
    key = StateKey.parse(record.key)
    assert (key.topic, key.partition, key.stream) == (record.topic, record.partition, getattr(record, "stream", None))
    assert key.is_anchors == isinstance(record, AnchorsRecord)


_KEYS = st.builds(StateKey, made.topics, made.partitions, made.streams, st.booleans()) | st.builds(
    StateKey, made.topics, made.partitions
)


@given(_KEYS, _KEYS)
@example(StateKey("t", 1, "2/x"), StateKey("t", 1, "2"))
@example(StateKey("t", 1, "anchors/x"), StateKey("t", 1, "x", is_anchors=True))
def test_no_two_state_keys_are_alike(a: StateKey, b: StateKey) -> None:
    assert (a.encode() == b.encode()) == (a == b)


def test_a_state_finds_its_arrays_and_refuses_those_of_another() -> None:
    arrays = {3: b"three", 1: b"one"}
    whole = state(anchors={1: b"1", 3: b"3"}, arrays=arrays, arrays_digest=digest_of(arrays))
    alone, anchors = whole.apart()
    assert not alone.arrays
    assert alone.whole(anchors) == whole
    assert digest_of({1: b"one", 3: b"three"}) == anchors.digest
    others = [digest_of(a) for a in ({1: b"one"}, {1: b"onet", 3: b"hree"}, {1: b"three", 3: b"one"}, {})]
    for other in [None, *(msgspec.structs.replace(anchors, digest=digest) for digest in others)]:
        with pytest.raises(MessageError, match="lacks the arrays"):
            alone.whole(other)


def test_a_state_of_the_version_before_is_read_and_one_of_an_older_is_not() -> None:
    before = {k: v for k, v in msgspec.to_builtins(state(), builtin_types=(bytes,)).items() if "arrays" not in k}
    read = decode(msgspec.msgpack.encode(before | {"version": 2}), StateRecord)
    assert (read.anchors, read.arrays, read.next_offset) == ({}, {}, 18)
    assert read.whole(None) == read
    with pytest.raises(MessageError, match="version 1"):
        decode(msgspec.msgpack.encode(before | {"version": 1}), StateRecord)


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"",
        b"t",
        b"t/x",
        b"t/01",
        b"t/1/",
        b"/1",
        b"t/-0",
        b"t/1_0/s",
        b"\xff/1",
        b"t/ 1",
        b"t/1:anchors",
        b"t/:anchors/s",
    ],
)
def test_what_is_no_state_key_is_refused(key: bytes | None) -> None:
    with pytest.raises(MessageError, match="key"):
        StateKey.parse(key)


def test_state_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(MessageError, match="key of another"):
        decode_state(b"video.in/3/other", encode(state()))
    with pytest.raises(MessageError, match="partition state"):
        decode_state(b"video.in/3", encode(state()))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 128), (3,), (2, 3, 4)])
def test_arrays_survive_exactly(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    if array.dtype.kind == "f" and array.size:
        array.flat[0] = np.nan
    found = unpack_arrays(pack_arrays({"b": array, "a": array.T}))
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["b"], array)
    np.testing.assert_array_equal(found["a"], array.T)
    assert found["b"].dtype == array.dtype.newbyteorder("=")
    assert found["b"].flags.writeable
    assert pack_arrays({"b": array, "a": array.T}) == pack_arrays({"a": array.T, "b": array})


def test_an_empty_section_holds_no_arrays() -> None:
    assert unpack_arrays(b"") == {}


@pytest.mark.parametrize(
    "records",
    [
        {"a": ("<f4", (2,), b"1234")},
        {"a": ("<f4", (1 << 62, 4), b"")},
        {"a": ("<f4", (1,) * 5, b"1234")},
        {"a": ("|O8", (1,), b"12345678")},
        {"a": ("<f4", (-1, -4), b"1234")},
        {"a": ("|b1", (1,), b"\x02")},
        {"a": ("<f4", (1,), b"1234", 0)},
        {str(i): ("|u1", (0,), b"") for i in range(257)},
        [1, 2],
    ],
)
def test_arrays_that_do_not_fit_are_refused(records: Any) -> None:
    with pytest.raises(MessageError) as caught:
        unpack_arrays(msgspec.msgpack.encode(records))
    assert caught.value.hint


def test_arrays_of_objects_are_not_written() -> None:
    with pytest.raises(MessageError, match="arrays"):
        pack_arrays({"a": np.array([object()], object)})


@given(made.enrolments | made.commands | made.batches)
def test_the_enrolments_topic_tells_its_records_apart(record: EnrolmentRecord | CommandRecord | BatchRecord) -> None:
    assert decode_enrolment(encode(record)) == record


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b'{"type":"party","version":1}',
        b'{"version":1}',
        b"[" * 100_000,
        again(command(), command="fry"),
        b'{"type":"command","version":2,"by":"\xff"}',
        b'{"type":"command","version":2,"\xff":1}',
        b'{"type":"command","version":2,"value":1e999}',
        b'{"type":"command","version":2,"person":1%s}' % (b"0" * 6000),
    ],
)
def test_what_is_no_enrolment_and_no_command_is_refused(value: bytes) -> None:
    with pytest.raises(MessageError):
        decode_enrolment(value)


def test_a_plain_enrolment_has_a_plain_key() -> None:
    assert enrolment_key("studio 1", "Jörg") == "studio 1/Jörg".encode()
    assert command(person="Jörg").key == "studio-1/#freeze/Jörg".encode()
    assert command(person=3).key == b"studio-1/#freeze/#3"
    assert command().key == b"studio-1/#freeze/#all"


@given(made.enrolments | made.commands, made.enrolments | made.commands)
@example(command(person="#all"), command())
@example(command(person=3), command(person="3"))
@example(command(person="#3"), command(person=3))
@example(command(stream="a/b", person="c"), command(stream="a", person="b/c"))
def test_compaction_joins_only_what_is_about_the_same(
    a: EnrolmentRecord | CommandRecord, b: EnrolmentRecord | CommandRecord
) -> None:
    def about(record: EnrolmentRecord | CommandRecord) -> tuple[Any, ...]:
        return record.stream, record.person, getattr(record, "command", None), type(record.person)

    assert (a.key == b.key) == (about(a) == about(b))


@given(st.text(max_size=3000))
def test_bounded_text_fits_in_a_message(text: str) -> None:
    assert decode(encode(score(reason=bounded(text))), ScoreRecord).reason == bounded(text)
