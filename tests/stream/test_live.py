"""One stream online: what is said of each frame, what operators can do, and a state that goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_world import (
    STREAM,
    Picture,
    ScriptedDetector,
    ScriptedEngine,
    Shown,
    command,
    enrolment,
    picture,
    scripted_models,
    source,
    state_record,
)
from tiny import DIM, IDENTITY_DIM, write_tiny_bundle

from difffake.anchors import AnchorMode, AnchorPolicy, AnchorState, Origin
from difffake.anchors.keeper import AnchorKeeper
from difffake.bundle import Bundle
from difffake.errors import DataError, EngineError
from difffake.faces import Reason
from difffake.faces.finder import EveryFrame
from difffake.results import Level
from difffake.video import open_video
from stream.live import LiveModels, LiveSettings, LiveStream, OtherModelError
from stream.messages import (
    Command,
    CommandRecord,
    EnrolmentRecord,
    HeldAgainst,
    MessageError,
    ScoreRecord,
    StateRecord,
    Status,
    decode,
    encode,
    pack_arrays,
    unpack_arrays,
)

START_NS = 1_790_000_000_123_456_789
STEP_NS = 200_000_000
QUICK = AnchorPolicy(size=3, min_frames=4, gap_s=0.15, patience_s=4.0)
SETTINGS = LiveSettings(window_s=2.0, min_window_frames=3, anchor=QUICK, max_faces=3, threads=1)
A, B, C, D, E = range(5)
Operation = EnrolmentRecord | CommandRecord | str


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("live") / "tiny", identity=True)


@pytest.fixture(scope="module")
def models(bundle: Bundle) -> LiveModels:
    return scripted_models(bundle, SETTINGS)


@pytest.fixture(scope="module")
def enrol(bundle: Bundle) -> Callable[..., EnrolmentRecord]:
    """Make the enrolment of a name with somebody's face."""
    return partial(enrolment, bundle)


class Show:
    """A stream and its clock."""

    def __init__(self, models: LiveModels, settings: LiveSettings = SETTINGS, start_ns: int = START_NS) -> None:
        self.models, self.settings = models, settings
        self.stream = LiveStream(STREAM, models, settings)
        self.next_ns = start_ns

    def frames(self, count: int, *faces: Shown, place: int = 0) -> list[ScoreRecord]:
        """Some more frames, a fifth of a second each."""
        shown = [picture(self.next_ns + i * STEP_NS, faces, place) for i in range(count)]
        self.next_ns += count * STEP_NS
        return self.stream.process(shown, source)

    def pause(self, seconds: float) -> None:
        """Nothing comes for a while."""
        self.next_ns += round(seconds * 1e9)

    def save(self) -> StateRecord:
        """The state, once through the wire."""
        record = state_record(self.stream.sections(), self.stream.last_pts_ns)
        return decode(encode(record), type(record))

    def restart(self) -> None:
        """Go on from the saved state, as another process would."""
        self.stream = LiveStream.restore(STREAM, self.models, self.settings, self.save())


def only(record: ScoreRecord) -> Any:
    (face,) = record.faces
    return face


# -- what is said ----------------------------------------------------------------------------------------------------
def test_each_frame_says_whether_it_was_looked_at(models: LiveModels) -> None:
    show = Show(models)
    records = [*show.frames(2), *show.frames(2, Shown(A, small=True)), *show.frames(8, Shown(A))]
    assert [r.status for r in records] == [Status.NO_FACE] * 2 + [Status.LOW_QUALITY] * 2 + [Status.WARMING_UP] * 4 + [
        Status.SCORED
    ] * 4
    assert [r.pts_ns for r in records] == [START_NS + i * STEP_NS for i in range(12)]
    assert [r.reason for r in records[:5]] == ["", "", "too small", "too small", "warming up: 0 of 4 good frames"]
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


