"""The simulation of alerts follows the same rule block by block, and its figures are those of its input."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from alert_frames import frame
from alerts_model import Detectors, Drawn, assumed_alerts, detection_times, factors, false_alerts

from difffake.results import EVIDENCES, Level
from stream.alerts import Alerts, AlertSettings, Tuning
from stream.alerts.rarity import log_evidence
from stream.messages import AlertState, ScoreRecord

SETTINGS = AlertSettings(
    block_s=1.0,
    close_s=3.0,
    cooldown_s=30.0,
    artifact=Tuning(share=0.25, kappa=0.05, decorrelation_s=2.0),
    anchor=Tuning(share=0.25, kappa=0.02, decorrelation_s=1.0),
    identity=Tuning(share=0.5, kappa=0.1, decorrelation_s=3.0),
)


def record(second: int, log_p: np.ndarray) -> ScoreRecord:
    """One frame in a second; its evidence is suspicious where it speaks for an alert, as the simulation takes it."""
    p_values = np.exp(log_p).tolist()
    whole = frame(second + 0.5, *((0, name, p) for name, p in zip(EVIDENCES, p_values, strict=True)))
    evidence = {}
    for face, name in zip(whole.faces, EVIDENCES, strict=True):
        said = face.evidence[name]  # type: ignore[index]
        speaks = log_evidence(said.p_value, SETTINGS.tuning(name).kappa) > 0  # type: ignore[arg-type]
        evidence[name] = msgspec.structs.replace(said, level=Level.SUSPICIOUS if speaks else Level.NOTHING)
    face = msgspec.structs.replace(whole.faces[0], evidence=evidence)
    return msgspec.structs.replace(whole, faces=(face,))


@pytest.mark.parametrize("budget", [100.0, 1.0, 0.01])
@pytest.mark.parametrize("seed", range(3))
def test_alerts_open_in_the_same_seconds_as_in_the_worker(budget: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    calm = rng.random((600, 3))
    swapped = 10 ** -rng.uniform(1.0, 5.0, (600, 3))
    is_swapped = (np.arange(600) // 60 % 2 == 1)[:, None]
    log_p = np.log(np.where(is_swapped, swapped, calm))
    settings = msgspec.structs.replace(SETTINGS, budget_per_day=budget)
    detectors, by_second = Detectors(settings, [budget], 1), factors(log_p, settings)
    expected = [
        (i, EVIDENCES[e]) for i in range(600) for e in np.flatnonzero(detectors.step(by_second[i][:, None])[0, :, 0])
    ]
    alerts = Alerts(settings)
    found = []
    for i in range(601):
        told = alerts.observe(record(i, log_p[min(i, 599)]))
        # Told with the first frame after its second.
        found += [(i - 1, alert.evidence) for alert in told if alert.state is AlertState.OPENED]
    assert expected
    assert found == expected


def test_natural_footage_keeps_to_its_budget_and_a_face_that_is_always_rare_does_not() -> None:
    rng = np.random.default_rng(0)
    real, odd = np.log(rng.random((400, 3))), np.full((40, 3), np.log(0.001))
    budget = 200.0
    rates = 24 * false_alerts([factors(x, SETTINGS) for x in (real, odd)], 20, SETTINGS, [budget], rng, mean_run=1.0)
    assert rates.shape == (2, 1, 3)
    shares = [SETTINGS.tuning(name).share for name in EVIDENCES]  # type: ignore[arg-type]
    assert (rates[0, 0] <= budget * np.array(shares)).all()
    assert (rates[1, 0] > 0).all()


def test_made_up_p_values_keep_to_the_budget_only_where_the_assumption_holds() -> None:
    rng, budget = np.random.default_rng(0), 400.0
    rates = [
        24 * assumed_alerts(60, SETTINGS, [budget], rng, correlation=0.0, person_share=share).sum(axis=2).mean()
        for share in (0.0, 0.9)
    ]
    assert rates[0] <= budget
    assert rates[1] > rates[0]


def test_seconds_until_an_alert_are_those_from_the_beginning_of_the_swap() -> None:
    rng = np.random.default_rng(0)
    natural = factors(np.full((9, 3), np.log(0.9)), SETTINGS)
    swap = factors(np.log([[0.9, 1e-4, 0.9], [0.9, 1e-4, 0.9]]), SETTINGS)
    taken = detection_times([natural], [swap], 5, SETTINGS, [1.0, 0.01], rng, natural_s=50, most_s=60)
    assert taken.shape == (1, 5, 2, 4)
    gain = log_evidence(1e-4, SETTINGS.anchor.kappa)
    for b, budget in enumerate((1.0, 0.01)):
        needed = SETTINGS.log_level("anchor", budget) / gain
        assert np.isinf(taken[0, :, b, 0]).all()
        assert np.isinf(taken[0, :, b, 2]).all()
        assert (np.abs(taken[0, :, b, 1] - needed) <= 1.5).all()
        assert (taken[0, :, b, 3] == taken[0, :, b, 1]).all()


def test_seconds_are_drawn_in_runs_and_only_from_a_streams_own_stretch() -> None:
    stretches = [np.arange(4.0)[:, None] + [100, 0, 0], np.arange(7.0)[:, None] + [200, 0, 0]]
    drawn = Drawn(stretches, np.array([0, 1, 1]), 5.0, np.random.default_rng(0))
    seen = np.array([drawn.next()[0] for _ in range(2000)])
    assert set(seen[:, 0]) == {100.0, 101.0, 102.0, 103.0}
    assert set(seen[:, 1]) == set(seen[:, 2]) == {200.0 + i for i in range(7)}
    follows = (seen[1:, 1] - 200) == (seen[:-1, 1] - 200 + 1) % 7
    assert 0.75 < follows.mean() < 0.9
