"""The few fields of H.264 headers that tell what a decoder does not: gaps, fields, what precedes a key frame.

ITU-T H.264: 7.3.2.1.1 (sequence parameter set), 7.3.3 (slice header), 7.4.3 (frame_num), 8.2.1 (picture order count),
E.1 (usability information).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_NAL_IDR, _NAL_SPS, _SLICES = 5, 7, (1, 2, 5)
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
_HEAD_BYTES = 64
_MAX_SPS_BYTES = 1024
_EXTENDED_SAR = 255


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a sequence parameter set says. ``tells_delay``: how many pictures come out of turn at most."""

    frame_num_bits: int
    order_bits: int
    order_type: int
    has_gaps: bool
    is_frames_only: bool
    has_colour_planes: bool
    is_in_order: bool
    tells_delay: bool


@dataclass(frozen=True, slots=True)
class SliceHead:
    """What the first slice of a picture says. `order`: picture order count, modulo; None where it is not written."""

    is_idr: bool
    is_reference: bool
    frame_num: int
    is_field: bool
    is_bottom: bool
    order: int | None

    def completes(self, first: SliceHead) -> bool:
        """Whether it is the second field of the frame that `first` began."""
        return (
            self.is_field
            and first.is_field
            and self.is_bottom != first.is_bottom
            and self.frame_num == first.frame_num
            and (first.is_reference or not self.is_reference)
        )


class H264Headers:
    """Follows the headers of one stream. `sequence`: the last set seen."""

    def __init__(self) -> None:
        self.sequence: Sequence | None = None

    def read(self, unit: bytes) -> SliceHead | None:
        """The head of a unit's first slice; None if it has none, or it cannot be read."""
        at = unit.find(b"\x00\x00\x01")
        while 0 <= at < len(unit) - 4:
            nal = at + 3
            kind = unit[nal] & 0x1F
            try:
                if kind == _NAL_SPS:
                    self.sequence = _sequence(unit[nal + 1 : nal + _MAX_SPS_BYTES])
                elif kind in _SLICES:
                    return self._slice(unit[nal], unit[nal + 1 : nal + _HEAD_BYTES])
            except IndexError:
                return None
            at = unit.find(b"\x00\x00\x01", nal)
        return None

    def _slice(self, head: int, data: bytes) -> SliceHead | None:
        sequence, is_idr = self.sequence, head & 0x1F == _NAL_IDR
        if sequence is None:
            return None
        bits = _Bits(data)
        for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
            bits.golomb()
        if sequence.has_colour_planes:
            bits.read(2)
        frame_num = bits.read(sequence.frame_num_bits)
        is_field = not sequence.is_frames_only and bool(bits.read(1))
        is_bottom = is_field and bool(bits.read(1))
        if is_idr:
            bits.golomb()  # idr_pic_id
        order = bits.read(sequence.order_bits) if sequence.order_type == 0 else None
        return SliceHead(is_idr, bool(head & 0x60), frame_num, is_field, is_bottom, order)

    def is_before(self, order: int | None, key: int | None) -> bool:
        """Whether a picture is shown before another one close to it."""
        if order is None or key is None or self.sequence is None:
            return False
        span = 1 << self.sequence.order_bits
        return (order - key) % span >= span // 2

    def is_gap(self, frame_num: int, last_reference: int) -> bool:
        """Whether a reference picture is missing between the last one and a picture that is no second field."""
        sequence = self.sequence
        if sequence is None or sequence.has_gaps:
            return False
        return frame_num != (last_reference + 1) % (1 << sequence.frame_num_bits)


def tells_delay(extradata: bytes) -> bool:
    """Whether every sequence parameter set in front of a stream, in either format, says how many pictures come out of
    turn at most; a decoder would have to find that out."""
    sets = list(_sets(extradata))
    try:
        return bool(sets) and all(_sequence(data[1:_MAX_SPS_BYTES]).tells_delay for data in sets)
    except IndexError:
        return False


