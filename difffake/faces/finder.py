"""The faces of one frame of each of several streams: the whole picture now and then, known faces in between.

Looking through a whole picture costs far more than looking again where a face was. So a stream's whole picture is
looked through only from time to time, after a cut, and when a face that was known is lost; on all other frames only
close-ups around the known faces are, those of all streams in one run of the network. Whichever way a face was found,
its landmarks come from a close-up in which it has the same size and place, so that crops do not jump between the two.

What is remembered of a stream goes in and comes out, as a `FinderState`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from difffake.faces.centerface import MAX_RUN_PIXELS, NMS_IOU, CenterFace, non_maximum_suppression
from difffake.faces.contract import F32, U8, FaceDetector, Faces
from difffake.faces.runtime import DetectorRuntime
from difffake.people.cuts import SIZE_PX, CutDetector, CutMemory
from difffake.settings import MAX_ANALYSIS_PX, MAX_FACES, MIN_ANALYSIS_PX

if TYPE_CHECKING:
    from difffake.picture import Picture

F64 = npt.NDArray[np.float64]

#: Side of a close-up, and the size that a face shall have in it.
CLOSE_PX, FACE_PX = 128, 56
#: Whole pictures are looked through at this scale, in which a face of 50 px, the smallest that is fit for scoring, has
#: 15; but those of a long side of `LEAST_SIDE_PX` and less as they are.
SCALE, LEAST_SIDE_PX = 0.3, 256
#: Pictures in one run of the network.
_MAX_BATCH = 32
#: Larger whole pictures, where they are asked for, take their memory when they come.
_WARM_SIDE_PX = 480
#: Close-ups enlarge the picture by no more than this: more shows nothing new.
_MAX_ENLARGE = 2.0
#: Faces are this many times as high as wide: the larger of height and so many widths is the size of a face.
_ASPECT = 1.2
#: A close-up serves as long as its face lies no farther from its middle than this, in sizes of the face, and is
#: larger or smaller than it was made for by no more than this factor. Else another one is taken. A face that keeps
#: still keeps its close-up, pixel for pixel.
_OFF_CENTRE, _OFF_SIZE = 0.25, 1.3
#: Of this share of the longest time between two whole pictures on, the next one is due: frames are not quite periodic.
_DUE = 0.95
#: Share of the blocks outside faces that are not where they were (`difffake.people.cuts`), above which somebody may
#: have come. Of 720p, a block is 107 x 90 px, and there are 96.
_STIRRED = 0.04
#: No picture reaches farther.
_MAX_PX = 1e6

#: Where a face is: the middle of its box, x and y, and its size, px of the picture.
_Place = tuple[float, float, float]


class FinderState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a finder remembers of a stream: 5 KB of the cut detector, and 30 bytes a face. msgspec encodes it.

    Args:
        places: of the close-ups of the last frame's faces: x and y of their middle, and the size of the face that
            they were made for, in its pixels.
        size_px: width and height of the last frame.
        whole_ns: PTS of the frame whose whole picture was looked through last; None before the first.
        cuts: of the cut detector.
        has_stirred: something moved outside the faces since then.

    Raises:
        ValueError: places that cannot be.
    """

    places: Annotated[tuple[_Place, ...], msgspec.Meta(max_length=MAX_FACES)] = ()
    size_px: tuple[int, int] = (0, 0)
    whole_ns: int | None = None
    cuts: CutMemory = CutMemory()
    has_stirred: bool = False

    def __post_init__(self) -> None:
        for x, y, size in self.places:
            # So written that NaN is refused, too.
            if not (abs(x) <= _MAX_PX and abs(y) <= _MAX_PX and 1 <= size <= _MAX_PX):
                raise ValueError("a finder's faces are at finite places and have a size")


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found in a frame.

    Args:
        faces: in pixels of the picture, best first.
        state: to be given with the stream's next frame.
        is_cut: another shot begins with this frame.
        is_whole: the whole picture was looked through.
    """

    faces: Faces
    state: FinderState
    is_cut: bool
    is_whole: bool


class Finder(Protocol):
    """Finds the faces of frames of different streams."""

    def find(self, pictures: Sequence[Picture], pts_ns: Sequence[int], states: Sequence[FinderState]) -> list[Found]:
        """One `Found` for each picture.

        Args:
            pictures: N pictures, each of another stream.
            pts_ns: N presentation times, ns.
            states: N states of before; `FinderState()` at a stream's start.

        Raises:
            EngineError: the network failed.
        """
        ...

    def warm(self) -> None:
        """Run the network at its largest: what it needs it then holds from the beginning.

        Raises:
            EngineError: the network failed.
        """
        ...


class EveryFrame:
    """A `Finder` that gives each whole picture to a detector and takes what it says."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector, self._cuts = detector, CutDetector()

    def find(self, pictures: Sequence[Picture], pts_ns: Sequence[int], states: Sequence[FinderState]) -> list[Found]:
        """See `Finder.find`."""
        found = self._detector.detect([picture.rgb() for picture in pictures])
        result = []
        for picture, pts, state, faces in zip(pictures, pts_ns, states, found, strict=True):
            cut, cuts = self._cuts.look(picture.rgb(), faces.boxes_px, state.cuts)
            known = FinderState((), (picture.width_px, picture.height_px), pts, cuts)
            result.append(Found(faces, known, cut, True))
        return result

    def warm(self) -> None:
        """See `Finder.warm`. Of which size pictures will be nobody knows."""


