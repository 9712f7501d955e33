"""Access units told apart within a record, and which of them a decoder can start at.

H.264: ITU-T H.264 7.3.1, 7.4.1.2.3, D.1.8. H.265: ITU-T H.265 7.3.1.2, 7.4.2.4.4.
AV1: bitstream specification 5.3, 7.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from stream.decode.sniff import AV1, H264

_START_CODE = re.compile(b"\x00\x00\x01")
_MAX_UNITS = 4096


class Start(IntEnum):
    """What a decoder that knows nothing of the past makes of a unit."""

    NONE = 0  # needs earlier units
    GRADUAL = 1  # pictures become right some time after it (intra refresh)
    OPEN = 2  # it and all that is shown after it come out exactly; what is shown before it may not
    CLOSED = 3  # nothing after it needs anything before it


@dataclass(frozen=True, slots=True)
class Unit:
    """One access unit. `data` with its start codes; `parameters`: the parameter sets in it; `has_picture`: not only
    parameter sets and the like; `is_disposable`: no other picture of its temporal layer refers to its picture;
    `is_leading`: shown before the key frame that it follows, and made of pictures before that one (H.265 says so)."""

    data: bytes
    start: Start
    has_picture: bool
    parameters: bytes
    is_disposable: bool = False
    is_leading: bool = False

    @property
    def is_key(self) -> bool:
        """Whether its picture can be decoded without any other."""
        return self.start >= Start.OPEN


def split_units(value: bytes, content_type: str) -> list[Unit]:
    """The access units of a record, in decoding order; empty if it is no such stream.

    A record holds whole units. Fields of one picture that are coded apart are units of their own.
    """
    return _split_av1(value) if content_type == AV1 else _split_annex_b(value, content_type == H264)


# H.264 and H.265


def _split_annex_b(value: bytes, is_h264: bool) -> list[Unit]:
    units: list[Unit] = []
    begin, nals, has_picture = 0, list(_nals(value)), False
    inside: list[tuple[int, int, int]] = []
    for nal in nals:
        payload, end, at = nal
        kind = value[payload] & 0x1F if is_h264 else value[payload] >> 1 & 0x3F
        is_slice, opens = _role(value, payload, end, kind, is_h264)
        if has_picture and opens:
            units.append(_annex_b_unit(value[begin:at], value, inside, is_h264))
            begin, inside, has_picture = at, [], False
            if len(units) >= _MAX_UNITS:
                return units
        inside.append((kind, payload, end))
        has_picture = has_picture or is_slice
    if inside:
        units.append(_annex_b_unit(value[begin:], value, inside, is_h264))
    return units


def _nals(value: bytes) -> Iterator[tuple[int, int, int]]:
    """(first byte behind the start code, end, start of the start code) of every unit with a whole header."""
    starts = [match.start() for match in _START_CODE.finditer(value)]
    # None where nothing begins: of a damaged segment.
    for at, following in zip(starts, [*starts, len(value)][1:], strict=True):
        if following - at >= 5:
            yield at + 3, following, at - 1 if at and value[at - 1] == 0 else at


def _role(value: bytes, payload: int, end: int, kind: int, is_h264: bool) -> tuple[bool, bool]:
    """Whether a unit is a slice, and whether it begins a new access unit when a picture came before it."""
    if is_h264:
        is_slice = kind in (1, 2, 5)
        first = is_slice and bool(value[payload + 1] & 0x80)  # first_mb_in_slice == 0
        return is_slice, first or kind in (6, 7, 8, 9) or 14 <= kind <= 18
    is_slice = kind < 32
    layer = (value[payload] & 1) << 5 | value[payload + 1] >> 3
    first = is_slice and end - payload > 2 and bool(value[payload + 2] & 0x80)  # first_slice_segment_in_pic_flag
    return is_slice and layer == 0, layer == 0 and (first or kind in (32, 33, 34, 35, 39) or 41 <= kind <= 44)


def _annex_b_unit(data: bytes, value: bytes, nals: list[tuple[int, int, int]], is_h264: bool) -> Unit:
    kinds = {kind for kind, _, _ in nals}
    sets = {7, 8, 13, 15} if is_h264 else {32, 33, 34}
    parameters = b"".join(b"\x00\x00\x00\x01" + value[a:b].rstrip(b"\x00") for kind, a, b in nals if kind in sets)
    if is_h264:
        has_picture = not kinds.isdisjoint((1, 2, 5))
        references = [value[a] & 0x60 for kind, a, _ in nals if kind in (1, 2, 5)]  # nal_ref_idc
        is_disposable = has_picture and not any(references)
        start = Start.CLOSED if 5 in kinds else Start.NONE
        if start is Start.NONE:
            counts = [c for kind, a, b in nals if kind == 6 and (c := _recovery_count(value[a + 1 : b])) is not None]
            start = (Start.OPEN if min(counts) == 0 else Start.GRADUAL) if counts else Start.NONE
    else:
        has_picture = any(kind < 32 for kind in kinds)
        slices = {kind for kind in kinds if kind < 32}
        is_disposable = has_picture and all(kind < 16 and not kind & 1 for kind in slices)  # TRAIL_N to RSV_VCL_N14
        start = Start.NONE
        if slices and all(16 <= kind <= 23 for kind in slices):
            start = Start.OPEN if 21 in slices else Start.CLOSED
    is_leading = not is_h264 and bool(kinds & {8, 9})  # RASL_N, RASL_R
    return Unit(data, start if has_picture else Start.NONE, has_picture, parameters, is_disposable, is_leading)


def temporal_layers(parameters: bytes) -> int:
    """How many temporal layers an H.265 stream has, by its video parameter set; 0: it does not say."""
    at = parameters.find(b"\x00\x00\x01\x40\x01")
    return (parameters[at + 6] >> 1 & 7) + 1 if 0 <= at < len(parameters) - 6 else 0  # vps_max_sub_layers_minus1


def _recovery_count(sei: bytes) -> int | None:
    """recovery_frame_cnt of a recovery point message; None without one."""
    data, at = sei.replace(b"\x00\x00\x03", b"\x00\x00"), 0
    while at + 2 < len(data):
        kind = size = 0
        while at < len(data) and data[at] == 0xFF:
            kind, at = kind + 255, at + 1
        kind, at = kind + (data[at] if at < len(data) else 0), at + 1
        while at < len(data) and data[at] == 0xFF:
            size, at = size + 255, at + 1
        size, at = size + (data[at] if at < len(data) else 0), at + 1
        if kind == 6 and at < len(data):
            return _exp_golomb(data[at : at + 8])
        at += size
    return None


def _exp_golomb(data: bytes) -> int:
    bits = "".join(f"{byte:08b}" for byte in data)
    zeros = len(bits) - len(bits.lstrip("0"))
    code = bits[zeros : 2 * zeros + 1]
    return int(code, 2) - 1 if len(code) == zeros + 1 else 1


# AV1


def _split_av1(value: bytes) -> list[Unit]:
    units: list[Unit] = []
    begin, at, start, has_picture, has_sequence = 0, 0, Start.NONE, False, False
    while at < len(value):
        obu = _obu(value, at)
        if obu is None:
            # What is left goes to the decoder, which says that it is broken.
            if at == 0:
                return []
            has_picture = True
            break
        kind, payload, end = obu
        if kind == 2 and has_picture:
            units.append(Unit(value[begin:at], start if has_sequence else Start.NONE, True, b""))
            begin, start, has_picture, has_sequence = at, Start.NONE, False, False
            if len(units) >= _MAX_UNITS:
                return units
        has_sequence = has_sequence or kind == 1
        if kind in (3, 6) and not has_picture:
            has_picture = True
            # show_existing_frame 0, frame_type KEY_FRAME, show_frame 1
            if payload < end and value[payload] & 0xF0 == 0x10:
                start = Start.CLOSED
        at = end
    units.append(Unit(value[begin:], start if has_sequence else Start.NONE, has_picture, b""))
    return units


def _obu(value: bytes, at: int) -> tuple[int, int, int] | None:
    """(kind, first payload byte, end) of the unit at `at`; None if it is none, or runs past the end."""
    head = value[at]
    if head & 0x81 or not head & 0x02:  # forbidden and reserved bits; only units with a size can be strung together
        return None
    pos = at + (2 if head & 0x04 else 1)
    size = 0
    for count in range(8):
        if pos >= len(value):
            return None
        byte = value[pos]
        size, pos = size | (byte & 0x7F) << 7 * count, pos + 1
        if not byte & 0x80:
            break
    end = pos + size
    return (head >> 3 & 0xF, pos, end) if end <= len(value) else None
