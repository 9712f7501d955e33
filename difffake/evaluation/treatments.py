"""What happens to pictures besides encoding: size, light, a beauty filter, captions, picture-in-picture, lost frames.

Each is a stage: frames in, frames out, one at a time. A picture of two panels (genuine and manipulated side by side) is
treated panel by panel in the same way, caption and all, so that a treatment cannot give the answer away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from difffake.clock import SampleClock
from difffake.faces import CenterFace
from difffake.video import Frame

U8 = NDArray[np.uint8]

_TEXT = ("NOW LIVE", "A name, a place, and what is said")
_BAR, _INK = (24, 32, 68), (240, 240, 240)
_OPACITY = 0.9
#: Of a face's box: a caption at the chin covers so much of it.
_CHIN_SHARE = 0.12
#: Pictures looked through for a face before the caption goes to its ordinary place.
_CHIN_PICTURES = 25


def each_panel(frames: Iterator[Frame], panels: int, change: Callable[[U8], U8]) -> Iterator[Frame]:
    """``change`` every panel of every picture; panels are equally wide, a column that is left over goes."""
    for frame in frames:
        width = frame.image.shape[1] // panels
        done = [change(frame.image[:, i * width : (i + 1) * width]) for i in range(panels)]
        yield replace(frame, image=np.ascontiguousarray(np.hstack(done)))


@dataclass(frozen=True, slots=True)
class Height:
    """Each picture ``lines`` px high, the shape kept; sides are even."""

    lines: int

    def __str__(self) -> str:
        return f"scaled to {self.lines} lines"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        return each_panel(frames, panels, lambda panel: _scaled(panel, self.lines / panel.shape[0]))


@dataclass(frozen=True, slots=True)
class Scale:
    """Both sides times ``factor``, even."""

    factor: float

    def __str__(self) -> str:
        return f"scaled by {self.factor:g}"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        return each_panel(frames, panels, lambda panel: _scaled(panel, self.factor))


@dataclass(frozen=True, slots=True)
class Light:
    """``(value - 128) * contrast + 128 + shift``, in levels of 255."""

    shift: float = 0.0
    contrast: float = 1.0

    def __str__(self) -> str:
        parts = [f"brightness {self.shift:+g} levels"] if self.shift else []
        return " and ".join([*parts, *([f"contrast times {self.contrast:g}"] if self.contrast != 1 else [])])

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        levels = (np.arange(256) - 128.0) * self.contrast + 128.0 + self.shift
        table = np.clip(np.round(levels), 0, 255).astype(np.uint8)
        return each_panel(frames, panels, lambda panel: np.asarray(cv2.LUT(panel, table), np.uint8))


@dataclass(frozen=True, slots=True)
class Sharpen:
    """An unsharp mask of ``sigma_px``."""

    amount: float
    sigma_px: float = 1.0

    def __str__(self) -> str:
        return f"sharpened by {self.amount:g} at {self.sigma_px:g} px"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        def sharper(panel: U8) -> U8:
            blurred = cv2.GaussianBlur(panel, (0, 0), self.sigma_px)
            return np.asarray(cv2.addWeighted(panel, 1 + self.amount, blurred, -self.amount, 0), np.uint8)

        return each_panel(frames, panels, sharper)


@dataclass(frozen=True, slots=True)
class Beauty:
    """Texture goes, edges stay, as beauty filters have it: a guided filter (He, Sun, Tang 2010), mixed in by ``share``.

    Its radius goes with the picture's height; contrasts below ``levels`` are texture. The whole picture is filtered,
    not the skin alone.
    """

    share: float
    levels: float

    def __str__(self) -> str:
        return f"smoothed below {self.levels:g} levels, {100 * self.share:.0f} % mixed in"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        return each_panel(frames, panels, self._smooth)

    def _smooth(self, panel: U8) -> U8:
        side = 2 * max(2, round(panel.shape[0] / 80)) + 1
        size = (side, side)
        image = panel.astype(np.float32)
        mean = cv2.blur(image, size)
        variance = cv2.blur(image * image, size) - mean * mean
        gain = variance / (variance + self.levels**2)
        smooth = cv2.blur(gain, size) * image + cv2.blur(mean - gain * mean, size)
        mixed = self.share * smooth + (1 - self.share) * image
        return np.asarray(np.clip(np.round(mixed), 0, 255), np.uint8)


@dataclass(frozen=True, slots=True)
class Caption:
    """A bar with two lines of text, which stands still, from ``top`` to ``bottom`` of the height."""

    top: float = 0.74
    bottom: float = 0.94

    def __str__(self) -> str:
        return f"a caption from {100 * self.top:.0f} to {100 * self.bottom:.0f} % of the height"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        return each_panel(frames, panels, lambda panel: with_bar(panel, self.top, self.bottom))


@dataclass(frozen=True, slots=True)
class CaptionAtChin:
    """The same bar, ``height`` of the picture high, right where the chin of the first face ends: it covers the chin.

    Found once, in the first panel, and then the same in all of them. Without a face: where `Caption` has it.
    """

    height: float = 0.2

    def __str__(self) -> str:
        return f"a caption over the chin, {100 * self.height:.0f} % of the height"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        # Held back until a face says where its chin is.
        held: list[Frame] = []
        top: float | None = None
        for frame in frames:
            held.append(frame)
            top = chin(frame.image[:, : frame.image.shape[1] // panels])
            if top is not None or len(held) == _CHIN_PICTURES:
                break
        ordinary = Caption()
        start, end = (ordinary.top, ordinary.bottom) if top is None else (top, min(top + self.height, 1.0))
        for source in (iter(held), frames):
            yield from each_panel(source, panels, lambda panel: with_bar(panel, start, end))


def chin(panel: U8) -> float | None:
    """Where the largest face's chin begins, as a share of the picture's height; None without a face."""
    (faces,) = _finder().detect([np.ascontiguousarray(panel)])
    if not len(faces):
        return None
    box = max(faces.boxes_px, key=lambda b: float((b[2] - b[0]) * (b[3] - b[1])))
    top = (float(box[3]) - _CHIN_SHARE * float(box[3] - box[1])) / panel.shape[0]
    return float(min(max(top, 0.0), 0.98))


@lru_cache(maxsize=1)
def _finder() -> CenterFace:
    return CenterFace(threads=1)


def with_bar(panel: U8, top: float, bottom: float) -> U8:
    """A caption's bar over ``panel (H, W, 3) uint8``, between two shares of its height."""
    height, width = panel.shape[:2]
    y0, y1 = round(top * height), max(round(bottom * height), round(top * height) + 1)
    x0, x1 = round(0.04 * width), max(round(0.96 * width), round(0.04 * width) + 1)
    done = panel.copy()
    window = done[y0:y1, x0:x1]
    window[:] = cv2.addWeighted(window, 1 - _OPACITY, _bar(*window.shape[:2]), _OPACITY, 0)
    return done


