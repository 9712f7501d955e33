"""Whose face, which anchor, which frames count, means over time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from difffake.anchors import AnchorPool, Origin
from difffake.bundle import ScoreSpec
from difffake.evaluation.features import Features
from difffake.evaluation.protocol import (
    ClipScores,
    EvaluationProtocol,
    Level,
    Subject,
    genuine_anchor,
    main_subject,
    pool,
    score_clip,
)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def faces(
    times: list[float],
    tracks: list[int] | None = None,
    logits: list[float] | None = None,
    people: list[int] | None = None,
    identity_dim: int = 0,
) -> Features:
    count = len(times)
    return Features(
        time_s=np.array(times, np.float64),
        track=np.array(tracks or [0] * count, np.int64),
        person=np.array(people or [-1] * count, np.int64),
        yaw_deg=np.zeros(count, np.float32),
        embedding=np.array(times, np.float32).reshape(-1, 1) * np.ones((1, 4), np.float32),
        logit=np.array(logits or np.arange(count), np.float32),
        identity=np.array(times, np.float32).reshape(-1, 1) * np.ones((1, identity_dim), np.float32),
        frames=count,
        faces=count,
    )


class Plain:
    """`own` needs nothing, `against` a given anchor: the logit minus the anchor's mean."""

    names = ("own", "against")

    def spec(self, name: str) -> ScoreSpec:
        given_anchor = name == "against"
        return ScoreSpec(
            evidence="anchor" if given_anchor else "artifact",
            kind="logit",
            anchor="given" if given_anchor else "none",
        )

    def score(
        self,
        embedding: F32,
        logit: F32,
        time_s: F64,
        anchor: AnchorPool | None = None,
        identity: F32 | None = None,
    ) -> Mapping[str, F64]:
        assert len(embedding) == len(time_s)
        assert identity is None or len(identity) == len(time_s)
        own = logit.astype(np.float64)
        return {"own": own} if anchor is None else {"own": own, "against": own - anchor.logits.mean()}


def test_main_subject_is_the_face_seen_most() -> None:
    both = faces([0, 0, 1, 1, 2], [7, 8, 7, 8, 8])
    assert main_subject(both).time_s.tolist() == [0, 1, 2]


def test_the_main_subject_is_one_person_across_cuts() -> None:
    # Tracks 1 and 3 are one person before and after a cut, seen more often than track 2; nobody knows who track 9 is.
    times, tracks = [0, 0, 1, 1, 2, 3, 3, 3], [1, 2, 1, 2, 2, 3, 3, 9]
    assert main_subject(faces(times, tracks)).time_s.tolist() == [0, 1, 2]
    known = main_subject(faces(times, tracks, people=[5, 6, 5, 6, 6, 5, 5, -1]))
    assert known.track.tolist() == [1, 1, 3, 3]


def test_one_person_whose_track_was_cut_stays_one() -> None:
    assert len(main_subject(faces([0, 1, 2, 3], [0, 0, 1, 2]))) == 4
    assert len(main_subject(faces([]))) == 0


def test_the_anchor_is_the_first_third_at_most() -> None:
    long = genuine_anchor(faces([i / 4 for i in range(100)]), 8)
    assert long is not None
    assert long.pool.times_s.tolist() == [i / 4 for i in range(8)]
    assert long.until_s == 7 / 4
    assert not long.pool.has_identity
    assert long.pool.origin is Origin.ENROLLED
    short = genuine_anchor(faces([i / 4 for i in range(13)]), 8)
    assert short is not None
    assert short.pool.times_s.max() <= 1.0
    assert len(short.pool) < 8


def test_a_hijack_anchor_is_spread_over_the_third_and_all_of_it_counts_on_neither_side() -> None:
    clip = faces([i / 4 for i in range(121)], identity_dim=3)
    anchor = genuine_anchor(clip, 8, EvaluationProtocol.HIJACK)
    assert anchor is not None
    assert len(anchor.pool) == 8
    assert anchor.until_s == pytest.approx(10)
    gaps = np.diff(anchor.pool.times_s)
    assert gaps.min() >= 1.0
    assert gaps.max() <= 1.5
    assert anchor.pool.times_s[-1] < 10
    # The identity embeddings are those of the very faces.
    np.testing.assert_array_equal(anchor.pool.identities[:, 0], anchor.pool.times_s.astype(np.float32))
    scored = score_clip(clip, Plain(), subject=Subject.MAIN, anchor=anchor)
    judged = ~np.isnan(scored.scores["against"])
    assert judged.tolist() == (clip.time_s > anchor.until_s).tolist()
    assert scored.after(anchor.until_s).time_s.tolist() == clip.time_s[judged].tolist()


