"""Charts as SVG: p-values over time on a logarithmic axis, suspicion upwards; status bands on the same time axis."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from difffake.results import EVIDENCES, Band, Evidence, IdentitySwitch, Person
from difffake.settings import ScanSettings

WIDTH, HEIGHT = 960, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 30
_STEPS_S = (0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_MAX_DOTS = 900
_LEAST_P = 1e-4


def clock(seconds: float) -> str:
    """Seconds as people read them.

    >>> clock(4.25), clock(75), clock(3723)
    ('0:04.2', '1:15', '1:02:03')
    """
    whole, part = divmod(round(seconds * 10), 10)
    minutes, secs = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"
    return f"{text}.{part}" if part and not hours else text


def person_chart(person: Person, switches: list[IdentitySwitch], settings: ScanSettings, end_s: float) -> str:
    """Frames as dots, windows as bars, thresholds as lines, the self-anchor's span shaded, the person's own switches
    marked; '' for a single frame."""
    if len(person.frames.time_s) < 2:
        return ""
    dots = {e: getattr(person.frames, f"{e}_p") for e in EVIDENCES}
    lowest = min([p for values in dots.values() for p in values if p], default=1.0)
    lowest = max(min(lowest / 2, settings.strong_p / 4), _LEAST_P / 10)
    axes = _Axes(end_s, lowest)
    # Words come last, so that no bar lies over them.
    words = _zone_words(axes, settings)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="p-values of {escape(person.label)} over time; the table of windows holds the figures">'
    ]
    parts += _zones(axes, settings)
    own = next((a for a in person.anchors.values() if a.name is None), None)
    if own is not None:
        parts.append(_rect(axes.x(own.start_s), _TOP, axes.x(own.end_s), HEIGHT - _BOTTOM, "warm"))
        words.append(_text(axes.x(own.start_s) + 4, _TOP + 26, "anchor taken here", "note"))
    parts += axes.grid()
    for switch in switches:
        x = axes.x(switch.time_s)
        tip = f"<title>{escape(switch.sentence)}</title>"
        parts.append(f'<line class="switch" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}">{tip}</line>')
        words.append(_text(x + 4, _TOP + 12, f"another face, {clock(switch.time_s)}", "note strong"))
    for evidence, values in dots.items():
        parts += _dots(axes, evidence, person.frames.time_s, values)
    for window in person.windows:
        for evidence in EVIDENCES:
            found: Evidence | None = getattr(window, evidence)
            if found is not None:
                start, end = max(window.start_s, person.start_s), min(window.end_s, max(person.end_s, person.start_s))
                y = axes.y(found.p_value)
                tip = f"{evidence}, {clock(window.start_s)} to {clock(window.end_s)}: p = {found.p_value:.2g}"
                parts.append(
                    f'<line class="bar {evidence}" x1="{axes.x(start):.1f}" x2="{axes.x(end):.1f}" y1="{y:.1f}" '
                    f'y2="{y:.1f}"><title>{escape(tip)}</title></line>'
                )
    return "".join([*parts, *words, "</svg>"])


def status_strip(bands: list[Band], end_s: float) -> str:
    """Which status the analysed frames had, as one strip over time."""
    axes = _Axes(end_s, _LEAST_P)
    height = 44
    parts = [f'<svg class="strip" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="status over time">']
    for band in bands:
        tip = f"{clock(band.start_s)} to {clock(band.end_s)}: {band.status}" + (
            f", {band.reason}" if band.reason else ""
        )
        width = max(axes.x(band.end_s) - axes.x(band.start_s), 0.8)
        parts.append(
            f'<rect class="status {escape(band.status)}" x="{axes.x(band.start_s):.1f}" y="2" width="{width:.1f}" '
            f'height="18"><title>{escape(tip)}</title></rect>'
        )
    parts += [_text(axes.x(at_s), height - 6, clock(at_s), "tick middle") for at_s in axes.ticks()]
    parts.append("</svg>")
    return "".join(parts)


class _Axes:
    def __init__(self, end_s: float, lowest_p: float) -> None:
        self._end_s, self._decades = end_s, -math.log10(lowest_p)

    def x(self, seconds: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(max(seconds / self._end_s, 0.0), 1.0)

    def y(self, p_value: float) -> float:
        share = min(-math.log10(max(p_value, 1e-12)) / self._decades, 1.0)
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share

    def ticks(self) -> list[float]:
        step = next((s for s in _STEPS_S if self._end_s / s <= 10), self._end_s / 10)
        return [step * i for i in range(int(self._end_s / step + 1e-6) + 1)]

    def grid(self) -> list[str]:
        bottom = HEIGHT - _BOTTOM
        parts = [f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>']
        for decade in range(int(self._decades) + 1):
            p_value = 10.0**-decade
            y = self.y(p_value)
            parts.append(_text(_LEFT - 8, y + 4, f"{p_value:g}", "tick end"))
            if decade:
                parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts += [_text(self.x(at_s), HEIGHT - 10, clock(at_s), "tick middle") for at_s in self.ticks()]
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text class="tick middle" transform="rotate(-90 14 {middle})" x="14" y="{middle}">p-value</text>'
        )
        return parts


def _zones(axes: _Axes, settings: ScanSettings) -> list[str]:
    suspicious, strong = axes.y(settings.suspicious_p), axes.y(settings.strong_p)
    right = WIDTH - _RIGHT
    return [
        _rect(_LEFT, _TOP, right, strong, "zone strong"),
        _rect(_LEFT, strong, right, suspicious, "zone suspicious"),
    ]


def _zone_words(axes: _Axes, settings: ScanSettings) -> list[str]:
    suspicious, strong = axes.y(settings.suspicious_p), axes.y(settings.strong_p)
    right = WIDTH - _RIGHT
    return [
        _text(right - 6, strong - 5, f"strong evidence, p < {settings.strong_p:g}", "note strong end"),
        _text(right - 6, suspicious - 5, f"suspicious, p < {settings.suspicious_p:g}", "note suspicious end"),
    ]


def _dots(axes: _Axes, evidence: str, times_s: list[float], p_values: list[float | None]) -> list[str]:
    """Dots of frames; where there are more than a picture can show, the most suspicious of each stretch."""
    known = [(t, p) for t, p in zip(times_s, p_values, strict=True) if p is not None]
    if len(known) > _MAX_DOTS:
        slots = (np.linspace(0, 1, len(known), endpoint=False) * _MAX_DOTS).astype(int)
        worst: dict[int, tuple[float, float]] = {}
        for slot, point in zip(slots.tolist(), known, strict=True):
            if slot not in worst or point[1] < worst[slot][1]:
                worst[slot] = point
        known = list(worst.values())
    if not known:
        return []
    # One path of zero-length strokes with round caps: a hundredth of the bytes of as many circles.
    path = "".join(f"M{axes.x(t):.1f} {axes.y(p):.1f}h0" for t, p in known)
    return [f'<path class="dots {evidence}" d="{path}"/>']


def _rect(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    width, height = max(x2 - x1, 0.0), max(y2 - y1, 0.0)
    return f'<rect class="{kind}" x="{x1:.1f}" y="{y1:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