@lru_cache(maxsize=8)
def _bar(height: int, width: int) -> U8:
    bar = np.full((height, width, 3), _BAR, np.uint8)
    size = max(min(height / 90, width / 600), 0.1)
    for line, text in enumerate(_TEXT):
        place = (max(1, width // 40), round(height * (0.4 + 0.42 * line)))
        cv2.putText(bar, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, _INK, max(1, height // 40), cv2.LINE_AA)
    return bar


@dataclass(frozen=True, slots=True)
class PictureInPicture:
    """The picture, its sides divided by ``divisor``, in the lower right corner of a graphic of the old size."""

    divisor: float

    def __str__(self) -> str:
        return f"in the corner of a graphic, sides divided by {self.divisor:g}"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:
        return each_panel(frames, panels, self._placed)

    def _placed(self, panel: U8) -> U8:
        height, width = panel.shape[:2]
        small = _scaled(panel, 1 / self.divisor)
        y, x = (max(0, side - part - side // 25) for side, part in zip((height, width), small.shape, strict=False))
        done = _graphic(height, width).copy()
        done[y : y + small.shape[0], x : x + small.shape[1]] = small[: height - y, : width - x]
        return done


@lru_cache(maxsize=4)
def _graphic(height: int, width: int) -> U8:
    """A studio's background: a gradient with slanted stripes. No face can be seen in it."""
    down = np.linspace(0, 1, height)[:, None, None]
    base = np.array([18, 36, 84]) * (1 - down) + np.array([70, 120, 170]) * down
    stripe = (np.arange(height)[:, None] + 2 * np.arange(width)[None]) // max(8, height // 8) % 4 == 0
    return np.asarray(np.clip(base + 14 * stripe[..., None], 0, 255), np.uint8)


@dataclass(frozen=True, slots=True)
class FrameRate:
    """No more than ``fps`` pictures a second: the others are lost."""

    fps: float

    def __str__(self) -> str:
        return f"{self.fps:g} frames a second"

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]:  # noqa: ARG002  (a stage's arguments)
        clock = SampleClock(self.fps, 1 / self.fps, 0.0)
        return (frame for frame in frames if clock.is_due(frame.pts_s))


def _scaled(panel: U8, factor: float) -> U8:
    height, width = (max(2, round(side * factor / 2) * 2) for side in panel.shape[:2])
    if (height, width) == panel.shape[:2]:
        return panel
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(panel, (width, height), interpolation=how), np.uint8)
