"""How large what comes from outside may be; known without a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from difffake.errors import LimitExceededError


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

    def check_size(self, name: str, width_px: int, height_px: int) -> None:
        """Refuse a picture of this size; ``name`` is what messages call it.

        Raises:
            LimitExceededError: it is larger.
        """
        if width_px > self.max_width_px or height_px > self.max_height_px or width_px * height_px > self.max_pixels:
            raise LimitExceededError(
                f"{name}: {width_px} x {height_px} pixels, over the limit of {self.max_width_px} x "
                f"{self.max_height_px} and {self.max_pixels / 1e6:.0f} megapixels",
                hint="scale it down, or raise max_width_px, max_height_px, max_megapixels with --set",
            )
