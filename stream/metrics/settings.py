"""Bounds of what is told of single streams."""

from __future__ import annotations

import msgspec


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of series.

    Args:
        max_stream_series: streams with series of their own; all others share those of ``stream="_other"``.
        series_idle_s: seconds without a record after which a stream's series go.
    """

    max_stream_series: int = 1_000
    series_idle_s: float = 900.0

    def __post_init__(self) -> None:
        if self.max_stream_series < 0 or not self.series_idle_s > 0:
            raise ValueError(
                f"max_stream_series of 0 or more and a positive series_idle_s, not {self.max_stream_series} "
                f"and {self.series_idle_s}"
            )
