"""From observations to verdicts: who, since when, against which anchor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from streams import FPS, calibrated, face_of, stream
from tiny import DIM, write_tiny_bundle

from difffake.anchors import AnchorPool, Origin
from difffake.bundle import Bundle
from difffake.judge import Findings, Judge
from difffake.observe import Observations
from difffake.reference import Enrolled
from difffake.results import AnchorInfo, Level
from difffake.scoring import Scorer
from difffake.settings import ScanSettings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return calibrated(write_tiny_bundle(tmp_path_factory.mktemp("judge") / "tiny", identity=True))


def enrolled(name: str, *, artifact: bool = True) -> Enrolled:
    rng = np.random.default_rng(3)
    noise = rng.normal(scale=0.05, size=(8, len(face_of(name))))
    pool = AnchorPool(
        rng.normal(size=(8, DIM)) if artifact else np.zeros((8, 0)),
        rng.normal(size=8) if artifact else np.full(8, np.nan),
        np.arange(8.0),
        Origin.ENROLLED,
        identity=face_of(name) + noise,
    )
    info = AnchorInfo(
        origin="enrolled", name=name, frames=8, start_s=0.0, end_s=7.0, source="trusted.mp4", created="2026-01-01"
    )
    return Enrolled(pool, info)


def judge(bundle: Bundle, seen: Observations, *known: Enrolled, **settings: object) -> Findings:
    by_name = {str(e.info.name): e for e in known}
    judge = Judge(Scorer(bundle), bundle.manifest.evidence, ScanSettings(**settings), by_name)  # type: ignore[arg-type]
    return judge.judge(seen)


def test_a_person_is_one_entry_across_cuts(bundle: Bundle) -> None:
    found = judge(bundle, stream("A", "B", "A"))
    assert [p.label for p in found.people] == ["person 1", "person 2"]
    first, second = found.people
    assert [(s.start_s, s.end_s) for s in first.spans] == [(0.0, 3.8), (8.0, 11.8)]
    assert (first.faces_scored, second.faces_scored) == (40, 20)
    assert first.verdicts["identity"].level is Level.NOTHING
    assert first.anchors["identity"].origin == "self"
    assert first.anchors["identity"].end_s < 4
    assert found.switches == []


def test_frames_of_a_self_anchor_are_no_evidence_about_it(bundle: Bundle) -> None:
    (person,) = judge(bundle, stream("A", seconds=10)).people
    end_s = person.anchors["identity"].end_s
    told = [p is not None for p in person.frames.identity_p]
    assert told == [t > end_s for t in person.frames.time_s]
    assert 0 < sum(told) < 50


def test_another_face_in_the_same_place_is_a_switch_with_its_moment(bundle: Bundle) -> None:
    found = judge(bundle, stream("C", "AB", "C", seconds=10))
    (switch,) = found.switches
    assert switch.label == "person 2"
    assert switch.time_s == pytest.approx(15.0, abs=1 / FPS)
    assert switch.end_s == pytest.approx(19.8)
    assert switch.level is Level.STRONG
    assert switch.now is None
    assert (switch.origin, switch.frames) == ("self", 25)
    assert switch.before_jpeg is not None
    assert switch.after_jpeg is not None
    assert switch.before_jpeg != switch.after_jpeg
    assert "person 2" in switch.sentence
    by_label = {p.label: p for p in found.people}
    assert by_label["person 2"].verdicts["identity"].level is Level.STRONG
    assert by_label["person 1"].verdicts["identity"].level is Level.NOTHING


def test_a_switch_to_somebody_in_the_video_names_them(bundle: Bundle) -> None:
    (switch,) = judge(bundle, stream("C", "AC", seconds=10)).switches
    assert (switch.label, switch.now) == ("person 2", "person 1")
    assert "like that of person 1" in switch.sentence


def test_an_enrolled_person_is_named_and_judged_from_the_first_frame(bundle: Bundle) -> None:
    seen = replace(stream("A", seconds=8), names={0: "Jane Doe"})
    against = Enrolled(enrolled("A").pool, msgspec.structs.replace(enrolled("A").info, name="Jane Doe"))
    (person,) = judge(bundle, seen, against).people
    assert (person.label, person.name) == ("Jane Doe", "Jane Doe")
    assert person.anchors["identity"].source == "trusted.mp4"
    assert all(p is not None for p in person.frames.identity_p)
    assert person.verdicts["identity"].sentence.startswith("nothing unusual: still Jane Doe")


def test_a_hijack_of_an_enrolled_person_in_mid_stream(bundle: Bundle) -> None:
    seen = replace(stream("AB", seconds=10), names={0: "A"})
    found = judge(bundle, seen, enrolled("A"))
    (switch,) = found.switches
    assert (switch.label, switch.origin) == ("A", "enrolled")
    assert switch.time_s == pytest.approx(5.0, abs=1 / FPS)
    assert found.people[0].verdicts["identity"].level is Level.STRONG


def test_a_stranger_where_others_are_enrolled_is_told_so_unless_guests_are_expected(bundle: Bundle) -> None:
    seen = stream("B", seconds=8)
    (person,) = judge(bundle, seen, enrolled("A"), enrolled("Z")).people
    verdict = person.verdicts["identity"]
    assert verdict.level is Level.STRONG
    assert "nor anybody else who is enrolled" in verdict.sentence
    assert person.name is None
    (guest,) = judge(bundle, seen, enrolled("A"), guests=True).people
    assert guest.verdicts["identity"].level is Level.NOTHING
    assert guest.anchors["identity"].name is None


def test_missing_parts_of_an_anchor_are_told_and_the_rest_is_used(bundle: Bundle) -> None:
    seen = replace(stream("A", seconds=8), names={0: "A"})
    (person,) = judge(bundle, seen, enrolled("A", artifact=False)).people
    assert person.anchors["identity"].name == "A"
    assert person.anchors["anchor"].name is None  # its own beginning
    (person,) = judge(bundle, replace(seen, identity=seen.identity[:, :0]), enrolled("A")).people
    assert person.verdicts.keys() == {"artifact", "anchor"}
    assert "identity" in person.missing


def test_twins_are_stated(bundle: Bundle) -> None:
    seen = replace(stream("A", "B"), ambiguous={0: (1,), 1: (0,)})
    assert [p.ambiguous_with for p in judge(bundle, seen).people] == [["person 2"], ["person 1"]]


def test_faces_that_nobody_can_place_get_no_verdict(bundle: Bundle) -> None:
    seen = stream("A", "B")
    seen = replace(seen, person=np.where(seen.shot == 1, -1, seen.person))
    assert [p.label for p in judge(bundle, seen).people] == ["person 1"]
    assert judge(bundle, replace(seen, person=np.full_like(seen.person, -1))).people == []


def test_a_bundle_without_identity_says_so(tmp_path: Path) -> None:
    plain = write_tiny_bundle(tmp_path / "plain")
    seen = stream("A", seconds=8)
    (person,) = judge(plain, replace(seen, identity=seen.identity[:, :0])).people
    assert person.missing["identity"] == "not available in this bundle"