# -- enrolment and commands ------------------------------------------------------------------------------------------
def test_somebody_enrolled_is_held_against_the_enrolled_anchor(
    models: LiveModels, enrol: Callable[..., EnrolmentRecord]
) -> None:
    show = Show(models)
    assert show.stream.apply(enrol("Anna", A)) == []
    records = show.frames(8, Shown(A), Shown(B, 220))
    anna, stranger = records[-1].faces
    assert (anna.name, anna.anchor.origin, anna.anchor.since_ns) == ("Anna", Origin.ENROLLED, START_NS)
    assert anna.evidence["identity"].level is Level.NOTHING
    assert stranger.name is None
    assert stranger.anchor.origin is Origin.SELF
    assert stranger.evidence["identity"].level is Level.STRONG, "not Anna, nor anybody else who is enrolled"
    assert stranger.evidence["identity"].against is HeldAgainst.OTHERS
    assert stranger.evidence["anchor"].against is HeldAgainst.OWN
    assert anna.evidence["identity"].against is HeldAgainst.ENROLLED
    assert anna.evidence["artifact"].against is None
    guests = Show(models, msgspec.structs.replace(SETTINGS, guests=True))
    guests.stream.apply(enrol("Anna", A))
    assert guests.frames(8, Shown(A), Shown(B, 220))[-1].faces[1].evidence["identity"].level is Level.NOTHING


def test_enrolling_somebody_already_there_names_them_and_begins_their_windows_anew(
    models: LiveModels, enrol: Callable[..., EnrolmentRecord]
) -> None:
    show = Show(models)
    before = only(show.frames(12, Shown(A))[-1])
    enrolled_ns = show.stream.last_pts_ns
    show.stream.apply(enrol("Anna", A))
    after = only(show.frames(1, Shown(A))[0])
    assert (before.person, before.name) == (after.person, None)
    assert after.name == "Anna"
    assert after.anchor.since_ns == enrolled_ns
    assert before.evidence["identity"].accumulated is not None
    assert after.evidence["identity"].accumulated is None
    assert after.evidence["artifact"].accumulated is not None


def test_enrolling_again_keeps_the_number_and_taking_back_forgets_the_face(
    models: LiveModels, enrol: Callable[..., EnrolmentRecord]
) -> None:
    show = Show(models)
    show.stream.apply(enrol("Anna", A))
    first = only(show.frames(5, Shown(A))[-1])
    assert show.stream.apply(enrol("Anna", A, seed=1)) == []
    second = only(show.frames(2, Shown(A))[-1])
    assert (second.person, second.name) == (first.person, "Anna")
    assert second.anchor.since_ns > first.anchor.since_ns
    show.stream.withdraw("Nobody")
    show.stream.withdraw("Anna")
    third = only(show.frames(8, Shown(A))[-1])
    assert third.person > first.person
    assert third.name is None
    assert third.anchor.origin is Origin.SELF
    assert list(show.stream.anchors_bytes) == [third.person]


def test_an_enrolled_name_can_get_another_face(models: LiveModels, enrol: Callable[..., EnrolmentRecord]) -> None:
    show = Show(models)
    show.stream.apply(enrol("Anna", A))
    show.stream.apply(enrol("Anna", B))
    records = show.frames(6, Shown(A), Shown(B, 220))
    assert [f.name for f in records[-1].faces] == [None, "Anna"]
    assert len(show.stream.anchors_bytes) == 2


def test_enrolled_identity_alone_leaves_anchor_evidence_out(
    models: LiveModels, enrol: Callable[..., EnrolmentRecord]
) -> None:
    show = Show(models)
    assert show.stream.apply(enrol("Anna", A, artifact=False)) == []
    face = only(show.frames(6, Shown(A))[-1])
    assert face.evidence["identity"].level is Level.NOTHING
    assert "extractor" in face.missing["anchor"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: msgspec.structs.replace(r, anchors=b"nonsense"),
        lambda r: msgspec.structs.replace(r, anchors=r.anchors[:-3]),
        lambda r: msgspec.structs.replace(r, person="Berta"),
        lambda r: msgspec.structs.replace(r, stream="another"),
    ],
)
def test_enrolments_that_do_not_fit_are_refused_and_change_nothing(
    models: LiveModels,
    enrol: Callable[..., EnrolmentRecord],
    spoil: Callable[[EnrolmentRecord], EnrolmentRecord],
) -> None:
    show = Show(models)
    show.frames(6, Shown(A))
    before = show.stream.sections()
    assert len(show.stream.apply(spoil(enrol("Anna", A)))) == 1
    assert show.stream.sections() == before


def test_enrolments_of_other_networks_or_for_another_stream_are_refused(
    models: LiveModels, bundle: Bundle, enrol: Callable[..., EnrolmentRecord], tmp_path: Path
) -> None:
    other = write_tiny_bundle(tmp_path / "other", seed=5, identity=True)
    show = Show(models)
    assert "other networks" in show.stream.apply(enrolment(other, "Anna", A))[0]
    inside = enrol("Anna", A, stream="another")
    assert "another stream" in show.stream.apply(msgspec.structs.replace(inside, stream=STREAM))[0]
    assert "17 frames" in show.stream.apply(enrol("Anna", A, frames=17))[0]
    nobody = Show(scripted_models(bundle, SETTINGS, identity=False))
    assert "identity" in nobody.stream.apply(enrol("Anna", A))[0]


