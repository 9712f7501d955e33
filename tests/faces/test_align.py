"""Five-point alignment through its public door."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.faces.align import EYE_DISTANCE, align, similarity, template, to_crop
from difffake.picture import RgbPicture

angles = st.floats(-3.1, 3.1)
scales = st.floats(0.05, 20)
shifts = st.floats(-500, 500)


def rotation(angle: float, scale: float) -> np.ndarray:
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@given(angles, scales, shifts, shifts)
def test_similarity_is_recovered(angle: float, scale: float, dx: float, dy: float) -> None:
    target = template().astype(np.float64)
    linear = rotation(angle, scale)
    source = (target - (dx, dy)) @ np.linalg.inv(linear).T
    (matrix,) = similarity(source[None], target)
    np.testing.assert_allclose(matrix[:, :2], linear, atol=1e-5 * scale)
    np.testing.assert_allclose(to_crop(source[None].astype(np.float32), matrix[None])[0], target, atol=0.05)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_similarity_is_the_least_squares_fit_without_reflection(seed: int, count: int) -> None:
    """Against Umeyama's SVD form in float64."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(count, 5, 2)) * 40 + 100
    target = rng.normal(size=(5, 2)) * 30
    for points, matrix in zip(source, similarity(source, target), strict=True):
        a, b = points - points.mean(0), target - target.mean(0)
        u, d, vt = np.linalg.svd(b.T @ a)
        sign = np.diag([1.0, np.sign(np.linalg.det(u @ vt))])
        linear = np.trace(np.diag(d) @ sign) / (a**2).sum() * u @ sign @ vt
        np.testing.assert_allclose(matrix[:, :2], linear, atol=1e-5)
        np.testing.assert_allclose(matrix[:, 2], target.mean(0) - linear @ points.mean(0), atol=1e-3)


def test_template_proportions() -> None:
    points = template(224)
    assert np.linalg.norm(points[1] - points[0]) == pytest.approx(EYE_DISTANCE * 224, rel=1e-5)
    assert points[0, 1] / 224 == pytest.approx(0.40, abs=0.01)
    np.testing.assert_allclose(points[:, 0] + points[[1, 0, 2, 4, 3], 0], 223, atol=1e-4)


@given(st.integers(32, 512), st.integers(0, 128))
def test_margin_only_adds_a_border(side: int, margin: int) -> None:
    wide = template(side + 2 * margin, eye_distance=EYE_DISTANCE * side / (side + 2 * margin))
    np.testing.assert_allclose(wide - margin, template(side), atol=1e-3)


