"""Whose record is next, where too much is to be done."""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import pytest

from stream.broker.contract import Record, TopicPartition
from stream.intake import Intake
from stream.settings import Overload, WorkerSettings
from stream.turns import Turns

SOURCE = TopicPartition("video.in", 0)


def test_looking_for_what_is_too_late_takes_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All streams are looked through where none is late: with 12,000 that took milliseconds for every record."""
    clock = itertools.count()
    monkeypatch.setattr("stream.turns.time", SimpleNamespace(time=time.time, monotonic=lambda: next(clock)))
    intake, looked = Intake(), list[int]()
    for number in range(100):
        record = Record(*SOURCE, number, b"", b"", (), round(time.time() * 1e3))
        intake.put(f"s{number}", record)
    pick_late = intake.pick_late

    def counted(*given: object) -> object:
        looked.append(len(intake))
        return pick_late(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(intake, "pick_late", counted)
    settling = SimpleNamespace(busy=set())
    turns = Turns(intake, settling, WorkerSettings(overload=Overload.SHED, max_age_s=60.0), ())  # type: ignore[arg-type]
    assert [turns.pick(()) is not None for _ in range(100)] == [True] * 100
    assert 5 <= len(looked) <= 15
    late = Record(*SOURCE, 200, b"", b"", (), round(time.time() * 1e3) - 120_000)
    intake.put("late", late)
    assert turns.pick(()) == ((SOURCE, "late"), late)
