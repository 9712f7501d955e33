"""Alerts: when they open, are told again and close, and that their state is exact."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from difffake.faces import Reason
from difffake.results import Level
from stream.messages import (
    AlertEnd,
    AlertKind,
    AlertRecord,
    AlertState,
    Face,
    FaceEvidence,
    HeldAgainst,
    MessageError,
    ScoreRecord,
    Source,
    Status,
    decode,
    encode,
)
from stream.verdicts import Alerts, AlertSettings

S = 1_000_000_000
STRONG, SUSPICIOUS, CALM = 0.001, 0.03, 0.6
#: No cool-down to speak of, for tests that are not about it.
SETTINGS = AlertSettings(cooldown_s=0.001)


def evidence(p_value: float | None, against: HeldAgainst | None = None) -> FaceEvidence:
    level = Level.NOTHING
    if p_value is not None:
        level = Level.STRONG if p_value < 0.01 else Level.SUSPICIOUS if p_value < 0.05 else Level.NOTHING
    return FaceEvidence(score=1.0, log_density=None, p_value=0.5, accumulated=p_value, level=level, against=against)


def frame(
    time_s: float,
    *faces: tuple[int, str, float | None],
    status: Status = Status.SCORED,
    against: HeldAgainst | None = None,
) -> ScoreRecord:
    """A record of a frame with faces: person, evidence, accumulated p-value."""
    pts_ns = round(time_s * S)
    return ScoreRecord(
        stream="a",
        pts_ns=pts_ns,
        source=Source(topic="video.in", partition=0, offset=pts_ns // 1_000_000, index=0),
        status=status,
        reason="",
        faces=tuple(
            Face(
                person=person,
                name=None,
                track=0,
                box_px=(0.0, 0.0, 1.0, 1.0),
                confidence=1.0,
                quality=Reason.OK,
                evidence={name: evidence(p, against)},  # type: ignore[dict-item]
                missing={},
                anchor=None,
            )
            for person, name, p in faces
        ),
        model_id="m",
        difffake="0",
    )


def told(
    p_values: list[float | None], *, name: str = "identity", settings: AlertSettings = SETTINGS, step_s: float = 0.2
) -> list[AlertRecord]:
    """What comes of one face with these accumulated p-values; None: a frame without a face."""
    alerts = Alerts(settings)
    frames = [frame(i * step_s) if p is None else frame(i * step_s, (0, name, p)) for i, p in enumerate(p_values)]
    return [alert for one in frames for alert in alerts.observe(one)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("artifact", AlertKind.SUSTAINED),
        ("anchor", AlertKind.SUSTAINED),
        ("identity", AlertKind.IDENTITY_SWITCH),
    ],
)
def test_strong_evidence_that_lasts_opens_one_alert_from_its_first_frame_on(name: str, kind: AlertKind) -> None:
    (opened,) = told([CALM, SUSPICIOUS] + [STRONG] * 12, name=name)
    assert (opened.state, opened.kind, opened.evidence, opened.level) == (AlertState.OPENED, kind, name, Level.STRONG)
    assert opened.start_ns == round(0.4 * S)
    assert opened.first.offset == 400
    assert opened.last.offset == 1400
    assert opened.p_value == STRONG
    assert "person 0" in opened.sentence
    assert decode(encode(opened), AlertRecord) == opened


def test_somebody_who_is_not_enrolled_is_a_stranger_and_no_switch() -> None:
    alerts = Alerts(SETTINGS)
    opened, kinds = None, []
    for i in range(60):
        against = HeldAgainst.OTHERS if i < 20 else HeldAgainst.OWN
        p_value = CALM if 20 <= i < 40 else STRONG
        for alert in alerts.observe(frame(i * 0.2, (0, "identity", p_value), against=against)):
            opened = alert if alert.state is AlertState.OPENED else opened
            kinds.append((alert.kind, alert.state))
            assert alert.id == (opened.id if opened else None)
            alerts = Alerts.from_state(alerts.to_state(), SETTINGS)
    assert kinds == [
        (AlertKind.STRANGER, AlertState.OPENED),
        (AlertKind.STRANGER, AlertState.CLOSED),
        (AlertKind.IDENTITY_SWITCH, AlertState.OPENED),
    ]


def test_a_shorter_run_opens_nothing_however_often_it_comes() -> None:
    assert told(([STRONG] * 5 + [SUSPICIOUS]) * 20) == []


def test_a_second_with_too_few_frames_opens_nothing() -> None:
    assert told([STRONG, STRONG], step_s=3.0) == []
    assert len(told([STRONG, STRONG, STRONG], step_s=3.0)) == 1


def test_two_faces_of_a_person_in_a_frame_count_once() -> None:
    alerts, face = Alerts(), (0, "identity", STRONG)
    assert [alerts.observe(frame(t, face, face)) for t in (0.0, 1.5)] == [[], []]


def test_evidence_without_a_full_window_and_faces_of_nobody_say_nothing() -> None:
    alerts = Alerts()
    for i in range(20):
        assert alerts.observe(frame(i * 0.2, (-1, "artifact", STRONG), (0, "identity", None))) == []


def test_hysteresis_closing_takes_a_while_below_suspicious() -> None:
    restless = [STRONG] * 6 + [SUSPICIOUS] * 10 + [CALM] * 14 + [SUSPICIOUS] * 3
    assert [a.state for a in told(restless)] == [AlertState.OPENED]
    *_, closed = told(restless + [CALM] * 15)
    assert closed.state is AlertState.CLOSED
    assert closed.end_ns == round(0.2 * (len(restless) - 1) * S)
    assert closed.last.offset == closed.end_ns // 1_000_000
    assert closed.p_value == STRONG
    assert closed.end_reason is AlertEnd.CALM


@pytest.mark.parametrize("status", [Status.NO_FACE, Status.DECODE_ERROR])
def test_an_alert_ends_when_its_person_is_gone_by_stream_time_alone(status: Status) -> None:
    alerts = Alerts()
    for i in range(6):
        opened = alerts.observe(frame(i * 0.2, (0, "identity", STRONG)))
    assert [a.state for a in opened] == [AlertState.OPENED]
    assert alerts.observe(frame(10.9, status=status)) == []
    (closed,) = alerts.observe(frame(11.0, status=status))
    assert (closed.state, closed.id, closed.end_ns) == (AlertState.CLOSED, opened[0].id, round(1.0 * S))
    assert closed.end_reason is AlertEnd.GONE


def test_the_end_of_a_stream_closes_what_is_open_once_and_as_a_later_frame_would_have() -> None:
    alerts, other = Alerts(), Alerts()
    for i in range(6):
        one = frame(i * 0.2, (0, "identity", STRONG), (1, "artifact", CALM), (2, "artifact", STRONG))
        opened = alerts.observe(one)
        other.observe(one)
    assert alerts.is_open
    closed = alerts.end("a", "m")
    assert [(a.id, a.state, a.end_reason) for a in closed] == [
        (a.id, AlertState.CLOSED, AlertEnd.STREAM_ENDED) for a in opened
    ]
    assert not alerts.is_open
    assert alerts.end("a", "m") == []
    late = other.observe(frame(30.0, status=Status.NO_FACE))
    assert closed == [msgspec.structs.replace(a, end_reason=AlertEnd.STREAM_ENDED) for a in late]
    # It goes on after all: nothing opens in the cool-down, and what opens after it is another alert.
    states = [(a.id, a.state) for i in range(200) for a in alerts.observe(frame(2 + i * 0.2, (0, "identity", STRONG)))]
    assert states[0][1] is AlertState.OPENED
    assert states[0][0] != closed[0].id


def test_an_open_alert_is_told_again_when_it_is_ten_times_worse_or_after_a_while() -> None:
    worse = told([STRONG] * 6 + [STRONG / 5, STRONG / 11, STRONG / 50, STRONG / 200])
    assert [a.state for a in worse] == [AlertState.OPENED, AlertState.UPDATED, AlertState.UPDATED]
    assert [a.p_value for a in worse] == [STRONG, STRONG / 11, STRONG / 200]
    long = told([STRONG] * 120)
    assert [a.last.offset for a in long] == [1000, 11000, 21000]
    assert len({a.id for a in worse}) == 1


def test_no_other_alert_of_a_person_opens_in_the_cool_down_but_one_of_another_does() -> None:
    alerts, settings = Alerts(), AlertSettings()
    opened: list[tuple[int, int]] = []
    for i in range(400):
        time_s = i * 0.2
        first = CALM if 2 < time_s < 10 else STRONG
        faces = [(0, "identity", first)] + ([(1, "identity", STRONG)] if time_s > 12 else [])
        opened += [(a.person, a.last.offset) for a in alerts.observe(frame(time_s, *faces)) if a.state == "opened"]
    assert [person for person, _ in opened] == [0, 1, 0]
    assert opened[2][1] >= 2000 + settings.cooldown_s * 1000


def test_memory_is_bounded_and_what_is_given_up_is_closed() -> None:
    alerts = Alerts(AlertSettings(max_watched=3))
    found: list[AlertRecord] = []
    for i in range(60):
        found += alerts.observe(frame(i * 0.2, (i // 6, "identity", STRONG)))
    assert len(msgspec.msgpack.decode(alerts.to_state())["watches"]) == 3
    states = [a.state for a in found]
    assert {a.end_reason for a in found if a.state is AlertState.CLOSED} == {AlertEnd.CROWDED}
    assert states.count(AlertState.OPENED) == 10
    assert states.count(AlertState.CLOSED) == 7


FRAMES = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["artifact", "identity"]),
            st.sampled_from([1e-5, STRONG, SUSPICIOUS, CALM]),
        ),
        max_size=3,
    ),
    max_size=60,
)


@given(faces=FRAMES, cut=st.integers(0, 60), step_s=st.sampled_from([0.2, 1.0, 4.0]))
def test_the_same_records_come_wherever_the_state_was_saved_and_every_life_is_in_order(
    faces: list[list[tuple[int, str, float | None]]], cut: int, step_s: float
) -> None:
    frames = [frame(i * step_s, *those) for i, those in enumerate(faces)]
    whole, parts = Alerts(), Alerts()
    expected, found = [], []
    for i, one in enumerate(frames):
        if i == cut:
            state = parts.to_state()
            parts = Alerts.from_state(state)
            assert parts.to_state() == state
        expected += whole.observe(one)
        found += parts.observe(one)
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


@pytest.mark.parametrize("change", ["version", "p_value", "twice", "text"])
def test_damaged_state_is_refused(change: str) -> None:
    alerts = Alerts()
    alerts.observe(frame(0.0, (0, "identity", STRONG)))
    state = msgspec.msgpack.decode(alerts.to_state())
    if change == "version":
        state["version"] = 2
    elif change == "p_value":
        state["watches"][0]["p_value"] = 2.0
    elif change == "twice":
        state["watches"] *= 2
    data = b"\xc1 damaged" if change == "text" else msgspec.msgpack.encode(state)
    with pytest.raises(MessageError, match="alerts of a stream"):
        Alerts.from_state(data)


def test_a_stream_never_seen_has_an_empty_state() -> None:
    assert Alerts.from_state(b"").to_state() == Alerts().to_state()


@pytest.mark.parametrize("wrong", [{"open_s": 0.0}, {"gone_s": float("nan")}, {"max_watched": -1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AlertSettings(**wrong)  # type: ignore[arg-type]
