"""The identity network and the alignment it wants."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.bundle import default_bundle_path
from difffake.faces.align import align, template
from difffake.identity import IDENTITY_SIDE_PX, align_identity, identity_template
from engines.onnx import OnnxEngine

GOLDEN = Path(__file__).parent / "data" / "identity_golden.npz"


def smooth_picture(side: int = 400) -> np.ndarray:
    """Broad blobs: turning and scaling them loses next to nothing."""
    noise = np.random.default_rng(2).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def moved(picture: np.ndarray, points: np.ndarray, degrees: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn and scale a picture about its centre, and points with it."""
    side = picture.shape[0]
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, scale)
    turned = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return turned, (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def test_the_template_is_a_face_in_the_middle_of_the_crop() -> None:
    points = identity_template()
    assert points.shape == (5, 2)
    assert points.dtype == np.float32
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    # The middle of the face is the middle of the crop, and the points lie well inside.
    assert abs(points[:, 0].mean() - (IDENTITY_SIDE_PX - 1) / 2) < 2
    assert points.min() > 0.2 * IDENTITY_SIDE_PX
    assert points.max() < 0.8 * IDENTITY_SIDE_PX


def test_nobody_can_change_the_template() -> None:
    identity_template()[:] = 0
    assert identity_template().min() > 0


def test_a_face_that_lies_as_the_template_is_cut_out_as_it_is() -> None:
    picture = smooth_picture()
    crops = align_identity(picture, identity_template()[None] + np.float32([60, 90]))
    assert crops.shape == (1, IDENTITY_SIDE_PX, IDENTITY_SIDE_PX, 3)
    assert crops.dtype == np.uint8
    np.testing.assert_allclose(crops[0].astype(int), picture[90:240, 60:210], atol=1)


@settings(max_examples=40, deadline=None)
@given(st.floats(-180, 180), st.floats(0.7, 1.3))
def test_turned_and_scaled_faces_give_the_same_crop(degrees: float, scale: float) -> None:
    picture = smooth_picture()
    # A face whose proportions are not those of the template.
    points = identity_template() * np.float32([1.05, 0.95]) + np.float32([125, 128])
    (still,) = align_identity(picture, points[None])
    (turned,) = align_identity(*(a if a.ndim == 3 else a[None] for a in moved(picture, points, degrees, scale)))
    middle = slice(20, -20)  # what was cut off at the picture's border cannot come back
    difference = np.abs(still[middle, middle].astype(int) - turned[middle, middle].astype(int))
    assert difference.mean() < 2.0


def test_several_faces_come_in_order_and_none_is_no_error() -> None:
    picture = smooth_picture()
    points = identity_template()[None] + np.float32([[[10, 10]], [[150, 120]]])
    both = align_identity(picture, points)
    np.testing.assert_array_equal(both[1], align_identity(picture, points[1:])[0])
    assert align_identity(picture, np.empty((0, 5, 2), np.float32)).shape == (0, IDENTITY_SIDE_PX, IDENTITY_SIDE_PX, 3)


@pytest.mark.parametrize(
    "points",
    [
        np.full((1, 5, 2), 40, np.float32),
        np.full((1, 5, 2), np.nan, np.float32),
        np.full((1, 5, 2), np.inf, np.float32),
        np.zeros((1, 4, 2), np.float32),
        np.zeros((5, 2), np.float32),
    ],
)
def test_landmarks_that_are_no_face_are_refused(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="landmarks"):
        align_identity(smooth_picture(), points)


def test_a_picture_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="image"):
        align_identity(np.zeros((40, 40), np.uint8), identity_template()[None])


def test_a_target_of_ones_own_is_the_template_when_it_is_the_template() -> None:
    picture, points = smooth_picture(), template()[None] + np.float32(50)
    crops, matrices = align(picture, points)
    again, same = align(picture, points, target_px=template())
    np.testing.assert_array_equal(crops, again)
    np.testing.assert_array_equal(matrices, same)


@pytest.mark.parametrize("target", [np.zeros((4, 2), np.float32), np.full((5, 2), np.nan, np.float32)])
def test_a_target_that_is_no_five_points_is_refused(target: np.ndarray) -> None:
    with pytest.raises(ValueError, match="target"):
        align(smooth_picture(), template()[None], target_px=target)


def test_the_shipped_network_says_what_dlib_says() -> None:
    """Drawn pictures and what dlib 20.0.1 made of them, by ``scripts/make_identity.py --golden``."""
    with np.load(GOLDEN, allow_pickle=False) as golden:
        faces, wanted = golden["faces"], golden["embeddings"]
    with OnnxEngine(default_bundle_path() / "identity.onnx", threads=1) as engine:
        assert (engine.spec.side_px, engine.spec.dim) == (IDENTITY_SIDE_PX, 128)
        found = engine.infer(np.ascontiguousarray(faces.transpose(0, 3, 1, 2))).embedding
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    # The pictures tell mistakes apart: no two are alike for the network.
    apart = np.linalg.norm(wanted[:, None] - wanted[None], axis=2)[~np.eye(len(wanted), dtype=bool)]
    assert apart.min() > 0.05
