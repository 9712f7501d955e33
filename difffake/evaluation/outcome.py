"""What an evaluation is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from difffake.errors import DataError
from difffake.evaluation.bootstrap import Difference, Performance
from difffake.evaluation.conditions import Condition
from difffake.evaluation.layouts import Item, Layout, Listing
from difffake.evaluation.protocol import EvaluationProtocol, Level, Subject
from difffake.evaluation.recompress import Recompression
from difffake.scoring import ANCHOR_SIZE

DEFAULT_FPS = 4.0
DEFAULT_MAX_FRAMES = 400
# Only one of several people is manipulated in these.
CROWDED = frozenset({Layout.DFDC, Layout.FFIW})


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What to evaluate and how.

    ``compression`` and ``split`` as in ``list_items``. With ``anchor_as_recorded`` the anchor comes from the file as it
    is, whatever encode is judged: enrolled in good quality, watched over a bad line.
    """

    layout: Layout
    root: Path
    cache: Path
    compression: str = "c23"
    split: Path | None = None
    fps: float = DEFAULT_FPS
    max_frames: int = DEFAULT_MAX_FRAMES
    recompression: Recompression | None = None
    subject: Subject | None = None  # None: what suits the layout
    anchor_frames: int = ANCHOR_SIZE
    draws: int = 1000
    seed: int = 0
    protocol: EvaluationProtocol = EvaluationProtocol.CLIP
    anchor_as_recorded: bool = False
    condition: Condition | None = None  # what happened to the pictures before they are judged

    def __post_init__(self) -> None:
        if self.condition is not None and self.recompression is not None:
            raise DataError("a condition encodes by itself", hint="leave the recompression out")
        for name, value, low, high in (
            ("fps", self.fps, 0.01, 1000.0),
            ("max_frames", self.max_frames, 1, 1_000_000),
            ("anchor_frames", self.anchor_frames, 2, 1024),
            ("draws", self.draws, 0, 100_000),
            ("seed", self.seed, 0, 2**32 - 1),
        ):
            if not low <= value <= high:
                raise DataError(f"{name} is {value}", hint=f"choose {low} to {high}")
        if self.protocol is EvaluationProtocol.HIJACK and self.judged_by is Subject.MOST_SUSPICIOUS:
            raise DataError(
                "the hijack protocol cannot judge by the most suspicious face: nobody knows which one is the anchor's",
                hint="leave the subject out, or choose main",
            )

    @property
    def judged_by(self) -> Subject:
        """The subject, with the layout's own choice filled in."""
        if self.subject is not None:
            return self.subject
        if self.protocol is EvaluationProtocol.HIJACK:
            return Subject.MAIN
        return Subject.MOST_SUSPICIOUS if self.layout in CROWDED else Subject.MAIN


@dataclass(frozen=True, slots=True)
class VideoScores:
    """A video's mean scores; NaN where it has none."""

    item: Item
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A video without any score, and why."""

    item: Item
    reason: str


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All that ``write`` prints: ``performance[score][level]``, ``methods[method][score]`` at video level, ..."""

    settings: EvaluationSettings
    model_id: str
    listing: Listing
    evidence: dict[str, str]
    performance: dict[str, dict[Level, Performance]]
    over_baseline: dict[str, dict[Level, Difference]]
    methods: dict[str, dict[str, Performance]]
    videos: tuple[VideoScores, ...]
    left_out: tuple[LeftOut, ...]
    frames: tuple[int, ...]  # scored frames of real and of fake videos
    anchored_pairs: int
    notes: tuple[str, ...]
