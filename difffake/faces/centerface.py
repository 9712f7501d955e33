"""CenterFace on ONNX Runtime: boxes and five landmarks from one small fully convolutional network.

Source: Y. Xu, W. Yan, H. Sun, G. Yang, J. Luo, "CenterFace: Joint Face Detection and Alignment Using Face as
Point" (2019, arXiv:1911.03599). Weights: MIT, see ``weights/CENTERFACE.md``.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from difffake.errors import BundleError, DeviceLostError, EngineError, out_of_memory
from difffake.faces.contract import F32, U8, Faces
from difffake.faces.runtime import DetectorRuntime, Network, open_network

WEIGHTS = Path(__file__).parent / "weights" / "centerface.onnx"
WEIGHTS_SHA256 = "ea634fa7c2178272ef07851b17d6d8c52dc29867f378204c8ad1928e779507ed"

Cells = npt.NDArray[np.intp]
F64 = npt.NDArray[np.float64]

#: Pixels of the network's input per cell of its output.
STRIDE = 4
#: The network halves its input five times and adds the levels up again: sides must be multiples of this.
MULTIPLE = 32
#: Small pictures are enlarged to the analysis side, but by no more than this: more shows nothing new.
MAX_ENLARGE = 2.0
#: Boxes of one face overlap its best one by more than this (intersection over union).
NMS_IOU = 0.3
#: Peaks looked at per image before overlaps are removed; bounds the work that one picture can cause.
MAX_PEAKS = 2000
#: Of the cells around a face's best one, those this confident, as a share of it, speak of the same face.
NEIGHBOURS = 0.3
#: Pixels in one run of the network, but for a single picture that has more: eight close-ups of 128 px. ONNX Runtime
#: keeps what its largest run needed, about 150 bytes a pixel, and larger runs cost as much for each picture.
MAX_RUN_PIXELS = 128 * 1024


class CenterFace:
    """Finds faces with CenterFace; implements `difffake.faces.contract.FaceDetector`.

    Images that come to the same analysis size share runs of the network.

    Args:
        analysis_side_px: long side at which pictures are analysed, 64 to 4096, rounded down to a multiple
            of 32. Larger pictures are averaged down to it, smaller ones enlarged, at most by `MAX_ENLARGE`.
        threshold: least confidence of a face, 0 to 1.
        threads: threads inside one run; 0 lets the runtime take every core.
        max_faces: most faces per picture; the most confident are kept.
        max_batch: most images in one run.
        weights: another copy of the weights; the same file is expected.
        runtime: what runs the network.

    Raises:
        ValueError: an argument is out of its range.
        BundleError: the weights are missing or damaged.
        EngineError: the runtime cannot load them; EngineHostError where this host lacks it.

    >>> CenterFace(threads=1).detect([np.zeros((90, 160, 3), np.uint8)])[0].confidence.tolist()
    []
    """

    def __init__(
        self,
        analysis_side_px: int = 640,
        threshold: float = 0.5,
        threads: int = 0,
        *,
        max_faces: int = 32,
        max_batch: int = 16,
        weights: Path = WEIGHTS,
        runtime: DetectorRuntime = DetectorRuntime.ONNX,
    ) -> None:
        if not 64 <= analysis_side_px <= 4096:
            raise ValueError(f"analysis_side_px must be 64 to 4096, not {analysis_side_px}")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, not {threshold}")
        if max_faces < 1 or max_batch < 1 or threads < 0:
            raise ValueError("max_faces and max_batch must be at least 1, threads at least 0")
        self.analysis_side_px = analysis_side_px // MULTIPLE * MULTIPLE
        self.threshold = threshold
        self.max_faces = max_faces
        self.max_batch = max_batch
        self._max_enlarge, self._is_steady = MAX_ENLARGE, False
        self._network = _load(weights, runtime, threads)

    def as_is(self, threshold: float, *, is_steady: bool = False) -> Self:
        """The same network for pictures that have their analysis size already, of any size.

        Args:
            threshold: least confidence of a face.
            is_steady: landmarks are averaged over each face's best cells: they then move by a sixth less when the
                picture is shifted under the grid of cells.
        """
        other = copy.copy(self)
        other.analysis_side_px, other._max_enlarge = 4096, 1.0
        other.threshold, other._is_steady = threshold, is_steady
        return other

    def detect(self, images: Sequence[U8]) -> list[Faces]:
        """Find the faces of each RGB image ``(H, W, 3) uint8``; coordinates in its own pixels, best first.

        Raises:
            ValueError: an image is not ``(H, W, 3) uint8``.
            EngineError: the network failed.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"image {index} is {image.shape} {image.dtype}, not (H, W, 3) uint8")
            groups.setdefault(self._padded_size(image), []).append(index)
        found = [Faces.empty()] * len(images)
        for (height, width), members in groups.items():
            batch = max(1, min(self.max_batch, MAX_RUN_PIXELS // (height * width)))
            for start in range(0, len(members), batch):
                part = members[start : start + batch]
                canvases = np.zeros((len(part), height, width, 3), np.uint8)
                scales = [self._fill(canvas, images[i]) for canvas, i in zip(canvases, part, strict=True)]
                maps = self._run(canvases)
                for row, (i, scale) in enumerate(zip(part, scales, strict=True)):
                    found[i] = decode(
                        *(m[row] for m in maps),
                        scale_xy=scale,
                        threshold=self.threshold,
                        max_faces=self.max_faces,
                        is_steady=self._is_steady,
                    )
        return found

    def _inner_size(self, image: U8) -> tuple[int, int]:
        height, width = image.shape[:2]
        factor = min(self.analysis_side_px / max(height, width), self._max_enlarge)
        return max(1, round(height * factor)), max(1, round(width * factor))

    def _padded_size(self, image: U8) -> tuple[int, int]:
        height, width = self._inner_size(image)
        return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE

    def _fill(self, canvas: U8, image: U8) -> tuple[float, float]:
        """Scale an image into the canvas's top left corner; return image pixels per canvas pixel, x and y."""
        height, width = self._inner_size(image)
        if (height, width) == image.shape[:2]:
            canvas[:height, :width] = image
            return 1.0, 1.0
        shrink = height < image.shape[0] or width < image.shape[1]
        canvas[:height, :width] = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        )
        return image.shape[1] / width, image.shape[0] / height

    def _run(self, canvases: U8) -> list[F32]:
        try:
            return self._network(canvases)
        except DeviceLostError:
            raise  # the process must start again
        except Exception as error:  # the runtime raises a dozen private classes
            if (no_memory := out_of_memory(error)) is not None:
                raise no_memory from error
            raise EngineError(
                f"the face detector failed on a batch of {canvases.shape}: {_first_line(error)}",
                hint="lower the analysis size or the batch; if it stays, report it",
            ) from error


def decode(
    heatmap: F32,
    scale: F32,
    offset: F32,
    landmarks: F32,
    *,
    scale_xy: tuple[float, float] = (1.0, 1.0),
    threshold: float = 0.5,
    max_faces: int = 32,
    is_steady: bool = False,
) -> Faces:
    """Turn CenterFace's output maps of one image into faces (sections 3.1 and 3.2 of the paper).

    A cell of the heatmap is the probability that a face's centre lies in it. Per cell, ``offset`` (y, x)
    shifts the centre within the cell, ``exp(scale)`` (height, width) in cells is the size of the box, and
    ``landmarks`` are five ``(y, x)`` in units of the box from its upper left corner.

    Args:
        heatmap: ``(1, h, w) float32``, 0 to 1.
        scale: ``(2, h, w) float32``, natural logarithm of height and width in cells of `STRIDE` pixels.
        offset: ``(2, h, w) float32``, cells.
        landmarks: ``(10, h, w) float32``, shares of the box.
        scale_xy: image pixels per network pixel.
        threshold: least heatmap value.
        max_faces: most faces to return.
        is_steady: the landmarks of a face are the mean over the cells next to its best one, weighted by confidence.
    """
    peak = heatmap[0]
    cells = np.flatnonzero(peak >= threshold)
    if len(cells) == 0:
        return Faces.empty()
    confidence = peak.ravel()[cells]
    best = (-confidence).argsort(kind="stable")[:MAX_PEAKS]
    cells, confidence = cells[best], confidence[best]
    boxes, points = _faces_of_cells(scale, offset, landmarks, cells)
    # Network pixel p covers [p, p + 1); pixel coordinates are those of centres.
    ratio = np.asarray(scale_xy)
    boxes = (boxes.reshape(-1, 2, 2) * ratio).reshape(-1, 4).astype(np.float32)
    points = (points * ratio - 0.5).astype(np.float32)
    sound = np.flatnonzero(_plausible(boxes, points))
    kept = sound[non_maximum_suppression(boxes[sound], NMS_IOU)][:max_faces]
    if is_steady:
        for face in kept:
            points[face] = _mean_landmarks(peak, scale, offset, landmarks, int(cells[face])) * ratio - 0.5
    return Faces(boxes[kept], points[kept], confidence[kept].astype(np.float32, copy=False))


def _faces_of_cells(scale: F32, offset: F32, landmarks: F32, cells: Cells) -> tuple[F64, F64]:
    """Boxes ``(N, 4)`` and landmarks ``(N, 5, 2)`` that N cells tell, in pixels of the network. Cells are counted row
    by row."""
    # A wild exponent is a broken prediction: e^12 cells are wider than any picture.
    size = np.exp(np.minimum(np.maximum(scale.reshape(2, -1)[:, cells], -12), 12)) * STRIDE
    # Rows: y and x.
    low = (np.array(np.divmod(cells, scale.shape[2])) + offset.reshape(2, -1)[:, cells] + 0.5) * STRIDE - size / 2
    boxes = np.concatenate([low[::-1], (low + size)[::-1]]).T
    shares = landmarks.reshape(10, -1)[:, cells].T.reshape(-1, 5, 2)[:, :, ::-1]
    return boxes, shares * size[::-1].T[:, None] + boxes[:, None, :2]


def _mean_landmarks(peak: F32, scale: F32, offset: F32, landmarks: F32, cell: int) -> F32:
    """Landmarks ``(5, 2)`` of the face of a cell: the mean over the 3 x 3 cells around it."""
    width = peak.shape[1]
    row, column = divmod(cell, width)
    top, left = max(row - 1, 0), max(column - 1, 0)
    near = peak[top : row + 2, left : column + 2]
    rows, columns = (near >= NEIGHBOURS * peak[row, column]).nonzero()
    weights = near[rows, columns]
    cells = (rows + top) * width + columns + left
    boxes, points = _faces_of_cells(scale, offset, landmarks, cells)
    alone = points[cells == cell][0]
    # A neighbour of another face, or a broken one, has no say.
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    agrees = (np.abs(points - alone) < 0.2 * size[:, None]).all(axis=(1, 2))
    if not agrees.any():
        return np.asarray(alone, np.float32)
    of = weights[agrees].astype(np.float64)[:, None, None]
    return np.asarray((points[agrees] * of).sum(axis=0) / of.sum(axis=0), np.float32)


def non_maximum_suppression(boxes_px: F32, iou: float) -> npt.NDArray[np.intp]:
    """Return the indices of the boxes ``(N, 4)``, best first, that overlap no better one by over ``iou``."""
    low, high = boxes_px[:, :2], boxes_px[:, 2:]
    size = high - low
    area = size[:, 0] * size[:, 1]
    open_ = np.arange(len(boxes_px))
    kept: list[int] = []
    while len(open_):
        first, rest = open_[0], open_[1:]
        kept.append(int(first))
        if not len(rest):
            break
        both = np.maximum(np.minimum(high[first], high[rest]) - np.maximum(low[first], low[rest]), 0)
        shared = both[:, 0] * both[:, 1]
        open_ = rest[shared <= iou * (area[first] + area[rest] - shared)]
    return np.array(kept, np.intp)


def _plausible(boxes: F32, points: F32) -> npt.NDArray[np.bool_]:
    """Tell faces from broken predictions: finite, with a size, eyes apart, and landmarks about the box."""
    size = boxes[:, 2:] - boxes[:, :2]
    eyes = np.hypot(*(points[:, 1] - points[:, 0]).T)
    relative = (points - boxes[:, None, :2]) / np.maximum(size, 1e-6)[:, None]
    # Profiles have their eyes close together; below 2 % of the width no crop can be aligned to them. What is not
    # finite has no finite size, or lies beyond the bounds.
    return np.asarray(
        ((size > 1) & (size < np.inf)).all(axis=1)
        & (eyes > 0.02 * size[:, 0])
        & ((relative > -0.5) & (relative < 1.5)).all(axis=(1, 2))
    )


def _load(weights: Path, runtime: DetectorRuntime, threads: int) -> Network:
    hint = "install difffake again; in a source tree run `python scripts/make_centerface.py`"
    try:
        data = weights.read_bytes()
    except OSError as error:
        raise BundleError(
            f"cannot read the face detector's weights {weights.name}: {error.strerror}", hint=hint
        ) from error
    if hashlib.sha256(data).hexdigest() != WEIGHTS_SHA256:
        raise BundleError(f"the face detector's weights {weights.name} are damaged (sha256)", hint=hint)
    return open_network(weights, runtime, threads)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
