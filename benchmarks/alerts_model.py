"""The rule of `stream.alerts` for many streams at once, and stream time drawn from short clips.

`tests/stream/test_simulate_alerts.py` holds `Detectors` against the real `Alerts`, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from difffake.results import EVIDENCES
from stream.alerts import AlertSettings

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
#: Far beyond every level.
_MOST = 1e200


def factors(log_p: F64, settings: AlertSettings) -> F64:
    """What each second multiplies the evidence by: ``(..., 3)`` mean log p-values -> the same shape; 1 where there is
    none."""
    tunings = [settings.tuning(name) for name in EVIDENCES]  # type: ignore[arg-type]
    kappa = np.array([t.kappa for t in tunings])
    share = np.array([min(settings.block_s / t.decorrelation_s, 1.0) for t in tunings])
    gains: F64 = (np.log(kappa) + (kappa - 1.0) * log_p) * share
    return np.exp(np.nan_to_num(gains, nan=0.0))


class Detectors:
    """Evidence of S streams with one face each, for G budgets.

    Args:
        settings: of the alerts; its own budget is not used.
        budgets: false alerts per stream-day, ``(G,)``.
        streams: S.
    """

    def __init__(self, settings: AlertSettings, budgets: Sequence[float], streams: int) -> None:
        self._levels = np.exp([[[settings.log_level(n, b)] for n in EVIDENCES] for b in budgets])  # type: ignore[arg-type]
        shape = (len(budgets), len(EVIDENCES), streams)
        self._accumulated = np.zeros(shape)
        self.is_open, self._calm, self._quiet = (
            np.zeros(shape, bool),
            np.zeros(shape, np.int16),
            np.zeros(shape, np.int16),
        )
        self._close = math.ceil(settings.close_s / settings.block_s)
        self._cooldown = math.ceil(settings.cooldown_s / settings.block_s)

    def begin(self, streams: Bool) -> None:
        """Somebody else is seen in these streams: nothing is known of them yet."""
        self._accumulated[..., streams] = 0.0
        self.is_open[..., streams] = False
        self._calm[..., streams] = self._quiet[..., streams] = 0

    def step(self, factors: F64) -> Bool:
        """One second: factors ``(3, S)`` -> which alerts open, ``(G, 3, S)``; calm seconds close them."""
        self._accumulated = np.minimum((self._accumulated + 1.0) * factors, _MOST)
        opens: Bool = (self._accumulated >= self._levels) & ~self.is_open & (self._quiet <= 0)
        self.is_open |= opens
        self._quiet = np.maximum(self._quiet - 1, 0).astype(np.int16)
        self._calm = np.where(self.is_open & (factors <= 1.0), self._calm + 1, 0).astype(np.int16)
        closes = self.is_open & (self._calm >= self._close)
        self.is_open &= ~closes
        self._accumulated[closes] = 0.0
        # The cool-down counts from the last frame that spoke for the alert, and ends with the frame after a block.
        self._quiet[closes] = max(self._cooldown - self._close - 2, 0)
        return opens


class Drawn:
    """Seconds drawn from stretches, for S streams side by side: the stationary bootstrap (Politis and Romano 1994), in
    runs of ``mean_run`` seconds on average and around the end, within one stretch a stream.

    Args:
        seconds: of each stretch, ``(B, 3)``.
        which: ``(S,)``, the stretch of each stream.
        mean_run: s.
        rng: where chance comes from.
    """

    def __init__(self, seconds: Sequence[F64], which: I64, mean_run: float, rng: np.random.Generator) -> None:
        lengths = np.array([len(one) for one in seconds])
        self._all, self._mean_run, self._rng = np.concatenate(list(seconds)), mean_run, rng
        self._starts, self._lengths = (np.cumsum(lengths) - lengths)[which], lengths[which]
        self._at = self._anywhere()

    def _anywhere(self) -> I64:
        return (self._rng.random(len(self._starts)) * self._lengths).astype(np.int64)

    def next(self) -> F64:
        """The next second of every stream, ``(3, S)``."""
        jumps = self._rng.random(len(self._starts)) < 1.0 / self._mean_run
        self._at = np.where(jumps, self._anywhere(), (self._at + 1) % self._lengths)
        return self._all[self._starts + self._at].T


def false_alerts(
    stretches: Sequence[F64],
    hours_each: int,
    settings: AlertSettings,
    budgets: Sequence[float],
    rng: np.random.Generator,
    mean_run: float = 3.0,
) -> F64:
    """Alerts raised by natural footage: every stretch is shown in ``hours_each`` streams, an hour in each.

    Returns:
        ``(len(stretches), G, 3)``: alerts per hour.
    """
    which = np.repeat(np.arange(len(stretches)), hours_each)
    drawn = Drawn(stretches, which, mean_run, rng)
    detectors = Detectors(settings, budgets, len(which))
    opened = np.zeros((len(budgets), len(EVIDENCES), len(which)))
    for _ in range(3600):
        opened += detectors.step(drawn.next())
    return opened.reshape(len(budgets), len(EVIDENCES), len(stretches), hours_each).mean(axis=3).transpose(2, 0, 1)


def assumed_alerts(
    hours: int,
    settings: AlertSettings,
    budgets: Sequence[float],
    rng: np.random.Generator,
    *,
    correlation: float,
    person_share: float,
) -> F64:
    """Alerts raised by made-up p-values that are uniform over people, as calibrated ones should be: normal scores, of
    which ``person_share`` of the variance is the person's own for ever, and the rest follows itself from second to
    second with ``correlation`` (an autoregression). Another person every hour.

    Returns:
        ``(hours, G, 3)``: alerts of each hour.
    """
    shape = (len(EVIDENCES), hours)
    person, rest = rng.standard_normal(shape), rng.standard_normal(shape)
    detectors = Detectors(settings, budgets, hours)
    opened = np.zeros((len(budgets), *shape))
    for _ in range(3600):
        rest = correlation * rest + math.sqrt(1 - correlation**2) * rng.standard_normal(shape)
        score = math.sqrt(person_share) * person + math.sqrt(1 - person_share) * rest
        opened += detectors.step(factors(log_ndtr(-score).T, settings).T)
    return opened.transpose(2, 0, 1)


def detection_times(
    before: Sequence[F64],
    swapped: Sequence[F64],
    repeats: int,
    settings: AlertSettings,
    budgets: Sequence[float],
    rng: np.random.Generator,
    *,
    natural_s: int = 600,
    most_s: int = 600,
    mean_run: float = 3.0,
) -> F64:
    """Seconds from the beginning of a swap to the alert: natural footage of a person, then the swap of the same person.

    Args:
        before, swapped: of each swap, the natural and the swapped seconds.

    Returns:
        ``(len(swapped), repeats, G, 4)``: by evidence, and the first of them; infinite where none opened in ``most_s``.
    """
    which = np.repeat(np.arange(len(swapped)), repeats)
    detectors = Detectors(settings, budgets, len(which))
    natural = Drawn(before, which, mean_run, rng)
    for _ in range(natural_s):
        detectors.step(natural.next())
    taken = np.full((len(budgets), len(EVIDENCES), len(which)), np.inf)
    # An alert that is open already cannot tell the swap.
    detectors.begin(detectors.is_open.any(axis=(0, 1)))
    swap = Drawn(swapped, which, mean_run, rng)
    for second in range(1, most_s + 1):
        opens = detectors.step(swap.next())
        taken = np.where(opens & ~np.isfinite(taken), second, taken)
    first = taken.min(axis=1, keepdims=True)
    by_lane = np.concatenate([taken, first], axis=1)
    return by_lane.reshape(len(budgets), len(EVIDENCES) + 1, len(swapped), repeats).transpose(2, 3, 0, 1)
