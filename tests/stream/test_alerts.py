"""Alerts: evidence accumulated to a level that a budget sets, their lives, operators, and that their state is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.calibration import Calibration
from difffake.faces import Reason
from difffake.results import Level
from stream.alerts import Alerts, AlertSettings, Rarity, Tuning
from stream.alerts.rarity import log_evidence
from stream.messages import (
    AlertEnd,
    AlertKind,
    AlertRecord,
    AlertState,
    Command,
    CommandRecord,
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

S = 1_000_000_000
RARE, STRONG, SUSPICIOUS, CALM = 1e-4, 0.001, 0.03, 0.6
#: Frames, five a second, that open an alert of identity.
OPENING = [1e-4] * 60
#: One false alert an hour; no cool-down to speak of, for tests that are not about it.
SETTINGS = AlertSettings(budget_per_day=24.0, cooldown_s=0.001)


def evidence(p_value: float, against: HeldAgainst | None = None, score: float = 1.0) -> FaceEvidence:
    level = Level.STRONG if p_value < 0.01 else Level.SUSPICIOUS if p_value < 0.05 else Level.NOTHING
    return FaceEvidence(
        score=score, log_density=None, p_value=p_value, accumulated=p_value, level=level, against=against
    )


def frame(
    time_s: float,
    *faces: tuple[int, str, float],
    status: Status = Status.SCORED,
    against: HeldAgainst | None = None,
) -> ScoreRecord:
    """A record of a frame with faces: person, evidence, p-value of the frame and over the window."""
    pts_ns = round(time_s * S)
    return ScoreRecord(
        stream="a",
        pts_ns=pts_ns,
        source=Source(topic="video.in", partition=0, offset=max(pts_ns, 0) // 1_000_000, index=0),
        status=status,
        reason="",
        faces=tuple(
            Face(
                person=person,
                name="Ada" if person == 7 else None,
                track=0,
                box_px=(0.0, 0.0, 1.0, float(person)),
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


def command(what: Command, **changed: object) -> CommandRecord:
    given_ = {"stream": "a", "person": None, "issued_ns": 1, "by": "op", "id": "c"} | changed
    return CommandRecord(command=what, **given_)  # type: ignore[arg-type]


def told(
    p_values: Sequence[float | None],
    *,
    name: str = "identity",
    settings: AlertSettings = SETTINGS,
    step_s: float = 0.2,
    alerts: Alerts | None = None,
    begin_s: float = 0.0,
) -> list[AlertRecord]:
    """What comes of one face with these p-values; None: a frame without a face."""
    alerts = alerts or Alerts(settings)
    times = [begin_s + i * step_s for i in range(len(p_values))]
    frames = [frame(t) if p is None else frame(t, (0, name, p)) for t, p in zip(times, p_values, strict=True)]
    return [alert for one in frames for alert in alerts.observe(one)]


def seconds_until_open(p_value: float, settings: AlertSettings, name: str = "identity") -> float | None:
    """Of a face that is always so suspicious."""
    found = told([p_value] * 1500, settings=settings, name=name)
    states = [a for a in found if a.state is AlertState.OPENED]
    return states[0].last.offset / 1000 if states else None


# -- evidence and its level ------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(kappa=st.floats(0.001, 0.9))
def test_the_evidence_of_a_real_face_is_one_on_average(kappa: float) -> None:
    # Of uniform p-values: the mean of kappa * p ** (kappa - 1) over p, by the midpoint rule over log p.
    step = 40 / kappa / 4000
    log_p = -(np.arange(4000) + 0.5) * step
    assert np.sum(np.exp(np.log(kappa) + (kappa - 1) * log_p + log_p)) * step == pytest.approx(1.0, abs=1e-3)
    for p in (1.0, 0.3, 1e-3, 1e-9):
        assert log_evidence(p, kappa) == pytest.approx(math.log(kappa * p ** (kappa - 1)))


@settings(deadline=None)
@given(p=st.floats(0, 1), q=st.floats(0, 1), kappa=st.floats(0.001, 0.9))
def test_rarer_is_more_evidence(p: float, q: float, kappa: float) -> None:
    assert log_evidence(min(p, q), kappa) >= log_evidence(max(p, q), kappa)
    assert math.isfinite(log_evidence(p, kappa))


@pytest.mark.parametrize("budget", [10.0, 1.0, 0.1, 0.01])
def test_a_tenth_of_the_budget_asks_for_ten_times_the_evidence(budget: float) -> None:
    settings = msgspec.structs.replace(SETTINGS, budget_per_day=budget)
    (opened, *_) = told([RARE] * 200, settings=settings)
    level = math.log10(86_400 / (budget * settings.identity.share))
    assert opened.alert_level == pytest.approx(level)
    assert opened.accumulated >= opened.alert_level
    assert opened.budget_per_day == budget


def test_a_smaller_budget_waits_longer_and_never_shorter() -> None:
    waits = [seconds_until_open(RARE, msgspec.structs.replace(SETTINGS, budget_per_day=b)) for b in (100, 1, 0.01)]
    assert None not in waits
    assert waits == sorted(waits)  # type: ignore[type-var]
    assert waits[0] < waits[-1]  # type: ignore[operator]


@pytest.mark.parametrize("step_s", [0.2, 0.5])
def test_ten_seconds_of_another_face_are_enough_at_the_default_budget(step_s: float) -> None:
    # What the demonstration's swap gives: the frames of ten seconds, after five of the person themselves.
    calm, swapped = round(5 / step_s), round(9.8 / step_s)
    found = told([0.2] * calm + [5e-4] * swapped, settings=AlertSettings(), step_s=step_s)
    assert [a.kind for a in found[:1]] == [AlertKind.IDENTITY_SWITCH]
    assert told([0.2] * 60 + [5e-4] * 15, settings=AlertSettings()) == [], "three seconds are not"


@pytest.mark.parametrize("p_value", [CALM, 0.2])
def test_a_face_that_is_never_rare_opens_nothing_however_long_it_stays(p_value: float) -> None:
    assert seconds_until_open(p_value, SETTINGS) is None


@pytest.mark.parametrize("spread", [1, 5])
def test_real_faces_keep_to_the_budget(spread: int) -> None:
    """Independent blocks of uniform p-values, each frame ``spread`` times over: the alerts of many blocks."""
    rng = np.random.default_rng(3)
    settings = msgspec.structs.replace(
        SETTINGS,
        budget_per_day=4000.0,
        cooldown_s=0.001,
        close_s=0.001,
        identity=Tuning(share=0.5, kappa=0.3, decorrelation_s=1.0),
    )
    alerts, opened, blocks = Alerts(settings), 0, 6000
    for i, p in enumerate(np.repeat(rng.uniform(size=blocks), spread)):
        opened += sum(
            a.state is AlertState.OPENED for a in alerts.observe(frame(i / spread, (0, "identity", float(p))))
        )
    expected = blocks / 86_400 * settings.share("identity")
    assert 0 < opened <= expected


def test_many_frames_of_a_moment_weigh_no_more_than_few() -> None:
    few, many = (seconds_until_open_at(step_s) for step_s in (0.5, 0.1))
    assert few is not None
    assert many is not None
    assert few == pytest.approx(many, abs=0.51)


def seconds_until_open_at(step_s: float) -> float | None:
    found = [a for a in told([STRONG] * 1000, step_s=step_s) if a.state is AlertState.OPENED]
    return found[0].last.offset / 1000 if found else None


def test_people_of_one_picture_share_the_budget() -> None:
    def wait(people: int) -> int:
        alerts = Alerts(SETTINGS)
        for i in range(1000):
            faces = [(person, "identity", RARE) for person in range(people)]
            if alerts.observe(frame(i * 0.2, *faces)):
                return i
        raise AssertionError

    assert wait(40) > wait(1)


def test_identity_against_the_streams_own_anchor_is_judged_by_how_people_differ_from_day_to_day() -> None:
    rng = np.random.default_rng(0)
    rarity = Rarity(Calibration.fit(rng.normal(size=2000), np.arange(2000)))
    usual, rare = evidence(1e-6, HeldAgainst.OWN, score=0.0), evidence(0.9, HeldAgainst.OWN, score=3.0)
    assert rarity.p_value("identity", usual) == pytest.approx(0.5, abs=0.05)
    assert rarity.p_value("identity", rare) < 0.01
    assert rarity.p_value("identity", evidence(0.3, HeldAgainst.ENROLLED)) == 0.3
    assert rarity.p_value("artifact", evidence(0.3)) == 0.3
    assert Rarity().p_value("identity", usual) == 1e-6


def test_lost_frames_of_any_time_hold_no_alert_up() -> None:
    lost = [frame(t, status=Status.STALE) for t in (0.0, 1e6)]
    alerts = Alerts(SETTINGS)
    for one in lost:
        assert alerts.observe(one) == []
    assert told(OPENING[:10], alerts=alerts) == []
    assert alerts.apply(command(Command.ALERT_MUTE, person=9, value=60.0)) == []
    before = alerts.to_state()
    assert alerts.observe(lost[1]) == []
    assert alerts.to_state() == before
    assert told(OPENING, alerts=alerts, begin_s=4.0)


# -- kinds -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["artifact", "anchor"])
@pytest.mark.parametrize(
    ("rarities", "kind"),
    [
        ([1e-6] * 60, AlertKind.SPIKE),
        ([0.4] * 1500, AlertKind.SUSTAINED),
        (([0.2] * 20 + [10.0] * 5) * 60, AlertKind.THRESHOLD),
    ],
)
def test_kinds_say_how_the_evidence_came(name: str, rarities: list[float], kind: AlertKind) -> None:
    kappa = SETTINGS.tuning(name).kappa  # type: ignore[arg-type]
    (opened, *_) = told([CALM] * 10 + [kappa * rarity for rarity in rarities], name=name)
    assert (opened.state, opened.kind, opened.evidence) == (AlertState.OPENED, kind, name)
    assert opened.level is Level.STRONG
    assert opened.start_ns == 2 * S
    assert "person 0" in opened.sentence
    assert decode(encode(opened), AlertRecord) == opened


def test_an_alert_begins_where_the_evidence_began_not_where_the_person_did() -> None:
    (opened, *_) = told([CALM] * 300 + [RARE] * 100)
    assert (opened.kind, opened.start_ns, opened.first.offset) == (AlertKind.IDENTITY_SWITCH, 60 * S, 60_000)
    assert opened.last.offset > opened.first.offset
    assert opened.p_value == RARE


def test_somebody_who_is_not_enrolled_is_a_stranger_and_no_switch() -> None:
    alerts = Alerts(SETTINGS)
    opened, kinds = None, []
    for i in range(300):
        against = HeldAgainst.OTHERS if i < 100 else HeldAgainst.OWN
        p_value = CALM if 100 <= i < 200 else RARE
        for alert in alerts.observe(frame(i * 0.2, (0, "identity", p_value), against=against)):
            opened = alert if alert.state is AlertState.OPENED else opened
            if alert.state is not AlertState.UPDATED:
                kinds.append((alert.kind, alert.state))
            assert alert.id == (opened.id if opened else None)
            alerts = Alerts.from_state(alerts.to_state(), SETTINGS)
    assert kinds == [
        (AlertKind.STRANGER, AlertState.OPENED),
        (AlertKind.STRANGER, AlertState.CLOSED),
        (AlertKind.IDENTITY_SWITCH, AlertState.OPENED),
    ]


def test_what_was_held_against_another_anchor_counts_no_more() -> None:
    alerts = Alerts(SETTINGS)
    wait = seconds_until_open(RARE, SETTINGS)
    assert wait is not None
    for i in range(int(wait * 5) - 5):
        assert alerts.observe(frame(i * 0.2, (0, "identity", RARE), against=HeldAgainst.OWN)) == []
    later = [
        alerts.observe(frame(wait + i * 0.2, (0, "identity", RARE), against=HeldAgainst.ENROLLED)) for i in range(9)
    ]
    assert not any(later)


def test_evidence_of_faces_of_nobody_says_nothing() -> None:
    alerts = Alerts(SETTINGS)
    assert [alerts.observe(frame(i * 0.2, (-1, "artifact", 1e-9))) for i in range(100)] == [[]] * 100


def test_a_person_who_was_off_the_picture_is_taken_up_again_but_not_after_an_hour() -> None:
    wait = seconds_until_open(RARE, SETTINGS)
    assert wait is not None
    half = [RARE] * int(wait * 5 * 0.7)
    for pause_s, opens in ((300.0, True), (4000.0, False)):
        alerts = Alerts(SETTINGS)
        assert told(half, alerts=alerts) == []
        alerts.observe(frame(pause_s - 1))
        assert bool(told(half, alerts=alerts, begin_s=pause_s)) is opens


# -- lives -----------------------------------------------------------------------------------------------------------
def test_hysteresis_closing_takes_a_while_below_suspicious() -> None:
    restless = OPENING + [SUSPICIOUS] * 10 + [CALM] * 14 + [SUSPICIOUS] * 3
    assert {a.state for a in told(restless)} == {AlertState.OPENED, AlertState.UPDATED}
    *_, closed = told(restless + [CALM] * 15)
    assert closed.state is AlertState.CLOSED
    assert closed.end_ns == round(0.2 * (len(restless) - 1) * S)
    assert closed.last.offset == closed.end_ns // 1_000_000
    assert closed.p_value == RARE
    assert closed.end_reason is AlertEnd.CALM


@pytest.mark.parametrize("status", [Status.NO_FACE, Status.DECODE_ERROR])
def test_an_alert_ends_when_its_person_is_gone_by_stream_time_alone(status: Status) -> None:
    alerts = Alerts(SETTINGS)
    (opened, *_) = told(OPENING, alerts=alerts)
    assert opened.state is AlertState.OPENED
    last_s = (len(OPENING) - 1) * 0.2
    assert alerts.observe(frame(last_s + 9.9, status=status)) == []
    (closed,) = alerts.observe(frame(last_s + 10.0, status=status))
    assert (closed.state, closed.id, closed.end_ns) == (AlertState.CLOSED, opened.id, round(last_s * S))
    assert closed.end_reason is AlertEnd.GONE


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


# -- state -----------------------------------------------------------------------------------------------------------
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


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"block_s": 0.0}, "block_s"),
        ({"gone_s": float("nan")}, "gone_s"),
        ({"max_watched": -1}, "max_watched"),
        ({"budget_per_day": 0.0}, "budget_per_day"),
        ({"budget_per_day": 1e6}, "budget_per_day"),
        ({"anchor": Tuning(share=1.0, kappa=0.1, decorrelation_s=1.0)}, "shares"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AlertSettings(**wrong)  # type: ignore[arg-type]
