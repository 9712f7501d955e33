"""Which pictures of a stream are given out, in every gear, and which are told as lost."""

from __future__ import annotations

from collections import deque

import av
import av.error

from difffake.picture import RgbConverter, VideoPicture, deinterlaced
from stream.decode.contract import Decoded, DecodedFrame, DecodeSettings, Gear, LossReason, Lost, TimelineState
from stream.decode.records import warn
from stream.decode.timeline import Timeline, period_ns

_MAX_LOST = 1_000
#: A picture that never comes out is missed only when others have come out after it.
_RECENT = 64
_MAX_CONVERTERS = 4


class Sampler:
    """Decides picture by picture, in display order. What is due follows from its time, the gear, and what was due
    before: so a replay, in the same gears, makes the same choices.

    Attributes:
        timeline: of the stream.
        reached_ns: pictures up to here were given out before a restart; they are not due again.
    """

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        usual, fast = period_ns(settings.fps), period_ns(settings.scrutinise_fps if settings.fps is not None else None)
        self._periods = {Gear.SHED: usual, Gear.WATCH: usual, Gear.ANALYSE: usual, Gear.SCRUTINISE: fast}
        self.timeline = Timeline.make(settings.fps, settings.clock_restart_s, settings.clock_leap_s)
        self.reached_ns: int | None = None
        self._gear = Gear.ANALYSE
        self._decoded = Decoded("", iter(()))
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._told: dict[LossReason, int] = {}
        self._converters: dict[float, RgbConverter] = {}

    @property
    def gear(self) -> Gear:
        """Of the record at hand."""
        return self._gear

    @property
    def recent(self) -> tuple[int, ...]:
        """Times of the last pictures given out, for `restore`."""
        return tuple(self._recent)

    @property
    def told(self) -> dict[LossReason, int]:
        """Reason -> time of the last picture that was told as lost, for `restore`."""
        return dict(self._told)

    def restore(
        self,
        timeline: TimelineState,
        reached_ns: int | None,
        recent: tuple[int, ...],
        told: dict[LossReason, int],
    ) -> None:
        """Go on from there."""
        self.timeline.set_state(timeline)
        self.reached_ns = reached_ns
        self._recent.extend(recent)
        self._told.update(told)

    def begin(self, decoded: Decoded, gear: Gear) -> None:
        """The next record."""
        self._decoded, self._gear = decoded, gear
        self.timeline.period_ns = self._periods[gear]

    def finish(self) -> None:
        """The record has ended: what came out after all is not lost."""
        if not self._decoded.lost:
            return
        cells = {self.timeline.cell(pts_ns) for pts_ns in self._recent}
        self._decoded.lost[:] = [
            lost
            for lost in self._decoded.lost
            if lost.reason is LossReason.STALE or lost.pts_ns is None or self.timeline.cell(lost.pts_ns) not in cells
        ]

    def place(self, raw_ns: int | None, timestamp_ms: int) -> int | None:
        """The time of the next picture; None if it is stale, which is told."""
        pts_ns = self.timeline.place(raw_ns, timestamp_ms)
        if pts_ns is None:
            self.lose(self.shifted(raw_ns, timestamp_ms), LossReason.STALE)
        return pts_ns

    def shifted(self, raw_ns: int | None, timestamp_ms: int) -> int | None:
        """A producer's time in the stream's own; None where it is not believed."""
        return None if raw_ns is None else self.timeline.shifted(raw_ns, timestamp_ms)

    def may_be_due(self, raw_ns: int | None) -> bool:
        """Whether a picture that is to be placed next may be given out; changes nothing."""
        if self._gear is Gear.SHED:
            return False
        probe = Timeline(self.timeline.period_ns, self.timeline.restart_ns, self.timeline.leap_ns)
        probe.set_state(self.timeline.state())
        pts_ns = probe.place(raw_ns, -1)
        # A clock that starts again may land in any cell.
        return pts_ns is not None and (probe.restarts > 0 or probe.is_due(pts_ns))

    def wants(self, pts_ns: int, *, is_key: bool = True, is_doubtful: bool = False) -> bool:
        """Whether a picture that was placed is to be given out. It takes its cell of the sampling grid, also where it
        is shed, or doubtful, and so told as lost."""
        if self.reached_ns is not None and pts_ns <= self.reached_ns:
            return False
        if (self._gear is Gear.WATCH and not is_key) or not self.timeline.is_due(pts_ns):
            return False
        self.timeline.sampled_ns = pts_ns
        if self._gear is Gear.SHED:
            self.lose(pts_ns, LossReason.SHED)
            return False
        if is_doubtful:
            self.lose(pts_ns, LossReason.WAITING_FOR_KEY_FRAME, is_blind=True)
            return False
        self._recent.append(pts_ns)
        return True

    def frame(
        self, frame: av.VideoFrame | LossReason, pts_ns: int, index: int, offset: int, aspect: float
    ) -> DecodedFrame | None:
        """A picture that was wanted, or why it cannot be had: then it is told as lost."""
        if isinstance(frame, LossReason):
            self._fail(pts_ns, frame)
            return None
        converter = self._converter(aspect)
        if max(frame.width, converter.width_px(frame)) * frame.height > self._settings.max_pixels:
            self._fail(pts_ns, LossReason.BEYOND_LIMIT)
            return None
        try:
            frame = deinterlaced(frame)
            converter.check(frame)
        except (av.error.FFmpegError, ValueError) as error:
            warn(self._decoded, f"damaged: a picture cannot be converted ({str(error)[:80]})")
            self._fail(pts_ns, LossReason.DAMAGED)
            return None
        return DecodedFrame(pts_ns, VideoPicture(frame, converter), index, offset)

    def _fail(self, pts_ns: int, reason: LossReason) -> None:
        self._recent.remove(pts_ns)
        self.lose(pts_ns, reason)

    def _converter(self, aspect: float) -> RgbConverter:
        if aspect not in self._converters:
            if len(self._converters) >= _MAX_CONVERTERS:
                self._converters.clear()
            self._converters[aspect] = RgbConverter(aspect)
        return self._converters[aspect]

    def lose(self, pts_ns: int | None, reason: LossReason, *, is_key: bool = True, is_blind: bool = False) -> None:
        """Count a loss, if the picture would have been analysed: one per cell of the sampling grid and reason."""
        if len(self._decoded.lost) >= _MAX_LOST or self._decoded.replayed:
            return
        if self._gear is Gear.WATCH and not is_key and reason is not LossReason.STALE:
            return
        if pts_ns is not None:
            cell = self.timeline.cell(pts_ns)
            if reason in self._told and self.timeline.cell(self._told[reason]) == cell:
                return
            for other in reversed(self._decoded.lost):
                if other.reason is reason and other.pts_ns is not None and self.timeline.cell(other.pts_ns) == cell:
                    return
            # After a restart, pictures before its key frame do not come out a second time: they are not lost.
            reached = self.reached_ns is not None and pts_ns <= self.reached_ns
            is_covered = any(self.timeline.cell(other_ns) == cell for other_ns in self._recent)
            if reason is not LossReason.STALE and ((reached and is_blind) or is_covered):
                return
            self._told[reason] = pts_ns
        self._decoded.lost.append(Lost(pts_ns, reason))
