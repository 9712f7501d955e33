"""Masks: soft, bounded, and on the face."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.errors import DataError
from difffake.pseudofake.masks import (
    FIVE_POINTS,
    GLOBAL_SHAPES,
    LOCAL_SHAPES,
    RATIOS,
    SHAPES,
    draw_mask,
    fit_canonical,
    outline,
)

SIDE = 288
TEMPLATE = FIVE_POINTS * 62.7 + (144, 122)


@st.composite
def faces(draw: st.DrawFn) -> np.ndarray:
    """Landmarks of a face: turned, scaled, moved, each point pushed by up to 4 px."""
    seed = draw(st.integers(0, 2**32 - 1))
    angle = draw(st.floats(-0.4, 0.4))
    scale = draw(st.floats(0.6, 1.15))
    narrow = draw(st.floats(0.6, 1.0))
    rng = np.random.default_rng(seed)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE - 144) * (narrow * scale, scale) @ turn.T + 144 + rng.uniform(-10, 10, size=2)
    return (points + rng.uniform(-4, 4, size=(5, 2))).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(landmarks=faces(), shape=st.sampled_from(sorted(SHAPES)), seed=st.integers(0, 2**32 - 1))
def test_a_mask_is_soft_bounded_and_inside_its_grown_outline(landmarks: np.ndarray, shape: str, seed: int) -> None:
    mask = draw_mask(landmarks, SIDE, np.random.default_rng(seed), (shape,))
    whole = mask.full(SIDE)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() == pytest.approx(min(RATIOS, key=lambda ratio: abs(ratio - whole.max())), abs=0.02)
    assert np.array_equal(whole[mask.window], mask.alpha)

    points = outline(landmarks, shape)
    eye_px = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    reach = 0.6 * eye_px + 0.05 * float(np.ptp(points, axis=0).max()) + 3
    signed = np.array(
        [cv2.pointPolygonTest(points[:, None], (float(x), float(y)), True) for y, x in np.argwhere(whole > 0)[::17]]
    )
    assert signed.min() >= -reach


@settings(max_examples=30, deadline=None)
@given(landmarks=faces(), seed=st.integers(0, 2**32 - 1))
def test_local_masks_lie_on_the_face_and_are_smaller(landmarks: np.ndarray, seed: int) -> None:
    face = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(face, [np.round(outline(landmarks, "face_and_forehead")).astype(np.int32)], 1)
    for shape in LOCAL_SHAPES:
        mask = draw_mask(landmarks, SIDE, np.random.default_rng(seed), (shape,)).full(SIDE)
        assert mask[face > 0].sum() > 0.8 * mask.sum()
        assert (mask > 0.5 * mask.max()).sum() < 0.75 * face.sum()


def test_the_five_points_are_met_and_each_shape_holds_what_it_is_named_after() -> None:
    affine = fit_canonical(TEMPLATE.astype(np.float32))
    assert np.allclose(FIVE_POINTS @ affine[:, :2].T + affine[:, 2], TEMPLATE, atol=1e-3)

    def holds(shape: str, point: int) -> bool:
        polygon = outline(TEMPLATE.astype(np.float32), shape)[:, None]
        x, y = (float(v) for v in TEMPLATE[point])
        return cv2.pointPolygonTest(polygon, (x, y), False) > 0

    assert all(holds(shape, point) for shape in GLOBAL_SHAPES for point in range(5))
    inside = {shape: [point for point in range(5) if holds(shape, point)] for shape in LOCAL_SHAPES}
    assert inside == {
        "eyes": [0, 1],
        "nose": [2],
        "mouth": [3, 4],
        "mouth_and_jaw": [3, 4],
        "lower_face": [2, 3, 4],
    }


def test_degenerate_landmarks_raise() -> None:
    rng = np.random.default_rng(0)
    for bad in (np.zeros((5, 2)), np.full((5, 2), np.inf), TEMPLATE[:, :1], TEMPLATE[[1, 0, 2, 4, 3]]):
        with pytest.raises(DataError, match="degenerate") as caught:
            draw_mask(bad.astype(np.float32), SIDE, rng, GLOBAL_SHAPES)
        assert caught.value.hint


def test_edges_and_ratios_vary() -> None:
    rng = np.random.default_rng(0)
    masks = [draw_mask(TEMPLATE.astype(np.float32), SIDE, rng, GLOBAL_SHAPES).full(SIDE) for _ in range(80)]
    peaks = {round(float(mask.max()), 2) for mask in masks}
    assert peaks == set(RATIOS)
    areas = [float((mask > 0.5 * mask.max()).mean()) for mask in masks]
    soft = [float(((mask > 0.05 * mask.max()) & (mask < 0.95 * mask.max())).sum() / (mask > 0).sum()) for mask in masks]
    assert max(areas) > 1.3 * min(areas)
    assert max(soft) > 3 * min(soft)
