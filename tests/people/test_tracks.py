"""Tracks within shots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.errors import DataError
from difffake.faces import Faces
from difffake.people import Tracker, iou


def faces_at(*centres: tuple[float, float], eye_px: float = 40.0) -> Faces:
    """Upright faces around these centres."""
    middle = np.array(centres, np.float32).reshape(-1, 2)
    points = np.array([(-0.5, -0.4), (0.5, -0.4), (0, 0.1), (-0.4, 0.6), (0.4, 0.6)], np.float32) * eye_px
    landmarks = middle[:, None] + points[None]
    boxes = np.concatenate([middle - eye_px, middle + eye_px], axis=1)
    return Faces(boxes.astype(np.float32), landmarks.astype(np.float32), np.full(len(middle), 0.9, np.float32))


def test_two_people_keep_their_tracks_whatever_their_order() -> None:
    tracker = Tracker()
    assert tracker.update(faces_at((100, 100), (300, 100)), 0.0).tolist() == [0, 1]
    assert tracker.update(faces_at((290, 104), (112, 98)), 0.2).tolist() == [1, 0]
    assert tracker.update(faces_at((120, 98)), 0.4).tolist() == [0]
    assert tracker.update(faces_at((280, 104), (130, 98)), 0.6).tolist() == [1, 0]


def test_a_face_that_moves_by_its_own_width_is_followed() -> None:
    tracker = Tracker()
    ids = [tracker.update(faces_at((100 + 75 * i, 100)), 0.2 * i).tolist() for i in range(5)]
    assert ids == [[0]] * 5


def test_of_two_people_close_together_neither_takes_the_others_place() -> None:
    """Both moved to the left; the second came nearer to where the first was than the first stayed."""
    tracker = Tracker(max_move=2.0)
    assert tracker.update(faces_at((100, 100), (170, 100)), 0.0).tolist() == [0, 1]
    assert tracker.update(faces_at((60, 100), (105, 100)), 0.2).tolist() == [0, 1]


def test_a_profile_is_followed_as_far_as_a_face_from_the_front() -> None:
    tracker = Tracker()
    profile = faces_at((100, 100))
    profile.landmarks_px[:, :2, 0] = 100
    tracker.update(profile, 0.0)
    moved = Faces(
        profile.boxes_px + np.float32([60, 0, 60, 0]), profile.landmarks_px + np.float32([60, 0]), profile.confidence
    )
    assert tracker.update(moved, 0.2).tolist() == [0]


def test_someone_elsewhere_is_someone_else() -> None:
    tracker = Tracker()
    tracker.update(faces_at((100, 100)), 0.0)
    assert tracker.update(faces_at((500, 300)), 0.2).tolist() == [1]


def test_a_track_ends_with_a_cut_and_after_a_gap() -> None:
    tracker = Tracker(max_gap_s=1.0)
    tracker.update(faces_at((100, 100)), 0.0)
    assert tracker.update(faces_at((100, 100)), 0.9).tolist() == [0]
    assert tracker.update(faces_at(), 1.0).tolist() == []
    assert tracker.update(faces_at((100, 100)), 2.0).tolist() == [1]
    assert tracker.update(faces_at((100, 100)), 2.2, cut=True).tolist() == [2]


@given(st.lists(st.lists(st.tuples(st.floats(0, 640), st.floats(0, 360)), max_size=6), min_size=1, max_size=12))
def test_ids_are_unique_in_a_frame_and_grow_without_holes(frames: list[list[tuple[float, float]]]) -> None:
    tracker = Tracker(max_tracks=8)
    seen: set[int] = set()
    for i, centres in enumerate(frames):
        ids = tracker.update(faces_at(*centres), 0.2 * i).tolist()
        assert len(ids) == len(set(ids)) == len(centres)
        seen.update(ids)
    assert seen == set(range(len(seen)))


@given(
    st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60), st.floats(0.3, 3), st.floats(0.05, 2)), max_size=12),
)
def test_whether_a_face_is_followed_does_not_depend_on_somebody_far_away(
    steps: list[tuple[float, float, float, float]],
) -> None:
    alone, beside, x, y, time_s = Tracker(), Tracker(), 0.0, 0.0, 0.0
    far = faces_at((9000, 9000))
    for dx, dy, scale, step_s in [(0.0, 0.0, 1.0, 0.0), *steps]:
        x, y, time_s = x + dx, y + dy, time_s + step_s
        face = faces_at((x, y), eye_px=40.0 * scale)
        both = Faces(*(np.concatenate([getattr(f, n) for f in (face, far)]) for n in face.__dataclass_fields__))
        of_it, _ = beside.update(both, time_s)
        assert (alone.update(face, time_s).tolist() == [0]) == (of_it == 0)


def test_overlap_of_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(iou(a, b), [[1, 1 / 3, 0], [0, 0, 0]], atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(st.floats(0, 2000), max_size=4), st.floats(0.01, 2.5), st.booleans()), max_size=12))
def test_saved_and_restored_at_every_frame_it_goes_on_exactly(frames: list[tuple[list[float], float, bool]]) -> None:
    whole, moved, time_s = Tracker(max_tracks=6), Tracker(max_tracks=6), 1.79e9
    for places, step_s, cut in frames:
        time_s += step_s
        faces = faces_at(*((x, 100.0) for x in places))
        moved = Tracker.from_arrays(moved.to_arrays(), max_tracks=6)
        assert whole.update(faces, time_s, cut=cut).tolist() == moved.update(faces, time_s, cut=cut).tolist()
        assert {n: a.tobytes() for n, a in whole.to_arrays().items()} == {
            n: a.tobytes() for n, a in moved.to_arrays().items()
        }


def test_what_was_saved_is_a_copy() -> None:
    tracker = Tracker()
    tracker.update(faces_at((100, 100)), 0.0)
    arrays = tracker.to_arrays()
    for array in arrays.values():
        array[...] = 0
    assert tracker.update(faces_at((100, 100), (400, 100)), 0.2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("tracks_id", np.array([0, 0])),
        ("tracks_id", np.array([0, 7])),
        ("tracks_id", np.array([0, -1])),
        ("tracks_id", np.array([0, 1], np.int32)),
        ("tracks_id", np.array([0, 1, 2])),
        ("tracks_seen_s", np.array([0.0, np.nan])),
        ("tracks_box", np.full((2, 4), 1e9, np.float32)),
        ("tracks_landmarks", np.full((2, 5, 2), np.nan, np.float32)),
        ("tracks_landmarks", np.zeros((2, 10), np.float32)),
        ("tracks_next", np.array([-1])),
        ("tracks_next", np.array([2, 3])),
    ],
)
def test_a_damaged_state_is_refused(name: str, array: np.ndarray) -> None:
    tracker = Tracker()
    tracker.update(faces_at((100, 100), (400, 100)), 0.0)
    arrays = tracker.to_arrays()
    Tracker.from_arrays(arrays)
    with pytest.raises(DataError, match="damaged tracker"):
        Tracker.from_arrays(arrays | {name: array})
    with pytest.raises(DataError, match="damaged tracker"):
        Tracker.from_arrays({n: a for n, a in arrays.items() if n != name})


def test_more_tracks_than_can_be_are_refused() -> None:
    tracker = Tracker(max_tracks=2000)
    tracker.update(faces_at(*((i, i) for i in range(1100))), 0.0)
    with pytest.raises(DataError, match="damaged tracker"):
        Tracker.from_arrays(tracker.to_arrays(), max_tracks=6)
