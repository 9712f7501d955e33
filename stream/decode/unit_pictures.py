"""What a decoder of access units gives out."""

from __future__ import annotations

from dataclasses import dataclass

import av

from stream.decode.contract import LossReason


@dataclass(frozen=True, slots=True)
class Source:
    """Where a picture comes from. `base_ns`: its record's time; `is_exact`: its own time too, whatever the order."""

    offset: int
    unit: int
    base_ns: int
    is_exact: bool
    timestamp_ms: int
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class KeySource:
    """A place to restart from. `parameters`: the parameter sets needed there, where they lie in an earlier record.
    `after_units`: it is one once so many units have come after it without damage."""

    offset: int
    unit: int
    parameters: bytes
    after_units: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in display order. `frame` is None where it waits to be decoded: see `UnitDecoder.fetch`.
    `is_doubtful`: it takes up its time, but is not to be shown."""

    frame: av.VideoFrame | None
    source: Source
    is_doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Loss:
    """A unit without a picture. `is_blind`: because decoding began at a key frame that is shown after it."""

    source: Source
    reason: LossReason
    is_blind: bool = False
