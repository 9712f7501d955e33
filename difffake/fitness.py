"""Fit for scoring or not, in words that readers of records know without the networks; `difffake.faces` judges."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a face is not scored; the order is the order in which the limits are looked at."""

    OK = "ok"
    TOO_SMALL = "too small"
    TRUNCATED = "truncated"
    POSE = "pose"
    EXPOSURE = "exposure"
    BLURRED = "blurred"
