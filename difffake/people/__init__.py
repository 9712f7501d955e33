"""Who is who in a stream: where shots end, tracks inside them, and people across them."""

from difffake.people.cuts import CutDetector
from difffake.people.registry import People
from difffake.people.sightings import Kind, PeopleSettings, PersonEvent, Sightings
from difffake.people.tracks import Tracker, iou

__all__ = ["CutDetector", "Kind", "People", "PeopleSettings", "PersonEvent", "Sightings", "Tracker", "iou"]
