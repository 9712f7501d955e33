"""Named conditions under which pictures reach a monitor: chains of treatments and encodes for all footage alike.

A condition is a chain of stages, frames in and frames out. The whole picture goes through it before anything is cropped
or scored: both halves of side-by-side footage get the same treatment and share every encode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

from difffake.clock import SampleClock
from difffake.errors import DataError, LimitExceededError
from difffake.evaluation.encode import Encode
from difffake.evaluation.recompress import Codec, Recompression
from difffake.evaluation.treatments import (
    Beauty,
    Caption,
    CaptionAtChin,
    FrameRate,
    Height,
    Light,
    PictureInPicture,
    Scale,
    Sharpen,
)
from difffake.video import Frame, open_video

#: Counted up when a stage changes what it does under the same name: what was kept before is looked at again.
REVISION = 1
#: Footage is brought to about this rate first, by leaving out every second frame or more: encodes take their time.
BASE_FPS = 10.0
#: Pictures of one file that are looked at are held together, because both halves take them.
MAX_HELD_BYTES = 2**30
#: Those that are treated, if the next condition follows at once.
MAX_SOURCE_BYTES = 2**28


class Stage(Protocol):
    """Frames in, frames out, in order, a bounded number held; the same frames give the same pictures.

    ``panels`` pictures stand side by side in each frame. As text it says what is done, with its parameters.
    """

    def __call__(self, frames: Iterator[Frame], panels: int) -> Iterator[Frame]: ...


@dataclass(frozen=True, slots=True)
class Condition:
    """A name, what happens to the pictures, and whether real clips are judged under it unless others are asked for."""

    name: str
    stages: tuple[Stage, ...] = ()
    is_core: bool = False
    at_full_rate: bool = False

    @property
    def what(self) -> str:
        """The stages in words, with their parameters."""
        told = [str(stage) for stage in self.stages] or ["nothing"]
        return ", then ".join([*told[:-1], told[-1] + (" at the full frame rate" if self.at_full_rate else "")])

    @property
    def fingerprint(self) -> str:
        """All that decides over the pictures."""
        return f"{REVISION} {self.stages!r} {None if self.at_full_rate else BASE_FPS}"


def _h264(crf: int, preset: str = "veryfast") -> Encode:
    return Encode(Recompression(Codec.H264, crf, preset))


def _coded(codec: Codec, crf: int, preset: str = "veryfast", *, core: bool = False) -> Condition:
    return Condition(f"{codec.value}-crf{crf}", (Encode(Recompression(codec, crf, preset)),), core)


AS_RECORDED = Condition("as-recorded", (), is_core=True)
# Enlarged pictures are dear to encode.
_SIZES = ((1080, "ultrafast"), (360, "veryfast"), (240, "veryfast"), (180, "veryfast"))

CONDITIONS: tuple[Condition, ...] = (
    AS_RECORDED,
    *(_coded(Codec.H264, crf, core=crf in (23, 35, 45)) for crf in (18, 23, 28, 35, 40, 45)),
    Condition("h264-crf23-full-rate", (_h264(23),), at_full_rate=True),
    *(_coded(Codec.H265, crf, "superfast") for crf in (28, 40)),
    _coded(Codec.VP9, 48),
    _coded(Codec.AV1, 50),
    *(Condition(f"height-{lines}", (Height(lines), _h264(23, preset)), lines == 180) for lines, preset in _SIZES),
    *(Condition(f"fps-{fps}", (FrameRate(fps), _h264(23))) for fps in (5, 2)),
    Condition("darker", (Light(shift=-50), _h264(23))),
    Condition("brighter", (Light(shift=50), _h264(23))),
    Condition("low-contrast", (Light(contrast=0.5), _h264(23))),
    Condition("high-contrast", (Light(contrast=1.6), _h264(23))),
    Condition("beauty-mild", (Beauty(0.6, 8), _h264(23))),
    Condition("beauty-strong", (Beauty(1.0, 20), _h264(23)), is_core=True),
    Condition("caption", (Caption(), _h264(23))),
    Condition("caption-chin", (CaptionAtChin(), _h264(23)), is_core=True),
    Condition("picture-in-picture-2", (PictureInPicture(2), _h264(23))),
    Condition("picture-in-picture-3", (PictureInPicture(3), _h264(23))),
    Condition("twice", (_h264(28), _h264(28))),
    Condition("three-times", (_h264(28), _h264(28), _h264(28))),
    Condition("conference", (Scale(0.5), _h264(33), Scale(2), Sharpen(0.8), _h264(23)), is_core=True),
    Condition("conference-low", (Scale(1 / 3), _h264(38), Scale(3), Sharpen(1.2), _h264(28))),
)


def conditions_named(names: Sequence[str]) -> tuple[Condition, ...]:
    """The conditions of these names, in the order of `CONDITIONS`, all for no name; `AS_RECORDED` is always among them.

    Raises:
        DataError: a name that is not in the list.
    """
    known = {condition.name for condition in CONDITIONS}
    if unknown := sorted(set(names) - known):
        raise DataError(
            f"no condition {', '.join(name[:40] for name in unknown)}",
            hint=f"choose from {', '.join(condition.name for condition in CONDITIONS)}",
        )
    return tuple(c for c in CONDITIONS if not names or c.name in names or c == AS_RECORDED)


def treated(path: Path, condition: Condition, *, fps: float, max_frames: int, panels: int = 1) -> Iterator[Frame]:
    """Frames of a file under a condition: ``fps`` a second, the first ``max_frames``; no more of the file is read.

    Raises:
        DiffFakeError: the file cannot be read (as `open_video` says), or not be encoded.
    """
    return _treat(_source(path, condition.at_full_rate, max_frames / fps), condition, fps, max_frames, panels)


def _source(path: Path, at_full_rate: bool, stop_s: float) -> Iterator[Frame]:
    with open_video(path) as header:
        rate = header.info.fps
    every = 1 if at_full_rate or not rate else max(1, round(rate / BASE_FPS))
    with open_video(path, fps=rate / every if rate else None, stop_s=stop_s) as video:
        yield from video


def _treat(frames: Iterator[Frame], condition: Condition, fps: float, max_frames: int, panels: int) -> Iterator[Frame]:
    for stage in condition.stages:
        frames = stage(frames, panels)
    clock = SampleClock(fps, 1 / fps, 0.0)
    return islice((frame for frame in frames if clock.is_due(frame.pts_s)), max_frames)


class TreatedFile:
    """The frames of the file at hand: under the same condition for its other half, which comes next and takes the same
    ones; and as decoded, within `MAX_SOURCE_BYTES`, for the next condition."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._frames: list[Frame] = []
        self._source_of: tuple[object, ...] = ()
        self._source: list[Frame] = []

    def frames(
        self, path: Path, digest: str, condition: Condition, fps: float, max_frames: int, panels: int
    ) -> list[Frame]:
        """As `treated`; ``digest`` stands for the file's content.

        Raises:
            DiffFakeError: as `treated` does, or the frames would not fit into `MAX_HELD_BYTES`.
        """
        wanted = (digest, condition, fps, max_frames, panels)
        if self._of != wanted:
            self._of, self._frames = (), []
            found, held = [], 0
            decoded = self._decoded(path, digest, condition, max_frames / fps)
            for frame in _treat(decoded, condition, fps, max_frames, panels):
                held += frame.image.nbytes
                if held > MAX_HELD_BYTES:
                    raise LimitExceededError(
                        f"{path.name}: its frames do not fit into {MAX_HELD_BYTES // 2**20} MiB",
                        hint="look at fewer frames, with --max-frames",
                    )
                found.append(frame)
            self._of, self._frames = wanted, found
        return self._frames

    def _decoded(self, path: Path, digest: str, condition: Condition, stop_s: float) -> Iterator[Frame]:
        frames = _source(path, condition.at_full_rate, stop_s)
        if condition.at_full_rate:
            return frames
        wanted = (digest, stop_s)
        if self._source_of != wanted:
            self._source_of, self._source = (), []
            kept, held = [], 0
            for frame in frames:
                kept.append(frame)
                held += frame.image.nbytes
                if held > MAX_SOURCE_BYTES:
                    return chain(kept, frames)
            self._source_of, self._source = wanted, kept
        return iter(self._source)