class FaceFinder:
    """A `Finder` with CenterFace that looks through whole pictures at a low rate.

    A face that comes into view is found within ``whole_s`` of stream time, or where that moved nothing to speak of,
    within ``still_s``; at once after a cut, when another face is lost, or when it is close to a known one.

    Args:
        whole_side_px: longest side at which whole pictures are looked through, 32 to 4096. Smaller ones are shrunk
            no less than to `SCALE`.
        whole_s: time from one whole picture to the next, s of stream time, where no face is known or something moves
            outside the known ones; 0 looks through every frame.
        still_s: longest time between two where nothing does; less than ``whole_s`` counts as that.
        threshold: least confidence of a face in its close-up, 0 to 1.
        candidate: least confidence in the whole picture with which a place is worth a close-up.
        max_faces: faces per picture, the most confident; at most 64.
        threads: threads inside one run of the network; 0 takes every core.
        runtime: what runs the network.

    Raises:
        ValueError: an argument is out of its range.
        BundleError, EngineError: as `CenterFace`.
    """

    def __init__(
        self,
        whole_side_px: int = 480,
        whole_s: float = 1.0,
        still_s: float = 0.0,
        *,
        threshold: float = 0.5,
        candidate: float = 0.1,
        max_faces: int = 8,
        threads: int = 0,
        runtime: DetectorRuntime = DetectorRuntime.ONNX,
    ) -> None:
        if not (whole_s >= 0 and math.isfinite(whole_s)):
            raise ValueError(f"whole_s must be 0 or more seconds, not {whole_s}")
        if not (still_s >= 0 and math.isfinite(still_s)):
            raise ValueError(f"still_s must be 0 or more seconds, not {still_s}")
        if not MIN_ANALYSIS_PX <= whole_side_px <= MAX_ANALYSIS_PX:
            raise ValueError(f"whole_side_px must be {MIN_ANALYSIS_PX} to {MAX_ANALYSIS_PX}, not {whole_side_px}")
        if not 0 < candidate <= threshold < 1:
            raise ValueError(f"need 0 < candidate <= threshold < 1, not {candidate} and {threshold}")
        if not 1 <= max_faces <= MAX_FACES:
            raise ValueError(f"max_faces must be 1 to {MAX_FACES}, not {max_faces}")
        network = CenterFace(threads=threads, max_faces=2 * max_faces, max_batch=_MAX_BATCH, runtime=runtime)
        self._whole, self._close = network.as_is(candidate), network.as_is(threshold, is_steady=True)
        self._side_px, self._max_faces = whole_side_px, max_faces
        self._due_ns = round(_DUE * whole_s * 1e9)
        self._still_ns = round(_DUE * max(whole_s, still_s) * 1e9) if whole_s else 0
        self._cuts = CutDetector()

    def find(self, pictures: Sequence[Picture], pts_ns: Sequence[int], states: Sequence[FinderState]) -> list[Found]:
        """See `Finder.find`. What is found in a frame does not depend on the others."""
        rows = [_Row(*row) for row in zip(pictures, pts_ns, states, strict=True)]
        self._look_through([row for row in rows if row.is_due(self._due_ns, self._still_ns)])
        self._look_close(rows)
        again = [row for row in rows if not row.is_whole and row.needs_more(self._cuts, self._due_ns)]
        self._look_through(again)
        self._look_close(again)
        return [row.found(self._cuts) for row in rows]

    def warm(self) -> None:
        """See `Finder.warm`: a whole picture of 1080p, and as many close-ups as a run takes."""
        side = min(self._side_px, _WARM_SIDE_PX)
        self._whole.detect([np.zeros((side * 9 // 16, side, 3), np.uint8)])
        self._close.detect([np.zeros((CLOSE_PX, CLOSE_PX, 3), np.uint8)] * (MAX_RUN_PIXELS // CLOSE_PX**2))

    def _look_through(self, rows: list[_Row]) -> None:
        """Find places in whole pictures that are worth a close-up."""
        small = [_small(row.picture, self._side_px) for row in rows]
        for row, image, faces in zip(rows, small, self._whole.detect(small), strict=True):
            row.take_candidates(faces, image.shape)

    def _look_close(self, rows: list[_Row]) -> None:
        """Take close-ups of all places not yet looked at; where one shows a face ill placed, another one of that."""
        for is_last in (False, True):
            open_rows = [row for row in rows if row.has_open]
            if not open_rows:
                return
            wanted = [(row, place) for row in open_rows for place in row.take_places()]
            views = [_CloseUp.of(row.picture, place) for row, place in wanted]
            seen = self._close.detect([view.image for view in views])
            for (row, place), view, faces in zip(wanted, views, seen, strict=True):
                row.take_faces(place, view.to_picture(faces), is_last)
            for row in open_rows:
                row.settle(self._max_faces)


class _Row:
    """One frame while it is looked at."""

    def __init__(self, picture: Picture, pts_ns: int, state: FinderState) -> None:
        self.picture, self._pts_ns, self._state = picture, pts_ns, state
        self._size_px = (picture.width_px, picture.height_px)
        self._is_same_size = state.size_px == self._size_px
        #: Places of the faces of the frame before, and places to be looked at.
        self._known = state.places if self._is_same_size else ()
        self._open: list[_Place] = list(self._known)
        self._faces, self._places = Faces.empty(), list[_Place]()
        self.is_whole = False
        self._thumbnail: U8 | None = None
        self._cut: tuple[bool, CutMemory] | None = None

    def is_due(self, due_ns: int, still_ns: int) -> bool:
        """Whether the whole picture is to be looked through whatever the close-ups show."""
        is_calm = bool(self._known) and not self._state.has_stirred
        return self._is_past(still_ns if is_calm else due_ns)

    def needs_more(self, cuts: CutDetector, due_ns: int) -> bool:
        """Whether it is to be looked through, as the close-ups show: a face is lost, a cut, or something stirs."""
        if self.has_lost or self.see_cut(cuts)[0]:
            return True
        return self._is_past(due_ns) and self._stirs(cuts)

    def _is_past(self, due_ns: int) -> bool:
        last = self._state.whole_ns
        return last is None or not self._is_same_size or not 0 <= self._pts_ns - last < due_ns

    def _stirs(self, cuts: CutDetector) -> bool:
        before = self.see_cut(cuts)[1].before
        return bool(before) and before[-1].moved > _STIRRED

    def take_candidates(self, faces: Faces, shape: tuple[int, ...]) -> None:
        """Places of faces found in the shrunk picture of this shape, which are not known yet."""
        self.is_whole = True
        scale = np.array([self._size_px[0] / shape[1], self._size_px[1] / shape[0]] * 2)
        known = [*self._open, *self._places]
        self._open += [p for p in map(_place, faces.boxes_px * scale) if not any(_is_same(p, k) for k in known)]

    @property
    def has_open(self) -> bool:
        """Whether there are places to be looked at."""
        return bool(self._open)

    def take_places(self) -> list[_Place]:
        """The places to be looked at; they are no longer open."""
        places, self._open = self._open, []
        return places

    def take_faces(self, place: _Place, faces: Faces, is_last: bool) -> None:
        """Faces that the close-up of a place shows. One that is ill placed in it becomes a place to be looked at, but
        after the last close-ups it is taken as it is."""
        for i, other in enumerate(map(_place, faces.boxes_px)):
            if _is_well_placed(other, place) or (is_last and _is_same(other, place)):
                self._faces, self._places = _joined(self._faces, faces[i]), [*self._places, place]
            elif not is_last:
                self._open.append(other)

    def settle(self, max_faces: int) -> None:
        """Keep the best of the faces that overlap, and close places where there is one."""
        if len(self._faces) > 1:
            order = np.argsort(-self._faces.confidence, kind="stable")
            kept = order[non_maximum_suppression(self._faces.boxes_px[order], NMS_IOU)][:max_faces]
            self._faces, self._places = self._faces[kept], [self._places[i] for i in kept]
        self._cut = None
        taken = [_place(box) for box in self._faces.boxes_px]
        is_full, places = len(taken) >= max_faces, self._open
        self._open = []
        for place in () if is_full else places:
            if not any(_is_same(place, other) for other in (*taken, *self._open)):
                self._open.append(place)

    @property
    def has_lost(self) -> bool:
        """Whether a face of the frame before is not there."""
        here = [_place(box) for box in self._faces.boxes_px]
        return len(here) < len(self._known) or not all(any(_is_near(p, k) for p in here) for k in self._known)

    def see_cut(self, cuts: CutDetector) -> tuple[bool, CutMemory]:
        """Whether a cut lies before this frame, as its faces are known now, and what to remember for the next."""
        if self._thumbnail is None:
            self._thumbnail = self.picture.small(*SIZE_PX)
        if self._cut is None:
            scale = np.array([SIZE_PX[0] / self._size_px[0], SIZE_PX[1] / self._size_px[1]] * 2, np.float32)
            self._cut = cuts.look(self._thumbnail, self._faces.boxes_px * scale, self._state.cuts)
        return self._cut

    def found(self, cuts: CutDetector) -> Found:
        """What there is in the frame."""
        is_cut, memory = self.see_cut(cuts)
        whole_ns = self._pts_ns if self.is_whole else self._state.whole_ns
        has_stirred = not self.is_whole and (self._state.has_stirred or self._stirs(cuts))
        state = FinderState(tuple(self._places), self._size_px, whole_ns, memory, has_stirred)
        return Found(self._faces, state, is_cut, self.is_whole)


@dataclass(frozen=True, slots=True, eq=False)
class _CloseUp:
    """Part of a picture in a square of `CLOSE_PX`: its pixel ``at_px`` shows pixel ``origin_px`` of the picture, x and
    y, and each of its pixels is as large as ``scale`` of them."""

    image: U8
    at_px: F64
    origin_px: F64
    scale: F64

    @staticmethod
    def of(picture: Picture, place: _Place) -> _CloseUp:
        """The surroundings of a place; black beyond the picture's edges, as in the network's own padding."""
        x, y, size = place
        side = _even(max(size / FACE_PX, 1 / _MAX_ENLARGE) * CLOSE_PX)
        begin = round(x - side / 2), round(y - side / 2)
        left, right, x0, x1 = _inside(begin[0], side, picture.width_px)
        top, bottom, y0, y1 = _inside(begin[1], side, picture.height_px)
        image = np.zeros((CLOSE_PX, CLOSE_PX, 3), np.uint8)
        if x0 >= x1 or y0 >= y1:
            return _CloseUp(image, np.zeros(2), np.array(begin, np.float64), np.full(2, side / CLOSE_PX))
        # To the edges, though the last pixels are not looked at: the face's crops are cut from there, too.
        part = picture.crop(left, top, right, bottom)[y0 - top : y1 - top, x0 - left : x1 - left]
        # What lies beyond the edges is never made at full size: it may be far larger than the picture.
        (at_x, width), (at_y, height) = _share(begin[0], x0, x1, side), _share(begin[1], y0, y1, side)
        how = cv2.INTER_AREA if side > CLOSE_PX else cv2.INTER_LINEAR
        image[at_y : at_y + height, at_x : at_x + width] = cv2.resize(
            _halved(part, side), (width, height), interpolation=how
        )
        scale = np.array(((x1 - x0) / width, (y1 - y0) / height))
        return _CloseUp(image, np.array((at_x, at_y), np.float64), np.array((x0, y0), np.float64), scale)

    def to_picture(self, faces: Faces) -> Faces:
        """Faces of the close-up in pixels of the picture."""
        boxes = (faces.boxes_px.reshape(-1, 2, 2) - self.at_px) * self.scale + self.origin_px
        points = (faces.landmarks_px + 0.5 - self.at_px) * self.scale - 0.5 + self.origin_px
        return Faces(boxes.reshape(-1, 4).astype(np.float32), points.astype(np.float32), faces.confidence)


def _inside(begin: int, side: int, limit: int) -> tuple[int, int, int, int]:
    """From where to where a close-up lies in a picture, along one of its sides; and what it shows of that."""
    low, high = min(max(begin, 0), limit), min(max(begin + side, 0), limit)
    # By halves it is shrunk fast: at an edge of the picture, what does not fill a block there is left out.
    rest = (high - low) % _block(side)
    return (low, high, low + rest, high) if begin < 0 else (low, high, low, high - rest)


def _share(begin: int, low: int, high: int, side: int) -> tuple[int, int]:
    """Where that is in the close-up, and how long."""
    at = round((low - begin) * (CLOSE_PX / side))
    return at, min(max(round((high - low) * (CLOSE_PX / side)), 1), CLOSE_PX - at)


def _block(side: float) -> int:
    """How many pixels become one where a side is halved until it is less than two close-ups' long."""
    step = 1
    while side >= 2 * step * CLOSE_PX and step < 1 << 20:
        step *= 2
    return step


def _even(side: float) -> int:
    """A side that can be halved so."""
    step = _block(side)
    return max(2, round(side / step) * step)


def _halved(part: U8, side: int) -> U8:
    """A part of a close-up of ``side``, averaged down by halves: OpenCV is fast at those and slow at other shares."""
    while side >= 2 * CLOSE_PX and side % 2 == 0 and part.shape[0] % 2 == 0 and part.shape[1] % 2 == 0:
        side //= 2
        half = part.shape[1] // 2, part.shape[0] // 2
        part = np.asarray(cv2.resize(part, half, interpolation=cv2.INTER_AREA), np.uint8)
    return part


def _small(picture: Picture, side_px: int) -> U8:
    """The whole picture as it is looked through, with a long side of no more than ``side_px``."""
    long = max(picture.width_px, picture.height_px)
    factor = min(1.0, max(SCALE, LEAST_SIDE_PX / long), side_px / long)
    return picture.small(max(1, round(picture.width_px * factor)), max(1, round(picture.height_px * factor)))


def _place(box: F32) -> _Place:
    x1, y1, x2, y2 = box.tolist()
    return (x1 + x2) / 2, (y1 + y2) / 2, min(max(y2 - y1, _ASPECT * (x2 - x1), 1.0), _MAX_PX)


def _distance(a: _Place, b: _Place) -> float:
    """Between their middles, in sizes of the larger one."""
    return math.hypot(a[0] - b[0], a[1] - b[1]) / max(a[2], b[2])


def _size_ratio(a: _Place, b: _Place) -> float:
    """1 or more."""
    return max(a[2], b[2]) / min(a[2], b[2])


def _is_well_placed(face: _Place, place: _Place) -> bool:
    return _distance(face, place) <= _OFF_CENTRE and _size_ratio(face, place) <= _OFF_SIZE


def _is_same(a: _Place, b: _Place) -> bool:
    """Boxes of two places overlap about as much as those of one face do."""
    return _distance(a, b) <= 0.4 and _size_ratio(a, b) <= 2


def _is_near(a: _Place, b: _Place) -> bool:
    return _distance(a, b) <= 1


def _joined(a: Faces, b: Faces) -> Faces:
    return Faces(
        np.concatenate([a.boxes_px, b.boxes_px]),
        np.concatenate([a.landmarks_px, b.landmarks_px]),
        np.concatenate([a.confidence, b.confidence]),
    )