def test_faces_without_an_identity_are_no_anchor_where_there_is_a_network() -> None:
    clip = faces([i / 4 for i in range(40)], identity_dim=2)
    clip.identity[:3] = np.nan
    anchor = genuine_anchor(clip, 4)
    assert anchor is not None
    assert anchor.pool.times_s.tolist() == [0.75, 1.0, 1.25, 1.5]
    clip.identity[:] = np.nan
    assert genuine_anchor(clip, 4) is None


@pytest.mark.parametrize("times", [[], [0.0], [0.0, 5.0, 6.0]])
def test_too_little_for_an_anchor(times: list[float]) -> None:
    assert genuine_anchor(faces(times), 8) is None


def test_the_anchors_stretch_is_left_out_of_both_sides() -> None:
    times = [i / 4 for i in range(24)]
    real, fake = faces(times), faces([t + 0.01 for t in times if t != 0.5])
    anchor = genuine_anchor(real, 6)
    assert anchor is not None
    end = anchor.pool.times_s.max()
    for clip in (real, fake):
        scored = score_clip(clip, Plain(), subject=Subject.MAIN, anchor=anchor, tolerance_s=0.125)
        judged = ~np.isnan(scored.scores["against"])
        assert judged.tolist() == (scored.time_s > end + 0.125).tolist()
        assert 0 < judged.sum() < len(clip)
        # What needs no anchor keeps every frame.
        assert not np.isnan(scored.scores["own"]).any()


def test_without_an_anchor_the_score_is_there_but_empty() -> None:
    scored = score_clip(faces([0, 1]), Plain(), subject=Subject.MAIN)
    assert np.isnan(scored.scores["against"]).all()
    assert scored.scores["own"].tolist() == [0, 1]


def test_the_most_suspicious_face_of_every_moment() -> None:
    clip = faces([0, 0, 1, 2, 2], [0, 1, 1, 0, 1], [5, 1, 2, -3, -1])
    anchor = genuine_anchor(faces([i / 4 for i in range(40)]), 8)
    scored = score_clip(clip, Plain(), subject=Subject.MOST_SUSPICIOUS, anchor=anchor)
    assert scored.time_s.tolist() == [0, 1, 2]
    assert scored.scores["own"].tolist() == [5, 2, -1]
    assert np.isnan(scored.scores["against"]).all()
    assert len(score_clip(faces([]), Plain(), subject=Subject.MOST_SUSPICIOUS).time_s) == 0


def clip(times: list[float], own: list[float]) -> ClipScores:
    return ClipScores(np.array(times, np.float64), {"own": np.array(own, np.float64)})


def test_windows_join_a_short_rest_and_keep_a_long_one() -> None:
    # 0..1, 1..2, and 2..2.4 joins the second; 2..2.75 stands alone.
    times = [0, 0.5, 1, 1.5, 2, 2.4]
    index, means = pool([clip(times, [0, 2, 4, 6, 8, 9])], ["own"], Level.WINDOW_1S)
    assert index.tolist() == [0, 0]
    assert means["own"].tolist() == [1, 6.75]
    _, means = pool([clip([0, 0.5, 1, 1.5, 2, 2.75], [0, 2, 4, 6, 8, 9])], ["own"], Level.WINDOW_1S)
    assert means["own"].tolist() == [1, 5, 8.5]


def test_levels_of_several_clips() -> None:
    nan = float("nan")
    clips = [clip([5, 5.5, 16], [1, nan, 5]), clip([], []), clip([0], [nan])]
    for level, index, own in (
        (Level.FRAME, [0, 0, 0, 2], [1, nan, 5, nan]),
        (Level.WINDOW_10S, [0, 2], [3, nan]),
        (Level.VIDEO, [0, 2], [3, nan]),
    ):
        found, means = pool(clips, ["own"], level)
        assert found.tolist() == index
        np.testing.assert_array_equal(means["own"], own)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted), st.sampled_from(list(Level)))
def test_every_frame_is_in_exactly_one_cell(times: list[float], level: Level) -> None:
    """Means weighted by nothing still stay within the scores, and a clip's own mean is reached at video level."""
    own = np.arange(len(times), dtype=np.float64)
    index, means = pool([clip(times, own.tolist())], ["own"], level)
    known = means["own"][~np.isnan(means["own"])]
    assert len(index) == len(means["own"])
    assert known.min() >= 0
    assert known.max() <= own[-1]
    if level is Level.FRAME:
        assert means["own"].tolist() == own.tolist()
    if level is Level.VIDEO:
        assert means["own"].tolist() == [pytest.approx(own.mean())]
