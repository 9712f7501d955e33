"""Conditions: what happens to pictures happens to all of them alike, at the same times, and again in the same way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from difffake.errors import DataError, LimitExceededError, MediaNotFoundError
from difffake.evaluation.conditions import AS_RECORDED, CONDITIONS, Condition, TreatedFile, conditions_named, treated
from difffake.evaluation.encode import Encode
from difffake.evaluation.recompress import Codec, Recompression
from difffake.evaluation.treatments import (
    Beauty,
    Caption,
    CaptionAtChin,
    FrameRate,
    Height,
    Light,
    PictureInPicture,
    Scale,
    chin,
)
from difffake.video import Frame, open_video

WriteVideo = Callable[..., Path]
U8 = NDArray[np.uint8]


def frames(count: int = 6, size: tuple[int, int] = (96, 128), fps: float = 10.0) -> list[Frame]:
    """Two panels with the same noisy picture, which moves."""
    rng = np.random.default_rng(0)
    panel = cv2.GaussianBlur(rng.integers(0, 256, (*size, 3)).astype(np.uint8), (0, 0), 3)
    return [Frame(i, i / fps, np.hstack([np.roll(panel, 2 * i, axis=1)] * 2)) for i in range(count)]


def through(condition: Condition, given: list[Frame]) -> list[Frame]:
    found = iter(given)
    for stage in condition.stages:
        found = stage(found, 2)
    return list(found)


def psnr(a: U8, b: U8) -> float:
    return float(cv2.PSNR(np.ascontiguousarray(a), np.ascontiguousarray(b)))


@pytest.mark.parametrize("condition", [c for c in CONDITIONS if c.name != "caption-chin"], ids=lambda c: str(c.name))
def test_both_halves_are_treated_alike_and_times_stay(condition: Condition) -> None:
    given = frames(3, fps=2.0)
    done = through(condition, given)
    assert [(f.index, f.pts_s) for f in done] == [(f.index, f.pts_s) for f in given]
    for frame in done:
        left, right = np.hsplit(frame.image, 2)
        assert frame.image.flags.c_contiguous
        # An encoder does not code both in the very same way.
        assert np.abs(left.astype(float).mean((0, 1)) - right.mean((0, 1))).max() < 8
    assert condition.stages == () or any(not np.array_equal(f.image, g.image) for f, g in zip(done, given, strict=True))


@pytest.mark.parametrize("codec", list(Codec))
def test_an_encode_is_the_same_every_time_and_costs_more_at_a_higher_crf(codec: Codec) -> None:
    given = frames()
    good, again, bad = (list(Encode(Recompression(codec, crf))(iter(given), 2)) for crf in (20, 20, 51))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(good, again, strict=True))
    assert len(good) == len(given)
    assert psnr(good[3].image, given[3].image) > psnr(bad[3].image, given[3].image) + 2


def test_encodes_need_one_size_and_a_possible_one() -> None:
    encode = Encode(Recompression())
    first, second = frames(2)
    with pytest.raises(LimitExceededError, match="changes its size"):
        list(encode(iter([first, Frame(1, 0.1, second.image[:64])]), 1))
    with pytest.raises(DataError):
        list(encode(iter([Frame(0, 0.0, np.zeros((1, 1, 3), np.uint8))]), 1))
    with pytest.raises(DataError, match="does not shrink"):
        Encode(Recompression(shrink=2))


def test_two_frames_of_one_moment_are_both_encoded() -> None:
    first, second, *_ = frames(2)
    given = [first, Frame(1, first.pts_s, second.image)]
    assert [f.pts_s for f in Encode(Recompression())(iter(given), 2)] == [0.0, 0.0]


def test_sizes() -> None:
    given = frames(1)
    for stage, shape in ((Height(180), (180, 480, 3)), (Height(48), (48, 128, 3)), (Scale(0.5), (48, 128, 3))):
        assert next(stage(iter(given), 2)).image.shape == shape
    # A column that belongs to no panel goes.
    odd = Frame(0, 0.0, np.zeros((96, 257, 3), np.uint8))
    assert next(Light(shift=1)(iter([odd]), 2)).image.shape == (96, 256, 3)


def test_light_moves_what_it_says() -> None:
    grey = Frame(0, 0.0, np.full((8, 8, 3), 100, np.uint8))
    assert next(Light(shift=-50)(iter([grey]), 1)).image.max() == 50
    assert next(Light(contrast=0.5)(iter([grey]), 1)).image.max() == 114
    assert next(Light(shift=-150)(iter([grey]), 1)).image.max() == 0


def test_a_beauty_filter_takes_texture_and_leaves_edges() -> None:
    rng = np.random.default_rng(1)
    picture = np.full((160, 160, 3), 80.0)
    picture[:, 80:] = 180
    textured = (picture + rng.normal(0, 4, picture.shape)).round().clip(0, 255).astype(np.uint8)
    done = next(Beauty(1.0, 20)(iter([Frame(0, 0.0, textured)]), 1)).image
    assert done[:, 20:60].std() < 0.5 * textured[:, 20:60].std()
    assert abs(float(done[:, 84:].mean()) - float(done[:, :76].mean()) - 100) < 3


def test_a_caption_covers_its_place_alone() -> None:
    (given,) = frames(1)
    done = next(Caption(0.7, 0.9)(iter([given]), 2)).image
    changed = np.abs(done.astype(int) - given.image).max(axis=2) > 8
    rows = np.flatnonzero(changed.any(axis=1))
    assert (rows[0], rows[-1]) == (round(0.7 * 96), round(0.9 * 96) - 1)
    assert np.array_equal(changed[:, :128], changed[:, 128:])


def test_a_picture_in_picture_is_in_its_corner() -> None:
    white = Frame(0, 0.0, np.full((100, 200, 3), 255, np.uint8))
    done = next(PictureInPicture(2)(iter([white]), 1)).image
    rows, columns = np.nonzero((done == 255).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (46, 95, 92, 191)


def test_a_caption_at_the_chin_covers_the_chin(clips: dict[str, Path]) -> None:
    with open_video(clips["man"], fps=2) as video:
        given = [f for f, _ in zip(video, range(3), strict=False)]
    top = chin(given[0].image)
    assert top is not None
    done = list(CaptionAtChin()(iter(given), 1))
    height = given[0].image.shape[0]
    for before, after in zip(given, done, strict=True):
        rows = np.flatnonzero((np.abs(after.image.astype(int) - before.image).max(axis=2) > 8).any(axis=1))
        assert abs(rows[0] - top * height) <= 1
    assert chin(done[0].image) != top


def test_without_a_face_the_caption_is_where_it_always_is() -> None:
    given = frames(30)
    done, ordinary = (list(stage(iter(given), 2)) for stage in (CaptionAtChin(), Caption()))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(done, ordinary, strict=True))


def test_a_lower_frame_rate_loses_frames() -> None:
    assert [f.index for f in FrameRate(5)(iter(frames(8)), 2)] == [0, 2, 4, 6]


def test_names() -> None:
    assert conditions_named([]) == CONDITIONS
    assert [c.name for c in conditions_named(["three-times", "h264-crf45"])] == [
        "as-recorded",
        "h264-crf45",
        "three-times",
    ]
    assert len({c.name for c in CONDITIONS}) == len({c.fingerprint for c in CONDITIONS}) == len(CONDITIONS)
    with pytest.raises(DataError, match="no condition h266") as caught:
        conditions_named(["h266"])
    assert "h265-crf40" in caught.value.hint


@pytest.mark.parametrize("name", ["as-recorded", "h264-crf23", "h264-crf23-full-rate"])
def test_the_same_moments_are_looked_at_and_no_more(tmp_path: Path, write_video: WriteVideo, name: str) -> None:
    path = write_video(tmp_path / "a.mp4", [(90, 90, 90)] * 75, size=(128, 64), times=[i / 30 for i in range(75)])
    (_, condition) = conditions_named([name]) if name != "as-recorded" else (None, AS_RECORDED)
    found = [f.pts_s for f in treated(path, condition, fps=2, max_frames=4, panels=2)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=0.1)


def test_what_was_decoded_serves_the_next_condition(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", [(90, 60 + i, 90) for i in range(16)], size=(128, 64))
    shared = TreatedFile()
    shared.frames(path, "digest", AS_RECORDED, 2.0, 4, 2)
    (_, bright) = conditions_named(["brighter"])
    expected = [f.image for f in TreatedFile().frames(path, "digest", bright, 2.0, 4, 2)]
    monkeypatch.setattr("difffake.evaluation.conditions.MAX_SOURCE_BYTES", 128 * 64)
    alone = TreatedFile()
    alone.frames(path, "digest", AS_RECORDED, 2.0, 4, 2)
    path.unlink()
    found = [f.image for f in shared.frames(path, "digest", bright, 2.0, 4, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    # What is too large is not kept.
    with pytest.raises(MediaNotFoundError):
        alone.frames(path, "digest", bright, 2.0, 4, 2)


def test_frames_of_a_file_are_treated_once_and_bounded(
    tmp_path: Path, write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.mp4", [(90, 90, 90)] * 16, size=(128, 64))
    held = TreatedFile()
    first = held.frames(path, "digest", AS_RECORDED, 2.0, 4, 2)
    path.unlink()
    assert held.frames(path, "digest", AS_RECORDED, 2.0, 4, 2) is first
    other = write_video(tmp_path / "b.mp4", [(90, 90, 90)] * 16, size=(128, 64))
    monkeypatch.setattr("difffake.evaluation.conditions.MAX_HELD_BYTES", 2 * 128 * 64 * 3)
    with pytest.raises(LimitExceededError, match="do not fit"):
        held.frames(other, "other", AS_RECORDED, 2.0, 4, 2)
