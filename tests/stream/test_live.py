"""One stream online: what is said of each frame, and what is given up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from live_show import SETTINGS, START_NS, STEP_NS, A, B, C, Show, only
from live_world import (
    STREAM,
    Picture,
    ScriptedDetector,
    ScriptedEngine,
    Shown,
    picture,
    scripted_models,
    source,
    state_record,
)
from tiny import DIM, IDENTITY_DIM

from difffake.anchors import AnchorPolicy, AnchorState, Origin
from difffake.bundle import Bundle
from difffake.errors import DataError, EngineError
from difffake.faces import Reason
from difffake.faces.finder import EveryFrame
from difffake.results import Level
from difffake.video import open_video
from stream.live import LiveModels, LiveSettings, LiveStream
from stream.live.models import LookFrame
from stream.messages import (
    ScoreRecord,
    Status,
    decode,
    encode,
)


def test_each_frame_says_whether_it_was_looked_at(models: LiveModels) -> None:
    show = Show(models)
    records = [*show.frames(2), *show.frames(2, Shown(A, small=True)), *show.frames(8, Shown(A))]
    assert [r.status for r in records] == [Status.NO_FACE] * 2 + [Status.LOW_QUALITY] * 2 + [Status.WARMING_UP] * 4 + [
        Status.SCORED
    ] * 4
    assert [r.pts_ns for r in records] == [START_NS + i * STEP_NS for i in range(12)]
    assert [r.reason for r in records[:4]] == ["", "", "too small", "too small"]
    assert records[4].reason.startswith("warming up: 0 of 4 good frames ")
    assert " s more of this face" in records[4].reason
    small, first, last = only(records[2]), only(records[4]), only(records[-1])
    assert small.quality is Reason.TOO_SMALL
    assert set(small.missing) == {"artifact", "anchor", "identity"}
    assert not small.evidence
    assert set(first.evidence) == {"artifact"}
    assert first.evidence["artifact"].accumulated is None
    assert set(last.evidence) == {"artifact", "anchor", "identity"}
    assert not last.missing
    assert last.evidence["identity"].level is Level.NOTHING
    assert (last.anchor.origin, last.anchor.state, last.anchor.frames) == (Origin.SELF, AnchorState.FROZEN, 3)
    assert last.anchor.since_ns == records[7].pts_ns
    assert last.anchor.age_s == pytest.approx(0.8)
    for record in records:
        assert decode(encode(record), ScoreRecord) == record


def test_a_frame_s_own_p_value_and_that_of_the_window(models: LiveModels) -> None:
    show = Show(models)
    records = show.frames(30, Shown(A))
    scores = [only(r).evidence["identity"].score for r in records[-10:]]
    last = only(records[-1]).evidence["identity"]
    expected = models.scorer.p_value("identity_stream", np.array([scores[-1], np.mean(scores)]))
    assert (last.p_value, last.accumulated) == pytest.approx(tuple(expected))
    assert last.level is Level.NOTHING
    assert last.log_density is None
    anchor = only(records[-1]).evidence["anchor"]
    assert anchor.log_density == -anchor.score


def test_faces_come_in_the_order_of_their_tracks_and_no_more_than_allowed(models: LiveModels) -> None:
    show = Show(models)
    show.frames(3, Shown(A, 60), Shown(B, 220))
    swapped = show.frames(1, Shown(B, 220), Shown(A, 60))[0]
    assert [(f.track, f.person) for f in swapped.faces] == [(0, 0), (1, 1)]
    crowd = show.frames(1, *(Shown(A, 40 + 58 * i) for i in range(5)))[0]
    assert len(crowd.faces) == 3


def test_a_person_keeps_the_anchor_across_a_cut(models: LiveModels) -> None:
    show = Show(models)
    before = only(show.frames(10, Shown(A))[-1])
    show.frames(5, Shown(B), place=1)
    after = only(show.frames(5, Shown(A, 200), place=2)[-1])
    assert after.person == before.person
    assert after.track != before.track
    assert after.anchor.since_ns == before.anchor.since_ns


def test_a_face_that_becomes_another_s_without_a_cut_shows_in_identity(models: LiveModels) -> None:
    show = Show(models)
    show.frames(15, Shown(A))
    records = show.frames(12, Shown(B))
    identity = only(records[-1]).evidence["identity"]
    assert only(records[-1]).person == 0
    assert identity.accumulated is not None
    assert identity.accumulated < 0.01
    assert identity.level is Level.STRONG


def test_what_looks_manufactured_shows_in_artifact_and_makes_no_anchor(models: LiveModels) -> None:
    show = Show(models)
    record = show.frames(20, Shown(A, fake=True))[-1]
    assert only(record).evidence["artifact"].level is Level.STRONG
    assert record.status is Status.WARMING_UP
    assert "suspicious" in record.reason


def test_without_an_identity_network_tracks_are_people(bundle: Bundle) -> None:
    show = Show(scripted_models(bundle, SETTINGS, identity=False))
    records = show.frames(8, Shown(A))
    assert set(only(records[-1]).evidence) == {"artifact", "anchor"}
    assert only(records[-1]).missing == {"identity": "not available in this bundle"}
    assert only(show.frames(1, Shown(A), place=1)[0]).person == 1
    show.pause(30)
    show.frames(1, Shown(A))
    assert len(show.stream.anchors_bytes) == 1, "nobody can come back, and nothing is kept for them"


def test_times_that_do_not_rise_are_refused(models: LiveModels) -> None:
    show = Show(models)
    show.frames(2)
    assert show.frames(0) == []
    with pytest.raises(DataError, match="do not rise"):
        show.stream.process([picture(START_NS, ())], source)
    with pytest.raises(DataError, match="do not rise"):
        show.stream.process([picture(show.next_ns, ()), picture(show.next_ns, ())], source)


def test_a_network_that_fails_changes_nothing(bundle: Bundle) -> None:
    engine = ScriptedEngine(224, DIM)
    networks = LiveModels(bundle, engine, ScriptedEngine(150, IDENTITY_DIM), EveryFrame(ScriptedDetector()), SETTINGS)
    show = Show(networks)
    show.frames(6, Shown(A))
    before = show.stream.sections()
    engine.fails = True
    with pytest.raises(EngineError):
        show.frames(3, Shown(A))
    assert show.stream.sections() == before


def test_anchors_of_people_long_unseen_are_given_up(models: LiveModels) -> None:
    chosen = msgspec.structs.replace(SETTINGS, max_anchors=2)
    show = Show(models, chosen)
    for who in (A, B, C):
        show.frames(6, Shown(who), place=who)
    assert list(show.stream.anchors_bytes) == [1, 2]
    again = show.frames(6, Shown(A), place=5)
    assert only(again[0]).anchor.frames == 0
    assert only(again[-1]).anchor.frames == 3
    assert only(again[-1]).person == 0
    crowd = show.frames(1, Shown(A, 50), Shown(B, 160), Shown(C, 270), place=6)[0]
    assert [f.missing.get("anchor") for f in crowd.faces].count("no anchor: too many people at once") == 1


def test_frames_that_never_became_an_anchor_are_dropped_when_too_old(models: LiveModels) -> None:
    show = Show(models)
    show.frames(2, Shown(A))
    show.frames(6, Shown(B), place=1)
    assert list(show.stream.anchors_bytes) == [0, 1]
    show.pause(5)
    show.frames(1)
    assert list(show.stream.anchors_bytes) == [1]


def test_settings_that_allow_states_too_large_for_a_record_are_refused(bundle: Bundle) -> None:
    large = LiveSettings(anchor=AnchorPolicy(min_frames=256, patience_s=100.0), max_anchors=128)
    assert LiveSettings().state_bytes(2048, 128) < 16 << 20
    with pytest.raises(ValueError, match="too large"):
        LiveModels(bundle, ScriptedEngine(224, 4096), None, EveryFrame(ScriptedDetector()), large)


@pytest.mark.parametrize(
    "wrong", [{"window_s": 0}, {"max_faces": 10_000}, {"strong_p": 0.5}, {"max_people": 10}, {"window_s": float("nan")}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|need|at most"):
        LiveSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["woman", "face_noface"])
def test_real_clips_go_on_exactly_with_real_networks(bundle: Bundle, clips: dict[str, Path], name: str) -> None:
    chosen = msgspec.structs.replace(SETTINGS, analysis_side_px=320)
    with open_video(clips[name], fps=5.0) as video:
        frames = [Picture(round(f.pts_s * 1e9), f.image) for f, _ in zip(video, range(30), strict=False)]
    with LiveModels.load(bundle.path, chosen) as networks:
        whole = LiveStream(STREAM, networks, chosen)
        expected = whole.process(frames, source)
        assert {r.status for r in expected} >= ({Status.SCORED} if name == "woman" else {Status.NO_FACE})
        first = LiveStream(STREAM, networks, chosen)
        found = first.process(frames[:13], source)
        saved = state_record(first.sections(), first.last_pts_ns)
        second = LiveStream.restore(STREAM, networks, chosen, decode(encode(saved), type(saved)))
        found += second.process(frames[13:], source)
        assert found == expected
        assert second.sections() == whole.sections()


def test_frames_of_several_streams_are_looked_at_together(bundle: Bundle, clips: dict[str, Path]) -> None:
    """In company, and in two steps, a stream says what it says alone."""
    shown = []
    for name in ("woman", "face_noface"):
        with open_video(clips[name], fps=2.0) as video:
            shown.append([Picture(round(f.pts_s * 1e9), f.image) for f, _ in zip(video, range(12), strict=False)])
    with LiveModels.load(bundle.path, SETTINGS) as networks:
        alone = [LiveStream(STREAM, networks, SETTINGS).process(frames, source) for frames in shown]
        streams = [LiveStream(STREAM, networks, SETTINGS) for _ in shown]
        together: list[list[ScoreRecord]] = [[] for _ in shown]
        for frames in zip(*shown, strict=True):
            asked = [LookFrame(f.picture, f.pts_ns, s.finder) for f, s in zip(frames, streams, strict=True)]
            for stream, said, frame, look in zip(streams, together, frames, networks.look(asked), strict=True):
                said += stream.take([frame.pts_ns], [look], [source(frame)])
    assert together == alone
    assert {record.status for record in together[0]} >= {Status.SCORED}
