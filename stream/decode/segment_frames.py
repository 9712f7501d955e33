"""The frames of one segment that are due, decoding no more of it than they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from stream.decode.contract import (
    CorruptInputError,
    Decoded,
    DecodedFrame,
    DecodeSettings,
    Gear,
    LossReason,
    Payload,
    TooLargeError,
)
from stream.decode.runs import Run, RunDecoder
from stream.decode.sampling import Sampler
from stream.decode.segments import Segment, SegmentLoss, SegmentPicture
from stream.decode.timeline import S


class SegmentFrames:
    """Call `check` before anything else, then `all` once.

    Attributes:
        end_ns: where the last picture ends, in the producer's time.
    """

    def __init__(
        self, segment: Segment, payload: Payload, sampler: Sampler, settings: DecodeSettings, decoded: Decoded
    ) -> None:
        self._segment, self._payload, self._sampler = segment, payload, sampler
        self._settings, self._decoded = settings, decoded
        self._only_keys = sampler.gear is Gear.WATCH
        self._runs: RunDecoder | None = None
        self._items: Iterator[SegmentPicture | SegmentLoss] = iter(())
        self._index = 0
        self._is_cut = False
        self.end_ns = 0

    def check(self, name: str) -> None:
        """See that there is a picture in it; where nothing is to be decoded, that there is a packet.

        Raises:
            CorruptInputError: not one picture can be decoded.
            TooLargeError: beyond a bound before the first one.
        """
        if self._sampler.gear is Gear.SHED:
            if next(self._segment.times_ns(), None) is None:
                raise _nothing(name)
            return
        if self._segment.runs:
            decoder = self._segment.run_decoder()
            if decoder.probe(only_keys=self._only_keys):
                self._runs = decoder
                self._segment.saw_picture()
                return
        items = self._segment.pictures(only_keys=self._only_keys)
        first: list[SegmentPicture | SegmentLoss] = []
        for item in items:
            first.append(item)
            if isinstance(item, SegmentPicture):
                break
        else:
            if any(loss.beyond_limit for loss in first if isinstance(loss, SegmentLoss)):
                raise TooLargeError(f"{name}: beyond the limits", hint="send shorter segments")
            raise _nothing(name)
        self._items = chain(first, items)

    def all(self, base_ns: int) -> Iterator[DecodedFrame]:
        """The frames that are due. ``base_ns``: the producer's time of the segment's start."""
        self.end_ns = base_ns
        if self._sampler.gear is Gear.SHED:
            self._shed(base_ns)
        elif self._runs is not None:
            yield from self._by_runs(self._runs, base_ns)
        else:
            yield from self._one_by_one(base_ns)

    def _shed(self, base_ns: int) -> None:
        for at_ns, end_ns in self._segment.times_ns():
            if at_ns is None or abs(at_ns) <= self._settings.max_duration_s * S:
                pts_ns = self._place(at_ns, end_ns, base_ns)
                if pts_ns is not None:
                    self._sampler.wants(pts_ns)

    def _by_runs(self, decoder: RunDecoder, base_ns: int) -> Iterator[DecodedFrame]:
        for run in self._segment.runs or ():
            wanted = self._wanted(run, base_ns)
            for pts, picture in decoder.decode(run, set(wanted), only_keys=self._only_keys):
                # Damage may turn the order round: what should have come out before has not, then.
                self._miss([wanted.pop(earlier) for earlier in list(wanted) if earlier < pts])
                if pts in wanted:
                    pts_ns, index = wanted.pop(pts)
                    frame = self._sampler.frame(picture, pts_ns, index, self._payload.offset, self._segment.aspect)
                    if frame is not None:
                        yield frame
            self._miss(wanted.values())
            if self._is_cut:
                self._sampler.lose(None, LossReason.BEYOND_LIMIT)
                return

    def _miss(self, pictures: Iterable[tuple[int, int]]) -> None:
        for pts_ns, index in pictures:
            self._sampler.frame(LossReason.DAMAGED, pts_ns, index, self._payload.offset, self._segment.aspect)

    def _wanted(self, run: Run, base_ns: int) -> dict[int, tuple[int, int]]:
        """pts -> time and number of each picture that is due; all of them are placed."""
        wanted: dict[int, tuple[int, int]] = {}
        for shot in sorted(run, key=lambda shot: shot.pts):
            # By what is in it, due to be decoded or not: the same in every gear.
            pixels = self._index * self._segment.pixels
            self._is_cut = self._index >= self._settings.max_frames or pixels >= self._settings.max_decoded_pixels
            if self._is_cut:
                break
            if abs(shot.at_ns) > self._settings.max_duration_s * S:
                self._sampler.lose(None, LossReason.BEYOND_LIMIT)
                continue
            index = self._index
            pts_ns = self._place(shot.at_ns, shot.end_ns, base_ns)
            if pts_ns is not None and self._sampler.wants(pts_ns, is_key=shot.is_key):
                wanted[shot.pts] = pts_ns, index
        return wanted

    def _one_by_one(self, base_ns: int) -> Iterator[DecodedFrame]:
        for item in self._items:
            if isinstance(item, SegmentLoss):
                reason = LossReason.BEYOND_LIMIT if item.beyond_limit else LossReason.DAMAGED
                at_ns = (
                    None
                    if item.at_ns is None
                    else self._sampler.shifted(base_ns + item.at_ns, self._payload.timestamp_ms)
                )
                self._sampler.lose(at_ns, reason)
                continue
            index = self._index
            pts_ns = self._place(item.at_ns, item.end_ns, base_ns)
            if pts_ns is not None and self._sampler.wants(pts_ns, is_key=self._only_keys or item.frame.key_frame):
                offset, aspect = self._payload.offset, self._segment.aspect
                frame = self._sampler.frame(item.frame, pts_ns, index, offset, aspect)
                if frame is not None:
                    yield frame

    def _place(self, at_ns: int | None, end_ns: int | None, base_ns: int) -> int | None:
        self._index += 1
        self._decoded.pictures += 1
        if end_ns is not None:
            self.end_ns = max(self.end_ns, base_ns + end_ns)
        return self._sampler.place(None if at_ns is None else base_ns + at_ns, self._payload.timestamp_ms)


def _nothing(name: str) -> CorruptInputError:
    return CorruptInputError(
        f"{name}: not one picture could be decoded", hint="send whole segments, from a key frame on"
    )
