"""Streams that end while an alert is open: nothing would ever close it.

An alert is closed by a later frame of its stream. Where none comes, the clock of the machine has to decide; that is
the one place where it does. What it decides is when the last record of an alert is written, never what any score is.
"""

from __future__ import annotations

from collections.abc import Iterable

from stream.broker.contract import Reader, TopicPartition


class EndedStreams:
    """Tells silence from a backlog: a stream has ended when all input that was there when it had been silent for long
    has been read, and none of it was the stream's.

    Args:
        reader: asked for ends of partitions, once for each stream that falls silent.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        #: Silent stream -> the offset up to which its partition must be read.
        self._ends: dict[tuple[TopicPartition, str], int] = {}

    def among(self, source: TopicPartition, position: int, silent: Iterable[str]) -> list[str]:
        """Which silent streams of a partition have ended.

        Args:
            position: all input before it has been worked on.
            silent: streams with an open alert that nothing was heard of for long. One that is heard of again must
                be missing once.
        """
        names, end = sorted(silent), None
        for key in [k for k in self._ends if k[0] == source and k[1] not in names]:
            del self._ends[key]
        for name in names:
            if (source, name) not in self._ends:
                end = self._reader.end_offset(source) if end is None else end
                self._ends[source, name] = end
        ended = [name for name in names if self._ends[source, name] <= position]
        for name in ended:
            del self._ends[source, name]
        return ended
