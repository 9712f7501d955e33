"""Parity of the face detector: the same faces, in the same places."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from difffake.errors import EngineFileError, ParityError
from difffake.faces import Faces
from difffake.faces.centerface import MULTIPLE, decode
from engines.half import DETECTOR_INPUT, DETECTOR_OUTPUTS
from engines.manifest import Comparison

U8 = npt.NDArray[np.uint8]

THRESHOLD = 0.5
#: A face this near the threshold may be found by one and not by the other.
MAX_CONFIDENCE_ERROR = 0.02
#: Median and most, as a share of the distance between the eyes: 0.6 px of the extractor's crop. Where two neighbouring
#: cells of the heatmap are equally sure of a face, rounding decides which of them speaks for it: hence the difference.
MAX_LANDMARK_ERROR = (0.01, 0.1)
#: Likewise, as a share of the longer side of the box.
MAX_BOX_ERROR = (0.01, 0.1)
_SIDE_PX = 640


def compare_detectors(before: bytes, after: bytes, frames: list[U8], *, reference: str, candidate: str) -> Comparison:
    """Run two ONNX files of the detector on the same frames ``(H, W, 3) uint8`` and compare the faces they find.

    Raises:
        EngineFileError: ONNX Runtime cannot run one of them.
        ParityError: a face is lost or new, or has moved.
    """
    landmarks: list[float] = []
    boxes: list[float] = []
    confidences: list[float] = []
    lost = 0
    sessions = [_session(before), _session(after)]
    for frame in frames:
        planes = _planes(frame)
        old, new = (_detect(session, planes) for session in sessions)
        pairs = match(old, new)
        matched = [{pair[side] for pair in pairs} for side in (0, 1)]
        for found, rows in ((old, matched[0]), (new, matched[1])):
            alone = [row for row in range(len(found)) if row not in rows]
            lost += int((found.confidence[alone] > THRESHOLD + MAX_CONFIDENCE_ERROR).sum())
        for a, b in pairs:
            eyes = float(np.hypot(*(old.landmarks_px[a, 1] - old.landmarks_px[a, 0])))
            side = float((old.boxes_px[a, 2:] - old.boxes_px[a, :2]).max())
            landmarks.append(float(np.abs(old.landmarks_px[a] - new.landmarks_px[b]).max()) / eyes)
            boxes.append(float(np.abs(old.boxes_px[a] - new.boxes_px[b]).max()) / side)
            confidences.append(float(abs(old.confidence[a] - new.confidence[b])))
    if not landmarks:
        raise ParityError(
            f"{candidate} and {reference} find no common face in {len(frames)} pictures",
            hint="give pictures with faces: --faces",
        )
    figures: dict[str, float | None] = {
        "faces": len(landmarks),
        "faces_lost_or_new": lost,
        "landmark_error_median": float(np.median(landmarks)),
        "landmark_error_max": max(landmarks),
        "box_error_median": float(np.median(boxes)),
        "box_error_max": max(boxes),
        "confidence_error_max": max(confidences),
    }
    faults = [f"{lost} faces are lost or new"] if lost else []
    for what, errors, (usual, most) in (
        ("landmarks move", landmarks, MAX_LANDMARK_ERROR),
        ("boxes move", boxes, MAX_BOX_ERROR),
    ):
        if not (np.median(errors) <= usual and max(errors) <= most):
            faults.append(
                f"{what} by {np.median(errors):.4f} (median, limit {usual}), {max(errors):.4f} at most (limit {most})"
            )
    if not max(confidences) <= MAX_CONFIDENCE_ERROR:
        faults.append(f"the confidence moves by {max(confidences):.4f} (limit {MAX_CONFIDENCE_ERROR})")
    if faults:
        raise ParityError(
            f"{candidate} does not find the faces of {reference}: {'; '.join(faults)}",
            hint="keep the exact detector; it is what runs unless another one is asked for",
        )
    return Comparison(reference=reference, candidate=candidate, pictures=len(frames), figures=figures, accepted=True)


def _session(onnx: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a dozen private classes
        raise EngineFileError(
            f"ONNX Runtime cannot load the detector: {str(error).splitlines()[0][:200]}",
            hint="pip install -U onnxruntime",
        ) from error


def _planes(frame: U8) -> npt.NDArray[np.float32]:
    """A frame ``(H, W, 3)`` at the size of an analysis, sides in whole multiples: ``(1, 3, h, w) float32``."""
    scale = _SIDE_PX / max(frame.shape[:2])
    height, width = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in frame.shape[:2])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small.transpose(2, 0, 1)[None], np.float32)


def _detect(session: ort.InferenceSession, planes: npt.NDArray[np.float32]) -> Faces:
    maps = session.run(list(DETECTOR_OUTPUTS), {DETECTOR_INPUT: planes})
    return decode(*(np.nan_to_num(m[0]) for m in maps), threshold=THRESHOLD)


def match(old: Faces, new: Faces) -> list[tuple[int, int]]:
    """Pairs of rows whose boxes overlap by half, the most confident first."""
    pairs: list[tuple[int, int]] = []
    free = set(range(len(new)))
    for a in range(len(old)):
        overlaps = {b: _iou(old.boxes_px[a], new.boxes_px[b]) for b in free}
        best = max(overlaps, key=lambda b: overlaps[b], default=None)
        if best is not None and overlaps[best] >= 0.5:
            pairs.append((a, best))
            free.remove(best)
    return pairs


def _iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))
