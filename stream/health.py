"""Whether a worker has started, is alive, and is ready: written by its loop, read by probes on other threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple


class Phase(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"  # opening engines, looking for brokers
    RUNNING = "running"
    DRAINING = "draining"  # told to stop; what is in progress is finished
    STOPPED = "stopped"


class Answer(NamedTuple):
    """To a probe; ``why`` is for people."""

    ok: bool
    why: str


class Health:
    """Of one worker. Its fields are single values: any thread may read them at any time.

    Args:
        live_s: a loop that has not turned over for so long hangs. Longer than a broker may be gone before the worker
            ends by itself, and than the state of a partition takes to be read.
        clock: seconds, rising.
    """

    def __init__(self, live_s: float = 120.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._live_s, self._clock = live_s, clock
        self._turned_s = clock()
        self._is_ready = False
        self.phase = Phase.STARTING

    # -- the worker's side -------------------------------------------------------------------------------------------
    def turn(self) -> None:
        """The loop turned over, or goes on with something long."""
        self._turned_s = self._clock()

    def running(self, *, partitions: int) -> None:
        """The loop turned over; so many partitions are ours, with their state restored."""
        self.turn()
        self._is_ready = partitions > 0
        if self.phase is Phase.STARTING:
            self.phase = Phase.RUNNING

    def draining(self) -> None:
        """The worker was told to stop."""
        self.phase = Phase.DRAINING

    def stopped(self) -> None:
        """The loop is over."""
        self.phase = Phase.STOPPED

    # -- the probes' side --------------------------------------------------------------------------------------------
    @property
    def silence_s(self) -> float:
        """Seconds since the loop turned over."""
        return max(0.0, self._clock() - self._turned_s)

    def startup(self) -> Answer:
        """Whether engines are open and the loop has begun."""
        if self.phase is Phase.STARTING:
            return Answer(False, "starting: opening the engines and looking for the brokers")
        return Answer(True, self.phase.value)

    def live(self) -> Answer:
        """Whether it is of any use to wait: False means that the process should be started again."""
        if self.phase is Phase.STARTING:
            return Answer(True, "starting")  # how long that may take is the startup probe's to say
        if self.phase is Phase.STOPPED:
            return Answer(True, "stopped in order")
        if self.silence_s > self._live_s:
            return Answer(False, f"the loop has not turned over for {self.silence_s:.0f} s")
        return Answer(True, f"the loop turned over {self.silence_s:.1f} s ago")

    def ready(self) -> Answer:
        """Whether it works: partitions are assigned, their state is restored, the engine is open."""
        if self.phase is not Phase.RUNNING:
            return Answer(False, self.phase.value)
        if not self.live().ok:
            return self.live()
        if not self._is_ready:
            return Answer(False, "no partition is assigned yet, or its state is being restored")
        return Answer(True, "working")
