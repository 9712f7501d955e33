"""Enrolment from made-up observations: what becomes an anchor, and what is refused, with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from faces_made_up import observed, who

from difffake.anchors import Origin
from difffake.anchors.enrol import Clip, EnrolmentRules, enrol
from difffake.errors import AnchorError, DiffFakeError, NoFaceError
from difffake.faces import Reason
from difffake.observe import Observations


def clip(seen: Observations, name: str = "clip.mp4", p: float = 0.5, duration_s: float | None = 10.0) -> Clip:
    return Clip(name, seen, np.full(len(seen.time_s), p), duration_s)


def photo(number: int, name: str, person: int = 0, frame_of: tuple[int, ...] = (0,)) -> Clip:
    identity = np.random.default_rng(number).normal(0, 0.02, (len(frame_of), 128)) + who(person)
    return clip(observed(frame_of, identity), name, duration_s=None)


def looking(one: Clip, p: float) -> Clip:
    """The same with another p-value of its own evidence."""
    return replace(one, artifact_p=np.full_like(one.artifact_p, p))


def refused(*clips: Clip, error: type[DiffFakeError] = AnchorError, **options: bool) -> str:
    with pytest.raises(error) as caught:
        enrol(clips, **options)
    assert type(caught.value) is error
    return f"{caught.value} | {caught.value.hint}"


def test_a_person_alone_becomes_an_anchor() -> None:
    seen = observed(range(50))
    done = enrol([clip(seen)])
    assert (len(done.pool), done.pool.origin) == (8, Origin.ENROLLED)
    assert done.pool.has_artifact
    assert done.pool.has_identity
    assert (np.diff(done.pool.times_s) > 0).all()
    rows = np.searchsorted(seen.time_s, done.pool.times_s)
    np.testing.assert_array_equal(done.pool.embeddings, seen.embedding[rows])
    np.testing.assert_array_equal(done.pool.identities, seen.identity[rows])
    figures = done.figures
    assert (figures.frames, figures.good, figures.together, figures.strangers) == (50, 50, 0, 0)
    assert figures.span_s == pytest.approx(9.8)
    assert figures.identity_spread is not None
    assert 0.1 < figures.identity_spread < 0.3
    assert done.warnings == []
    assert not done.trusted


def test_two_seconds_are_enough_and_less_is_too_short() -> None:
    assert len(enrol([clip(observed(range(11)))]).pool) == 8
    text = refused(clip(observed(range(9))))
    assert "too short: the face is seen well in 9 frames over 1.6 s" in text
    assert "2 s or more" in text
    assert "too short" in refused(clip(observed(range(0, 60, 10))))  # a long time, but six frames
    assert "too short" in refused(clip(observed(range(1))))


def test_no_face() -> None:
    text = refused(clip(observed([], frames=40)), error=NoFaceError)
    assert "clip.mp4: no face in 40 analysed frames" in text
    # One of several files without a face is not passed over in silence.
    assert "b.mp4" in refused(clip(observed(range(50))), clip(observed([], frames=4), "b.mp4"), error=NoFaceError)


def test_two_people_at_once() -> None:
    identity = np.stack([who(i % 2) for i in range(100)])
    text = refused(clip(observed(np.repeat(range(50), 2), identity)))
    assert "two or more people at once in 50 of 50 frames, from 0.0 to 9.8 s" in text
    assert "alone" in text


def test_one_face_twice_in_a_picture_is_called_so() -> None:
    text = refused(clip(observed(np.repeat(range(50), 2))))
    assert "the same face twice in one picture in 50 of 50 frames" in text
    assert "picture in the picture" in text


def test_without_an_identity_network_two_faces_are_two_people() -> None:
    text = refused(clip(observed(np.repeat(range(50), 2), np.zeros((100, 0)))))
    assert "two or more people at once" in text


def test_two_faces_in_very_few_frames_are_left_out() -> None:
    frame_of = np.sort(np.concatenate([np.arange(100), [50]]))
    done = enrol([clip(observed(frame_of))])
    assert done.figures.together == 1
    assert 10.0 not in done.pool.times_s


def test_small_faces_behind_a_presenter_are_not_looked_at() -> None:
    identity = np.stack([who(i % 2) for i in range(100)])
    size = np.where(np.arange(100) % 2, 30.0, 100.0)
    done = enrol([clip(observed(np.repeat(range(50), 2), identity, size_px=size))])
    assert np.linalg.norm(done.pool.identities - who(0), axis=1).max() < 0.01
    assert "two or more" in refused(clip(observed(np.repeat(range(50), 2), identity, size_px=size + 10)))


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (Reason.BLURRED, "sharper"),
        (Reason.TOO_SMALL, "higher resolution"),
        (Reason.POSE, "towards the camera"),
        (Reason.EXPOSURE, "too dark"),
        (Reason.TRUNCATED, "whole face"),
    ],
)
def test_unfit_faces_are_refused_with_the_reason_that_dominates(reason: Reason, remedy: str) -> None:
    reasons = [Reason.OK] * 3 + [reason] * 40 + [Reason.TRUNCATED] * 7
    text = refused(clip(observed(range(50), reason=reasons)))
    assert f"the face is mostly unfit ({reason.value}): 3 good of 50" in text
    assert remedy in text


def test_some_unfit_faces_do_not_matter() -> None:
    reasons = [Reason.OK if i % 2 else Reason.BLURRED for i in range(50)]
    done = enrol([clip(observed(range(50), reason=reasons))])
    assert done.figures.good == 25


def test_a_person_who_changes_in_the_middle() -> None:
    identity = np.stack([who(int(i >= 30)) for i in range(50)])
    text = refused(clip(observed(range(50), identity)))
    assert "more than one person: another face in clip.mp4 from 6.0 to 9.8 s (20 of 50 good frames)" in text


def test_somebody_much_like_the_person_is_told_by_the_centres_of_shots() -> None:
    rng = np.random.default_rng(0)
    like = who(0) + (who(1) - who(0)) * 0.45 / 0.7
    identity = np.repeat([who(0), like], [30, 20], axis=0) + rng.normal(0, 0.1 / 128**0.5, (50, 128))
    seen = observed(range(50), identity)
    assert enrol([clip(seen)]).figures.strangers == 0  # in one shot nothing tells them apart
    seen.shot[30:] = 1
    assert "another face in clip.mp4 from 6.0 to 9.8 s (20 of 50 good frames)" in refused(clip(seen))
    a, b = clip(observed(range(30), identity[:30])), clip(observed(range(20), identity[30:]), "b.mp4")
    assert "another face in b.mp4 (20 of 50 good frames)" in refused(a, b)


def test_cuts_within_footage_of_one_person_are_fine() -> None:
    seen = observed(range(60))
    seen.shot[:] = np.arange(60) // 7
    assert enrol([clip(seen)]).figures.good == 60


def test_few_frames_of_another_face_are_left_out() -> None:
    identity = np.stack([who(int(i in (20, 21))) for i in range(50)])
    done = enrol([clip(observed(range(50), identity))])
    assert done.figures.strangers == 2
    assert np.linalg.norm(done.pool.identities - who(0), axis=1).max() < 0.01


def test_several_clips_of_one_person_and_of_two() -> None:
    a, b = clip(observed(range(6)), "a.mp4"), clip(observed(range(6), seed=1), "b.mp4")
    done = enrol([a, b])
    assert done.pool.times_s.max() > 10  # the second file begins where the first ends
    assert done.figures.span_s == pytest.approx(2.0)
    stranger = clip(observed(range(6), np.stack([who(1)] * 6)), "c.mp4")
    assert "another face in c.mp4 (6 of 18 good frames)" in refused(a, b, stranger)
    # However short: a file that shows somebody else altogether is no outlier.
    assert "c.mp4" in refused(clip(observed(range(200))), clip(observed([0], who(1)[None]), "c.mp4"))


def test_suspicious_footage_needs_the_operators_word() -> None:
    text = refused(clip(observed(range(50)), p=0.01))
    assert "100% of the good frames look manufactured" in text
    assert "--trust" in text
    done = enrol([clip(observed(range(50)), p=0.01)], trust=True)
    assert done.trusted
    assert "suspicious" in done.warnings[0]
    assert not enrol([clip(observed(range(50)))], trust=True).trusted
    assert enrol([clip(observed(range(50)), p=float("nan"))]).figures.suspicious == 0


def test_without_an_identity_network_one_person_is_the_operators_word() -> None:
    done = enrol([clip(observed(range(50), np.zeros((50, 0))))])
    assert not done.pool.has_identity
    assert done.figures.identity_spread is None
    assert "cannot check" in done.warnings[0]


def test_photos_enrol_identity_alone() -> None:
    done = enrol([photo(i, f"{i}.jpg") for i in range(4)])
    assert len(done.pool) == 4
    assert done.pool.has_identity
    assert not done.pool.has_artifact
    assert done.figures.span_s == 0


def test_a_photo_that_looks_manufactured_is_named_and_most_of_them_are_refused() -> None:
    three = [photo(i, f"{i}.jpg") for i in range(3)]
    assert enrol(three).warnings == []
    doubtful = looking(photo(3, "d.jpg"), 0.004)
    done = enrol([*three, doubtful])
    (warning,) = done.warnings
    assert warning == "photo: d.jpg looks manufactured (p = 0.004): is it genuine?"
    assert not done.trusted
    assert done.figures.suspicious == 0.25
    # Unusual, as one genuine photo in twenty is: no word.
    assert enrol([*three, looking(photo(3, "d.jpg"), 0.03)]).warnings == []
    manufactured = [looking(one, 0.03) for one in three[:2]]
    assert "67% of the photos look manufactured" in refused(*manufactured, three[2])
    done = enrol([*manufactured, three[2]], trust=True)
    assert done.trusted
    assert done.warnings == ["suspicious: 67% of the photos look manufactured; enrolled at your word (--trust)"]
    # A bundle that does not read artifact in pictures has nothing to say of them.
    assert enrol([looking(one, float("nan")) for one in three]).warnings == []


def test_photos_that_are_too_few_or_show_others() -> None:
    three = [photo(i, f"{i}.jpg") for i in range(3)]
    assert "1 photo: too few" in refused(three[0])
    assert "2 photos: too few" in refused(*three[:2])
    assert "another face in d.jpg (1 of 4 good frames)" in refused(*three, photo(3, "d.jpg", person=1))
    assert "d.jpg: the same face twice in one picture" in refused(*three, photo(3, "d.jpg", 0, (0, 0)))
    assert "photos and video together" in refused(*three, clip(observed(range(50))))
    blurred = clip(observed([0], reason=Reason.BLURRED), "d.jpg", duration_s=None)
    assert "d.jpg: the face is mostly unfit (blurred)" in refused(*three, blurred)
    nobody = clip(observed([], frames=1), "e.jpg", duration_s=None)
    assert "e.jpg: no face" in refused(*three, nobody, error=NoFaceError)
    without = [clip(observed([0], np.zeros((1, 0))), f"{i}.jpg", duration_s=None) for i in range(3)]
    assert "no identity network" in refused(*without)
    assert "no footage" in refused()


def test_the_rules_can_be_changed() -> None:
    rules = EnrolmentRules(size=16, min_span_s=1.0)
    assert len(enrol([clip(observed(range(50)))], rules).pool) == 16
