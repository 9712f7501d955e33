"""Who is who in a stream: where shots end, tracks inside them, and people across them."""

from difffake.people.cuts import CutDetector, CutMemory
from difffake.people.registry import People
from difffake.people.sightings import Kind, PeopleSettings, PersonEvent, Sightings
from difffake.people.tracks import Tracker, iou

__all__ = ["CutDetector", "CutMemory", "Kind", "People", "PeopleSettings", "PersonEvent", "Sightings", "Tracker", "iou"]
