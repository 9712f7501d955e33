"""What goes into a `StreamDecoder` and what comes out: records, frames, what was lost, bounds, errors, its state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from difffake.errors import DiffFakeError
from difffake.hardware import Hwaccel
from difffake.picture import Picture

U8 = npt.NDArray[np.uint8]


class InputError(DiffFakeError, ValueError):
    """A record of which nothing can be used: it becomes a dead letter, counted under `kind`."""

    kind: ClassVar[str] = "input"


class UnknownTypeError(InputError):
    """Neither the header nor the bytes name a content type that DiffFake decodes."""

    kind = "unknown_type"


class CorruptInputError(InputError):
    """The bytes are not what they should be, or break off before the first picture."""

    kind = "corrupt"


class TooLargeError(InputError):
    """Beyond a bound of `DecodeSettings`, before the first picture."""

    kind = "too_large"


class EncryptedInputError(InputError):
    """Encrypted (DRM)."""

    kind = "encrypted"


class Gear(StrEnum):
    """How much of a stream is looked at."""

    SHED = "shed"  # nothing: pictures that would have been analysed are told as lost
    WATCH = "watch"  # key frames, at most so many a second as in `ANALYSE`
    ANALYSE = "analyse"
    SCRUTINISE = "scrutinise"  # more pictures a second, while there is suspicion


@dataclass(frozen=True, slots=True)
class Payload:
    """One record of a stream. `timestamp_ms`: since the epoch, -1 where there is none; `offset`: in its partition."""

    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int = -1
    offset: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrame:
    """One picture that is to be analysed.

    Args:
        pts_ns: strictly increasing within a stream.
        picture: upright, square pixels. It holds memory of the decoder: keep few.
        index: which picture of its record, in display order (access units: in decoding order).
        offset: of the record that held it. Access units come out late: it may be an earlier record than the one
            that was given to `decode`.
    """

    pts_ns: int
    picture: Picture
    index: int
    offset: int

    @property
    def image(self) -> U8:
        """The whole picture, RGB `(H, W, 3) uint8`, C-contiguous."""
        return self.picture.rgb()


class LossReason(StrEnum):
    """Why a picture that was due is not analysed."""

    STALE = "stale"  # its time is not after that of a picture before it
    WAITING_FOR_KEY_FRAME = "waiting_for_key_frame"
    DAMAGED = "damaged"
    BEYOND_LIMIT = "beyond_limit"
    SHED = "shed"  # nobody had time for it: the gear was `Gear.SHED`


@dataclass(frozen=True, slots=True)
class Lost:
    """A picture that would have been analysed. `pts_ns` is None where it is not known."""

    pts_ns: int | None
    reason: LossReason


@dataclass(slots=True)
class Decoded:
    """What one record gave. Exhaust `frames` before anything else is asked of the decoder.

    Args:
        content_type: what the record was decoded as.
        frames: decoded as they are taken, so that a long segment is never in memory whole; raises nothing.
        lost: pictures that would have been analysed, at most one per sampling period and reason, also over records;
            complete when `frames` has ended, as are the following.
        pictures: how many it held whose times are known, decoded or not.
        warnings: `"code: what happened"`.
        damage: an access unit of the record could not be decoded: keep the record as a dead letter too.
        replayed: the decoder's restored state already includes this record; nothing is reported twice.
    """

    content_type: str
    frames: Iterator[DecodedFrame]
    lost: list[Lost] = field(default_factory=list)
    pictures: int = 0
    warnings: list[str] = field(default_factory=list)
    damage: InputError | None = None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """What is analysed, and bounds on what comes from outside. No bound depends on the clock of the machine: the same
    records always give the same frames.

    Args:
        fps: frames analysed per second of stream time in `Gear.ANALYSE`, on a fixed grid of pts; None: every frame, in
            every gear but `Gear.WATCH`.
        scrutinise_fps: the same in `Gear.SCRUTINISE`.
        max_bytes: of one record.
        max_pixels: of one picture.
        max_frames: pictures decoded per record.
        max_decoded_pixels: all pictures of one record together; what bounds its time.
        max_duration_s: of a segment; pictures later than this in it are not believed.
        clock_restart_s: a pts that falls back by more than this belongs to a producer that started again; its clock
            is moved to go on after the last picture. Less than this is stale.
        clock_leap_s: so does one that leaps ahead by more than this, where the timestamps of its records say that no
            such time has passed. A clock that is back where it was before is believed again.
        low_delay: the producer sends no reordered pictures (B-frames): give every access unit out at once, even where
            its headers do not promise it.
        max_gop_records: access units after which a key frame is given up as the place to restart from.
        hwaccel: where video is decoded. On a GPU, undamaged video gives the same pictures; damage may look otherwise.
    """

    fps: float | None = 2.0
    scrutinise_fps: float = 10.0
    max_bytes: int = 64 << 20
    max_pixels: int = 8192 * 4608
    max_frames: int = 5_000
    max_decoded_pixels: int = 12_000_000_000
    max_duration_s: float = 600.0
    clock_restart_s: float = 10.0
    clock_leap_s: float = 3600.0
    low_delay: bool = False
    max_gop_records: int = 3_000
    hwaccel: Hwaccel = Hwaccel.OFF

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if name not in ("low_delay", "hwaccel") and value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")


#: Beyond the latest time that a picture is ever given, by years; what follows one that is read must still fit 64 bits.
_FAR = (1 << 63) - (1 << 60)
_Ns = Annotated[int, msgspec.Meta(ge=-_FAR, le=_FAR)]


class TimelineState(msgspec.Struct, frozen=True):
    """Where a stream's time stands: see `stream.decode.timeline.Timeline`."""

    last_ns: _Ns | None = None
    shift_ns: int = 0
    sampled_ns: _Ns | None = None
    segment_end_ns: _Ns | None = None
    timestamp_ms: int = -1
    home_ns: int | None = None


class KeyPoint(msgspec.Struct, frozen=True):
    """A key frame from which all later pictures can be decoded again, exactly.

    `unit` counts access units within the record at `offset`; `parameters` are the parameter sets it needs and does
    not carry; `timeline` is how the stream's time stood before this picture.
    """

    offset: int
    unit: int
    content_type: str
    parameters: bytes
    timeline: TimelineState


class Progress(msgspec.Struct, frozen=True):
    """How far a decoder of access units had come, since its key frame.

    `is_waiting`: for a key frame; `fed`: the last unit that the codec was given, as (offset, unit) - later ones wait
    undecoded; `is_shown`: all wait, and the key frame's picture has been given out.
    """

    is_waiting: bool = True
    fed: tuple[int, int] | None = None
    is_shown: bool = False


class DecoderState(msgspec.Struct, frozen=True):
    """All that a `StreamDecoder` needs to go on elsewhere, given the records from `key.offset` on again.

    `offset`: the last record it includes, -1 before the first; pictures up to `reached_ns` have been given out, the
    last ones at the times `recent`; `told`: when the last picture was that was lost, by reason.
    """

    offset: int = -1
    reached_ns: _Ns | None = None
    timeline: TimelineState = TimelineState()
    content_type: str | None = None
    key: KeyPoint | None = None
    recent: tuple[int, ...] = ()
    told: dict[LossReason, int] = {}
    progress: Progress = Progress()
