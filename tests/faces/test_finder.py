"""Faces followed by close-ups: on real faces that move, cross, grow, leave and come back in made-up scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.crops import NearPicture, cut_out
from difffake.faces import CenterFace, Faces
from difffake.faces.finder import CLOSE_PX, FaceFinder, FinderState, Found
from difffake.people.cuts import SIZE_PX, CutMemory
from difffake.picture import RgbPicture
from difffake.video import open_video

U8 = npt.NDArray[np.uint8]
HALF_S = 500_000_000
WIDTH, HEIGHT = 640, 360


@dataclass(frozen=True)
class At:
    """A face in a scene: middle and height, px; and of whom."""

    x: float
    y: float = 180.0
    height: float = 90.0
    who: str = "woman"


class Stage:
    """Pastes real faces, each with a soft edge, onto a real picture without any."""

    def __init__(self, clips: dict[str, Path]) -> None:
        self.place = np.asarray(cv2.resize(_first(clips["no_face"]), (WIDTH, HEIGHT)), np.uint8)
        self.other_place = np.ascontiguousarray(255 - self.place[::-1])
        self._faces = {who: self._cut(_first(clips[who])) for who in ("woman", "man")}

    @staticmethod
    def _cut(image: U8) -> tuple[U8, float]:
        (faces,) = CenterFace(threads=1).detect([image])
        x1, y1, x2, y2 = faces.boxes_px[0]
        half = 0.9 * (y2 - y1)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        low, high = np.maximum([x - half, y - half], 0).astype(int), np.array([x + half, y + half]).astype(int)
        patch = image[low[1] : high[1], low[0] : high[0]]
        return np.asarray(cv2.resize(patch, (400, 400)), np.uint8), float((y2 - y1) * 400 / patch.shape[0])

    def show(self, *faces: At, place: U8 | None = None) -> U8:
        canvas = (self.place if place is None else place).astype(np.float32)
        rows, columns = np.mgrid[0:400, 0:400]
        mask = np.clip(4 * (1 - np.hypot(rows - 199.5, columns - 199.5) / 200), 0, 1).astype(np.float32)
        for face in faces:
            patch, height = self._faces[face.who]
            scale = face.height / height
            move = np.array([[scale, 0, face.x - 200 * scale], [0, scale, face.y - 200 * scale]])
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            small = cv2.resize(patch, None, fx=max(scale, 0.01), fy=max(scale, 0.01), interpolation=how)
            move[:, :2] = np.diag(scale * 400 / np.array(small.shape[1::-1]))
            drawn = cv2.warpAffine(small, move, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
            soft = cv2.warpAffine(
                mask, np.array([[scale, 0, face.x - 200 * scale], [0, scale, face.y - 200 * scale]]), (WIDTH, HEIGHT)
            )[..., None]
            canvas = canvas * (1 - soft) + drawn * soft
        return canvas.round().astype(np.uint8)


def _first(path: Path) -> U8:
    with open_video(path, stop_s=0.2) as video:
        return next(iter(video)).image


@pytest.fixture(scope="module")
def stage(clips: dict[str, Path]) -> Stage:
    return Stage(clips)


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder(threads=1)


class Watched(RgbPicture):
    """A picture that remembers how much of it was asked for."""

    def __init__(self, image: U8) -> None:
        super().__init__(image)
        self.smalls: list[tuple[int, int]] = []
        self.crops: list[tuple[int, int]] = []

    def small(self, width_px: int, height_px: int) -> U8:
        self.smalls.append((width_px, height_px))
        return super().small(width_px, height_px)

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> U8:
        self.crops.append((x1 - x0, y1 - y0))
        return super().crop(x0, y0, x1, y1)

    def rgb(self) -> U8:
        raise AssertionError("the whole picture was converted")


def follow(finder: FaceFinder, images: Sequence[U8], step_ns: int = HALF_S) -> list[Found]:
    state, found = FinderState(), []
    for i, image in enumerate(images):
        found += finder.find([Watched(image)], [i * step_ns], [state])
        state = found[-1].state
    return found


def is_at(faces: Faces, at: At, tolerance: float = 0.15) -> bool:
    """Whether a face is where it was put, and as large."""
    middles = faces.boxes_px.reshape(-1, 2, 2).mean(axis=1)
    heights = faces.boxes_px[:, 3] - faces.boxes_px[:, 1]
    near = np.hypot(*(middles - (at.x, at.y)).T) < tolerance * at.height
    return bool((near & (np.abs(heights / at.height - 1) < 0.2)).any())


# -- what is looked at -----------------------------------------------------------------------------------------------
def test_whole_pictures_once_a_second_and_close_ups_between(finder: FaceFinder, stage: Stage) -> None:
    state = FinderState()
    for i in range(6):
        picture = Watched(stage.show(At(200), At(450)))
        (found,) = finder.find([picture], [i * HALF_S], [state])
        state = found.state
        assert [is_at(found.faces, face) for face in (At(200), At(450))] == [True, True]
        assert len(found.faces) == 2
        assert found.is_whole == (i % 2 == 0)
        assert picture.smalls.count(SIZE_PX) == 1
        assert len(picture.smalls) == 1 + found.is_whole
        assert not found.is_cut
        if not found.is_whole:
            assert len(picture.crops) == 2
            assert all(side <= 3 * 90 for crop in picture.crops for side in crop)


def test_while_nothing_stirs_whole_pictures_are_rarer(stage: Stage) -> None:
    finder = FaceFinder(still_s=3.0, threads=1)
    found = follow(finder, [stage.show(At(200))] * 9)
    assert [f.is_whole for f in found] == [True, False, False, False, False, False, True, False, False]
    every = FaceFinder(whole_s=0.0, still_s=3.0, threads=1)
    assert all(f.is_whole for f in follow(every, [stage.show(At(200))] * 3))


def test_without_a_face_and_while_something_stirs_they_are_as_often_as_ever(stage: Stage) -> None:
    finder = FaceFinder(still_s=3.0, threads=1)
    assert [f.is_whole for f in follow(finder, [stage.show()] * 5)] == [True, False, True, False, True]
    restless = []
    for i in range(5):
        image = stage.show(At(150))
        image[100:250, 400:600] = 255 * (i % 2)
        restless.append(image)
    assert [f.is_whole for f in follow(finder, restless)] == [True, False, True, False, True]


@pytest.mark.parametrize("before", [1, 3, 4])
def test_somebody_who_comes_is_found_as_soon_as_ever(stage: Stage, before: int) -> None:
    """At once, or a second after the last whole picture; although they then stand still."""
    finder, images = FaceFinder(still_s=10.0, threads=1), [stage.show(At(100))] * before
    found = follow(finder, [*images, *[stage.show(At(100), At(500, who="man"))] * 2])
    assert [len(f.faces) for f in found[-2:]] == [1 if before == 1 else 2, 2]
    assert is_at(found[-1].faces, At(500))


def test_a_face_that_keeps_still_has_the_same_landmarks_either_way(finder: FaceFinder, stage: Stage) -> None:
    """To the bit: its close-up stays where it is, also when the whole picture is looked through."""
    found = follow(finder, [stage.show(At(200))] * 5)
    assert {f.is_whole for f in found} == {True, False}
    for one in found[1:]:
        np.testing.assert_array_equal(one.faces.landmarks_px, found[0].faces.landmarks_px)


def test_a_face_found_anew_has_the_landmarks_of_one_that_was_followed(
    finder: FaceFinder, clips: dict[str, Path]
) -> None:
    """On real video in motion; about as closely as CenterFace's landmarks agree when a picture is shifted."""
    images = []
    for name in ("woman", "man"):
        with open_video(clips[name], fps=2.0, stop_s=8.0) as video:
            images.append([frame.image for frame in video])
    detector = CenterFace(threads=1)
    apart, own = [], []
    for stream in images:
        for image, one in zip(stream, follow(finder, stream), strict=True):
            (fresh,) = finder.find([RgbPicture(image)], [0], [FinderState()])
            apart.append(_apart(fresh.faces, one.faces))
            shifted = np.roll(image, (5, 3), axis=(0, 1))
            before, after = detector.detect([image, shifted])
            own.append(_apart(before, Faces(after.boxes_px, after.landmarks_px - (3, 5), after.confidence)))
    assert np.median(apart) < 1.25 * np.median(own)
    assert max(apart) < 0.12


