"""Scores over time -> evidence per window -> one verdict over the whole video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from difffake.calibration import combine_windows
from difffake.results import Evidence, Level, Verdict
from difffake.scoring import Scorer
from difffake.settings import ScanSettings

F64 = npt.NDArray[np.float64]


def level_of(p_value: float, settings: ScanSettings) -> Level:
    """The p-value in words."""
    if p_value < settings.strong_p:
        return Level.STRONG
    return Level.SUSPICIOUS if p_value < settings.suspicious_p else Level.NOTHING


def window_evidence(
    scorer: Scorer, score: str, times_s: F64, values: F64, settings: ScanSettings
) -> dict[float, Evidence]:
    """Start of each window (s) -> the mean of a score's ``values (N,)`` in it and its p-value; NaN does not count."""
    known = np.isfinite(values)
    if not known.any():
        return {}
    starts, means, counts = combine_windows(times_s[known], values[known], settings.window_s)
    p_values = scorer.p_value(score, means)
    spec = scorer.spec(score)
    is_density = spec.kind in ("density", "differential") and not spec.minus_anchor_mean
    return {
        float(start): Evidence(
            score=float(mean),
            log_density=-float(mean) if is_density else None,
            p_value=float(p),
            level=level_of(float(p), settings),
            frames=int(count),
        )
        for start, mean, p, count in zip(starts, means, p_values, counts, strict=True)
    }


def combine(windows: dict[float, Evidence], sentences: dict[Level, str], settings: ScanSettings) -> Verdict | None:
    """One verdict from all windows; None where there is none."""
    if not windows:
        return None
    p = simes(np.array([e.p_value for e in windows.values()]))
    level = level_of(p, settings)
    frames = sum(e.frames for e in windows.values())
    return Verdict(
        p_value=p,
        score=sum(e.score * e.frames for e in windows.values()) / frames,
        frames=frames,
        level=level,
        worst_start_s=min(windows, key=lambda start: windows[start].p_value),
        sentence=f"{sentences[level]} (p = {p:.2g})",
    )


def simes(p_values: F64 | Sequence[float]) -> float:
    """Combine the p-values of m windows: the least of ``m p_(k) / k`` (Simes 1986), in (0, 1].

    It holds for independent and for positively dependent windows, as those of one face are.

    >>> simes([0.02, 0.02, 0.02]), round(simes([0.001, 0.5, 0.9]), 6)
    (0.02, 0.003)
    """
    ordered = np.sort(np.asarray(p_values, np.float64))
    return float(min((ordered * len(ordered) / np.arange(1, len(ordered) + 1)).min(), 1.0))
