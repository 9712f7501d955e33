"""The state of alerts: exact wherever it is saved, refused where it is damaged."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from alert_frames import (
    CALM,
    RARE,
    SETTINGS,
    STRONG,
    SUSPICIOUS,
    S,
    command,
    frame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.alerts import Alerts
from stream.messages import (
    AlertKind,
    AlertRecord,
    AlertState,
    Command,
    CommandRecord,
    Face,
    MessageError,
    decode,
    encode,
)

FRAMES = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["artifact", "identity"]),
            st.sampled_from([1e-9, RARE, SUSPICIOUS, CALM]),
        ),
        max_size=3,
    ),
    max_size=60,
)
COMMANDS = st.dictionaries(
    st.integers(0, 60),
    st.sampled_from(
        [
            command(Command.ALERT_BUDGET, value=0.5),
            command(Command.ALERT_BUDGET, evidence="identity"),
            command(Command.ALERT_MUTE, person=1, value=5.0),
            command(Command.ALERT_MUTE, evidence="artifact"),
            command(Command.ALERT_UNMUTE),
        ]
    ),
    max_size=4,
)


@settings(deadline=None)
@given(
    faces=FRAMES,
    commands=COMMANDS,
    cuts=st.sets(st.integers(0, 60), max_size=5),
    step_s=st.sampled_from([0.2, 1.0, 4.0]),
)
def test_the_same_records_come_wherever_the_state_was_saved_and_every_life_is_in_order(
    faces: list[list[tuple[int, str, float]]], commands: dict[int, CommandRecord], cuts: set[int], step_s: float
) -> None:
    def portray(face: Face) -> bytes:
        return repr(face.evidence).encode()[:100]

    settings = msgspec.structs.replace(SETTINGS, budget_per_day=20_000.0)
    whole, parts = Alerts(settings), Alerts(settings)
    expected, found = [], []
    for i, those in enumerate(faces):
        if i in cuts:
            state = parts.to_state()
            parts = Alerts.from_state(state, settings)
            assert parts.to_state() == state
        if i in commands:
            assert whole.apply(commands[i]) == parts.apply(commands[i])
        one = frame(i * step_s, *those)
        expected += whole.observe(one, portray)
        found += parts.observe(one, portray)
    assert found == expected
    assert parts.to_state() == whole.to_state()
    lives: dict[str, list[AlertRecord]] = {}
    for alert in found:
        lives.setdefault(alert.id, []).append(alert)
    for life in lives.values():
        assert [a.state for a in life].count(AlertState.OPENED) == 1
        assert life[0].state is AlertState.OPENED
        assert AlertState.CLOSED not in [a.state for a in life[:-1]]
        assert all(b.p_value <= a.p_value and b.start_ns == a.start_ns for a, b in pairwise(life))


def test_state_of_version_1_keeps_open_alerts_and_cool_downs_and_begins_the_rest_anew() -> None:
    source = {"topic": "video.in", "partition": 0, "offset": 7, "index": 0}
    watch = {
        "person": 0,
        "evidence": "identity",
        "name": None,
        "first": source,
        "start_ns": 0,
        "frames": 9,
        "last": source,
        "last_ns": 5 * S,
        "heard_ns": 5 * S,
        "p_value": 1e-4,
        "is_stranger": False,
        "told": {"p_value": 1e-4, "pts_ns": 2 * S},
        "quiet_until_ns": None,
    }
    run = watch | {"person": 1, "told": None}
    quiet = run | {"person": 2, "quiet_until_ns": 100 * S}
    alerts = Alerts.from_state(msgspec.msgpack.encode({"version": 1, "watches": [watch, run, quiet]}), SETTINGS)
    assert alerts.is_open
    (closed,) = alerts.observe(frame(20.0))
    assert (closed.state, closed.person, closed.kind) == (AlertState.CLOSED, 0, AlertKind.IDENTITY_SWITCH)
    assert decode(encode(closed), AlertRecord) == closed
    found = [a for i in range(500) for a in alerts.observe(frame(20.2 + i * 0.2, (2, "identity", RARE)))]
    assert found[0].last.offset >= 99_800
    assert Alerts.from_state(alerts.to_state(), SETTINGS).to_state() == alerts.to_state()


@pytest.mark.parametrize("change", ["version", "p_value", "twice", "text", "old"])
def test_damaged_state_is_refused(change: str) -> None:
    alerts = Alerts()
    alerts.observe(frame(0.0, (0, "identity", STRONG)))
    state = msgspec.msgpack.decode(alerts.to_state())
    if change == "version":
        state["version"] = 3
    elif change == "old":
        state = {"version": 1, "watches": [{"person": 0}]}
    elif change == "p_value":
        state["watches"][0]["p_value"] = 2.0
    elif change == "twice":
        state["watches"] *= 2
    data = b"\xc1 damaged" if change == "text" else msgspec.msgpack.encode(state)
    with pytest.raises(MessageError, match="alerts of a stream"):
        Alerts.from_state(data)


def test_a_stream_never_seen_has_an_empty_state() -> None:
    assert Alerts.from_state(b"").to_state() == Alerts().to_state()
