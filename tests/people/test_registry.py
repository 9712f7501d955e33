"""Who is who: across cuts, crossings, twins, morphs and bad beginnings; bounded, in any batch, saved exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.errors import DataError
from difffake.people import Kind, People, PeopleSettings, Sightings

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
SIZE = 128
#: Between photos of one person dlib's embeddings lie about 0.25 apart, people 0.7: so do these.
SPREAD = 0.2 / np.sqrt(2 * SIZE)


def person(seed: int) -> F32:
    """The centre of a person's embeddings, 0.7 from everybody else's."""
    centre = np.random.default_rng(seed).normal(size=SIZE)
    return (centre / np.linalg.norm(centre) * 0.5).astype(np.float32)


def shown(centre: F32, seed: int, spread: float = SPREAD) -> F32:
    """The embedding of one face of a person."""
    return (centre + np.random.default_rng(seed).normal(0, spread, SIZE)).astype(np.float32)


@dataclass
class Stream:
    """Collects faces frame by frame."""

    time_s: list[float] = field(default_factory=list)
    track: list[int] = field(default_factory=list)
    shot: list[int] = field(default_factory=list)
    identity: list[F32] = field(default_factory=list)
    box: list[tuple[float, float, float, float]] = field(default_factory=list)
    now: float = 0.0

    def frame(self, *faces: tuple[int, F32 | None, float], shot: int = 0, step_s: float = 0.2) -> Stream:
        """One more frame of faces ``(track, embedding, x)``; 100 px wide."""
        for track, embedding, x in faces:
            self.time_s.append(self.now)
            self.track.append(track)
            self.shot.append(shot)
            self.identity.append(np.full(SIZE, np.nan, np.float32) if embedding is None else embedding)
            self.box.append((x, 100, x + 100, 200))
        self.now += step_s
        return self

    def sightings(self, rows: npt.ArrayLike | None = None) -> Sightings:
        at = np.arange(len(self.time_s)) if rows is None else np.asarray(rows)
        return Sightings(
            np.array(self.time_s, np.float64)[at],
            np.array(self.track, np.int64)[at],
            np.array(self.shot, np.int64)[at],
            np.array(self.identity, np.float32).reshape(-1, SIZE)[at],
            np.array(self.box, np.float32).reshape(-1, 4)[at],
        )


A, B, C = person(1), person(2), person(3)


def test_a_person_keeps_the_id_across_cuts_and_others_get_their_own() -> None:
    stream, people = Stream(), People()
    for shot, who in enumerate((A, B, A, C, B, A)):
        for i in range(6):
            stream.frame((shot, shown(who, 10 * shot + i), 100 + 37.0 * shot), shot=shot)
    ids = people.update(stream.sightings()).reshape(6, 6)
    assert ids[:, -1].tolist() == [0, 1, 0, 2, 1, 0]
    assert people.resolve(np.arange(6)).tolist() == [0, 1, 0, 2, 1, 0]
    assert people.take_events() == []


def test_nobody_is_known_before_a_usable_face_and_is_from_then_on() -> None:
    stream, people = Stream(), People()
    stream.frame((5, None, 100)).frame((5, None, 100)).frame((5, shown(A, 0), 100)).frame((5, None, 100))
    assert people.update(stream.sightings()).tolist() == [-1, -1, 0, 0]
    assert people.resolve(np.array([5, 6])).tolist() == [0, -1]


def test_two_faces_in_a_frame_are_two_people_even_with_one_face() -> None:
    stream, people = Stream(), People()
    for i in range(5):
        stream.frame((0, shown(A, i), 100), (1, shown(A, 100 + i), 500))
    ids = people.update(stream.sightings()).reshape(5, 2)
    assert ids[-1].tolist() == [0, 1]
    assert people.ambiguous(0).tolist() == [1]
    assert people.ambiguous(1).tolist() == [0]
    assert people.ambiguous(7).tolist() == []


def test_twins_are_told_apart_by_place_after_a_cut_and_stay_marked() -> None:
    stream, people = Stream(), People()
    for i in range(5):
        stream.frame((0, shown(A, i), 100), (1, shown(A, 100 + i), 500))
    for i in range(5):
        stream.frame((2, shown(A, 200 + i), 490), (3, shown(A, 300 + i), 110), shot=1)
    people.update(stream.sightings())
    assert people.resolve(np.array([2, 3])).tolist() == [1, 0]
    assert people.ambiguous(1).tolist() == [0]


def test_a_face_that_becomes_another_in_mid_track_stays_the_person() -> None:
    stream, people = Stream(), People()
    for i in range(6):
        stream.frame((0, shown(B, i), 500), shot=0)
    for i in range(6):
        stream.frame((1, shown(A, 50 + i), 100), shot=1)
    for i in range(20):
        stream.frame((1, shown(B if i % 2 else C, 100 + i), 100), shot=1)
    for i in range(20):
        stream.frame((1, shown(B, 200 + i), 100), shot=1)
    ids = people.update(stream.sightings())
    assert set(ids[6:].tolist()) == {1}
    assert people.take_events() == []


@pytest.mark.parametrize("how", ["jump", "gap", "close"])
def test_a_track_that_went_over_to_somebody_known_is_divided(how: str) -> None:
    stream, people = Stream(), People()
    for i in range(6):
        stream.frame((0, shown(A, i), 100), (1, shown(B, 50 + i), 200 if how == "close" else 900))
    if how == "gap":
        stream.now += 0.8
    began = stream.now
    for i in range(6):
        # The track of A is now on B's face; B's own track is gone.
        stream.frame((0, shown(B, 100 + i), 900 if how == "jump" else 100))
    ids = people.update(stream.sightings())
    assert ids[-1] == 1
    (event,) = people.take_events()
    assert (event.kind, event.person, event.other, event.track) == (Kind.SPLIT, 0, 1, 0)
    assert event.time_s == pytest.approx(began)
    times = np.array([0.0, began - 0.01, began, began + 1])
    assert people.resolve(np.zeros(4, np.int64), times).tolist() == [0, 0, 1, 1]


def test_two_tracks_that_changed_faces_are_both_put_right() -> None:
    stream, people = Stream(), People()
    for i in range(10):
        first, second = (A, B) if i < 5 else (B, A)
        stream.frame((0, shown(first, i), 100), (1, shown(second, 50 + i), 180))
    ids = people.update(stream.sightings()).reshape(-1, 2)
    assert ids[4].tolist() == [0, 1]
    assert ids[-1].tolist() == [1, 0]
    assert [e.kind for e in people.take_events()] == [Kind.SPLIT, Kind.SPLIT]
    assert people.resolve(np.array([0, 1]), np.array([0.5, 0.5])).tolist() == [0, 1]
    assert people.resolve(np.array([0, 1]), np.array([1.0, 1.0])).tolist() == [1, 0]


def test_somebody_made_of_bad_first_faces_is_merged() -> None:
    stream, people = Stream(), People()
    for i in range(6):
        stream.frame((0, shown(A, i), 100), shot=0)
    stream.frame((1, person(99), 100), shot=1)
    for i in range(8):
        stream.frame((1, shown(A, 50 + i), 100), shot=1)
    ids = people.update(stream.sightings())
    assert ids[6] == 1
    assert ids[-1] == 0
    assert people.resolve(np.array([0, 1])).tolist() == [0, 0]
    assert [(e.kind, e.person, e.other) for e in people.take_events()] == [(Kind.MERGED, 1, 0)]


def test_people_seen_together_are_never_merged() -> None:
    stream, people = Stream(), People()
    for i in range(30):
        stream.frame((0, shown(A, i), 100), (1, shown(A, 100 + i), 500))
    people.update(stream.sightings())
    assert len(people) == 2


def test_a_track_that_comes_back_while_its_person_is_elsewhere_is_released() -> None:
    stream, people = Stream(), People()
    for i in range(5):
        stream.frame((0, shown(A, i), 100))
    for i in range(5):
        stream.frame((1, shown(A, 50 + i), 500))
    for i in range(5):
        stream.frame((0, shown(B, 70 + i), 100), (1, shown(A, 90 + i), 500))
    ids = people.update(stream.sightings())
    assert ids[-2:].tolist() == [1, 0]
    assert people.resolve(np.array([0, 0]), np.array([0.5, 2.5])).tolist() == [0, 1]


@given(st.integers(10, 400), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_morph_at_any_speed_does_not_drag_a_person_along(steps: int, seed: int) -> None:
    stream, people = Stream(), People()
    for i in range(5):
        stream.frame((0, shown(A, seed + i), 100))
    for i, share in enumerate(np.linspace(0, 1, steps, dtype=np.float32)):
        stream.frame((0, shown((1 - share) * A + share * B, seed + 10 + i), 100))
    ids = people.update(stream.sightings())
    assert set(ids.tolist()) == {0}
    # After a cut the other one is not the person, and the person still is.
    later = Stream(now=stream.now + 1)
    for i in range(4):
        later.frame((1, shown(B, seed + 5000 + i), 100), shot=1)
    for i in range(4):
        later.frame((2, shown(A, seed + 6000 + i), 100), shot=2)
    people.update(later.sightings())
    assert people.resolve(np.array([1, 2])).tolist() == [1, 0]


def test_somebody_enrolled_is_recognised_by_name() -> None:
    people = People()
    anna = people.enrol("Anna", np.stack([shown(A, i) for i in range(20)]))
    stream = Stream()
    for i in range(4):
        stream.frame((0, shown(B, i), 100), (1, shown(A, 50 + i), 500))
    ids = people.update(stream.sightings()).reshape(-1, 2)
    assert ids[-1].tolist() == [1, anna]
    assert [people.name_of(i) for i in (anna, 1, 9)] == ["Anna", None, None]


def test_enrolling_somebody_already_there_names_them() -> None:
    stream, people = Stream(), People()
    for i in range(6):
        stream.frame((0, shown(A, i), 100))
    people.update(stream.sightings())
    assert people.enrol("Anna", np.stack([shown(A, 50 + i) for i in range(4)])) == 0
    assert people.name_of(0) == "Anna"
    assert [e.kind for e in people.take_events()] == [Kind.MERGED]


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("", np.zeros((1, SIZE))),
        ("x", np.zeros((0, SIZE))),
        ("x", np.zeros(SIZE)),
        ("x", np.full((1, SIZE), np.nan)),
        ("taken", np.ones((1, SIZE))),
        ("x", np.ones((1, 64))),
    ],
)
def test_bad_enrolments_are_refused(name: str, identity: F32) -> None:
    people = People()
    people.enrol("taken", A[None])
    with pytest.raises(DataError):
        people.enrol(name, identity)


def test_without_identity_every_track_is_a_person() -> None:
    people = People()
    boxes = np.tile(np.array([[0, 0, 9, 9]], np.float32), (5, 1))
    track = np.array([3, 4, 3, 5, 3], np.int64)
    time_s = np.array([0, 0, 1, 1, 2], np.float64)
    faces = Sightings(time_s, track, np.zeros(5, np.int64), np.zeros((5, 0), np.float32), boxes)
    assert people.update(faces).tolist() == [0, 1, 0, 2, 0]
    assert people.resolve(track).tolist() == [0, 1, 0, 2, 0]


def test_thousands_of_short_tracks_stay_within_bounds_and_ids_are_never_reused() -> None:
    people = People(PeopleSettings(max_people=20, max_tracks=50, max_active=10, max_events=5))
    anna = people.enrol("Anna", A[None])
    seen: set[int] = set()
    for i in range(600):
        stream = Stream(now=float(i))
        stream.frame((i, 1.5 * person(1000 + i), 100), shot=i)
        (new,) = people.update(stream.sightings()).tolist()
        assert new not in seen
        seen.add(new)
        assert len(people) <= 20
    stream = Stream(now=600.0).frame((600, shown(A, 1), 100), shot=600)
    assert people.update(stream.sightings()).tolist() == [anna]
    assert people.resolve(np.array([0, 599, 600])).tolist() == [-1, max(seen), anna]
    arrays = people.to_arrays()
    assert sum(a.nbytes for a in arrays.values()) < 20 * 9 * SIZE * 4 + 20_000


def test_thirty_faces_in_a_frame() -> None:
    stream, people = Stream(), People()
    crowd = [person(100 + k) for k in range(30)]
    for i in range(4):
        stream.frame(*((k, shown(crowd[k], 100 * i + k), 120.0 * k) for k in range(30)))
    for i in range(4):
        order = np.random.default_rng(i).permutation(30)
        stream.frame(*((30 + int(k), shown(crowd[k], 900 + 100 * i + k), 120.0 * k) for k in order), shot=1)
    people.update(stream.sightings())
    first, second = people.resolve(np.arange(30)), people.resolve(30 + np.arange(30))
    assert first.tolist() == second.tolist()
    assert len(set(first.tolist())) == 30


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Up to four people, with cuts, gaps, faces not fit, and faces that change."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    crowd = [person(int(k)) for k in rng.integers(0, 6, 4)]
    stream, shot, first = Stream(), 0, 0
    for _ in range(draw(st.integers(1, 25))):
        if rng.random() < 0.15:
            shot, first = shot + 1, first + 4
            rng.shuffle(crowd)
        faces = []
        for k in rng.permutation(4):
            if rng.random() < 0.7:
                other = rng.random() < 0.1
                embedding = shown(crowd[(k + other) % 4], int(rng.integers(2**32)), float(rng.choice([1, 2])) * SPREAD)
                faces.append(
                    (first + int(k), None if rng.random() < 0.2 else embedding, float(rng.normal(150.0 * k, 20)))
                )
        stream.frame(*faces, shot=shot, step_s=float(rng.choice([0.2, 0.2, 1.0])))
    return stream


@given(streams(), st.data())
@settings(max_examples=60, deadline=None)
def test_neither_batches_nor_the_order_in_a_frame_nor_saving_matter(stream: Stream, data: st.DataObject) -> None:
    whole = People()
    expected = whole.update(stream.sightings())
    times = np.array(stream.time_s)
    for t in np.unique(times):
        mine = expected[(times == t) & (expected >= 0)]
        assert len(set(mine.tolist())) == len(mine)
    pieces = People()
    got = np.full(len(times), -9, np.int64)
    for t in np.unique(times):
        rows = np.flatnonzero(times == t)
        rows = np.array(data.draw(st.permutations(rows.tolist())), np.int64)
        got[rows] = pieces.update(stream.sightings(rows))
        if data.draw(st.booleans()):
            pieces = People.from_arrays(pieces.to_arrays())
    assert got.tolist() == expected.tolist()
    tracks = np.array(stream.track, np.int64)
    assert pieces.resolve(tracks, times).tolist() == whole.resolve(tracks, times).tolist()
    assert pieces.take_events() == whole.take_events()
    ours, theirs = whole.to_arrays(), pieces.to_arrays()
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        if name != "events":
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["same", "same", "same", "blurred", "other", "none"]),
            st.sampled_from([0.0, 0.0, 20.0, 49.0, 51.0, 300.0]),
            st.sampled_from([0.1, 0.2, 0.65, 0.75, 1.2, 12.0]),
        ),
        max_size=40,
    ),
    st.sets(st.integers(0, 40), max_size=2),
    st.sets(st.integers(0, 40), max_size=2),
)
@settings(max_examples=100, deadline=None)
def test_the_only_face_of_the_only_person_is_followed_as_if_it_were_one_of_many(
    frames: list[tuple[str, float, float]], cuts: set[int], companies: set[int]
) -> None:
    ours, thorough, track, shot, x = People(), People(), 0, 0, 100.0
    stream = Stream()
    for number, (face, step_px, step_s) in enumerate(frames):
        cut = number in cuts
        track, shot, x = track + cut, shot + cut, x + step_px * (-1) ** number
        embedding = {
            "same": shown(A, number),
            "blurred": shown(A, number, 2 * SPREAD),
            "other": shown(B, number),
            "none": None,
        }
        others = [(1000 + track, shown(C, number), 900.0)] if number in companies else []
        stream.frame((track, embedding[face], x), *others, shot=shot, step_s=step_s)
    found = ours.update(stream.sightings())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(People, "_is_only_one", lambda *_: False)
        assert found.tolist() == thorough.update(stream.sightings()).tolist()
    theirs = thorough.to_arrays()
    for name, array in ours.to_arrays().items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def saved() -> dict[str, npt.NDArray[np.generic]]:
    people = People()
    people.enrol("Anna", C[None])
    stream = Stream()
    for i in range(6):
        stream.frame((0, shown(A, i), 100), (1, shown(A, 50 + i), 500))
    people.update(stream.sightings())
    return people.to_arrays()


def test_names_and_events_are_saved_too() -> None:
    people = People.from_arrays(saved())
    assert people.name_of(0) == "Anna"
    assert people.ambiguous(1).tolist() == [2]


@pytest.mark.parametrize("name", sorted(saved()))
def test_hostile_arrays_are_refused(name: str) -> None:
    array = saved()[name]
    for wrong in (
        None,
        array.astype(np.complex64),
        array[None],
        np.zeros((1_200_000, *array.shape[1:]), array.dtype) if array.ndim == 1 else array[..., None],
    ):
        arrays = saved() | {name: wrong}
        if wrong is None:
            del arrays[name]
        with pytest.raises(DataError):
            People.from_arrays(arrays)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("people_id", 0),
        ("people_id", -5),
        ("people_count", 9),
        ("people_count", 0),
        ("people_faces", np.nan),
        ("people_centre", np.inf),
        ("people_together", 1),
        ("people_twins", 10**9),
        ("people_seen_s", np.nan),
        ("active_person", 77),
        ("active_mean", np.nan),
        ("active_track", -1),
        ("active_count", -1),
        ("ledger_person", 10**6),
        ("ledger_from_s", np.nan),
        ("names", 255),
        ("clock", np.nan),
        ("state", 10**15),
    ],
)
def test_hostile_values_are_refused(name: str, value: float) -> None:
    arrays = saved()
    arrays[name] = np.full_like(arrays[name], value)
    with pytest.raises(DataError):
        People.from_arrays(arrays)


@pytest.mark.parametrize(
    "names",
    [
        *(b"[[0]]", b"{}x", b"[[0, 5]]", b'[[0, ""]]', b'[[7, "a"]]', b"[" * 5000, b"3"),
        *(b'[[Infinity, "a"]]', b'[[NaN, "a"]]', b'[[1e999, "a"]]', b'[[0, "\\ud800"]]', b'[[0, "\xff"]]'),
    ],
)
def test_hostile_names_are_refused(names: bytes) -> None:
    with pytest.raises(DataError):
        People.from_arrays(saved() | {"names": np.frombuffer(names, np.uint8)})


@pytest.mark.parametrize(
    "change",
    [
        {"time_s": np.array([1.0, 0.0])},
        {"time_s": np.array([0.0, np.nan])},
        {"track": np.array([-1, 0])},
        {"track": np.array([0])},
        {"boxes_px": np.full((2, 4), np.nan, np.float32)},
        {"boxes_px": np.zeros((2, 5), np.float32)},
        {"identity": np.zeros(2, np.float32)},
        {"identity": np.zeros((3, SIZE), np.float32)},
        {"identity": np.zeros((2, 5000), np.float32)},
    ],
)
def test_bad_sightings_are_refused(change: dict[str, npt.NDArray[np.generic]]) -> None:
    good: dict[str, npt.NDArray[np.generic]] = {
        "time_s": np.zeros(2),
        "track": np.arange(2),
        "shot": np.zeros(2, np.int64),
        "identity": np.zeros((2, SIZE), np.float32),
        "boxes_px": np.zeros((2, 4), np.float32),
    }
    Sightings(**good)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        Sightings(**good | change)  # type: ignore[arg-type]


def test_time_does_not_go_back_and_embeddings_keep_their_size() -> None:
    people = People()
    people.update(Stream(now=5.0).frame((0, A, 0)).sightings())
    with pytest.raises(DataError):
        people.update(Stream(now=4.0).frame((0, A, 0)).sightings())
    boxes, zero = np.zeros((1, 4), np.float32), np.zeros(1, np.int64)
    with pytest.raises(DataError):
        people.update(Sightings(np.array([6.0]), zero, zero, np.zeros((1, 64), np.float32), boxes))


@pytest.mark.parametrize("wrong", [{"merge": 0.0}, {"sure": 0.5}, {"exemplars": 2}, {"max_people": 0}])
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"need|bounds"):
        PeopleSettings(**wrong)  # type: ignore[arg-type]