def test_no_more_people_are_enrolled_than_allowed(models: LiveModels, enrol: Callable[..., EnrolmentRecord]) -> None:
    show = Show(models, msgspec.structs.replace(SETTINGS, max_enrolled=2))
    assert [show.stream.apply(enrol(n, i)) for i, n in enumerate("AB")] == [[], []]
    assert "max_enrolled" in show.stream.apply(enrol("C", C))[0]
    assert show.stream.apply(enrol("B", B, seed=1)) == []


def test_a_freeze_holds_until_it_is_taken_back(models: LiveModels) -> None:
    show = Show(models)
    show.frames(2, Shown(A))
    assert show.stream.apply(command(Command.FREEZE)) == []
    for _ in range(2):
        face = only(show.frames(8, Shown(A))[-1])
        assert (face.anchor.frozen, face.anchor.frames) == (True, 0)
        assert "frozen" in face.missing["anchor"]
        show.restart()
    assert show.stream.apply(command(Command.UNFREEZE, face.person)) == []
    face = only(show.frames(8, Shown(A))[-1])
    assert (face.anchor.frozen, face.anchor.frames) == (False, 3)


def test_a_frozen_anchor_that_follows_its_person_stands_still(bundle: Bundle) -> None:
    policy = msgspec.structs.replace(QUICK, mode=AnchorMode.BOUNDED, updates_per_minute=600.0, max_drift_artifact=9.0)
    policy = msgspec.structs.replace(policy, update_artifact=9.0)
    chosen = msgspec.structs.replace(SETTINGS, anchor=policy)
    show = Show(scripted_models(bundle, chosen), chosen)
    show.frames(6, Shown(A))

    def members() -> bytes:
        pool = AnchorKeeper.from_state(show.stream.anchors_bytes[0]).pool
        assert pool is not None
        return pool.embeddings.tobytes()

    before = members()
    show.frames(6, Shown(A))
    assert members() != before
    show.stream.apply(command(Command.FREEZE, 0))
    before = members()
    show.restart()
    face = only(show.frames(6, Shown(A))[-1])
    assert members() == before
    assert face.anchor.frozen


def test_reset_makes_a_new_anchor_and_forget_a_new_person(
    models: LiveModels, enrol: Callable[..., EnrolmentRecord]
) -> None:
    show = Show(models)
    show.stream.apply(enrol("Anna", A))
    show.frames(6, Shown(A))
    assert show.stream.apply(command(Command.RESET, "Anna")) == []
    first = show.frames(1, Shown(A))[0]
    assert first.status is Status.WARMING_UP
    assert only(first).anchor.since_ns is None
    again = only(show.frames(6, Shown(A))[-1])
    assert (again.name, again.anchor.origin) == ("Anna", Origin.SELF)
    assert show.stream.apply(command(Command.FORGET, "Anna")) == []
    assert show.stream.anchors_bytes == {}
    new = only(show.frames(6, Shown(A))[-1])
    assert new.name is None
    assert new.person > again.person


@pytest.mark.parametrize("what", list(Command))
@pytest.mark.parametrize("person", ["Anna", 7])
def test_commands_about_nobody_are_told(models: LiveModels, what: Command, person: int | str) -> None:
    show = Show(models)
    show.frames(6, Shown(A))
    before = show.stream.sections()
    assert "nobody" in show.stream.apply(command(what, person))[0]
    assert "foreign" in show.stream.apply(command(what, None, stream="another"))[0]
    assert show.stream.sections() == before


def test_two_people_who_turn_out_to_be_one_keep_the_older_anchor_and_a_freeze(models: LiveModels) -> None:
    show = Show(models)
    older = only(show.frames(8, Shown(A))[-1])
    show.frames(4, Shown(B), place=1)
    bad = only(show.frames(1, Shown(D), place=2)[0])
    assert bad.person not in (older.person, -1)
    show.stream.apply(command(Command.FREEZE, bad.person))
    after = only(show.frames(8, Shown(A), place=2)[-1])
    assert after.person == older.person
    assert bad.person not in show.stream.anchors_bytes
    assert after.anchor.since_ns == older.anchor.since_ns
    assert after.anchor.frozen


