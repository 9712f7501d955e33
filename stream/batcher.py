"""One batch for the networks out of many streams: a size, a deadline, a fair share for each.

A stream has at most one frame here at a time, since where its faces are looked for depends on the frame before. So a
batch takes one frame of each waiting stream, and a stream that floods gets no more of it than the quietest. Streams
under suspicion go first, then whoever has waited longest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")

#: A batch is full of streams under suspicion only where nobody else has waited for so many deadlines.
_PATIENCE = 10
#: So many deadlines a frame waits for company where the thread that would take it has other work meanwhile.
_MEANWHILE = 5


class BatchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How batches are put together; may be changed while batches are taken.

    Args:
        size: the most frames in one.
        deadline_s: longest wait of a frame for company. Nobody waits while no other frame can come; five times as long
            where the thread that would take it decodes other streams meanwhile, but for streams under suspicion.
    """

    size: int = 8
    deadline_s: float = 0.02

    def __post_init__(self) -> None:
        if self.size < 1 or not self.deadline_s >= 0:
            raise ValueError(f"need size >= 1 and deadline_s >= 0, not {self.size} and {self.deadline_s}")


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """What happened so far: batches, the frames in them, room they had, seconds their frames waited in all."""

    batches: int = 0
    frames: int = 0
    room: int = 0
    waited_s: float = 0.0
    longest_s: float = 0.0

    @property
    def fill(self) -> float:
        """Share of the room that was used; NaN before the first batch."""
        return self.frames / self.room if self.room else float("nan")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    since_s: float
    item: T
    urgent: bool


class Batcher(Generic[T]):
    """Frames wait here for a run of the networks. Any thread may put and take.

    Args:
        settings: see there.
        coming: how many frames may still come soon; at 0 nobody waits for company. Called with no lock held by the
            caller of `put`, but inside `take`: it must not call the batcher.
        share: the most frames that one who takes should take, 1 or more, so that others who take have as much to do;
            by default nobody else takes. Called like ``coming``.
        clock: seconds, rising.
        told: called with the room in every batch, and how long each of its frames waited, s; like ``coming``.
    """

    def __init__(
        self,
        settings: BatchSettings | None = None,
        *,
        coming: Callable[[], int] = lambda: 1,
        share: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[int, Sequence[float]], None] | None = None,
    ) -> None:
        self._settings = settings or BatchSettings()
        self._coming, self._share, self._clock, self._tell = coming, share, clock, told
        self._changed = threading.Condition()
        self._waiting: dict[Hashable, _Waiting[T]] = {}
        self._closed = False
        self._counts = BatchCounts()

    def put(self, stream: Hashable, item: T, *, urgent: bool = False) -> None:
        """Let a frame of a stream wait.

        Raises:
            ValueError: one of this stream waits already.
        """
        with self._changed:
            if stream in self._waiting:
                raise ValueError(f"a frame of {stream} waits already")
            if not self._closed:
                self._waiting[stream] = _Waiting(self._clock(), item, urgent)
            self._changed.notify()

    def take(self) -> list[T]:
        """The next batch, waiting for one; empty when the batcher is closed."""
        with self._changed:
            while not self._closed:
                wait_s = self._wait_s()
                if wait_s is not None and wait_s <= 0:
                    return self._pick()
                self._changed.wait(wait_s)
            return []

    def poll(self, *, is_busy: bool) -> list[T]:
        """A batch for a thread that looks for work, without waiting; empty where there is none.

        Args:
            is_busy: there is other work for it. That comes first, until the batch is full or a frame has waited long.
        """
        with self._changed:
            if self._closed or not self._waiting:
                return []
            wait_s = self._wait_s(_MEANWHILE) if is_busy else None
            return self._pick() if wait_s is None or wait_s <= 0 else []

    def nudge(self) -> None:
        """Look again at whether frames are still coming."""
        with self._changed:
            self._changed.notify()

    def change(self, settings: BatchSettings) -> None:
        """Other settings from now on."""
        with self._changed:
            self._settings = settings
            self._changed.notify_all()

    def discard(self, stream: Hashable) -> None:
        """Drop what waits of a stream."""
        with self._changed:
            self._waiting.pop(stream, None)

    def close(self) -> None:
        """Drop what waits; `take` returns."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    @property
    def counts(self) -> BatchCounts:
        """What happened so far."""
        with self._changed:
            return self._counts

    def __len__(self) -> int:
        return len(self._waiting)

    def _wait_s(self, deadlines: int = 1) -> float | None:
        """How much longer what waits may wait: None without any, 0 or less when a batch is due. Urgent frames wait for
        one deadline, others for ``deadlines``."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self._room() or not self._coming():
            return 0.0
        deadline_s = self._settings.deadline_s
        until_s = min(w.since_s + deadline_s * (1 if w.urgent else deadlines) for w in self._waiting.values())
        return until_s - self._clock()

    def _room(self) -> int:
        """The most frames of the next batch."""
        size = self._settings.size
        return size if self._share is None else max(1, min(size, self._share()))

    def _pick(self) -> list[T]:
        now, size = self._clock(), self._room()
        patience_s = _PATIENCE * self._settings.deadline_s

        def first(entry: tuple[Hashable, _Waiting[T]]) -> tuple[bool, float]:
            waiting = entry[1]
            starves = now - waiting.since_s > patience_s
            return not (waiting.urgent or starves), waiting.since_s

        picked = sorted(self._waiting.items(), key=first)[:size]
        for stream, _ in picked:
            del self._waiting[stream]
        if self._waiting:
            self._changed.notify()  # another thread may take the rest
        waits = [now - waiting.since_s for _, waiting in picked]
        if self._tell is not None:
            self._tell(size, waits)
        was = self._counts
        self._counts = BatchCounts(
            was.batches + 1,
            was.frames + len(picked),
            was.room + size,
            was.waited_s + sum(waits),
            max(was.longest_s, *waits),
        )
        return [waiting.item for _, waiting in picked]
