"""Parity of the face detector by what follows from it: the scores of the faces that it finds and cuts out.

Another runtime finds the same faces a fraction of a pixel elsewhere. Pixels say little of whether that matters: so the
faces that either detector finds in the same frames are cut out, embedded by the exact networks, and scored; and the
gate that judges engines judges these scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from difffake.bundle import Bundle
from difffake.compiling.detector import match
from difffake.compiling.steps import judge
from difffake.errors import DataError, ParityError
from difffake.faces import CenterFace, Faces, Reason, align, assess
from difffake.identity import align_identity
from difffake.parity import ParityFaces
from difffake.video import Frame, open_video
from engines.contract import Precision
from engines.manifest import Comparison
from engines.onnx import OnnxEngine

U8 = npt.NDArray[np.uint8]

#: Of all faces that either finds and that are fit to be scored, those that the other does not find, or finds unfit.
MAX_LOST = 0.01
_BATCH = 8


@dataclass(slots=True)
class _Pairs:
    """The same faces, cut out by either detector's landmarks."""

    crops: tuple[list[U8], list[U8]] = field(default_factory=lambda: ([], []))
    chips: tuple[list[U8], list[U8]] = field(default_factory=lambda: ([], []))
    clip: list[int] = field(default_factory=list)
    time_s: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    lost: int = 0


def compare_by_scores(
    exact: CenterFace,
    other: CenterFace,
    files: Sequence[Path],
    bundle: Bundle,
    *,
    names: tuple[str, str],
    precision: Precision,
    fps: float = 2.5,
    max_frames: int = 40,
    threads: int = 0,
) -> tuple[Comparison, ...]:
    """Find the largest face of each frame with both detectors, and compare what the bundle says of it.

    Args:
        exact, other: the detectors.
        files: clips of real faces.
        bundle: its networks, in float32, embed the faces; its scores are compared.
        names: of the two detectors.
        precision: whose gate judges.
        fps, max_frames: frames looked at per second, and of each clip, from its beginning.
        threads: of the networks; 0 takes every core.

    Returns:
        The comparison of the extractor's scores, and that of the identity network's where the bundle has one.

    Raises:
        DataError: no face that can be scored.
        ParityError: faces are lost or new, or the scores break a limit of the gate.
        DiffFakeError: a clip that cannot be read.
    """
    pairs = _Pairs()
    for number, file in enumerate(files):
        with open_video(file, fps=fps) as video:
            frames = islice(video, max_frames)
            while batch := list(islice(frames, _BATCH)):
                images = [frame.image for frame in batch]
                for frame, old, new in zip(batch, exact.detect(images), other.detect(images), strict=True):
                    _add(pairs, number, frame, old, new, bundle.manifest.side_px, bundle.manifest.eye_distance)
    if not pairs.moved:
        raise DataError(f"no face that can be scored in {len(files)} files", hint="give clips of real faces: --faces")
    share = pairs.lost / (pairs.lost + len(pairs.moved))
    if share > MAX_LOST:
        raise ParityError(
            f"{names[1]} does not find the faces of {names[0]}: {share:.2%} are lost or new (limit {MAX_LOST:.0%})",
            hint="keep the exact detector; it is what runs unless another one is asked for",
        )
    places: dict[str, float | None] = {
        "faces_lost_or_new": pairs.lost,
        "landmark_error_median": float(np.median(pairs.moved)),
        "landmark_error_max": max(pairs.moved),
    }
    found = [_judged(bundle.engine_path, pairs, pairs.crops, bundle, names, precision, threads)]
    if bundle.identity_path is not None:
        found.append(_judged(bundle.identity_path, pairs, pairs.chips, bundle, names, precision, threads))
    return tuple(msgspec.structs.replace(one, figures=places | one.figures) for one in found)


def _add(pairs: _Pairs, clip: int, frame: Frame, old: Faces, new: Faces, side_px: int, eye_distance: float) -> None:
    """The largest face that either finds; counted as lost where it is no fit face to the other."""
    if not len(old) or (len(new) and _largest(new) not in {b for _, b in match(old, new)}):
        pairs.lost += bool(len(new)) and _is_fit(frame, new[_largest(new)], side_px, eye_distance)
        return
    row = _largest(old)
    twin = dict(match(old, new)).get(row)
    is_fit = _is_fit(frame, old[row], side_px, eye_distance)
    if twin is None or is_fit != _is_fit(frame, new[twin], side_px, eye_distance):
        pairs.lost += is_fit or twin is not None
    elif is_fit:
        both = old[row], new[twin]
        for crops, chips, face in zip(pairs.crops, pairs.chips, both, strict=True):
            crops.append(align(frame.image, face.landmarks_px, side_px=side_px, eye_distance=eye_distance)[0][0])
            chips.append(align_identity(frame.image, face.landmarks_px)[0])
        eyes = float(np.hypot(*(both[0].landmarks_px[0, 1] - both[0].landmarks_px[0, 0])))
        pairs.moved.append(float(np.abs(both[0].landmarks_px - both[1].landmarks_px).max()) / eyes)
        pairs.clip.append(clip)
        pairs.time_s.append(frame.pts_s)


def _largest(faces: Faces) -> int:
    return int((faces.boxes_px[:, 2:] - faces.boxes_px[:, :2]).prod(axis=1).argmax())


def _is_fit(frame: Frame, face: Faces, side_px: int, eye_distance: float) -> bool:
    crops, _ = align(frame.image, face.landmarks_px, side_px=side_px, eye_distance=eye_distance)
    height, width = frame.image.shape[:2]
    return assess((height, width), face, crops, eye_distance=eye_distance).reason[0] is Reason.OK


def _judged(
    network: Path,
    pairs: _Pairs,
    cut: tuple[list[U8], list[U8]],
    bundle: Bundle,
    names: tuple[str, str],
    precision: Precision,
    threads: int,
) -> Comparison:
    before, after = (np.ascontiguousarray(np.stack(faces).transpose(0, 3, 1, 2)) for faces in cut)
    faces = ParityFaces(before, np.array(pairs.clip, np.int64), np.array(pairs.time_s), np.zeros(len(before), np.int64))
    with OnnxEngine(network, threads=threads) as engine:
        embedded = engine.infer(before), engine.infer(after)
    return judge(*embedded, faces, bundle, reference=names[0], candidate=names[1], precision=precision)
