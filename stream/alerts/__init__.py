"""Scores -> alerts that keep to a budget of false ones; see ``docs/alerts.md``. Pure logic with an exact state."""

from stream.alerts.rarity import Rarity
from stream.alerts.settings import AlertSettings, Tuning
from stream.alerts.stream import Alerts

__all__ = ["AlertSettings", "Alerts", "Rarity", "Tuning"]
