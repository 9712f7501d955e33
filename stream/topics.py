"""What the topics of DiffFake are called."""

from __future__ import annotations

import msgspec

from stream.broker.contract import TopicSpec


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

    def specs(self, partitions: int) -> list[TopicSpec]:
        """As they are to be created; ``partitions``: of the input with the most."""
        return [
            TopicSpec(self.scores, partitions),
            TopicSpec(self.alerts, partitions),
            TopicSpec(self.state, partitions, compacted=True),
            TopicSpec(self.enrolments, 1, compacted=True),
            TopicSpec(self.deadletters, partitions),
        ]