# -- bounds ----------------------------------------------------------------------------------------------------------
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


# -- exactness -------------------------------------------------------------------------------------------------------
_FACES = st.lists(
    st.tuples(st.integers(A, E), st.booleans(), st.booleans()).map(lambda t: (t[0], t[1] and t[2])),
    max_size=3,
    unique_by=lambda face: face[0],
)
_SHOT = st.tuples(_FACES, st.integers(0, 3), st.integers(1, 10), st.sampled_from([0.0, 0.0, 0.3, 2.0, 6.0]))
_OPERATION = st.one_of(
    st.tuples(st.sampled_from(["Anna", "Berta"]), st.integers(A, E), st.integers(0, 1)),
    st.tuples(st.sampled_from(list(Command)), st.sampled_from([None, 0, 1, 2, "Anna", "Berta"])),
    st.sampled_from(["Anna", "Berta"]),
)


#: What operators do, and what `picture` then shows.
Step = tuple[list[Any], tuple[int, list[Shown], int]]


@st.composite
def _broadcasts(draw: st.DrawFn) -> list[Step]:
    """Frames, each after some operations: cuts, gaps, swaps in mid-shot, people side by side, bad and fake faces."""
    steps, now_ns = [], draw(st.sampled_from([-(10**9), 0, START_NS]))
    for faces, place, count, gap_s in draw(st.lists(_SHOT, min_size=2, max_size=5)):
        now_ns += round(gap_s * 1e9)
        for i in range(count):
            operations = draw(st.lists(_OPERATION, max_size=2)) if i == count // 2 else []
            shown = [Shown(who, 50 + 90 * at, fake=fake) for at, (who, fake) in enumerate(faces)]
            steps.append((operations, (now_ns, shown, place)))
            now_ns += draw(st.sampled_from([STEP_NS, STEP_NS, 33_366_667]))
    return steps


def _perform(stream: LiveStream, operations: list[Any], enrol: Callable[..., EnrolmentRecord]) -> list[list[str]]:
    told = []
    for operation in operations:
        if isinstance(operation, str):
            stream.withdraw(operation)
        elif isinstance(operation[0], Command):
            told.append(stream.apply(command(*operation)))
        else:
            name, who, seed = operation
            told.append(stream.apply(enrol(name, who, seed=seed)))
    return told