def _apart(a: Faces, b: Faces) -> float:
    """How far the landmarks of the only face are apart, in eye distances."""
    assert len(a) == len(b) == 1
    eyes = np.linalg.norm(a.landmarks_px[0, 1] - a.landmarks_px[0, 0])
    return float(np.sqrt(((a.landmarks_px - b.landmarks_px) ** 2).mean()) / eyes)


# -- what can happen -------------------------------------------------------------------------------------------------
def test_a_new_face_is_found_with_the_next_whole_picture(finder: FaceFinder, stage: Stage) -> None:
    found = follow(finder, [stage.show(At(100))] * 3 + [stage.show(At(100), At(500, who="man"))] * 2)
    assert [len(f.faces) for f in found] == [1, 1, 1, 1, 2]
    assert is_at(found[-1].faces, At(500))


def test_a_new_face_beside_a_known_one_is_found_at_once(finder: FaceFinder, stage: Stage) -> None:
    found = follow(finder, [stage.show(At(300))] * 3 + [stage.show(At(300), At(380, who="man"))])
    assert [f.is_whole for f in found] == [True, False, True, False]
    assert len(found[-1].faces) == 2
    assert is_at(found[-1].faces, At(380))


def test_after_a_cut_faces_are_found_at_once(finder: FaceFinder, stage: Stage) -> None:
    other = stage.show(At(480, 150, 120, "man"), place=stage.other_place)
    found = follow(finder, [stage.show(At(150))] * 2 + [other])
    assert [f.is_cut for f in found] == [False, False, True]
    assert found[-1].is_whole
    assert len(found[-1].faces) == 1
    assert is_at(found[-1].faces, At(480, 150, 120))


