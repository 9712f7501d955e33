"""Features are computed once and read back; what changes them changes the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difffake.errors import DiffFakeError, MediaNotFoundError
from difffake.evaluation import FAKE, REAL, Item, Recompression, Region
from difffake.evaluation.features import FeatureStore, Sampling, half

WriteVideo = Callable[..., Path]
GREY, RED, BLACK, BLUE = (100, 100, 100), (200, 50, 50), (0, 0, 0), (0, 0, 200)


@pytest.fixture
def item(tmp_path: Path, write_video: WriteVideo) -> Item:
    path = write_video(tmp_path / "a.mp4", [GREY] * 12 + [RED] * 12)
    return Item(path, REAL, "a", "a")


def store(tmp_path: Path, detector: Any, model: str = "m", **sampling: Any) -> FeatureStore:
    return FeatureStore(tmp_path / "cache", detector, model, Sampling(**sampling))


def test_faces_come_back_from_the_cache_as_they_were(tmp_path: Path, item: Item, detector: Any) -> None:
    first = store(tmp_path, detector)
    computed = first.features(item)
    seen = detector.seen
    again = store(tmp_path, detector)
    cached = again.features(item)
    assert (first.computed, again.computed) == (1, 0)
    assert detector.seen == seen
    for name in ("time_s", "track", "person", "yaw_deg", "embedding", "logit", "identity"):
        np.testing.assert_array_equal(getattr(computed, name), getattr(cached, name))
        assert getattr(computed, name).dtype == getattr(cached, name).dtype
    assert (cached.frames, cached.faces, len(cached)) == (12, 12, 12)
    np.testing.assert_allclose(cached.logit[[0, -1]], [4, 8], atol=0.2)


def test_sampling_is_kept(tmp_path: Path, item: Item, detector: Any) -> None:
    features = store(tmp_path, detector, fps=2.0, max_frames=4).features(item)
    np.testing.assert_allclose(features.time_s, [0, 0.5, 1, 1.5], atol=0.13)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"fps": 2.0},
        {"max_frames": 3},
        {"recompression": Recompression()},
        {"recompression": Recompression(crf=35)},
    ],
)
def test_what_matters_is_in_the_key(tmp_path: Path, item: Item, detector: Any, change: dict[str, Any]) -> None:
    store(tmp_path, detector).features(item)
    other = store(tmp_path, detector, **change)
    other.features(item)
    assert other.computed == 1


def test_the_same_bytes_elsewhere_are_the_same_video(tmp_path: Path, item: Item, detector: Any) -> None:
    store(tmp_path, detector).features(item)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(item.path.read_bytes())
    other = store(tmp_path, detector)
    other.features(Item(copy, FAKE, "b", "b"))
    assert other.computed == 0


def test_a_file_that_changes_is_looked_at_again(
    tmp_path: Path, item: Item, detector: Any, write_video: WriteVideo
) -> None:
    same_store = store(tmp_path, detector)
    same_store.features(item)
    write_video(item.path, [RED] * 5)
    np.testing.assert_allclose(same_store.features(item).logit, 8, atol=0.2)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 broken", b"not a zip at all"])
def test_a_damaged_cache_file_is_computed_again(tmp_path: Path, item: Item, detector: Any, damage: bytes) -> None:
    computed = store(tmp_path, detector).features(item)
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.write_bytes(damage)
    again = store(tmp_path, detector)
    np.testing.assert_array_equal(again.features(item).logit, computed.logit)
    assert again.computed == 1


def test_a_pickle_in_the_cache_is_not_loaded(tmp_path: Path, item: Item, detector: Any) -> None:
    store(tmp_path, detector).features(item)
    (file,) = (tmp_path / "cache" / "features").iterdir()
    with file.open("wb") as handle:
        np.savez(handle, **{name: np.array([object()]) for name in ("time_s", "track", "embedding", "logit")})
    again = store(tmp_path, detector)
    assert len(again.features(item)) == 12
    assert again.computed == 1


def test_no_face_and_no_good_face_are_told_apart(tmp_path: Path, detector: Any, write_video: WriteVideo) -> None:
    black = Item(write_video(tmp_path / "black.mp4", [BLACK] * 4), REAL, "a", "a")
    blue = Item(write_video(tmp_path / "blue.mp4", [BLUE] * 4), REAL, "b", "b")
    features = store(tmp_path, detector, fps=8.0)
    assert (len(features.features(black)), features.features(black).faces) == (0, 0)
    assert (len(features.features(blue)), features.features(blue).faces) == (0, 4)
    # And the same from the cache.
    assert features.features(blue).faces == 4


def test_halves(tmp_path: Path, detector: Any, write_video: WriteVideo) -> None:
    path = write_video(tmp_path / "pair.mp4", [GREY] * 4, [RED] * 4, size=(128, 48))
    features = store(tmp_path, detector, recompression=Recompression(crf=20))
    left = features.features(Item(path, REAL, "a", "a/left", Region.LEFT))
    right = features.features(Item(path, FAKE, "a", "a/right", Region.RIGHT))
    np.testing.assert_allclose(left.logit, 4, atol=0.2)
    np.testing.assert_allclose(right.logit, 8, atol=0.2)
    # Both halves come from one encode.
    assert len(list((tmp_path / "cache" / "recompressed").iterdir())) == 1
    assert features.computed == 2


@pytest.mark.parametrize("width", [128, 129])
def test_the_seam_is_dropped(width: int) -> None:
    image = np.zeros((2, width, 3), np.uint8)
    image[:, width // 2 - 4 : width // 2 + 4] = 255
    for region in Region:
        part = half(image, region)
        assert part.max() == 0
        assert part.shape[1] in (60, 61)
        assert part.flags.c_contiguous


def test_a_file_that_has_gone(tmp_path: Path, item: Item, detector: Any) -> None:
    item.path.unlink()
    with pytest.raises(MediaNotFoundError, match=r"a\.mp4 cannot be read"):
        store(tmp_path, detector).features(item)


def test_a_file_that_is_no_video(tmp_path: Path, detector: Any) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("hello " * 100)
    with pytest.raises(DiffFakeError):
        store(tmp_path, detector).features(Item(path, REAL, "a", "a"))
