"""A small picture of a stream's last scored frame, cut from the input record that its score names.

Off unless it is asked for: it needs the right to read the input topics, and it decodes what comes from outside. Made
when a page asks, one at a time, kept for a while, and given up where it costs too much.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import cv2
import numpy as np

from difffake.errors import DiffFakeError
from difffake.picture import U8
from difffake.results import Level
from stream.broker.contract import Broker, Reader, Record, TopicPartition
from stream.decode import DecodedFrame, DecodeSettings, InputError, Payload, StreamDecoder
from stream.decode.sniff import IMAGES, SEGMENTS, sniff
from stream.messages import Face, Source

_WIDTH_PX, _QUALITY = 256, 72
_MAX_JPEG_BYTES = 32 << 10
_MAX_KEPT = 1024
#: A picture this young serves still; access units cost a whole group of pictures.
_FRESH_S, _UNITS_FRESH_S = 5.0, 60.0
_FAILED_S = 30.0
#: Records before an access unit among which its key frame is looked for, and how many bytes of them are read.
_UNITS_BACK, _UNITS_BYTES = 600, 32 << 20
_WAIT_S = 5.0
_SETTINGS = DecodeSettings(fps=None, max_bytes=16 << 20, max_frames=600, max_decoded_pixels=2_000_000_000)
#: Red, amber, grey, as RGB; by the worst level of a face.
_COLOURS = {Level.STRONG: (208, 32, 32), Level.SUSPICIOUS: (240, 160, 0), Level.NOTHING: (220, 220, 220)}


@dataclass(frozen=True, slots=True)
class _Kept:
    jpeg: bytes
    until_s: float


class Pictures:
    """Makes and keeps them; thread-safe, one is made at a time.

    Args:
        connect: opens a broker; it is kept while it works.
        monotonic: seconds.
    """

    def __init__(self, connect: Callable[[], Broker], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._connect, self._monotonic = connect, monotonic
        self._lock, self._work = threading.Lock(), threading.Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._broker: Broker | None = None
        self._reader: Reader | None = None

    def get(self, key: int, stream: str, source: Source, faces: Sequence[Face]) -> bytes:
        """A JPEG of that frame, or of an earlier one of the stream; empty where there is none to be had.

        Args:
            key: the stream's number on the wall.
            stream: its id.
            source: the frame.
            faces: drawn as boxes.
        """
        found = self._fresh(key)
        if found is not None:
            return found
        if not self._work.acquire(timeout=_WAIT_S):  # too many are wanted
            return self._old(key)
        try:
            found = self._fresh(key)
            if found is None:
                found = self._make(key, stream, source, faces)
        finally:
            self._work.release()
        return found

    def close(self) -> None:
        """Ends the connection."""
        with self._work:
            self._disconnect()

    def _fresh(self, key: int) -> bytes | None:
        with self._lock:
            kept = self._kept.get(key)
            return kept.jpeg if kept is not None and self._monotonic() < kept.until_s else None

    def _old(self, key: int) -> bytes:
        with self._lock:
            kept = self._kept.get(key)
            return b"" if kept is None else kept.jpeg

    def _make(self, key: int, stream: str, source: Source, faces: Sequence[Face]) -> bytes:
        jpeg, fresh_s = b"", _FAILED_S
        try:
            frame, is_unit = self._frame(stream, source)
            if frame is not None:
                jpeg = _draw(frame, faces if frame.offset == source.offset else ())
                fresh_s = _UNITS_FRESH_S if is_unit else _FRESH_S
        except InputError:
            pass
        except DiffFakeError:
            self._disconnect()
        with self._lock:
            jpeg = jpeg or (self._kept[key].jpeg if key in self._kept else b"")
            self._kept[key] = _Kept(jpeg, self._monotonic() + fresh_s)
            self._kept.move_to_end(key)
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return jpeg

    def _frame(self, stream: str, source: Source) -> tuple[DecodedFrame | None, bool]:
        """The frame, and whether it is an access unit."""
        if self._broker is None or self._reader is None:
            self._broker = self._connect()
            self._reader = self._broker.reader()
        partition, key = TopicPartition(source.topic, source.partition), stream.encode()
        record = next(self._reader.read(partition, source.offset, source.offset + 1), None)
        if record is None or record.value is None or record.key != key:
            return None, False
        payload = _payload(record)
        if sniff(payload.value) in IMAGES | SEGMENTS:
            frames = StreamDecoder(_SETTINGS).decode(payload).frames
            return next((frame for frame in frames if frame.index == source.index), None), False
        return _last(_units(self._reader, partition, source.offset, key)), True

    def _disconnect(self) -> None:
        broker, self._broker, self._reader = self._broker, None, None
        if broker is not None:
            with suppress(DiffFakeError), closing(broker):
                pass


def _payload(record: Record) -> Payload:
    return Payload(record.value or b"", record.headers, record.timestamp_ms, record.offset)


def _units(reader: Reader, partition: TopicPartition, offset: int, key: bytes) -> list[Payload]:
    """The stream's records up to that offset: the newest that are within the bounds."""
    start = max(offset + 1 - _UNITS_BACK, reader.beginning_offset(partition))
    units, size = list[Payload](), 0
    for record in reader.read(partition, start, offset + 1):
        if record.key == key and record.value is not None:
            units.append(_payload(record))
            size += len(record.value)
        while size > _UNITS_BYTES:
            size -= len(units.pop(0).value)
    return units


def _last(units: Sequence[Payload]) -> DecodedFrame | None:
    decoder, last = StreamDecoder(_SETTINGS), None
    for payload in units:
        with suppress(InputError):
            for frame in _taken(decoder, payload):
                last = frame
    return last


def _taken(decoder: StreamDecoder, payload: Payload) -> Iterator[DecodedFrame]:
    yield from decoder.decode(payload).frames


def _draw(frame: DecodedFrame, faces: Sequence[Face]) -> bytes:
    picture = frame.picture
    width = min(_WIDTH_PX, picture.width_px)
    height = max(1, round(picture.height_px * width / picture.width_px))
    image: U8 = np.ascontiguousarray(picture.small(width, min(height, 2 * _WIDTH_PX)))
    scale = width / picture.width_px
    for face in faces:
        levels = [said.level for said in face.evidence.values()]
        worst = max(levels, key=lambda level: level.rank, default=Level.NOTHING)
        x0, y0, x1, y1 = (round(float(np.clip(corner, -1e5, 1e5)) * scale) for corner in face.box_px)
        cv2.rectangle(image, (x0, y0), (x1, y1), _COLOURS[worst], 2)
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    data = jpeg.tobytes() if done else b""
    return data if len(data) <= _MAX_JPEG_BYTES else b""
