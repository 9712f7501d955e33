"""A detector is judged by the scores of the faces that it cuts out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from difffake.bundle import Bundle
from difffake.compiling.detector_scores import compare_by_scores
from difffake.errors import DataError, ParityError
from difffake.faces import CenterFace, Faces
from engines.contract import Precision

FRAMES = 6


class Blind(CenterFace):
    """Finds nothing in every second picture."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        return [faces[:0] if i % 2 else faces for i, faces in enumerate(super().detect(images))]


class Displaced(CenterFace):
    """Sees everything a tenth of a face's width to the right."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Faces]:
        return [
            Faces(f.boxes_px, f.landmarks_px + 0.1 * (f.boxes_px[:, 2] - f.boxes_px[:, 0])[:, None, None], f.confidence)
            for f in super().detect(images)
        ]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(None)


def compared(other: CenterFace, clip: Path, bundle: Bundle, precision: Precision = Precision.FP32) -> list[object]:
    names = "exact", "other"
    found = compare_by_scores(
        CenterFace(threads=1), other, [clip], bundle, names=names, precision=precision, max_frames=FRAMES, threads=1
    )
    return [(one.pictures, one.accepted, one.figures["cosine_min"], one.figures["landmark_error_max"]) for one in found]


def test_the_same_detector_gives_the_same_scores(clips: dict[str, Path], bundle: Bundle) -> None:
    for found in compared(CenterFace(threads=1), clips["woman"], bundle):
        assert found == (FRAMES, True, pytest.approx(1), 0.0)


def test_faces_that_are_cut_out_elsewhere_are_refused(clips: dict[str, Path], bundle: Bundle) -> None:
    with pytest.raises(ParityError, match="an embedding has cosine"):
        compared(Displaced(threads=1), clips["woman"], bundle)


def test_few_faces_prove_nothing(clips: dict[str, Path], bundle: Bundle) -> None:
    with pytest.raises(ParityError, match="at least 400"):
        compared(CenterFace(threads=1), clips["woman"], bundle, Precision.BF16)


def test_a_detector_that_misses_faces_is_refused(clips: dict[str, Path], bundle: Bundle) -> None:
    with pytest.raises(ParityError, match="lost or new"):
        compared(Blind(threads=1), clips["woman"], bundle)


def test_a_clip_without_faces_is_no_proof(clips: dict[str, Path], bundle: Bundle) -> None:
    with pytest.raises(DataError, match="no face that can be scored"):
        compared(CenterFace(threads=1), clips["no_face"], bundle)
