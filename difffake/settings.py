"""What a scan may be told; frozen once read, and written into every result."""

from __future__ import annotations

import math
from typing import get_args

import msgspec

from difffake.errors import ArgumentError
from difffake.limits import Limits

_BOUNDS = Limits()
#: More only take memory.
MAX_THREADS = 1024
#: Of the long side at which faces are looked for.
MIN_ANALYSIS_PX, MAX_ANALYSIS_PX = 32, 4096
#: Faces that are followed from one picture to the next.
MAX_FACES = 64
#: What an `AnchorPolicy` takes: refused here, it costs no scan.
MAX_ANCHOR_SIZE, MAX_ANCHOR_SPAN_S = 256, 20.0
#: Of any number: FFmpeg counts pixels in 64 bits, and megapixels are a million of them.
_MOST = 1e12


def check_networks(threads: int, analysis_side_px: int) -> None:
    """Refuse what no network can be run with.

    Raises:
        ArgumentError: more threads than any machine has, or a side at which no face can be found.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise _refused(f"threads must be 0, for every core, to {MAX_THREADS}, not {threads}")
    if not MIN_ANALYSIS_PX <= analysis_side_px <= MAX_ANALYSIS_PX:
        raise _refused(f"analysis_side_px must be {MIN_ANALYSIS_PX} to {MAX_ANALYSIS_PX}, not {analysis_side_px}")


def _refused(message: str) -> ArgumentError:
    return ArgumentError(message, hint="help(difffake.ScanSettings) says what each setting is")


class ScanSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one scan.

    Args:
        fps: frames analysed per second of video.
        window_s: length of a time window, s; evidence is the mean over a window.
        duration_s: analyse no more than this from the start; ``None``: all of it (live: up to the limit).
        max_faces: faces looked at per frame, the most confident first.
        max_scored: faces kept in all; the scan stops there with a warning, which bounds its memory.
        max_people: people that get a verdict, the longest seen first.
        analysis_side_px: long side at which whole pictures are looked through for faces.
        whole_s: longest time between two of them, s; known faces are followed by close-ups in between. 0: every frame.
        threads: threads of each network; 0 takes every core.
        anchor_size: K, frames in a self-anchor.
        anchor_gap_s: least time between two of them.
        guests: faces of people who are not enrolled are expected, and say nothing about identity.
        switch_s: for how long a face must be somebody else's before an identity switch is told, s.
        suspicious_p, strong_p: p-values below which evidence is called suspicious, and strong.
        moments: most suspicious moments kept per evidence.
        max_width_px, max_height_px, max_megapixels, max_duration_s, max_frames: see `difffake.limits.Limits`.
    """

    fps: float = 5.0
    window_s: float = 5.0
    duration_s: float | None = None
    max_faces: int = 8
    max_scored: int = 60_000
    max_people: int = 64
    analysis_side_px: int = 640
    whole_s: float = 0.0
    threads: int = 0
    anchor_size: int = 8
    anchor_gap_s: float = 0.15
    guests: bool = False
    switch_s: float = 1.0
    suspicious_p: float = 0.05
    strong_p: float = 0.01
    moments: int = 6
    max_width_px: int = _BOUNDS.max_width_px
    max_height_px: int = _BOUNDS.max_height_px
    max_megapixels: float = _BOUNDS.max_pixels / 1e6
    max_duration_s: float = _BOUNDS.max_duration_s
    max_frames: int = _BOUNDS.max_frames

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            value, kinds = getattr(self, field.name), get_args(field.type) or (field.type,)
            # A whole number will do for any. No other kinds of number: NumPy's would be refused by JSON at the end.
            if not isinstance(value, (*kinds, int)):
                raise _refused(f"{field.name} must be {' or '.join(k.__name__ for k in kinds)}, not {value!r}")
        wrong = {
            name: value
            for name in self.__struct_fields__
            if name not in ("threads", "guests", "whole_s")
            and (value := getattr(self, name)) is not None
            and not 0 < value <= _MOST
        }
        if wrong:
            raise _refused(f"settings must be positive, and at most {_MOST:g}: {wrong}")
        check_networks(self.threads, self.analysis_side_px)
        if not 0 <= self.whole_s < math.inf:
            raise _refused(f"whole_s must be 0 or more seconds, not {self.whole_s}")
        if not self.strong_p <= self.suspicious_p < 1:
            raise _refused(f"need strong_p <= suspicious_p < 1, not {self.strong_p} and {self.suspicious_p}")
        if self.max_faces > MAX_FACES or self.anchor_size > MAX_ANCHOR_SIZE:
            raise _refused(f"at most {MAX_FACES} faces a frame, and {MAX_ANCHOR_SIZE} frames in an anchor")
        if (self.anchor_size - 1) * self.anchor_gap_s > MAX_ANCHOR_SPAN_S:
            raise _refused(
                f"{self.anchor_size} frames {self.anchor_gap_s} s apart never come within {MAX_ANCHOR_SPAN_S} s"
            )

    @property
    def limits(self) -> Limits:
        """The bounds for `difffake.video.open_video`."""
        return Limits(
            max_width_px=self.max_width_px,
            max_height_px=self.max_height_px,
            max_pixels=round(self.max_megapixels * 1e6),
            max_duration_s=self.max_duration_s,
            max_frames=self.max_frames,
        )
