"""Cuts are told from motion, light, noise, and from everything that happens inside faces."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.errors import DataError
from difffake.people import CutDetector

U8 = npt.NDArray[np.uint8]
FACE = (130, 40, 190, 110)
BOX = np.array([FACE], np.float32)


def talking_head(
    hair: int = 40, clothes: int = 90, width: int = 46, blue: int = 160, *, face: int | None = None, shift: int = 0
) -> U8:
    """Head and shoulders before a plain wall, 320x180; ``face`` seeds what is drawn inside the face."""
    picture = np.empty((180, 320, 3), np.uint8)
    picture[:] = (40, 110, blue)
    picture[:] += np.linspace(0, 30, 320).astype(np.uint8)[None, :, None]
    cv2.ellipse(picture, (160 + shift, 185), (width * 2, 62), 0, 0, 360, (clothes, clothes, 60), -1)
    cv2.ellipse(picture, (160 + shift, 70), (width, 52), 0, 0, 360, (hair, hair // 2, 20), -1)
    cv2.ellipse(picture, (160 + shift, 75), (28, 34), 0, 0, 360, (200, 160, 130), -1)
    if face is not None:
        x1, y1, x2, y2 = FACE
        picture[y1:y2, x1:x2] = np.random.default_rng(face).integers(0, 255, (y2 - y1, x2 - x1, 3), dtype=np.uint8)
    return picture


def noisy(picture: U8, seed: int, sigma: float = 4.0) -> U8:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def cuts(pictures: list[U8], boxes: npt.NDArray[np.float32] | None = BOX) -> list[bool]:
    detector = CutDetector()
    return [detector.is_cut(p, boxes) for p in pictures]


def test_the_first_picture_and_noise_and_motion_are_no_cuts() -> None:
    scene = talking_head()
    pictures = [noisy(np.roll(scene, 3 * i, axis=1), i) for i in range(8)]
    assert not any(cuts(pictures, None))


def test_another_place_is_a_cut_and_so_is_the_way_back() -> None:
    rng = np.random.default_rng(0)
    other = np.repeat(np.repeat(rng.integers(0, 255, (9, 16, 3), dtype=np.uint8), 20, 0), 20, 1)
    assert cuts([talking_head()] * 3 + [other] * 3 + [talking_head()], None) == [False] * 3 + [True] + [False] * 2 + [
        True
    ]


@pytest.mark.parametrize("change", [{"hair": 190, "width": 60, "clothes": 150}, {"clothes": 200, "hair": 20}])
def test_the_next_talking_head_before_the_same_wall_is_a_cut(change: dict[str, int]) -> None:
    pictures = [noisy(talking_head(shift=i % 3), i) for i in range(5)] + [noisy(talking_head(**change), 9)]
    assert cuts(pictures) == [False] * 5 + [True]


@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_whatever_appears_inside_a_face_is_no_cut(seed: int, at: int, sigma: int) -> None:
    pictures = [noisy(talking_head(face=seed if i >= at else None), i, sigma) for i in range(10)]
    assert not any(cuts(pictures))


def test_the_same_change_without_boxes_shows() -> None:
    """So that the test above cannot pass because nothing is seen at all."""
    before, after = talking_head(), talking_head()
    before[20:130, 100:220], after[20:130, 100:220] = (20, 200, 20), (220, 20, 220)
    box = np.array([(100, 20, 220, 130)], np.float32)
    assert cuts([before] * 4 + [after], None)[-1]
    assert not any(cuts([before] * 4 + [after], box))


@given(st.floats(-20, 20), st.floats(0.0, 5.0))
@settings(max_examples=30, deadline=None)
def test_light_that_flickers_is_no_cut(step: float, sigma: float) -> None:
    pictures = [
        noisy(np.clip(talking_head() + (step if i % 2 else 0.0), 0, 255).astype(np.uint8), i, sigma) for i in range(8)
    ]
    assert not any(cuts(pictures))


def test_a_face_that_fills_the_picture_leaves_nothing_to_judge() -> None:
    everything = np.array([(0, 0, 320, 180)], np.float32)
    white, black = np.full((180, 320, 3), 255, np.uint8), np.zeros((180, 320, 3), np.uint8)
    assert cuts([white, black, white], everything) == [False] * 3
    assert cuts([white, black, white], None) == [False, True, True]


def test_pictures_may_change_their_size() -> None:
    small = np.asarray(cv2.resize(talking_head(), (64, 36), interpolation=cv2.INTER_AREA), np.uint8)
    detector = CutDetector()
    assert not detector.is_cut(talking_head(), BOX)
    assert not detector.is_cut(small, BOX * np.float32(0.2))


def test_boxes_may_reach_beyond_the_picture() -> None:
    wild = np.array([(-50, -80, 90, 60), (300, 150, 900, 700), (1e6, 1e6, 2e6, 2e6)], np.float32)
    assert cuts([talking_head()] * 3, wild) == [False] * 3


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12))
@settings(max_examples=40, deadline=None)
def test_saved_and_restored_at_every_frame_it_goes_on_exactly(frames: list[tuple[int, bool]]) -> None:
    places = [
        talking_head(),
        talking_head(clothes=200, hair=20),
        talking_head(hair=190, width=60),
        talking_head(blue=60),
    ]
    whole, moved = CutDetector(), CutDetector()
    for i, (place, face) in enumerate(frames):
        image, boxes = noisy(places[place], i), BOX if face else BOX[:0]
        moved = CutDetector.from_arrays(moved.to_arrays())
        assert whole.is_cut(image, boxes) == moved.is_cut(image, boxes)
        assert {n: a.tobytes() for n, a in whole.to_arrays().items()} == {
            n: a.tobytes() for n, a in moved.to_arrays().items()
        }


def test_the_arguments_are_those_given_when_it_is_restored() -> None:
    detector = CutDetector()
    detector.is_cut(talking_head(), None)
    other = np.full((180, 320, 3), 20, np.uint8)
    assert not CutDetector.from_arrays(detector.to_arrays(), lost=2.0, moved=2.0).is_cut(talking_head(blue=60), None)
    assert CutDetector.from_arrays(detector.to_arrays()).is_cut(other, None)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("cuts_picture", np.zeros((32, 48, 3), np.int32)),
        ("cuts_picture", np.zeros((31, 48, 3), np.uint8)),
        ("cuts_picture", np.zeros((0, 48, 3), np.uint8)),
        ("cuts_faces", np.zeros((48, 32), bool)),
        ("cuts_faces", np.zeros((32, 48), np.uint8)),
        ("cuts_before", np.zeros((7, 3))),
        ("cuts_before", np.zeros((2, 2))),
        ("cuts_before", np.full((2, 3), np.nan)),
        ("cuts_before", np.full((2, 3), 1.5)),
        ("cuts_before", np.float64(0)),
    ],
)
def test_a_damaged_state_is_refused(name: str, array: np.ndarray) -> None:
    detector = CutDetector()
    for i in range(9):
        detector.is_cut(noisy(talking_head(), i), BOX)
    arrays = detector.to_arrays()
    CutDetector.from_arrays(arrays)
    for damaged in (arrays | {name: array}, {n: a for n, a in arrays.items() if n != name}):
        with pytest.raises(DataError, match="damaged cut detector"):
            CutDetector.from_arrays(damaged)
