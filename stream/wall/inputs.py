"""Why no scores come from an input partition: nothing is published to it, or nobody scores what is.

Only ends of partitions are asked for, no record is read: it takes the right to describe the input topics. Where that
is missing, the wall says that it cannot tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from stream.broker.contract import Reader, TopicPartition
from stream.broker.errors import AuthenticationError, TopicNotFoundError
from stream.wall.looking import Input
from stream.wall.model import Wall
from stream.wall.settings import WallSettings

#: Partitions asked about in one look: each is a request.
_MAX_LOOKS = 32


class InputWatch:
    """Remembers the end of every silent input partition; one that has grown since is not being served.

    Args:
        wall: whose partitions are meant, and who is told.
        reader: of the cluster.
        settings: see there.
        monotonic: seconds.
    """

    def __init__(
        self, wall: Wall, reader: Reader, settings: WallSettings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall, self._reader, self._settings, self._monotonic = wall, reader, settings, monotonic
        self._ends: dict[TopicPartition, tuple[int, float]] = {}
        self._looked_s = monotonic()

    def look(self) -> None:
        """Look, if it is time.

        Raises:
            BrokerError: Kafka does not answer.
        """
        now_s = self._monotonic()
        if now_s - self._looked_s < self._settings.inputs_s:
            return
        self._looked_s = now_s
        silent = self._wall.silent_partitions(self._settings.looked_s / 2)
        self._ends = {source: kept for source, kept in self._ends.items() if source in set(silent)}
        # The longest unasked first: all get their turn.
        for source in sorted(silent, key=lambda s: self._ends.get(s, (0, 0.0))[1])[:_MAX_LOOKS]:
            self._ask(source, now_s)

    def _ask(self, source: TopicPartition, now_s: float) -> None:
        try:
            end = self._reader.end_offset(source)
        except (AuthenticationError, TopicNotFoundError):
            self._ends[source] = (-1, now_s)
            self._wall.explain(source, Input.UNKNOWN)
            return
        before = self._ends.get(source, (end, now_s))[0]
        self._ends[source] = (before, now_s)
        self._wall.explain(source, Input.UNSERVED if end > before >= 0 else Input.IDLE)
