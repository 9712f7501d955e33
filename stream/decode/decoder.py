"""Records of one stream -> frames to be analysed, the same ones whenever they are read again."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator

import msgspec

from difffake.errors import LimitExceededError, MediaFormatError, MediaTruncatedError
from difffake.picture import RgbPicture
from difffake.stills import decode_still_bytes, still_header
from stream.decode.access_units import UnitDecoder
from stream.decode.contract import (
    U8,
    CorruptInputError,
    Decoded,
    DecodedFrame,
    DecoderState,
    DecodeSettings,
    Gear,
    InputError,
    KeyPoint,
    LossReason,
    Payload,
    Progress,
    TooLargeError,
)
from stream.decode.hardware import HardwareUse
from stream.decode.records import header_ns, identify, record_ns, warn
from stream.decode.sampling import Sampler
from stream.decode.segment_frames import SegmentFrames
from stream.decode.segments import Segment, too_large
from stream.decode.sniff import IMAGES, SEGMENTS, TS, is_annex_b
from stream.decode.unit_pictures import KeySource, Loss, Picture, Source
from stream.decode.units import split_units


class StreamDecoder:
    """Decodes the records of one stream, in the order of their offsets. Not for two threads at once.

    After a restart: a new one, `restore(state)`, and the records from `resume_offset` on (older ones are ignored).
    It then gives out exactly the frames that the old one had not given out yet when `state` was taken.
    """

    def __init__(self, settings: DecodeSettings | None = None) -> None:
        self._settings = settings or DecodeSettings()
        self._hardware = HardwareUse(self._settings.hwaccel)
        self._sampler = Sampler(self._settings)
        self._timeline = self._sampler.timeline
        self._units: UnitDecoder | None = None
        self._key: KeyPoint | None = None
        self._next_keys: deque[tuple[KeyPoint, int]] = deque()
        self._unit_count = self._key_count = 0
        self._offset = -1
        self._content_type: str | None = None
        self._busy = False

    @property
    def resume_offset(self) -> int | None:
        """The record to read again first after a restart: the committed offset must not pass it.

        None: nothing before the next record is needed.
        """
        return None if self._key is None else self._key.offset

    def state(self) -> DecoderState:
        """As of the last record, whose frames must have been taken."""
        self._check_idle()
        times = (self._timeline.last_ns, self._sampler.reached_ns)
        reached_ns = max((ns for ns in times if ns is not None), default=None)
        timeline = self._timeline.state()
        recent: tuple[int, ...] = ()
        if self._key is not None:
            # And the last one before: its cell may reach beyond the key frame.
            recent = self._sampler.recent
            recent = recent[max(0, bisect_right(recent, self._key.timeline.last_ns or -1) - 1) :]
        progress = self._units.progress() if self._units is not None else Progress()
        return DecoderState(
            self._offset,
            reached_ns,
            timeline,
            self._content_type,
            self._key,
            recent,
            self._sampler.told,
            progress,
        )

    def restore(self, state: DecoderState) -> None:
        """Go on from a state; call it on a new decoder."""
        self._offset, self._content_type, self._key = state.offset, state.content_type, state.key
        timeline = state.timeline
        progress = state.progress
        if state.key is not None:
            if not (progress.is_waiting or progress.is_shown):
                # From the key frame on, times are given again; but not what was due, which depended on the gears.
                timeline = msgspec.structs.replace(state.key.timeline, sampled_ns=timeline.sampled_ns)
            self._units = UnitDecoder(state.key.content_type, self._settings, self._hardware)
            self._units.set_parameters(state.key.parameters)
            self._units.resume(progress)
        self._sampler.restore(timeline, state.reached_ns, state.recent, state.told)

    def decode(self, payload: Payload, gear: Gear = Gear.ANALYSE) -> Decoded:
        """Decode one record; its frames are decoded as they are taken, and all must be.

        The same records in the same gears give the same frames. What a record read again was in before a restart
        does not matter: nothing of it comes out twice.

        Raises:
            UnknownTypeError: the content type is neither said nor seen.
            CorruptInputError: the record gives nothing because it is damaged, or is not what it should be.
            TooLargeError: beyond a bound.
            EncryptedInputError: encrypted.

        An error leaves the decoder as if the record had not been there, but for the offset.
        """
        self._check_idle()
        replayed = payload.offset <= self._offset
        if replayed and (self._key is None or payload.offset < self._key.offset):
            return Decoded(self._content_type or "", iter(()), replayed=True)
        decoded = Decoded("", iter(()), replayed=replayed)
        self._offset = max(self._offset, payload.offset)
        content_type = identify(payload, self._content_type, self._settings, decoded)
        decoded.content_type = content_type
        self._sampler.begin(decoded, gear)
        base_ns = header_ns(payload, decoded)
        if content_type in IMAGES:
            frames = self._image(payload, content_type, base_ns, decoded)
        elif content_type in SEGMENTS:
            frames = self._segment(payload, content_type, base_ns, decoded)
        else:
            frames = self._access_units(payload, content_type, base_ns, decoded)
        self._content_type = content_type
        decoded.frames = self._watched(frames, decoded)
        return decoded

    def drain(self) -> Decoded:
        """The pictures that the decoder still holds back, when the stream is known to have ended or to be forgotten.

        Later access units wait for a key frame.
        """
        self._check_idle()
        decoded = Decoded(self._content_type or "", iter(()))
        self._sampler.begin(decoded, self._sampler.gear)
        decoded.frames = self._watched(self._close_units(decoded), decoded)
        return decoded

    def _check_idle(self) -> None:
        if self._busy:
            raise RuntimeError("take all frames of the record before")

    def _watched(self, frames: Iterator[DecodedFrame], decoded: Decoded) -> Iterator[DecodedFrame]:
        self._busy = True
        restarts = self._timeline.restarts
        return self._watch(frames, decoded, restarts)

    def _watch(self, frames: Iterator[DecodedFrame], decoded: Decoded, restarts: int) -> Iterator[DecodedFrame]:
        yield from frames
        self._busy = False
        self._sampler.finish()
        if self._timeline.restarts > restarts:
            warn(decoded, "clock: its times leapt; they go on after the last picture")
        if decoded.replayed:
            decoded.lost.clear()
            decoded.warnings.clear()
            decoded.damage = None

    # the three kinds

    def _image(
        self, payload: Payload, content_type: str, base_ns: int | None, decoded: Decoded
    ) -> Iterator[DecodedFrame]:
        raw_ns = base_ns if base_ns is not None else record_ns(payload)
        try:
            header = still_header(payload.value, content_type)
            if header is None:
                raise CorruptInputError(f"{content_type}: damaged", hint="send the file as it is")
            if header.width_px * header.height_px > self._settings.max_pixels:
                raise too_large(header.width_px, header.height_px, self._settings.max_pixels)
            # A picture that is not analysed is not decoded, good or bad.
            image = None
            if self._units is not None or self._sampler.may_be_due(raw_ns):
                image = decode_still_bytes(payload.value, header, content_type, self._settings.max_pixels)
        except LimitExceededError as error:
            raise TooLargeError(str(error), hint=error.hint) from error
        except (MediaFormatError, MediaTruncatedError) as error:
            raise CorruptInputError(str(error), hint=error.hint) from error
        yield_before = self._close_units(decoded)
        return self._one(payload, raw_ns, image, yield_before, decoded)

    def _one(
        self, payload: Payload, raw_ns: int | None, image: U8 | None, before: Iterator[DecodedFrame], decoded: Decoded
    ) -> Iterator[DecodedFrame]:
        yield from before
        decoded.pictures += 1
        pts_ns = self._sampler.place(raw_ns, payload.timestamp_ms)
        if pts_ns is not None and self._sampler.wants(pts_ns) and image is not None:
            yield DecodedFrame(pts_ns, RgbPicture(image), 0, payload.offset)

    def _segment(
        self, payload: Payload, content_type: str, base_ns: int | None, decoded: Decoded
    ) -> Iterator[DecodedFrame]:
        segment = Segment(payload.value, content_type, self._settings, self._hardware)
        frames = SegmentFrames(segment, payload, self._sampler, self._settings, decoded)
        try:
            # Nothing is given out, and no time passes, before a first picture has shown that there is one.
            frames.check(content_type)
        except BaseException:
            segment.close()
            raise
        return self._segment_frames(payload, content_type, segment, frames, base_ns, decoded)

    def _segment_frames(
        self,
        payload: Payload,
        content_type: str,
        segment: Segment,
        frames: SegmentFrames,
        base_ns: int | None,
        decoded: Decoded,
    ) -> Iterator[DecodedFrame]:
        yield from self._close_units(decoded)
        if base_ns is None and content_type == TS and segment.start_ns is not None:
            base_ns = segment.start_ns
        elif base_ns is None:
            base_ns = self._timeline.segment_base_ns(payload.timestamp_ms)
        try:
            yield from frames.all(base_ns)
        except InputError as error:
            warn(decoded, f"cut: {error}")
        finally:
            segment.close()
        self._timeline.segment_end_ns = frames.end_ns

    def _access_units(
        self, payload: Payload, content_type: str, base_ns: int | None, decoded: Decoded
    ) -> Iterator[DecodedFrame]:
        if content_type != "video/av1" and not is_annex_b(payload.value):
            raise CorruptInputError(
                f"{content_type}: does not begin with a start code",
                hint="send Annex B access units; ffmpeg's bit stream filters h264_mp4toannexb and hevc_mp4toannexb "
                "make them of others",
            )
        units = split_units(payload.value, content_type)
        if not units:
            raise CorruptInputError(f"{content_type}: no access unit in it", hint="send whole access units")
        if len(units) > self._settings.max_frames:
            raise TooLargeError(f"{len(units)} access units in one record", hint="send fewer, or raise max_frames")
        time_ns = base_ns if base_ns is not None else record_ns(payload)

        def frames() -> Iterator[DecodedFrame]:
            if self._units is None or self._units.content_type != content_type:
                yield from self._close_units(decoded)
                self._units = UnitDecoder(content_type, self._settings, self._hardware)
            exact = base_ns is not None and (len(units) == 1 or self._units.count_pictures(units) == 1)
            for number, unit in enumerate(units):
                if (
                    decoded.replayed
                    and self._key is not None
                    and (payload.offset, number)
                    < (
                        self._key.offset,
                        self._key.unit,
                    )
                ):
                    continue
                source = Source(payload.offset, number, time_ns or 0, exact, payload.timestamp_ms, unit.is_key)
                if decoded.replayed:
                    items = self._units.decode_again(unit, source)
                else:
                    items = self._units.decode(unit, source, self._sampler.gear)
                yield from self._pictures(items, decoded, payload.offset)
                self._count_unit(decoded)

        return frames()

    # what they share

    def _pictures(
        self, items: Iterator[Picture | Loss | KeySource], decoded: Decoded, offset: int | None = None
    ) -> Iterator[DecodedFrame]:
        units = self._units
        if units is None:
            return
        for item in items:
            before = self._timeline.state()
            if isinstance(item, KeySource):
                key = KeyPoint(item.offset, item.unit, units.content_type, item.parameters, before)
                self._next_keys.append((key, self._unit_count + item.after_units))
                self._take_key()
                continue
            source = item.source
            last_ns = None if before.last_ns is None else before.last_ns - before.shift_ns
            if isinstance(item, Loss) and item.reason is LossReason.SHED:
                self._shed(source, units.time_ns(source, last_ns), decoded)
                continue
            if isinstance(item, Loss):
                lost_ns = self._sampler.shifted(source.base_ns, source.timestamp_ms)
                self._sampler.lose(lost_ns, item.reason, is_key=source.is_key, is_blind=item.is_blind)
                if item.reason is LossReason.DAMAGED:
                    self._damaged(source, offset, decoded)
                continue
            decoded.pictures += 1
            pts_ns = self._sampler.place(units.time_ns(source, last_ns), source.timestamp_ms)
            if pts_ns is None or not self._sampler.wants(pts_ns, is_key=source.is_key, is_doubtful=item.is_doubtful):
                continue
            picture = units.fetch(item)
            if picture is LossReason.DAMAGED:
                self._damaged(units.damaged or source, offset, decoded)
            frame = self._sampler.frame(picture, pts_ns, source.unit, source.offset, units.aspect)
            if frame is not None:
                yield frame

    def _shed(self, source: Source, raw_ns: int, decoded: Decoded) -> None:
        decoded.pictures += 1
        self._next_keys.clear()
        at_ns, last_ns = self._sampler.shifted(raw_ns, source.timestamp_ms), self._timeline.last_ns
        if at_ns is not None and last_ns is not None and 0 <= last_ns - at_ns <= self._timeline.restart_ns:
            # Shown before one that came, and was shed, before it.
            if self._timeline.period_ns is None:
                self._sampler.lose(at_ns, LossReason.SHED)
            return
        pts_ns = self._sampler.place(raw_ns, source.timestamp_ms)
        if pts_ns is not None:
            self._sampler.wants(pts_ns, is_key=source.is_key)

    def _damaged(self, source: Source, offset: int | None, decoded: Decoded) -> None:
        self._next_keys.clear()
        if source.offset == offset:
            decoded.damage = CorruptInputError(
                f"{decoded.content_type}: an access unit cannot be decoded",
                hint="pictures are lost until the next key frame; look for loss between camera and broker",
            )

    def _take_key(self) -> None:
        while self._next_keys and self._next_keys[0][1] <= self._unit_count:
            self._key, self._key_count = self._next_keys.popleft()[0], self._unit_count

    def _count_unit(self, decoded: Decoded) -> None:
        self._unit_count += 1
        self._take_key()
        since = self._unit_count - self._key_count
        if self._key is not None and since > self._settings.max_gop_records:
            warn(decoded, f"key frame: none for {since} pictures; a restart will lose pictures")
            self._key = None

    def _close_units(self, decoded: Decoded) -> Iterator[DecodedFrame]:
        if self._units is not None:
            yield from self._pictures(self._units.drain(), decoded)
        self._units = self._key = None
        self._next_keys.clear()
