"""When a stream is looked at more closely, and when no longer."""

from __future__ import annotations

import msgspec
import pytest
import records_made_up as made_up
from hypothesis import given
from hypothesis import strategies as st
from records_made_up import evidence, face

from difffake.results import Level
from stream.decode import Gear
from stream.gears import Gears, GearSettings, GearState
from stream.messages import ScoreRecord, Status

S = 1_000_000_000
WATCH = GearSettings(base=Gear.WATCH, hold_s=5)


def score(
    time_s: float, level: Level | None = None, *, alone: bool = False, status: Status = Status.SCORED
) -> ScoreRecord:
    """A frame; with a face at this level, of the running window or of the frame alone."""
    said = {} if level is None else {"artifact": evidence(0.5, level, None if alone else 0.5)}
    return made_up.score("a", time_s, face(**said), status=status)


def gears_after(*scores: ScoreRecord, settings: GearSettings = WATCH) -> list[Gear]:
    gears = Gears(settings)
    seen = []
    for one in scores:
        gears.observe(one)
        seen.append(gears.gear)
    return seen


def test_a_new_stream_is_in_its_base_gear() -> None:
    assert Gears(GearSettings()).gear is Gear.ANALYSE
    assert Gears(WATCH).gear is Gear.WATCH


def test_suspicion_shifts_up_at_once_and_back_after_the_hold() -> None:
    scores = [
        score(0, Level.NOTHING),
        score(1, Level.STRONG),
        score(2),
        score(5.9, Level.NOTHING),
        score(6, Level.NOTHING),
    ]
    assert gears_after(*scores) == [
        Gear.WATCH,
        Gear.SCRUTINISE,
        Gear.SCRUTINISE,
        Gear.SCRUTINISE,
        Gear.WATCH,
    ]


@pytest.mark.parametrize("alone", [True, False])
def test_a_little_suspicion_is_not_worth_it(alone: bool) -> None:
    assert gears_after(score(0, Level.SUSPICIOUS, alone=alone)) == [Gear.WATCH]
    assert gears_after(score(0, Level.STRONG, alone=True)) == [Gear.SCRUTINISE]


@pytest.mark.parametrize("status", [Status.SHED, Status.DECODE_ERROR, Status.STALE])
def test_pictures_that_nobody_looked_at_say_nothing(status: Status) -> None:
    scores = [score(0, Level.STRONG), score(60, status=status), score(61)]
    assert gears_after(*scores) == [Gear.SCRUTINISE, Gear.SCRUTINISE, Gear.WATCH]


def test_an_operator_chooses_another_base() -> None:
    gears = Gears(GearSettings())
    gears.set_base(Gear.WATCH)
    assert gears.gear is Gear.WATCH
    gears.observe(score(0, Level.STRONG))
    assert gears.gear is Gear.SCRUTINISE
    gears.set_base(None)
    gears.observe(score(60))
    assert gears.gear is Gear.ANALYSE
    with pytest.raises(ValueError, match="shed"):
        gears.set_base(Gear.SHED)


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from([None, *Level])), max_size=30))
def test_the_gear_is_the_same_wherever_the_state_was_saved(frames: list[tuple[int, Level | None]]) -> None:
    through, saved = Gears(WATCH), Gears(WATCH)
    now = 0
    for step, level in frames:
        now += step
        through.observe(score(now, level))
        saved.observe(score(now, level))
        data = msgspec.msgpack.encode(saved.state)
        assert len(data) < 100
        saved = Gears(WATCH, msgspec.msgpack.decode(data, type=GearState))
        assert saved.gear is through.gear


@pytest.mark.parametrize("wrong", [{"base": Gear.SHED}, {"hold_s": 0.0}, {"hold_s": 1e9}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="base gear"):
        GearSettings(**wrong)  # type: ignore[arg-type]