def test_a_cut_to_a_face_in_the_same_place_and_another_one(finder: FaceFinder, stage: Stage) -> None:
    """The known place shows a face, so that nothing is lost, and yet the whole picture is looked through."""
    other = stage.show(At(150), At(480, 150, 120, "man"), place=stage.other_place)
    found = follow(finder, [stage.show(At(150))] * 4 + [other])
    assert found[-2].is_whole != found[-1].is_whole or found[-1].is_cut
    assert found[-1].is_cut
    assert len(found[-1].faces) == 2


@pytest.mark.parametrize("jump", [40, 120, 300])
def test_a_face_that_moves_fast_is_found_where_it_went(finder: FaceFinder, stage: Stage, jump: int) -> None:
    found = follow(finder, [stage.show(At(150))] * 2 + [stage.show(At(150 + jump))] + [stage.show(At(150))])
    assert [len(f.faces) for f in found] == [1, 1, 1, 1]
    assert is_at(found[2].faces, At(150 + jump))
    assert is_at(found[3].faces, At(150))


def test_a_face_that_leaves_is_not_followed_and_comes_back(finder: FaceFinder, stage: Stage) -> None:
    somebody, nobody = stage.show(At(150)), stage.show()
    found = follow(finder, [somebody, nobody, nobody, nobody, somebody, somebody])
    assert [len(f.faces) for f in found] == [1, 0, 0, 0, 0, 1]
    # Lost: looked for everywhere at once; then at the usual rate from there on.
    assert [f.is_whole for f in found] == [True, True, False, True, False, True]


