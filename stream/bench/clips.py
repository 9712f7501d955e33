"""Video to measure with: a clip at a given size and with a given number of faces, as the records of a stream."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from difffake.errors import DataError
from difffake.faces import CenterFace
from stream.media_records import MediaRecord, segments, units
from stream.packets import SourceReport
from stream.publish import CONTENT_TYPE, PTS_NS, Form

U8 = npt.NDArray[np.uint8]

#: What is left around a face when several are put into one picture, in heights of the face.
_AROUND = 2.2


@dataclass(frozen=True, slots=True)
class Footage:
    """The records of one stream, from time 0 on.

    Args:
        records: in order.
        length_ns: after which the same records may come again.
        fps: of the pictures.
    """

    records: list[MediaRecord]
    length_ns: int
    fps: float

    @property
    def kbit_s(self) -> float:
        """Bit rate."""
        return sum(len(record.value) for record in self.records) * 8e6 / self.length_ns

    def rounds(self, loops: int) -> Iterator[tuple[int, MediaRecord]]:
        """All records, ``loops`` times over, each with the ns that are to be added to its times."""
        for loop in range(loops):
            for record in self.records:
                yield loop * self.length_ns, record


def headers(record: MediaRecord, base_ns: int) -> tuple[tuple[str, bytes], ...]:
    """As `difffake publish` writes them."""
    return ((CONTENT_TYPE, record.content_type.encode()), (PTS_NS, str(base_ns + record.pts_ns).encode()))


def footage(path: Path, form: Form, segment_s: float = 1.0) -> Footage:
    """A file as the records of a stream.

    Raises:
        MediaFormatError, MediaNotFoundError, MediaEmptyError, MediaTruncatedError, NoVideoError, MediaEncryptedError,
        LimitExceededError: see `stream.media_records`.
        DataError: there is no record in it.
    """
    report = SourceReport()
    found = list(segments(path, report, segment_s=segment_s) if form is Form.SEGMENTS else units(path, report))
    if not found:
        raise DataError(f"{path.name} holds no picture", hint="give a video of some seconds")
    length_ns = max(record.end_ns for record in found)
    return Footage(found, length_ns, sum(record.pictures for record in found) * 1e9 / length_ns)


def encode(sources: Sequence[Path], out: Path, *, width: int, height: int, seconds: float, faces: int = 1,
           gop_s: float = 1.0, fps: int = 25, low_delay: bool = False) -> Path:  # fmt: skip
    """H.264 (CRF 23, a key frame every ``gop_s``) of clips of one face each, again and again; with B-frames, but for
    ``low_delay``, which is how encoders of live access units work.

    With one face the first clip fills the picture; with more, the surroundings of the faces stand in a grid.
    """
    shots = [_pictures(source) for source in sources[:faces]]
    frames = seconds * fps
    crops = [(0.0, 0.0, 1.0, 1.0)] if faces == 1 else [_surroundings(shot[0]) for shot in shots]
    columns = math.ceil(math.sqrt(faces * width / height)) if faces > 1 else 1
    rows = math.ceil(faces / columns)
    cell = width // columns, height // rows
    options = {"preset": "veryfast", "crf": "23", "g": str(round(gop_s * fps)), "sc_threshold": "0", "threads": "1"}
    if low_delay:
        options["bf"] = "0"
    with av.open(str(out), "w") as made:
        stream = made.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(frames)):
            picture = np.zeros((height, width, 3), np.uint8)
            for face in range(faces):
                shot = shots[face % len(shots)]
                # The same person twice: not the same picture twice.
                image = shot[(number + face * 7) % len(shot)]
                x, y = face % columns * cell[0], face // columns * cell[1]
                picture[y : y + cell[1], x : x + cell[0]] = _fit(image, crops[face % len(crops)], cell)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return out


def _pictures(source: Path) -> list[U8]:
    with av.open(str(source)) as opened:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in opened.decode(video=0)]


def _surroundings(image: U8) -> tuple[float, float, float, float]:
    """A square around the first face, as shares of width and height; the whole picture where there is none."""
    found = CenterFace(threads=1).detect([image])[0]
    if not len(found):
        return 0.0, 0.0, 1.0, 1.0
    height, width = image.shape[:2]
    x1, y1, x2, y2 = found.boxes_px[0]
    side = min(_AROUND * float(y2 - y1), height, width)
    left = float(np.clip((x1 + x2) / 2 - side / 2, 0, width - side))
    top = float(np.clip((y1 + y2) / 2 - side / 2, 0, height - side))
    return left / width, top / height, (left + side) / width, (top + side) / height


def _fit(image: U8, crop: tuple[float, float, float, float], size: tuple[int, int]) -> U8:
    height, width = image.shape[:2]
    part = image[int(crop[1] * height) : int(crop[3] * height), int(crop[0] * width) : int(crop[2] * width)]
    if crop == (0.0, 0.0, 1.0, 1.0):
        return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    side = min(size)
    square = np.zeros((size[1], size[0], 3), np.uint8)
    x, y = (size[0] - side) // 2, (size[1] - side) // 2
    square[y : y + side, x : x + side] = cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC)
    return square
