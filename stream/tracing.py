"""Traces of records, from the input's ``traceparent`` to that of the scores and alerts; off unless asked for.

What a worker does with a record is one span, with what was decoded and what was scored below it; a commit is a span of
its own that links to the records in it. Without tracing nothing is measured and no header is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from stream.broker.contract import Headers, Record


class Trace(Protocol):
    """One record on its way."""

    @property
    def headers(self) -> Headers:
        """To be written with what comes of the record."""

    def decoded(self, seconds: float) -> None:
        """It was decoded, in so much time in all."""

    def scoring(self) -> None:
        """What was seen in it is about to be scored."""

    def scored(self) -> None:
        """That is done, for now."""

    def end(self, outcome: str, frames: int, error: Exception | None = None) -> None:
        """The record is done with: what became of it."""


class Tracing(Protocol):
    """Begins traces."""

    def begin(self, record: Record) -> Trace:
        """A record is taken up."""

    def commit(self, traces: Sequence[Trace]) -> AbstractContextManager[None]:
        """Around a commit of the outputs of these records."""


class _NoTrace:
    headers: Headers = ()

    def decoded(self, seconds: float) -> None:
        """Nobody asks."""

    def scoring(self) -> None:
        """Nobody asks."""

    def scored(self) -> None:
        """Nobody asks."""

    def end(self, outcome: str, frames: int, error: Exception | None = None) -> None:
        """Nobody asks."""


#: Of a record that is not traced.
NO_TRACE: Trace = _NoTrace()


class NoTracing:
    """The default: costs nothing."""

    def begin(self, record: Record) -> Trace:  # noqa: ARG002
        """See `Tracing`."""
        return NO_TRACE

    def commit(self, traces: Sequence[Trace]) -> AbstractContextManager[None]:  # noqa: ARG002
        """See `Tracing`."""
        return nullcontext()
