"""Degrading: every picture comes back in its place, and the codec leaves real traces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from difffake.errors import DataError
from difffake.pseudofake import capture, degrade, degrade_companions, degrade_pairs, through_codec
from difffake.pseudofake.codec import Codec


def pictures(count: int, side: int = 96, seed: int = 0) -> np.ndarray:
    """Smooth random pictures with some texture, no two alike."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 255, size=(count, 8, 8, 3), dtype=np.uint8)
    smooth = np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in rough])
    return np.clip(smooth + rng.normal(0, 6, size=smooth.shape), 0, 255).astype(np.uint8)


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    def flat(images: np.ndarray) -> np.ndarray:
        rows = images.reshape(len(images), -1).astype(np.float64)
        rows -= rows.mean(axis=1, keepdims=True)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return flat(first) @ flat(second).T


@pytest.mark.parametrize("seed", range(12))
def test_every_picture_comes_back_in_its_place(seed: int) -> None:
    images = pictures(24)
    before = images.copy()
    done = degrade(images, np.random.default_rng(seed))
    assert done.shape == images.shape
    assert done.dtype == np.uint8
    assert np.array_equal(images, before)
    assert (correlations(done, images).argmax(axis=1) == np.arange(24)).all()


def test_about_a_quarter_stay_untouched() -> None:
    images = pictures(64, side=64)
    untouched = [
        (degrade(images, np.random.default_rng(seed)) == images).all(axis=(1, 2, 3)).mean() for seed in range(8)
    ]
    assert 0.2 < np.mean(untouched) < 0.4


def test_a_pair_meets_the_same_recipe() -> None:
    images = pictures(32)
    for seed in range(6):
        real, fake = degrade_pairs(images, images, np.random.default_rng(seed))
        assert np.array_equal(real, fake)
        assert np.abs(real.astype(int) - images).mean() > 2


def test_a_companion_meets_the_recipe_of_its_image_with_noise_of_its_own() -> None:
    images, rows = pictures(16, side=64), np.array([5, 2, 5])
    changes, own = [], 0
    for seed in range(20):
        done = degrade(images, np.random.default_rng(seed))
        beside = degrade_companions(images[rows], rows, 16, np.random.default_rng(seed))
        assert np.array_equal((done[rows] == images[rows]).all((1, 2, 3)), (beside == images[rows]).all((1, 2, 3)))
        changes.append([np.abs(some.astype(int) - images[rows]).mean((1, 2, 3)) for some in (done[rows], beside)])
        own += not np.array_equal(beside[0], beside[2])
        # Noise and codec alone may tell a companion from its image.
        assert np.array_equal(beside[0], beside[2]) or not np.array_equal(beside[0], done[5])
    image, companion = np.array(changes).transpose(1, 0, 2).reshape(2, -1)
    assert np.corrcoef(image, companion)[0, 1] > 0.95
    assert 1 <= own <= 12  # noise is one recipe's in five or so
    calm = degrade_companions(images[rows], rows, 16, np.random.default_rng(0), strength=0)
    assert np.array_equal(calm, images[rows])
    for wrong in (np.array([0, 16, 1]), np.array([0, 1])):
        with pytest.raises(DataError, match="companions of"):
            degrade_companions(images[rows], wrong, 16, np.random.default_rng(0))


def test_another_frame_of_a_camera_has_its_own_noise_and_leaves_the_draws_where_they_would_be() -> None:
    image = pictures(1)[0]
    differ = 0
    for seed in range(20):
        first, second = np.random.default_rng(seed), np.random.default_rng(seed)
        one, other = capture(image, first), capture(image, second, another=True)
        assert first.random() == second.random()
        apart = np.abs(one.astype(int) - other).mean()
        differ += apart > 0
        # The same steps: the two are nearer to each other than what was done to them, noise aside.
        assert apart < 6 + np.abs(one.astype(int) - image).mean()
    assert 4 <= differ <= 16


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_the_codec_treats_each_picture_alone(codec: Codec) -> None:
    images = pictures(5)
    moves = np.random.default_rng(0).uniform(-3, 3, size=(5, 2)).astype(np.float32)
    together = through_codec(images, 30, moves, codec=codec)
    backwards = through_codec(images[::-1], 30, moves[::-1], codec=codec)[::-1]
    assert np.array_equal(together, backwards)