@pytest.mark.parametrize("heights", [(42, 56, 78, 110, 154, 215, 300), (300, 215, 154, 110, 78, 56, 42)])
def test_a_face_that_comes_near_or_goes_away(finder: FaceFinder, stage: Stage, heights: tuple[int, ...]) -> None:
    found = follow(finder, [stage.show(At(320, height=height)) for height in heights])
    for one, height in zip(found, heights, strict=True):
        assert len(one.faces) == 1
        assert is_at(one.faces, At(320, height=height)), height


def test_two_faces_that_pass_each_other_stay_two(finder: FaceFinder, stage: Stage) -> None:
    places = [(150, 450), (200, 400), (250, 350), (300, 300), (350, 250), (400, 200), (450, 150)]
    found = follow(finder, [stage.show(At(a), At(b, who="man")) for a, b in places])
    for one, (a, b) in zip(found, places, strict=True):
        expected = 1 if a == b else 2
        assert len(one.faces) == expected, (a, b)
        assert is_at(one.faces, At(b))


@pytest.mark.parametrize("at", [At(25), At(615), At(320, 20), At(320, 345), At(20, 20), At(630, 350, 300)])
def test_a_face_at_the_edge_is_followed_as_it_was_found(finder: FaceFinder, stage: Stage, at: At) -> None:
    first, second = follow(finder, [stage.show(at)] * 2)
    assert (len(first.faces), second.is_whole) == (len(second.faces), False) or second.is_whole
    np.testing.assert_array_equal(first.faces.landmarks_px, second.faces.landmarks_px)


@pytest.mark.parametrize("at", [At(320, 190, 250), At(320, 241, 209), At(321, 241, 181), At(320, 243, 237)])
def test_a_followed_face_is_cut_out_of_its_close_up(finder: FaceFinder, stage: Stage, at: At) -> None:
    (before,) = finder.find([RgbPicture(stage.show(at))], [0], [FinderState()])
    picture = Watched(stage.show(at))
    near = NearPicture(picture)
    (found,) = finder.find([near], [HALF_S], [before.state])
    assert not found.is_whole
    crops = cut_out(near, found.faces, 224, has_identity=True)
    assert (len(crops.faces), len(crops.chips)) == (1, 1)
    assert len(picture.crops) == 1


def test_a_face_that_slides_out_of_the_picture(finder: FaceFinder, stage: Stage) -> None:
    found = follow(finder, [stage.show(At(x)) for x in range(80, -140, -20)])
    counts = [len(f.faces) for f in found]
    assert counts[0] == 1
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)


def test_no_more_faces_than_asked_for(stage: Stage) -> None:
    finder = FaceFinder(max_faces=2, threads=1)
    found = follow(finder, [stage.show(At(100), At(250), At(400), At(550))] * 3)
    assert [len(f.faces) for f in found] == [2, 2, 2]


def test_another_size_of_picture_is_looked_through_whole(finder: FaceFinder, stage: Stage) -> None:
    image = stage.show(At(150))
    (first,) = finder.find([RgbPicture(image)], [0], [FinderState()])
    larger = np.asarray(cv2.resize(image, (1280, 720)), np.uint8)
    (second,) = finder.find([RgbPicture(larger)], [1], [first.state])
    assert second.is_whole
    assert is_at(second.faces, At(300, 360, 180))


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (3000, 2), (17, 33)])
def test_thin_and_tiny_pictures(finder: FaceFinder, size: tuple[int, int]) -> None:
    found = follow(finder, [np.full((*size, 3), 90, np.uint8)] * 2)
    assert [len(f.faces) for f in found] == [0, 0]


# -- streams together, states apart ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def streams(stage: Stage, clips: dict[str, Path]) -> list[list[U8]]:
    """Six streams of eight frames: still, moving, cut, crowded, empty, real."""
    with open_video(clips["face_noface"], fps=2.0) as video:
        real = [frame.image for frame, _ in zip(video, range(8), strict=False)]
    cut = [stage.show(At(150))] * 3 + [stage.show(At(480, 150, 120, "man"), place=stage.other_place)] * 5
    moving = [stage.show(At(100 + 45 * i), At(500 - 30 * i, 100, 60, "man")) for i in range(8)]
    return [
        [stage.show(At(200))] * 8,
        moving,
        cut,
        [stage.show(At(100), At(240), At(380), At(520))] * 8,
        [stage.show()] * 8,
        real,
    ]


