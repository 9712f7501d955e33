"""The stages that a frame goes through, and how their time is told."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Stage(StrEnum):
    """Where time goes; what one run of each is: ``docs/metrics.md``."""

    DECODE = "decode"
    FIND = "find"
    ALIGN = "align"
    EXTRACTOR = "extractor"
    IDENTITY = "identity"
    SCORE = "score"
    COMMIT = "commit"


class Timed(Protocol):
    """Takes the time of one run of a stage; called from any thread."""

    def __call__(self, stage: Stage, seconds: float, items: int) -> None:
        """Wall time, and how many frames, faces or records went through."""


def untimed(stage: Stage, seconds: float, items: int) -> None:
    """Nobody asks."""
