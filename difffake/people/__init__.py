"""Who is who in a stream: tracks inside a shot, and where a shot ends."""

from difffake.people.cuts import CutDetector
from difffake.people.tracks import Tracker, iou

__all__ = ["CutDetector", "Tracker", "iou"]
