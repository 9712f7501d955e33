"""Batches in flight, for runtimes whose call waits: one thread runs them in the order of submission."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from difffake.errors import EngineError
from engines.contract import U8, Embeddings, EngineSpec, Ticket


class InFlight:
    """Submitted batches of one engine.

    Args:
        run: embeds ``(B, 3, side, side) uint8``; called on another thread, one batch at a time.
    """

    def __init__(self, run: Callable[[U8], Embeddings]) -> None:
        self._run = run
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[Ticket, Future[Embeddings]]] = deque()
        self._submitted = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, faces: U8, spec: EngineSpec) -> Ticket:
        """Begin a batch; see `engines.contract.Engine.submit`."""
        check_room(len(faces), len(self._waiting), spec)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="engine")
        ticket = Ticket(self._submitted, len(faces))
        self._submitted += 1
        self._waiting.append((ticket, self._pool.submit(self._run, faces.copy())))
        return ticket

    def collect(self, ticket: Ticket) -> Embeddings:
        """Wait for the oldest batch; see `engines.contract.Engine.collect`."""
        check_oldest(ticket, self._waiting[0][0] if self._waiting else None)
        return self._waiting.popleft()[1].result()

    def close(self) -> None:
        """Drop what waits, wait for what runs."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def check_room(faces: int, in_flight: int, spec: EngineSpec) -> None:
    """Refuse a batch that cannot be submitted now.

    Raises:
        EngineError: more faces than a run takes, or ``depth`` batches are in flight.
    """
    if faces > spec.max_batch:
        raise EngineError(
            f"a batch of {faces} faces was submitted to an engine for at most {spec.max_batch}",
            hint="submit smaller batches, or use infer, which splits them",
        )
    if in_flight >= spec.depth:
        raise EngineError(
            f"{in_flight} batches are in flight already, the most that this engine holds",
            hint="collect the oldest before submitting another",
        )


def check_oldest(ticket: Ticket, oldest: Ticket | None) -> None:
    """Refuse to collect out of order.

    Raises:
        EngineError: ``ticket`` is not the oldest in flight.
    """
    if ticket != oldest:
        raise EngineError(
            f"batch {ticket.number} cannot be collected now; the oldest in flight is "
            f"{'none' if oldest is None else oldest.number}",
            hint="collect every ticket once, in the order of submission",
        )
