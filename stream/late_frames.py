"""Streams whose frames come out of order: two producers that send under one id, or one that sends twice.

Which of them is looked at is decided by their times alone: a frame that is not after the last one is told as STALE,
and its stream counts as looked at by the frames of the other. So somebody has to be told by name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import structlog

log = structlog.get_logger()

_WINDOW_S = 60.0
#: So many in a window are no jitter.
_MANY = 20
#: Streams that are named in a window.
_NAMED = 5


class LateFrames:
    """Counts them by stream, and says so in the log: once a minute for a stream, a few streams a minute.

    Args:
        clock: monotonic, s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began_s = clock, clock()
        self._late: Counter[str] = Counter()
        self._named = 0

    def add(self, stream: str, frames: int) -> None:
        """So many frames of a record came too late."""
        now_s = self._clock()
        if now_s - self._began_s > _WINDOW_S:
            self._late.clear()
            self._began_s, self._named = now_s, 0
        before = self._late[stream]
        self._late[stream] = before + frames
        if before < _MANY <= before + frames and self._named < _NAMED:
            self._named += 1
            log.warning(
                "frames come out of order and are not looked at",
                stream=stream,
                frames=before + frames,
                hint="does more than one producer send under this id? Give each stream an id of its own",
            )