def _sets(extradata: bytes) -> Iterator[bytes]:
    """Sequence parameter sets, from their first byte on; behind start codes, or of ISO/IEC 14496-15."""
    if extradata[:1] != b"\x01":
        for unit in extradata.split(b"\x00\x00\x01"):
            if unit and unit[0] & 0x1F == _NAL_SPS:
                yield unit
        return
    at = 6
    for _ in range(extradata[5] & 0x1F if len(extradata) > 5 else 0):
        size = int.from_bytes(extradata[at : at + 2], "big")
        yield extradata[at + 2 : at + 2 + size]
        at += 2 + size


class _Bits:
    """Reads bits of a unit; past its end `IndexError`."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\x00\x00\x03", b"\x00\x00")
        self._length, self._value, self._at = len(data) * 8, int.from_bytes(data, "big"), 0

    def read(self, count: int) -> int:
        self._at += count
        if self._at > self._length:
            raise IndexError
        return self._value >> (self._length - self._at) & ((1 << count) - 1)

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code (9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise IndexError
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        """A signed one (9.1.1)."""
        code = self.golomb()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def _sequence(data: bytes) -> Sequence:
    bits = _Bits(data)
    profile = bits.read(8)
    bits.read(16)
    bits.golomb()
    has_planes = False
    if profile in _HIGH_PROFILES:
        chroma = bits.golomb()
        has_planes = chroma == 3 and bool(bits.read(1))
        bits.golomb()
        bits.golomb()
        bits.read(1)
        if bits.read(1):
            for number in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling(bits, 16 if number < 6 else 64)
    frame_num_bits = bits.golomb() + 4
    order_type = bits.golomb()
    order_bits = 0
    if order_type == 0:
        order_bits = bits.golomb() + 4
    elif order_type == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    bits.golomb()
    has_gaps = bool(bits.read(1))
    bits.golomb()
    bits.golomb()
    is_frames_only = bool(bits.read(1))
    tells_delay = order_type == 2 or _tells_delay(bits, is_frames_only=is_frames_only)
    if frame_num_bits > 16 or order_bits > 16:
        raise IndexError
    # Baseline has no B slices, and order type 2 no order but that of decoding.
    is_in_order = order_type == 2 or profile == 66
    return Sequence(
        frame_num_bits, order_bits, order_type, has_gaps, is_frames_only, has_planes, is_in_order, tells_delay
    )


def _tells_delay(bits: _Bits, *, is_frames_only: bool) -> bool:
    """What follows of a sequence parameter set, up to bitstream_restriction_flag."""
    try:
        bits.read(1 if is_frames_only else 2)
        if bits.read(1):  # frame_cropping_flag
            for _ in range(4):
                bits.golomb()
        if not bits.read(1):  # vui_parameters_present_flag
            return False
        if bits.read(1) and bits.read(8) == _EXTENDED_SAR:
            bits.read(32)
        if bits.read(1):  # overscan_info_present_flag
            bits.read(1)
        if bits.read(1):  # video_signal_type_present_flag
            bits.read(4)
            if bits.read(1):  # colour_description_present_flag
                bits.read(24)
        if bits.read(1):  # chroma_loc_info_present_flag
            bits.golomb()
            bits.golomb()
        if bits.read(1):  # timing_info_present_flag
            bits.read(65)
        has_hrd = [_skip_hrd(bits) for _ in range(2)]
        bits.read(2 if any(has_hrd) else 1)
        return bool(bits.read(1))
    except IndexError:
        return False


def _skip_hrd(bits: _Bits) -> bool:
    """Parameters of a decoder's buffer (E.1.2), whether they are there."""
    if not bits.read(1):
        return False
    count = bits.golomb() + 1
    bits.read(8)
    for _ in range(min(count, 32)):
        bits.golomb()
        bits.golomb()
        bits.read(1)
    bits.read(20)
    return True


def _skip_scaling(bits: _Bits, count: int) -> None:
    last = following = 8
    for _ in range(count):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last
