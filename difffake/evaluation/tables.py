"""Figures as cells of a Markdown table and as numbers of a JSON file."""

from __future__ import annotations

import math
from collections.abc import Iterable

from difffake.evaluation.bootstrap import Estimate

NO_FIGURE = "–"


def row(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def cell(estimate: Estimate, *, signed: bool = False, digits: int = 3) -> str:
    """A figure with its interval; a dash where there is none."""
    if not math.isfinite(estimate.value):
        return NO_FIGURE
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    text = form.format(estimate.value)
    if estimate.interval is None:
        return text
    low, high = (form.format(bound) for bound in estimate.interval)
    return f"{text} [{low}, {high}]"


def percent(share: float) -> str:
    """A share of 0 to 1; a dash where there is none."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else NO_FIGURE


def number(value: float) -> float | None:
    """For JSON, which knows no NaN."""
    return value if math.isfinite(value) else None
