"""Where a shot ends: the picture outside the faces changes in places and in colours, far more than just before.

The interiors of faces are left out: a face swap that starts in the middle of a shot changes nothing else, and must
not look like the start of another shot. Elsewhere two measures are taken: the share of small blocks that are found
nowhere near their old place in the other picture (a moving head takes few of them along, a cut nearly all), and the
change of a coarse colour histogram. Both are held against the frames just before: two talking heads before one
studio background differ in a tenth of the picture, but nothing moved there a moment ago.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from difffake.faces.contract import F32, U8

Mask = npt.NDArray[np.bool_]

#: Width and height of the picture that is compared.
SIZE_PX = (48, 32)
#: Side of a block, and how far it is looked for, in pixels of the shrunk picture: 4 % of its width.
_BLOCK, _REACH = 4, 2
_VALUES = 3 * _BLOCK**2
#: Root mean square difference, grey levels, up to which a block counts as found. Noise, codecs and skin stay below.
_FOUND = 12.0
#: A block that differs by this much is lost beyond doubt.
_LOST = 20.0
#: Another picture altogether: a cut however wild the frames before were. Half of it must be other colours.
_GONE = 0.9
#: Change of the picture's brightness between two frames that is light and not content, grey levels.
_FLICKER = 24.0
#: Swaps blend over the edge of a detector's box: masks are this much larger, as a share of its sides.
_GROW = 0.1
#: With fewer free blocks than this nothing can be said, and nothing is called a cut.
_MIN_BLOCKS = 8
_MEMORY = 6


class Change(NamedTuple):
    """How much changed outside the faces from one picture to the next, all 0 to 1."""

    moved: float
    lost: float
    colour: float


class CutMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What a `CutDetector` remembers of a stream, 5 KB; msgspec encodes it.

    Args:
        picture: the last picture, shrunk to `SIZE_PX`, as bytes; empty before the first.
        faces: which of its pixels lie inside faces, a bit each.
        before: what changed in the frames since the last cut, the last few of them.

    Raises:
        ValueError: sizes or numbers that cannot be.
    """

    picture: bytes = b""
    faces: bytes = b""
    before: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        pixels = SIZE_PX[0] * SIZE_PX[1]
        if (len(self.picture), len(self.faces)) not in ((0, 0), (3 * pixels, pixels // 8)):
            raise ValueError(f"a cut detector's picture has {pixels} pixels")
        if len(self.before) > (_MEMORY if self.picture else 0):
            raise ValueError(f"a cut detector remembers {_MEMORY} changes, and none without a picture")
        if not all(0 <= share <= 1 for change in self.before for share in change):
            raise ValueError("a cut detector's changes are shares from 0 to 1")


class CutDetector:
    """Tells a cut from motion, light, codecs and from what happens inside faces.

    A cut is where half the picture is lost beyond doubt, or where both measures stand out of the last six frames.
    What it remembers of a stream goes in and comes out: one detector serves all streams.

    Args:
        lost: share of blocks, 0 to 1, with which a frame that stands out a little is a cut.
        moved: least share of blocks not found again, and ``moved_ratio`` how often its most in the frames before
            that must be on top of it.
        colour: the same for the share of pixels that change their bin of a coarse colour histogram.

    >>> detector, dark = CutDetector(), np.zeros((36, 64, 3), np.uint8)
    >>> cut, memory = detector.look(dark, None, CutMemory())
    >>> cut, detector.look(dark + np.uint8(200), None, memory)[0]
    (False, True)
    """

    def __init__(
        self,
        lost: float = 0.5,
        moved: float = 0.08,
        moved_ratio: float = 3.0,
        colour: float = 0.12,
        colour_ratio: float = 2.0,
    ) -> None:
        self._lost, self._moved, self._colour = lost, moved, colour
        self._moved_ratio, self._colour_ratio = moved_ratio, colour_ratio

    def look(self, image: U8, boxes_px: F32 | None, memory: CutMemory) -> tuple[bool, CutMemory]:
        """Compare RGB ``(H, W, 3) uint8`` with the image that is remembered; the first one is no cut.

        Args:
            image: any size; one of `SIZE_PX` is taken as it is.
            boxes_px: ``(N, 4) float32``, the faces of this image in its own pixels. What lies inside them, or inside
                those of the image before, is not looked at.
            memory: of the call before; `CutMemory()` at the start.
        """
        picture = image
        if image.shape[1::-1] != SIZE_PX:
            picture = np.asarray(cv2.resize(image, SIZE_PX, interpolation=cv2.INTER_AREA), np.uint8)
        faces = _inside(boxes_px, image.shape[:2])
        before: tuple[Change, ...] = ()
        cut = False
        if memory.picture:
            last, last_faces = _unpacked(memory)
            change = _change(last, picture, last_faces | faces)
            cut = self._stands_out(change, memory.before)
            before = () if cut else (*memory.before, change)[-_MEMORY:]
        return cut, CutMemory(picture.tobytes(), np.packbits(faces).tobytes(), before)

    def _stands_out(self, change: Change, before: tuple[Change, ...]) -> bool:
        if change.lost > _GONE and change.colour > _GONE / 2:
            return True
        if not before:
            return change.lost > self._lost and change.colour > 2 * self._colour
        # The second most: one sudden move must not hide a cut that follows.
        most = Change(*np.sort(before, axis=0)[-min(2, len(before))].tolist())
        return (
            change.moved > self._moved + self._moved_ratio * most.moved
            and change.colour > self._colour + self._colour_ratio * most.colour
        ) or (change.lost > max(self._lost, 1.5 * most.lost) and change.colour > 2 * self._colour)


def _unpacked(memory: CutMemory) -> tuple[U8, Mask]:
    width, height = SIZE_PX
    picture = np.frombuffer(memory.picture, np.uint8).reshape(height, width, 3)
    bits = np.unpackbits(np.frombuffer(memory.faces, np.uint8))
    return picture, bits.reshape(height, width).astype(bool)


def _inside(boxes_px: F32 | None, shape: tuple[int, int]) -> Mask:
    """Mask of the shrunk picture: true inside the boxes, which are grown by `_GROW`."""
    width, height = SIZE_PX
    mask = np.zeros((height, width), bool)
    if boxes_px is None or not len(boxes_px):
        return mask
    low, high = boxes_px[:, :2], boxes_px[:, 2:]
    edge = _GROW * (high - low)
    scale = np.array([width / shape[1], height / shape[0]])
    low = np.clip(np.floor((low - edge) * scale), 0, SIZE_PX).astype(int)
    high = np.clip(np.ceil((high + edge) * scale), 0, SIZE_PX).astype(int)
    for (x1, y1), (x2, y2) in zip(low, high, strict=True):
        mask[y1:y2, x1:x2] = True
    return mask


def _change(old: U8, new: U8, faces: Mask) -> Change:
    width, height = SIZE_PX
    free = ~faces.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK).any(axis=(1, 3)).ravel()
    if free.sum() < _MIN_BLOCKS:
        return Change(0.0, 0.0, 0.0)
    # Old and new, of the pixels outside.
    pixels = np.stack([old.reshape(-1, 3), new.reshape(-1, 3)])[:, np.flatnonzero(~faces)]
    light = _median(pixels[1].astype(np.int16) - pixels[0])
    before = old.astype(np.float32) + np.minimum(np.maximum(light, -_FLICKER), _FLICKER)
    difference = _unlike(before, new.astype(np.float32), free)
    colours = [np.bincount(bins, minlength=512) for bins in _bins(pixels)]
    return Change(
        float((difference > _FOUND).mean()),
        float((difference > _LOST).mean()),
        float(np.abs(colours[0] - colours[1]).sum() / (2 * pixels.shape[1])),
    )


def _median(rows: npt.NDArray[np.int16]) -> F32:
    """Of each column of ``(P, 3)``: whole numbers take a quarter of the time of `np.median`."""
    middle = (len(rows) - 1) // 2, len(rows) // 2
    ordered = np.partition(rows.T, middle, axis=1)
    return np.asarray((ordered[:, middle[0]] + ordered[:, middle[1]].astype(np.float32)) / 2, np.float32)


def _bins(pixels: U8) -> npt.NDArray[np.uint16]:
    """Bins 0 to 511 of pixels ``(..., 3) uint8``: eight of each channel."""
    high = pixels >> 5
    return np.asarray((high[..., 0].astype(np.uint16) << 6) + (high[..., 1] << 3) + high[..., 2], np.uint16)


def _unlike(old: F32, new: F32, free: Mask) -> F32:
    """Root mean square difference of each free block of either picture to the place nearby in the other one that fits
    it best; to its own place where it fits that well enough to be found. First of what went, then of what came."""
    at = np.flatnonzero(free)
    went, came = _blocks(old)[at], _blocks(new)[at]
    moved = came - went
    still = np.asarray(np.sqrt(np.einsum("nk,nk->n", moved, moved) / _VALUES), np.float32)
    result = np.stack([still, still])
    searched = still > _FOUND
    if searched.any():
        for row, wanted, other in zip(result, (went, came), (new, old), strict=True):
            row[searched] = _least_unlike(wanted[searched], other, at[searched])
    return result.ravel()


def _blocks(picture: F32) -> F32:
    """Blocks ``(96, 48)``, channel by channel."""
    height, width = picture.shape[:2]
    blocks = picture.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, 3).transpose(0, 2, 4, 1, 3)
    return blocks.reshape(-1, _VALUES)


def _least_unlike(wanted: F32, other: F32, at: npt.NDArray[np.intp]) -> F32:
    """Root mean square difference of blocks ``(N, 48)``, by their numbers, to what fits them best nearby."""
    padded = cv2.copyMakeBorder(other, _REACH, _REACH, _REACH, _REACH, cv2.BORDER_REPLICATE)
    down, across, channel = padded.strides
    steps = 2 * _REACH + 1
    grid = (SIZE_PX[1] // _BLOCK, SIZE_PX[0] // _BLOCK)
    # All places of a block, without a copy.
    around = np.lib.stride_tricks.as_strided(
        padded,
        (*grid, 3, _BLOCK, _BLOCK, steps, steps),
        (_BLOCK * down, _BLOCK * across, channel, down, across, down, across),
        writeable=False,
    )
    rows, columns = np.divmod(at, grid[1])
    candidates = around[rows, columns].reshape(-1, _VALUES, steps**2) - wanted[:, :, None]
    squares = np.einsum("nkp,nkp->np", candidates, candidates)
    return np.asarray(np.sqrt(squares.min(axis=1) / _VALUES), np.float32)
