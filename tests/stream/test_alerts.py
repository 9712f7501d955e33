"""Alerts: evidence accumulated to a level that a budget sets, and what kind of alert it becomes."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from alert_frames import (
    CALM,
    OPENING,
    RARE,
    SETTINGS,
    STRONG,
    S,
    command,
    evidence,
    frame,
    seconds_until_open,
    told,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.calibration import Calibration
from difffake.results import Level
from stream.alerts import Alerts, AlertSettings, Rarity, Tuning
from stream.alerts.rarity import log_evidence
from stream.messages import (
    AlertKind,
    AlertRecord,
    AlertState,
    Command,
    HeldAgainst,
    Status,
    decode,
    encode,
)


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


def test_the_sentence_claims_no_window_for_the_p_value_of_a_frame() -> None:
    alerts = Alerts(SETTINGS)
    found = []
    for i in range(60):
        (face,) = (one := frame(i * 0.2, (0, "identity", 1e-5))).faces
        # As in the first seconds of a window, which has no p-value of its own yet.
        said = msgspec.structs.replace(face.evidence["identity"], accumulated=None if i < 5 else 1e-3)
        face = msgspec.structs.replace(face, evidence={"identity": said})
        found += alerts.observe(msgspec.structs.replace(one, faces=(face,)))
    assert found[0].p_value == 1e-5
    assert "smallest p = 1e-05, " in found[0].sentence
    assert "window" not in found[0].sentence


@pytest.mark.parametrize(
    ("step_s", "p_value", "kind"),
    [(5.0, 3e-4, AlertKind.SUSTAINED), (5.0, 1e-9, AlertKind.SPIKE), (0.2, 3e-4, AlertKind.SPIKE)],
)
def test_a_spike_is_short_in_stream_time_however_few_frames_were_looked_at(
    step_s: float, p_value: float, kind: AlertKind
) -> None:
    """A frame each 5 s, as in gear watch."""
    (opened, *_) = told([p_value] * 40, name="artifact", step_s=step_s)
    assert (opened.state, opened.kind) == (AlertState.OPENED, kind)


def test_the_silence_after_a_burst_is_no_part_of_it() -> None:
    alerts = Alerts(msgspec.structs.replace(SETTINGS, burst_s=2.0))
    assert told([1e-9] * 5, name="artifact", alerts=alerts) == []
    (opened,) = alerts.observe(frame(9.0))
    assert (opened.state, opened.kind) == (AlertState.OPENED, AlertKind.SPIKE)


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


# -- settings ---------------------------------------------------------------------------------------------------------
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