def test_a_pair_keeps_its_differences_in_place() -> None:
    images = pictures(32)
    marked = images.copy()
    marked[:, 40:56, 40:56] = 255 - marked[:, 40:56, 40:56]
    real, fake = degrade_pairs(images, marked, np.random.default_rng(4))
    apart = np.abs(real.astype(int) - fake).mean(axis=(0, 3))
    assert apart[40:56, 40:56].mean() > 5 * apart[:20, :20].mean()
    assert (correlations(real, images).argmax(axis=1) == np.arange(32)).all()
    assert (correlations(fake, marked).argmax(axis=1) == np.arange(32)).all()


def test_a_seed_decides_and_strength_scales() -> None:
    images = pictures(32)
    first, again = (degrade(images, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, degrade(images, np.random.default_rng(5)))
    assert np.array_equal(degrade(images, np.random.default_rng(3), strength=0), images)
    error = [
        np.mean(
            [
                np.abs(degrade(images, np.random.default_rng(s), strength=f).astype(int) - images).mean()
                for s in range(6)
            ]
        )
        for f in (0.3, 1.0)
    ]
    assert error[0] < error[1]


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_a_higher_crf_loses_more(codec: Codec) -> None:
    images = pictures(6, side=128)
    moves = np.random.default_rng(0).uniform(-3, 3, size=(6, 2)).astype(np.float32)
    psnr = []
    for crf in (18, 26, 34, 40):
        done = through_codec(images, crf, moves, codec=codec)
        assert done.shape == images.shape
        assert (correlations(done, images).argmax(axis=1) == np.arange(6)).all()
        psnr.append(10 * np.log10(255**2 / np.square(done.astype(float) - images).mean()))
    assert psnr == sorted(psnr, reverse=True)
    assert psnr[0] - psnr[-1] > 2


@pytest.mark.parametrize("side", [(65, 97), (16, 18), (224, 224)])
@pytest.mark.parametrize("count", [1, 3])
def test_any_size_goes_through_the_codec(side: tuple[int, int], count: int) -> None:
    # Grey: at 16 px the codec's halved colour resolution alone would change such pictures beyond recognition.
    grey = pictures(count).mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8)
    images = np.stack([cv2.resize(image, side[::-1]) for image in grey])
    done = through_codec(images, 23, np.zeros((count, 2), np.float32))
    assert done.shape == images.shape
    assert np.abs(done.astype(int) - images).mean() < 12


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("width", [16, 32, 40, 47])
def test_the_codec_does_the_same_again(width: int, codec: Codec) -> None:
    images = np.random.default_rng(width).integers(0, 256, (3, 40, width, 3), np.uint8)
    moves = np.full((3, 2), 1.5, np.float32)
    first, *again = (through_codec(images, 24, moves, codec=codec) for _ in range(4))
    for one in again:
        np.testing.assert_array_equal(one, first)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_small_batches(count: int) -> None:
    images = pictures(2)[:count]
    for seed in range(6):
        real, fake = degrade_pairs(images, images, np.random.default_rng(seed))
        assert real.shape == fake.shape == images.shape
    assert through_codec(images, 30, np.zeros((count, 2), np.float32)).shape == images.shape


def test_wrong_input_is_refused() -> None:
    images, rng = pictures(2), np.random.default_rng(0)
    moves = np.zeros((2, 2), np.float32)
    with pytest.raises(DataError, match="do not pair"):
        degrade_pairs(images, images[:1], rng)
    with pytest.raises(DataError, match="strength"):
        degrade(images, rng, strength=2)
    for bad in (images[0], images.astype(np.float32), images[..., :2]):
        with pytest.raises(DataError):
            degrade(bad, rng)
        with pytest.raises(DataError):
            through_codec(bad, 23, moves)
    with pytest.raises(DataError, match="CRF"):
        through_codec(images, 60, moves)
    with pytest.raises(DataError, match="moves"):
        through_codec(images, 23, moves[:1])
