"""Colour transfer and changes of detail do what they are named after."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from difffake.pseudofake.alter import match_detail, recompress, resample, small_affine, unsharp
from difffake.pseudofake.colour import TRANSFERS, jitter_colour, transfer_colour


def picture(seed: int, mean: tuple[int, int, int], spread: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rough = rng.normal(0, spread, size=(9, 9, 3)).astype(np.float32)
    smooth = cv2.resize(rough, (120, 120), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 4, size=(120, 120, 3))
    return np.clip(smooth + mean, 0, 255).astype(np.uint8)


WHOLE = np.ones((120, 120), bool)


@pytest.mark.parametrize("kind", TRANSFERS)
def test_a_transfer_brings_the_colours_together_and_keeps_the_picture(kind: str) -> None:
    source, target = picture(0, (150, 120, 100), 20), picture(1, (110, 90, 95), 26)
    moved = transfer_colour(source, target, WHOLE, kind)
    assert moved.shape == source.shape
    assert moved.dtype == np.uint8
    apart = [np.abs(image.mean(axis=(0, 1)) - target.mean(axis=(0, 1))).max() for image in (source, moved)]
    assert apart[1] < 0.2 * apart[0]
    if kind in ("lab_mean_std", "rgb_covariance", "histogram"):
        assert abs(moved.std() - target.std()) < abs(source.std() - target.std())
    if kind != "low_frequency":
        assert np.corrcoef(moved.ravel(), source.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("kind", TRANSFERS)
def test_a_flat_or_unseen_face_is_harmless(kind: str) -> None:
    flat = np.full((120, 120, 3), 128, np.uint8)
    target = picture(1, (110, 90, 95), 26)
    for source, other in ((flat, target), (target, flat), (flat, flat)):
        moved = transfer_colour(source, other, WHOLE, kind)
        assert np.abs(moved.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max() < 6
    assert np.array_equal(transfer_colour(target, flat, ~WHOLE, kind), target)


def test_colour_jitter_is_bounded_and_zero_at_zero() -> None:
    image = picture(0, (150, 120, 100), 20)
    rng = np.random.default_rng(0)
    assert np.abs(jitter_colour(image, rng, strength=0).astype(int) - image).max() <= 1
    changes = [np.abs(jitter_colour(image, rng).astype(int) - image).mean() for _ in range(40)]
    assert 2 < np.median(changes) < 25
    assert max(changes) < 45


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.4])
def test_detail_is_brought_to_the_asked_ratio(ratio: float) -> None:
    def detail(image: np.ndarray) -> float:
        green = image[..., 1].astype(np.float32)
        return float((green - cv2.GaussianBlur(green, (0, 0), 1.2)).std())

    reference = picture(0, (128, 128, 128), 20)
    smooth = np.asarray(cv2.GaussianBlur(picture(1, (128, 128, 128), 20), (0, 0), 0.6), np.uint8)
    matched = match_detail(smooth, reference, WHOLE, ratio, most=4)
    assert abs(np.log(detail(matched) / (ratio * detail(reference)))) < abs(np.log(0.75))
    bounded = match_detail(smooth, reference, WHOLE, 100, most=1.5)
    assert detail(bounded) < 2.5 * detail(smooth)


def test_resampling_sharpening_and_recompressing() -> None:
    image = picture(0, (128, 110, 100), 25)
    rng = np.random.default_rng(0)
    lost = [np.abs(resample(image, factor, rng).astype(int) - image).mean() for factor in (0.9, 0.3)]
    assert 0 < lost[0] < lost[1]
    assert unsharp(image, 1.0, 1.0).std() > image.std() > unsharp(image, 1.0, -1.0).std()
    lost = [np.abs(recompress(image, quality).astype(int) - image).mean() for quality in (95, 30)]
    assert 0 < lost[0] < lost[1]


def test_the_small_affine_is_small() -> None:
    rng = np.random.default_rng(0)
    centre = np.array([144, 150], np.float32)
    for _ in range(200):
        affine = small_affine(centre, 100.0, rng)
        assert np.abs(affine[:, :2] @ centre + affine[:, 2] - centre).max() < 3.01
        assert np.abs(affine[:, :2] - np.eye(2)).max() < 0.11
