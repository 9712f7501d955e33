"""What the wall may be told; frozen once read."""

from __future__ import annotations

import math

import msgspec

from stream.topics import Topics

#: An open alert is told once in so long (`stream.alerts.AlertSettings`), with a little to spare.
REPEATED_S = 4000.0


class WallSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the wall; times in seconds.

    Args:
        topics: scores and alerts are read from, commands written to them.
        looked_s: a stream is called clean only if a face of it was scored within so long.
        behind_s: nor if its last frame is older than this, where its PTS are times of day.
        window_s: stream time that a tile shows.
        max_streams: tiles kept; beyond, streams that are silent, then those that are calm are left out and counted.
        forget_s: a silent stream may be left out after so long, where there is no room for another.
        max_alerts: alerts kept, closed ones left out first.
        closed_s: how long a closed alert is shown.
        scores_back_s, alerts_back_s: how far back the topics are read at the start.
        back_records: records of one partition read back at most; but no fewer alerts than those of the last
            `REPEATED_S`, in which each that is open was told.
        interval_s: a page is told of changes at most so often.
        tick_s: it is told at least so often that the wall still stands.
        max_clients: pages served at once.
        client_s: a page that has taken nothing for so long is let go.
        request_s: longest wait for a request's head or body.
        body_bytes: longest body of a request.
        retry_s: Kafka is tried again after so long.
        inputs_s: how often silent input partitions are looked at; see `stream.wall.inputs`.
        commands_s: how often the topic of commands is.
    """

    topics: Topics = Topics()
    looked_s: float = 10.0
    behind_s: float = 60.0
    window_s: int = 60
    max_streams: int = 512
    forget_s: float = 60.0
    max_alerts: int = 200
    closed_s: float = 900.0
    scores_back_s: float = 60.0
    alerts_back_s: float = 86_400.0
    back_records: int = 20_000
    interval_s: float = 0.3
    tick_s: float = 2.0
    max_clients: int = 64
    client_s: float = 15.0
    request_s: float = 10.0
    body_bytes: int = 4096
    retry_s: float = 2.0
    inputs_s: float = 2.0
    commands_s: float = 1.0

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in self.__struct_fields__ if name != "topics"}
        if wrong := {name: value for name, value in numbers.items() if not (math.isfinite(value) and value > 0)}:
            raise ValueError(f"settings of the wall must be positive: {wrong}")
