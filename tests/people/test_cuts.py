"""Cuts are told from motion, light, noise, and from everything that happens inside faces."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.people import CutDetector, CutMemory
from difffake.people.cuts import SIZE_PX, Change

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
    detector, memory, found = CutDetector(), CutMemory(), []
    for picture in pictures:
        cut, memory = detector.look(picture, boxes, memory)
        found.append(cut)
    return found


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


def shrunk(picture: U8, width: int, height: int) -> U8:
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def test_pictures_may_change_their_size() -> None:
    detector = CutDetector()
    _, memory = detector.look(talking_head(), BOX, CutMemory())
    assert not detector.look(shrunk(talking_head(), 64, 36), BOX * np.float32(0.2), memory)[0]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_small_picture_says_what_the_whole_one_says(frames: list[tuple[int, bool]]) -> None:
    places = [talking_head(), talking_head(clothes=200, hair=20), talking_head(blue=60)]
    detector, whole, small = CutDetector(), CutMemory(), CutMemory()
    for i, (place, face) in enumerate(frames):
        image, boxes = noisy(places[place], i), BOX if face else BOX[:0]
        cut, whole = detector.look(image, boxes, whole)
        to_small = np.array([SIZE_PX[0] / 320, SIZE_PX[1] / 180] * 2, np.float32)
        same, small = detector.look(shrunk(image, *SIZE_PX), boxes * to_small, small)
        assert (cut, whole) == (same, small)


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
    detector, whole, moved = CutDetector(), CutMemory(), CutMemory()
    for i, (place, face) in enumerate(frames):
        image, boxes = noisy(places[place], i), BOX if face else BOX[:0]
        moved = msgspec.msgpack.decode(msgspec.msgpack.encode(moved), type=CutMemory)
        cut, whole = detector.look(image, boxes, whole)
        assert (cut, whole) == detector.look(image, boxes, moved)
        moved = whole


@pytest.mark.parametrize(
    "changed",
    [
        {"picture": b"\0" * 4607},
        {"picture": b"", "before": ()},
        {"picture": b"", "faces": b""},
        {"faces": b"\0" * 191},
        {"before": (Change(0, 0, 0),) * 7},
        {"before": ((0.0, 0.0),)},
        {"before": (Change(0, float("nan"), 0),)},
        {"before": (Change(0, 1.5, 0),)},
        {"before": 0.0},
    ],
)
def test_a_damaged_memory_is_refused(changed: dict[str, object]) -> None:
    detector, memory = CutDetector(), CutMemory()
    for i in range(9):
        _, memory = detector.look(noisy(talking_head(), i), BOX, memory)
    fields = msgspec.structs.asdict(memory)
    encoded = msgspec.msgpack.encode(list((fields | changed).values()))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=CutMemory) == memory
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(encoded, type=CutMemory)