@pytest.fixture(scope="module")
def smooth_image() -> np.ndarray:
    noise = np.random.default_rng(5).integers(0, 256, (24, 32, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize("eyes_px", [25.0, 63.0, 100.0, 290.0])
def test_margin_crop_holds_the_plain_crop(smooth_image: np.ndarray, eyes_px: float) -> None:
    scale = eyes_px / (EYE_DISTANCE * 224)
    marks = ((template() - 111.5) @ rotation(0.2, scale).T + (320, 240))[None].astype(np.float32)
    plain, _ = align(smooth_image, marks)
    wide, _ = align(smooth_image, marks, side_px=288, eye_distance=EYE_DISTANCE * 224 / 288)
    difference = np.abs(plain[0].astype(int) - wide[0, 32:-32, 32:-32])
    assert np.percentile(difference, 95) <= 2


@settings(deadline=None, max_examples=30)
@given(angles, st.floats(0.3, 5), st.floats(-20, 20), st.floats(-20, 20))
def test_dots_land_on_the_template(angle: float, scale: float, dx: float, dy: float) -> None:
    """Dots drawn at the landmarks of a synthetic face are found in the crop where the template says."""
    marks = (template() - 111.5) @ rotation(angle, scale).T + (600 + dx, 600 + dy)
    y, x = np.mgrid[:1200, :1200].astype(np.float32)
    image = np.zeros((1200, 1200, 3), np.uint8)
    for mark_x, mark_y in marks:
        reach = int(25 * scale) + 2
        rows = slice(max(0, int(mark_y) - reach), int(mark_y) + reach)
        columns = slice(max(0, int(mark_x) - reach), int(mark_x) + reach)
        distance = np.hypot(x[rows, columns] - mark_x, y[rows, columns] - mark_y)
        glow = 250 * np.exp(-((distance / (6 * scale)) ** 2) / 2)
        image[rows, columns] = np.maximum(image[rows, columns], glow[..., None].astype(np.uint8))
    crops, matrices = align(image, marks[None].astype(np.float32))
    np.testing.assert_allclose(to_crop(marks[None].astype(np.float32), matrices)[0], template(), atol=0.01)
    grey = crops[0, :, :, 0].astype(np.float64)
    v, u = np.mgrid[:224, :224]
    for target_x, target_y in template():
        weight = grey * (np.hypot(u - target_x, v - target_y) < 14)
        found = (weight * u).sum() / weight.sum(), (weight * v).sum() / weight.sum()
        np.testing.assert_allclose(found, (target_x, target_y), atol=0.12)


def test_shrinking_averages_instead_of_aliasing() -> None:
    checkers = (np.indices((1600, 1600)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(checkers[..., None], 3, axis=2)
    for scale in (1.9, 3.0, 5.5):
        marks = ((template() - 111.5) * scale + 800)[None].astype(np.float32)
        crops, _ = align(image, marks)
        assert crops.std() < 40, scale
        assert abs(crops.mean() - 127.5) < 2


def test_each_face_gets_its_own_crop(smooth_image: np.ndarray) -> None:
    marks = np.stack([np.add(template(60), (50, 60)), np.add(template(300), (250, 100))]).astype(np.float32)
    crops, matrices = align(smooth_image, marks)
    assert crops.shape == (2, 224, 224, 3)
    assert crops.dtype == np.uint8
    assert matrices.shape == (2, 2, 3)
    for row in range(2):
        alone, matrix = align(smooth_image, marks[row : row + 1])
        np.testing.assert_array_equal(alone[0], crops[row])
        np.testing.assert_array_equal(matrix[0], matrices[row])


def test_faces_at_and_beyond_the_border(smooth_image: np.ndarray) -> None:
    marks = np.stack([np.add(template(), shift) for shift in [(-110, -110), (550, 400), (5000, -5000)]])
    crops, _ = align(smooth_image, marks.astype(np.float32))
    # The part inside the picture is the picture itself: the template is shifted by whole pixels.
    np.testing.assert_array_equal(crops[0, 115:, 115:], smooth_image[5:114, 5:114])
    assert len(crops) == 3


@pytest.mark.parametrize("scale", [2.5, 5.0, 9.0])
@pytest.mark.parametrize("size", [(240, 320), (239, 317), (242, 321), (233, 322), (237, 326)])
def test_a_picture_that_fills_no_blocks_goes_on_with_its_last_pixels(size: tuple[int, int], scale: float) -> None:
    image = np.random.default_rng(5).integers(0, 255, (*size, 3), dtype=np.uint8)
    marks = ((template() - 112) * scale + (160, 120))[None].astype(np.float32)
    rest_y, rest_x = -size[0] % 8, -size[1] % 8
    filled = np.asarray(cv2.copyMakeBorder(image, 0, rest_y, 0, rest_x, cv2.BORDER_REPLICATE), np.uint8)
    step = 2 ** int(np.log2(scale))
    whole = filled[: -(-size[0] // step) * step, : -(-size[1] // step) * step]
    np.testing.assert_array_equal(align(image, marks)[0], align(whole, marks)[0])


def test_no_face_gives_empty_arrays(smooth_image: np.ndarray) -> None:
    crops, matrices = align(smooth_image, np.zeros((0, 5, 2), np.float32), side_px=96)
    assert crops.shape == (0, 96, 96, 3)
    assert matrices.shape == (0, 2, 3)


@pytest.mark.parametrize(
    "marks", [np.full((1, 5, 2), 7.0), np.full((1, 5, 2), np.nan), np.zeros((1, 4, 2)), np.zeros((5, 2))]
)
def test_useless_landmarks_are_refused(smooth_image: np.ndarray, marks: np.ndarray) -> None:
    with pytest.raises(ValueError, match="landmarks"):
        align(smooth_image, marks.astype(np.float32))


@pytest.mark.parametrize(("side", "eyes"), [(0, 0.3), (100_000, 0.3), (224, 0.0), (224, 1.0)])
def test_template_bounds(side: int, eyes: float) -> None:
    with pytest.raises(ValueError, match="side"):
        template(side, eye_distance=eyes)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        align(np.zeros((10, 10), np.uint8), template()[None])


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.2, 6.0), x=st.floats(-40, 360), y=st.floats(-40, 240), angle=st.floats(-40, 40))
def test_of_a_picture_only_what_the_crop_covers_is_asked_for(scale: float, x: float, y: float, angle: float) -> None:
    """And the pixels are those that the whole picture gives, wherever the face lies and however large it is."""
    image = np.random.default_rng(5).integers(0, 255, (200, 320, 3), dtype=np.uint8)
    turn = np.deg2rad(angle)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    marks = ((template() - 112) @ spin.T * scale / 4 + (x, y))[None].astype(np.float32)
    seen = Watched(image)
    crops, matrices = align(seen, marks)
    whole, same = align(image, marks)
    np.testing.assert_array_equal(crops, whole)
    np.testing.assert_array_equal(matrices, same)
    assert len(seen.asked) == 1
    x0, y0, x1, y1 = seen.asked[0]
    assert (x1 - x0) * (y1 - y0) <= 2.1 * (224 * scale / 4 + 12) ** 2


class Watched(RgbPicture):
    """A picture that remembers what it was asked for."""

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        super().__init__(image)
        self.asked: list[tuple[int, int, int, int]] = []

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.uint8]:
        self.asked.append((x0, y0, x1, y1))
        return super().crop(x0, y0, x1, y1)
