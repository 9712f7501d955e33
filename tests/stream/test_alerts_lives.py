"""Alerts from their opening to their end, the face that they show, and what operators may do to them."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from alert_frames import (
    CALM,
    OPENING,
    RARE,
    SETTINGS,
    STRONG,
    SUSPICIOUS,
    S,
    command,
    frame,
    told,
)

from stream.alerts import Alerts
from stream.messages import (
    AlertEnd,
    AlertRecord,
    AlertState,
    Command,
    Face,
    Status,
)


def test_hysteresis_closing_takes_a_while_below_suspicious() -> None:
    restless = OPENING + [SUSPICIOUS] * 10 + [CALM] * 14 + [SUSPICIOUS] * 3
    assert {a.state for a in told(restless)} == {AlertState.OPENED, AlertState.UPDATED}
    *_, closed = told(restless + [CALM] * 15)
    assert closed.state is AlertState.CLOSED
    assert closed.end_ns == round(0.2 * (len(restless) - 1) * S)
    assert closed.last.offset == closed.end_ns // 1_000_000
    assert closed.p_value == RARE
    assert closed.end_reason is AlertEnd.CALM


def test_an_alert_ends_when_its_person_is_gone_by_stream_time_alone() -> None:
    alerts = Alerts(SETTINGS)
    (opened, *_) = told(OPENING, alerts=alerts)
    assert opened.state is AlertState.OPENED
    last_s = (len(OPENING) - 1) * 0.2
    assert alerts.observe(frame(last_s + 9.9, status=Status.NO_FACE)) == []
    (closed,) = alerts.observe(frame(last_s + 10.0, status=Status.NO_FACE))
    assert (closed.state, closed.id, closed.end_ns) == (AlertState.CLOSED, opened.id, round(last_s * S))
    assert closed.end_reason is AlertEnd.GONE


@pytest.mark.parametrize("status", [Status.SHED, Status.DECODE_ERROR])
@pytest.mark.parametrize("lost_s", [[12.0 + i * 0.2 for i in range(75)], [3600.0]])
def test_where_nobody_looked_nobody_is_gone(status: Status, lost_s: list[float]) -> None:
    alerts = Alerts(SETTINGS)
    (opened, *_) = told(OPENING, alerts=alerts)
    for time_s in lost_s:
        assert alerts.observe(frame(time_s, status=status)) == []
    assert alerts.is_open
    # The person was there all the time: the alert goes on. An hour ahead its next update is not an hour away, either.
    later = told([RARE] * 60, alerts=alerts, begin_s=27.2)
    assert {(a.id, a.state) for a in later} == {(opened.id, AlertState.UPDATED)}
    (closed,) = alerts.observe(frame(60.0, status=Status.NO_FACE))
    assert closed.end_reason is AlertEnd.GONE


def test_an_acknowledgement_that_a_lost_frame_tells_is_of_the_time_that_was_looked_at() -> None:
    alerts = Alerts(SETTINGS)
    (opened, *_) = told(OPENING, alerts=alerts)
    assert alerts.apply(command(Command.ALERT_ACKNOWLEDGE, alert=opened.id, by="Grace")) == []
    (seen,) = alerts.observe(frame(3600.0, status=Status.DECODE_ERROR))
    assert (seen.state, seen.acknowledged_by) == (AlertState.UPDATED, "Grace")
    (watch,) = msgspec.msgpack.decode(alerts.to_state())["watches"]
    assert watch["told"]["pts_ns"] == round((len(OPENING) - 1) * 0.2 * S)


def test_the_end_of_a_stream_closes_what_is_open_once_and_as_a_later_frame_would_have() -> None:
    settings = msgspec.structs.replace(SETTINGS, cooldown_s=30.0)
    alerts, other, opened = Alerts(settings), Alerts(settings), []
    for i in range(60):
        one = frame(i * 0.2, (0, "identity", RARE), (1, "artifact", CALM), (2, "artifact", 1e-6))
        opened += [a for a in alerts.observe(one) if a.state is AlertState.OPENED]
        other.observe(one)
    assert {a.person for a in opened} == {0, 2}
    assert alerts.is_open
    closed = alerts.end("a", "m")
    assert {(a.id, a.state, a.end_reason) for a in closed} == {
        (a.id, AlertState.CLOSED, AlertEnd.STREAM_ENDED) for a in opened
    }
    assert not alerts.is_open
    assert alerts.end("a", "m") == []
    late = other.observe(frame(60.0, status=Status.NO_FACE))
    # But for the last block, which the later frame has ended.
    same = {"end_reason": AlertEnd.STREAM_ENDED, "accumulated": 0.0}
    assert [msgspec.structs.replace(a, **same) for a in closed] == [msgspec.structs.replace(a, **same) for a in late]
    # It goes on after all: nothing opens in the cool-down, and what opens after it is another alert.
    again = told([RARE] * 400, alerts=alerts, begin_s=12.0)
    assert again[0].state is AlertState.OPENED
    assert again[0].last.offset >= 11_800 + 30_000
    assert again[0].id not in {a.id for a in closed}


def test_an_open_alert_is_told_again_when_it_is_ten_times_worse_or_after_a_while() -> None:
    worse = told([*OPENING, RARE / 5, RARE / 11, RARE / 50, RARE / 200])
    assert [a.p_value for a in worse if a.state is AlertState.UPDATED][-2:] == [RARE / 11, RARE / 200]
    long = told([RARE] * 400)
    assert {a.id for a in worse + long} == {long[0].id}
    assert [b.last.offset - a.last.offset for a, b in pairwise(long)][1:] == [10_000] * (len(long) - 2)
    assert len(long) > 3


def test_memory_is_bounded_and_what_is_given_up_is_closed() -> None:
    alerts = Alerts(msgspec.structs.replace(SETTINGS, max_watched=3))
    found: list[AlertRecord] = []
    for i in range(600):
        found += alerts.observe(frame(i * 0.2, (i // 60, "identity", RARE)))
    assert len(msgspec.msgpack.decode(alerts.to_state())["watches"]) == 3
    states = [a.state for a in found]
    assert states.count(AlertState.OPENED) == 10
    assert states.count(AlertState.CLOSED) >= 7
    crowd = Alerts(msgspec.structs.replace(SETTINGS, max_watched=3))
    ends = [
        a.end_reason
        for i in range(60)
        for a in crowd.observe(frame(i * 0.2, *((p, "identity", RARE) for p in range(3))))
    ]
    ends += [a.end_reason for a in crowd.observe(frame(12.0, *((p, "identity", RARE) for p in range(3, 6))))]
    assert ends.count(AlertEnd.CROWDED) == 3


# -- pictures --------------------------------------------------------------------------------------------------------
def test_an_alert_carries_the_face_that_was_most_suspicious_and_none_where_that_is_turned_off() -> None:
    asked: list[Face] = []

    def portray(face: Face) -> bytes:
        asked.append(face)
        return str(len(asked)).encode()

    for wanted in (True, False):
        alerts = Alerts(msgspec.structs.replace(SETTINGS, thumbnails=wanted))
        found = []
        for i, p in enumerate([CALM] * 20 + [STRONG] * 5 + [RARE] * 300):
            found += alerts.observe(frame(i * 0.2, (0, "identity", p)), portray)
            alerts = Alerts.from_state(alerts.to_state(), msgspec.structs.replace(SETTINGS, thumbnails=wanted))
        assert {a.thumbnail_jpeg for a in found} == {b"2" if wanted else None}
    assert len(asked) == 2, "a face is drawn when it is clearly more suspicious than the last, and never else"


# -- operators -------------------------------------------------------------------------------------------------------
def test_a_budget_of_the_stream_or_of_one_evidence_moves_the_level_until_it_is_taken_back() -> None:
    alerts = Alerts(SETTINGS)
    assert alerts.apply(command(Command.ALERT_BUDGET, value=1.0)) == []
    assert alerts.apply(command(Command.ALERT_BUDGET, value=0.001, evidence="identity")) == []
    alerts = Alerts.from_state(alerts.to_state(), SETTINGS)
    found = [
        a for i in range(300) for a in alerts.observe(frame(i * 0.2, (0, "identity", RARE), (1, "artifact", 1e-6)))
    ]
    assert {a.evidence: a.budget_per_day for a in found} == {"identity": 0.001, "artifact": 1.0}
    alerts.apply(command(Command.ALERT_BUDGET, evidence="identity"))
    alerts.apply(command(Command.ALERT_BUDGET))
    again = told([CALM] * 50 + OPENING, alerts=alerts, begin_s=300.0)
    assert [a.budget_per_day for a in again if a.state is AlertState.OPENED] == [SETTINGS.budget_per_day]


@pytest.mark.parametrize("value", [1e9, 86_401.0])
def test_a_budget_that_is_none_is_refused_and_changes_nothing(value: float) -> None:
    alerts = Alerts(SETTINGS)
    before = alerts.to_state()
    assert "alert-budget" in alerts.apply(command(Command.ALERT_BUDGET, value=value))[0]
    assert alerts.to_state() == before


@pytest.mark.parametrize(
    ("whom", "muted"),
    [
        ({}, {0, 1, 7}),
        ({"person": 0}, {0}),
        ({"person": "Ada"}, {7}),
        ({"evidence": "artifact"}, {1}),
        ({"evidence": "artifact", "person": 0}, set()),
    ],
)
def test_a_mute_closes_and_silences_those_whom_it_is_about(whom: dict[str, object], muted: set[int]) -> None:
    faces = (0, "identity", RARE), (1, "artifact", 1e-6), (7, "identity", RARE)
    alerts = Alerts(SETTINGS)
    before = [a for i in range(60) for a in alerts.observe(frame(i * 0.2, *faces))]
    assert {a.person for a in before} == {0, 1, 7}
    alerts.apply(command(Command.ALERT_MUTE, **whom))
    now = alerts.observe(frame(12.0, *faces))
    assert {a.person for a in now if a.state is AlertState.CLOSED} == muted
    assert {a.end_reason for a in now if a.state is AlertState.CLOSED} <= {AlertEnd.MUTED}
    alerts = Alerts.from_state(alerts.to_state(), SETTINGS)
    later = [a for i in range(300) for a in alerts.observe(frame(12.2 + i * 0.2, *faces))]
    assert {a.person for a in later} == {0, 1, 7} - muted
    assert AlertState.OPENED not in {a.state for a in later}
    alerts.apply(command(Command.ALERT_UNMUTE, **whom))
    after = [a for i in range(60) for a in alerts.observe(frame(80 + i * 0.2, *faces))]
    assert {a.person for a in after if a.state is AlertState.OPENED} == muted
    assert all(a.start_ns >= 80 * S for a in after if a.state is AlertState.OPENED), "a mute leaves no evidence behind"


@pytest.mark.parametrize(
    ("muted", "unmuted", "still"),
    [
        ([{}], {"person": 0}, "everybody"),
        ([{}], {"evidence": "identity"}, "everybody"),
        ([{"evidence": "identity"}], {"person": 0}, "everybody (identity)"),
        ([{"evidence": "identity"}, {"person": 0}], {"person": 0, "evidence": "identity"}, "everybody (identity), #0"),
        ([{"person": 7}], {"person": "Ada"}, "#7"),
        ([{"person": "Ada", "value": 60.0}], {"person": 7}, "Ada"),
        ([{"person": 0}], {"person": 0}, None),
        ([{"evidence": "artifact"}, {"person": 7}], {"person": 0, "evidence": "identity"}, None),
        ([{"person": 0}], {"evidence": "identity"}, None),
        ([{}, {"person": 0}], {}, None),
    ],
)
def test_an_unmute_says_which_mutes_hold_on(
    muted: list[dict[str, object]], unmuted: dict[str, object], still: str | None
) -> None:
    alerts = Alerts(SETTINGS)
    alerts.observe(frame(0.0, (0, "identity", CALM), (7, "identity", CALM)))
    for whom in muted:
        assert alerts.apply(command(Command.ALERT_MUTE, **whom)) == []
    warnings = [
        w.partition(": still muted by the mute of ") for w in alerts.apply(command(Command.ALERT_UNMUTE, **unmuted))
    ]
    assert [(code, what) for code, _, what in warnings] == ([("command: alert-unmute", still)] if still else [])
    assert alerts.apply(command(Command.ALERT_UNMUTE)) == []
    assert alerts.apply(command(Command.ALERT_UNMUTE, person=0)) == []


def test_a_mute_ends_by_itself_and_one_before_the_first_frame_lasts_from_there_on() -> None:
    for alerts in (Alerts(SETTINGS), Alerts(SETTINGS)):
        alerts.apply(command(Command.ALERT_MUTE, value=60.0))
        (opened, *_) = told([RARE] * 600, alerts=alerts, begin_s=1000.0)
        assert 1060 * S <= opened.start_ns < 1062 * S


def test_an_acknowledged_alert_is_told_once_more_and_then_only_when_it_gets_worse() -> None:
    alerts = Alerts(SETTINGS)
    (opened, *_) = told(OPENING, alerts=alerts)
    assert "not open" in alerts.apply(command(Command.ALERT_ACKNOWLEDGE, alert="another"))[0]
    assert alerts.apply(command(Command.ALERT_ACKNOWLEDGE, alert=opened.id, by="Grace")) == []
    alerts = Alerts.from_state(alerts.to_state(), SETTINGS)
    (seen,) = alerts.observe(frame(12.0))
    assert (seen.state, seen.id, seen.acknowledged_by) == (AlertState.UPDATED, opened.id, "Grace")
    assert told([RARE] * 200, alerts=alerts, begin_s=12.2) == []
    (worse,) = told([RARE / 20], alerts=alerts, begin_s=52.2)
    assert (worse.state, worse.acknowledged_by) == (AlertState.UPDATED, "Grace")


def test_an_acknowledged_alert_that_stays_open_is_told_every_hour_so_that_nobody_takes_it_for_closed() -> None:
    alerts = Alerts(SETTINGS)
    (opened, *_) = told(OPENING, alerts=alerts)
    alerts.apply(command(Command.ALERT_ACKNOWLEDGE, alert=opened.id, by="Grace"))
    assert len(alerts.observe(frame(12.0))) == 1
    later = told([RARE] * (5 * 2 * 3700), alerts=alerts, begin_s=12.2)
    assert [record.id for record in later] == [opened.id] * 2
    assert {(record.state, record.acknowledged_by) for record in later} == {(AlertState.UPDATED, "Grace")}
