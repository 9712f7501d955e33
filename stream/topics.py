"""What the topics of DiffFake are called."""

from __future__ import annotations

import msgspec


class Topics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Topics that DiffFake writes, and the one that it is told things by."""

    scores: str = "difffake.scores"
    alerts: str = "difffake.alerts"
    state: str = "difffake.state"
    enrolments: str = "difffake.enrolments"
    deadletters: str = "difffake.deadletters"

    @classmethod
    def under(cls, prefix: str) -> Topics:
        """All topics under another name than ``difffake``: two deployments on one cluster."""
        return cls(**{name: f"{prefix}.{name}" for name in cls.__struct_fields__})
