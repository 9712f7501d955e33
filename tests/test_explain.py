"""A heat map points at the part of the face that the score comes from, and costs a bounded number of faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from tiny import write_tiny_bundle

from difffake.bundle import Bundle
from difffake.detector import Detector
from difffake.explain import GRID, explain, overlay
from difffake.report import render_report
from difffake.settings import ScanSettings

SIDE = 224


def face(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def sharpness_at(y: int, x: int, reach: int = 16) -> Callable[[np.ndarray], np.ndarray]:
    """A score that comes from one place alone: how rough the picture is there."""

    def score(crops: np.ndarray) -> np.ndarray:
        assert crops.dtype == np.uint8
        return crops[:, y - reach : y + reach, x - reach : x + reach].astype(float).std(axis=(1, 2, 3))

    return score


@pytest.mark.parametrize(("y", "x"), [(48, 48), (112, 112), (176, 80)])
def test_the_part_behind_the_score_is_found(y: int, x: int) -> None:
    found = explain(face(), sharpness_at(y, x))
    row, column = np.unravel_index(found.drop.argmax(), found.drop.shape)
    assert (row, column) == (y * GRID // SIDE, x * GRID // SIDE)
    assert found.drop.max() > 5 * np.median(found.drop)


def test_the_picture_is_reddest_there() -> None:
    picture = overlay(face(), explain(face(), sharpness_at(176, 80)))
    assert picture is not None
    seen = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).astype(float)
    red = cv2.GaussianBlur(seen[..., 2] - seen[..., :2].mean(axis=2), (0, 0), 12)
    y, x = np.unravel_index(red.argmax(), red.shape)
    assert np.hypot(y - 176, x - 80) < SIDE / GRID


def test_a_bounded_number_of_faces_is_asked_for() -> None:
    asked = []

    def score(crops: np.ndarray) -> np.ndarray:
        asked.append(len(crops))
        return np.zeros(len(crops))

    found = explain(face(), score)
    assert sum(asked) == GRID**2 + 1
    assert overlay(face(), found) is None  # nothing depends on anything: there is nothing to show


def test_a_score_that_rises_everywhere_shows_nothing() -> None:
    assert overlay(face(), explain(face(), lambda crops: -crops.astype(float).std(axis=(1, 2, 3)))) is None


def test_a_scan_explains_its_most_suspicious_moments(clips: dict[str, Path], tiny_bundle: Bundle) -> None:
    settings = ScanSettings(fps=2.0, duration_s=4.0, analysis_side_px=320, threads=1)
    with Detector.load(tiny_bundle.path, settings) as detector:
        plain = detector.scan(clips["woman"])
        told = detector.scan(clips["woman"], explained=2)
    assert all(moment.heat_jpeg is None for moment in plain.moments)
    explained = [moment for moment in told.moments if moment.heat_jpeg is not None]
    assert 1 <= len(explained) <= 2
    assert {moment.evidence for moment in explained} == {"artifact"}
    assert explained[0] == msgspec.structs.replace(told.moments[0], heat_jpeg=explained[0].heat_jpeg)
    # Nothing else changes.
    assert [msgspec.structs.replace(moment, heat_jpeg=None) for moment in told.moments] == plain.moments
    page = render_report(told)
    assert page.count('class="heat"') == len(explained)
    assert "Red: the parts" in page
    assert "windows unusual" in page or len(told.people[0].windows) == 1


def test_a_self_anchored_reading_is_not_explained(clips: dict[str, Path], tmp_path: Path) -> None:
    """It needs more than the face itself."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    manifest = msgspec.structs.replace(bundle.manifest, evidence={"artifact": "differential_self"})
    (tmp_path / "tiny" / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    settings = ScanSettings(fps=2.0, duration_s=3.0, analysis_side_px=320, threads=1)
    with Detector.load(tmp_path / "tiny", settings) as detector:
        told = detector.scan(clips["woman"], explained=2)
    assert all(moment.heat_jpeg is None for moment in told.moments)
