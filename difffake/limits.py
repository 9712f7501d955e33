"""How large what comes from outside may be; known without a decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what comes from outside; beyond them `LimitExceededError` is raised, or reading stops with a warning.

    Args:
        max_width_px, max_height_px, max_pixels: of a decoded picture, checked in the header and at every frame.
        max_duration_s: a file whose header says more is refused; a live source is left at this age.
        max_frames: frames yielded.
    """

    max_width_px: int = 12_288
    max_height_px: int = 12_288
    max_pixels: int = 8192 * 8192
    max_duration_s: float = 6 * 3600.0
    max_frames: int = 250_000