@pytest.mark.parametrize("mode", list(AnchorMode))
@given(steps=_broadcasts(), data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_a_stream_is_saved_and_restored_it_goes_on_exactly(
    bundle: Bundle,
    enrol: Callable[..., EnrolmentRecord],
    mode: AnchorMode,
    steps: list[Step],
    data: st.DataObject,
) -> None:
    policy = msgspec.structs.replace(QUICK, mode=mode, updates_per_minute=120.0, expire_after_s=5.0, max_age_s=12.0)
    chosen = msgspec.structs.replace(SETTINGS, anchor=policy, max_anchors=3, max_enrolled=2, max_people=5)
    models = scripted_models(bundle, chosen)
    whole = LiveStream(STREAM, models, chosen)
    moved = LiveStream(STREAM, models, chosen)
    records, states = [], []
    for operations, shown in steps:
        frame = picture(*shown)
        # The one is never interrupted, the other is another process at every frame.
        expected = _perform(whole, operations, enrol), whole.process([frame], source)
        saved = state_record(moved.sections(), moved.last_pts_ns)
        moved = LiveStream.restore(STREAM, models, chosen, decode(encode(saved), type(saved)))
        assert (_perform(moved, operations, enrol), moved.process([frame], source)) == expected
        records.append(expected[1][0])
        states.append(whole.sections())
        assert moved.sections() == states[-1]
        assert encode(expected[1][0])
    # The same frames in other calls, from any of the states.
    at = data.draw(st.integers(0, len(steps) - 1))
    late = LiveStream.restore(STREAM, models, chosen, state_record(states[at], steps[at][1][0]))
    found: list[ScoreRecord] = []
    waiting: list[Picture] = []
    for operations, shown in steps[at + 1 :]:
        if operations:
            found += late.process(waiting, source)
            waiting = []
            _perform(late, operations, enrol)
        waiting.append(picture(*shown))
    found += late.process(waiting, source)
    assert found == records[at + 1 :]
    assert late.sections() == states[-1]


def test_a_stream_never_seen_is_restored_from_nothing_or_from_its_own_state(models: LiveModels) -> None:
    nothing = dict.fromkeys(("people", "tracker", "finder", "evidence"), b"") | {"anchors": {}}
    for sections in (nothing, LiveStream(STREAM, models, SETTINGS).sections()):
        stream = LiveStream.restore(STREAM, models, SETTINGS, state_record(sections, None))
        assert stream.last_pts_ns is None
        assert stream.process([picture(0, [Shown(A)])], source)[0].status is Status.WARMING_UP


def test_an_anchor_moves_byte_for_byte(models: LiveModels) -> None:
    show = Show(models)
    show.frames(12, Shown(A), Shown(B, 220))
    before = show.stream.anchors_bytes
    show.restart()
    assert show.stream.anchors_bytes == before
    assert len(before) == 2


# -- damaged state ---------------------------------------------------------------------------------------------------
class Saved:
    """A state record that test reports do not print."""

    def __init__(self, record: StateRecord) -> None:
        self.record = record


@pytest.fixture(scope="module")
def saved(models: LiveModels, enrol: Callable[..., EnrolmentRecord]) -> Saved:
    show = Show(models)
    show.stream.apply(enrol("Anna", C))
    show.frames(8, Shown(A), Shown(B, 220))
    show.frames(2, Shown(C), place=1)
    return Saved(show.save())


@pytest.mark.parametrize("section", ["people", "tracker", "finder", "evidence"])
def test_sections_that_are_missing_or_nonsense_are_refused(models: LiveModels, saved: Saved, section: str) -> None:
    whole = getattr(saved.record, section)
    for data in (b"", b"nonsense", whole[:-1], pack_arrays({"other": np.zeros(2)})):
        with pytest.raises(MessageError) as caught:
            LiveStream.restore(STREAM, models, SETTINGS, msgspec.structs.replace(saved.record, **{section: data}))
        assert caught.value.hint
    arrays = {} if section == "finder" else unpack_arrays(whole)
    for name in arrays:
        other = np.zeros(arrays[name].shape, np.uint8 if arrays[name].dtype != np.uint8 else np.int32)
        for array in (None, other):
            damaged = {n: a for n, a in arrays.items() if n != name} | ({} if array is None else {name: array})
            record = msgspec.structs.replace(saved.record, **{section: pack_arrays(damaged)})
            with pytest.raises(MessageError):
                LiveStream.restore(STREAM, models, SETTINGS, record)


# A bit that makes a number huge is noticed by nobody but NumPy, which warns of an overflow.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    section=st.sampled_from(["people", "tracker", "finder", "evidence", "anchors"]),
    where=st.floats(0, 1, exclude_max=True),
    bits=st.integers(1, 255),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_state_is_refused_or_goes_on(
    models: LiveModels, saved: Saved, section: str, where: float, bits: int
) -> None:
    def flipped(data: bytes) -> bytes:
        at = int(where * len(data))
        return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]

    whole = getattr(saved.record, section)
    damaged = {p: flipped(b) for p, b in whole.items()} if section == "anchors" else flipped(whole)
    try:
        stream = LiveStream.restore(
            STREAM, models, SETTINGS, msgspec.structs.replace(saved.record, **{section: damaged})
        )
    except MessageError:
        return
    assert section != "anchors", "an anchor's digest shows any damage"
    last = stream.last_pts_ns
    shown = [Shown(A), Shown(C, 220)]
    for record in stream.process([picture((last or 0) + i * STEP_NS, shown, 1) for i in (1, 2, 3)], source):
        assert encode(record)


def test_state_of_other_networks_is_told_apart_and_windows_do_not_outlive_a_calibration(
    saved: Saved, bundle: Bundle, tmp_path: Path
) -> None:
    other = scripted_models(write_tiny_bundle(tmp_path / "other", seed=5, identity=True), SETTINGS)
    with pytest.raises(OtherModelError, match="other networks"):
        LiveStream.restore(STREAM, other, SETTINGS, saved.record)
    manifest = msgspec.structs.replace(bundle.manifest, name="refitted")
    refitted = scripted_models(replace(bundle, manifest=manifest), SETTINGS)
    stream = LiveStream.restore(STREAM, refitted, SETTINGS, saved.record)
    assert list(stream.anchors_bytes.items()) == list(saved.record.anchors.items())
    record = stream.process([picture(saved.record.last_pts_ns + STEP_NS, [Shown(C)], 1)], source)[0]
    assert only(record).name == "Anna"
    assert only(record).evidence["artifact"].accumulated is None


# -- real video ------------------------------------------------------------------------------------------------------
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