@pytest.fixture(scope="module")
def alone(finder: FaceFinder, streams: list[list[U8]]) -> list[list[Found]]:
    return [follow(finder, stream) for stream in streams]


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_others_of_a_batch_change_nothing_and_nor_does_a_restart(
    finder: FaceFinder, streams: list[list[U8]], alone: list[list[Found]], seed: int
) -> None:
    """Streams advance at random, in batches put together at random, with states that went through msgpack."""
    rng = np.random.default_rng(seed)
    at, states = [0] * len(streams), [FinderState()] * len(streams)
    while open_ := [i for i, stream in enumerate(streams) if at[i] < len(stream)]:
        batch = rng.permutation(open_)[: rng.integers(1, len(open_) + 1)].tolist()
        pictures = [RgbPicture(streams[i][at[i]]) for i in batch]
        found = finder.find(pictures, [at[i] * HALF_S for i in batch], [states[i] for i in batch])
        for i, one in zip(batch, found, strict=True):
            expected = alone[i][at[i]]
            np.testing.assert_allclose(one.faces.landmarks_px, expected.faces.landmarks_px, atol=1e-3)
            assert (one.is_cut, one.is_whole) == (expected.is_cut, expected.is_whole)
            states[i] = msgspec.msgpack.decode(msgspec.msgpack.encode(one.state), type=FinderState)
            at[i] += 1


def test_a_state_is_small(alone: list[list[Found]]) -> None:
    for found in alone:
        state = found[-1].state
        rest = msgspec.structs.replace(state, cuts=CutMemory())
        assert len(msgspec.msgpack.encode(rest)) < 40 + 32 * len(found[-1].faces)
        assert len(msgspec.msgpack.encode(state)) < 5500


@pytest.mark.parametrize(
    "place", [(0.0, 0.0, float("nan")), (float("inf"), 0.0, 9.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1e9), (0.0, 0.0)]
)
def test_states_that_cannot_be_are_refused(place: tuple[float, ...]) -> None:
    for places in ([place], [(5.0, 5.0, 9.0)] * 65):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode([places, [640, 360], 0, []]), type=FinderState)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([[(5, 5, 9)], [640, 360], 0, []]), type=FinderState).places


@pytest.mark.parametrize("place", [(0.0, 0.0, 1e6), (1e6, -1e6, 5.0), (639.9, 0.0, 1.0), (320.0, 180.0, 5000.0)])
def test_places_far_off_or_huge_cost_no_more_than_others(
    finder: FaceFinder, stage: Stage, place: tuple[float, float, float]
) -> None:
    """Such a state was damaged, or a picture made it; the face is found again all the same."""
    picture = Watched(stage.show(At(200)))
    (found,) = finder.find([picture], [1], [FinderState((place,), (WIDTH, HEIGHT), 0)])
    assert found.is_whole
    assert is_at(found.faces, At(200))
    assert all(side <= WIDTH for crop in picture.crops for side in crop)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: FaceFinder(16),
        lambda: FaceFinder(480, -1.0),
        lambda: FaceFinder(480, float("nan")),
        lambda: FaceFinder(480, still_s=-1.0),
        lambda: FaceFinder(max_faces=0),
        lambda: FaceFinder(max_faces=65),
        lambda: FaceFinder(candidate=0.6),
        lambda: FaceFinder(threshold=1.0),
    ],
)
def test_settings_out_of_range_are_refused(wrong: Callable[[], FaceFinder]) -> None:
    with pytest.raises(ValueError, match=r"must be|need"):
        wrong()


def test_close_ups_are_of_the_size_that_the_network_takes() -> None:
    assert CLOSE_PX % 32 == 0
