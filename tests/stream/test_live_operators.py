"""One stream online: what operators can do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from live_show import QUICK, SETTINGS, START_NS, A, B, C, D, Show, only
from live_world import (
    STREAM,
    Shown,
    command,
    enrolment,
    scripted_models,
)
from tiny import write_tiny_bundle

from difffake.anchors import AnchorMode, Origin
from difffake.anchors.keeper import AnchorKeeper
from difffake.bundle import Bundle
from difffake.results import Level
from stream.live import LiveModels
from stream.messages import (
    Command,
    EnrolmentRecord,
    HeldAgainst,
    Status,
)


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


def test_an_enrolment_under_what_the_nameless_are_called_is_refused(
    models: LiveModels, enrol: Callable[..., EnrolmentRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and alerts call the first of them "person 0"."""
    show = Show(models)
    with monkeypatch.context() as earlier:  # written by a program of before
        earlier.setattr("difffake.anchors.file._NAMELESS", re.compile("nobody"))
        record = enrol("person 0", A)
    assert "people without a name are called" in show.stream.apply(record)[0]


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
