"""From folders of videos to a bundle with a head: what it learns, refuses, promises and says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colours import ColourDetector, colour_bundle, write_video

from difffake.adapt import AdaptReport, AdaptSettings, Use, adapt, to_json, to_markdown, write
from difffake.adapt.clips import AS_RECORDED, PSEUDO_FAKES, LabelledClip
from difffake.adapt.cross import Recipe
from difffake.adapt.heads import Candidate
from difffake.adapt.listing import list_labelled
from difffake.bundle import Bundle
from difffake.errors import DataError
from difffake.evaluation import EvaluationSettings, Layout, Level, evaluate
from difffake.evaluation.features import Features
from difffake.evaluation.layouts import FAKE, REAL, Item
from difffake.scoring import Scorer
from stream import commands_adapt

PEOPLE = 12
FRAMES = 24
QUICK = Recipe(folds=4, inner_folds=3, candidates=(Candidate(0.9), Candidate(0.3)))


def write_person(
    folder: Path, name: str, colour: np.ndarray, change: np.ndarray, seed: int, size: tuple[int, int] = (64, 48)
) -> None:
    rng = np.random.default_rng(seed)
    frames = [tuple(np.clip(colour + change + rng.normal(0, 4, 3), 30, 255).astype(int)) for _ in range(FRAMES)]
    write_video(folder / f"{name}.mp4", frames, size=size)


def write_folders(root: Path, *, people: int = PEOPLE) -> None:
    """People of different colours; fakes, of two tools, are bluer and less green than the real one of that name."""
    rng = np.random.default_rng(0)
    for person in range(people):
        colour = rng.uniform(105, 140, 3)
        write_person(root / "real", f"p{person}", colour, np.zeros(3), person)
        tool = f"tool{person % 2}"
        write_person(root / tool, f"p{person}", colour, np.array([0.0, -12.0, 45.0]), 100 + person)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("footage")
    write_folders(root)
    return root


def settings(root: Path, cache: Path, **changes: object) -> AdaptSettings:
    asked: dict[str, object] = {
        "real": (root / "real",),
        "fake": tuple(sorted(root.glob("tool*"))),
        "cache": cache,
        "crfs": (35,),
        "fps": 8.0,
        "recipe": QUICK,
        "draws": 100,
    }
    return AdaptSettings(**(asked | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def adapted(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> AdaptReport:
    folder = tmp_path_factory.mktemp("adapted")
    detector = ColourDetector(colour_bundle(folder / "before"))
    return adapt(settings(folders, folder / "cache", description="colours"), detector, folder / "after")


def test_the_head_finds_what_the_logit_does_not_look_at(adapted: AdaptReport) -> None:
    for variant in ("as recorded", "CRF 35"):
        figures = adapted.figures[variant]
        assert figures["supervised"][Level.VIDEO].auc.value > 0.9
        assert figures["logit"][Level.VIDEO].auc.value < 0.7  # red is what the fakes leave alone
        assert figures["supervised_minus_anchor"][Level.WINDOW_1S].auc.value > 0.95
    found = adapted.transfer["artifact"]
    assert found.reasons_against == []
    assert found.sources.keys() == {"tool0", "tool1"}
    assert all(head > before for head, before in found.sources.values())
    assert adapted.stands["artifact"] == "supervised"
    assert adapted.stands["anchor"] == adapted.transfer["anchor"].score


def test_the_bundle_reads_artifact_by_the_head_and_says_what_it_was_taught(adapted: AdaptReport) -> None:
    bundle = Bundle.load(adapted.bundle.path)
    assert bundle.manifest.readings(is_still=False)["artifact"] == "supervised"
    # What video has taught is no guide to still pictures.
    assert bundle.manifest.readings(is_still=True)["artifact"] == "logit"
    told = bundle.manifest.training["adapted"]
    assert told["data"] == "colours"
    assert told["folders"] == ["real", "tool0", "tool1"]
    assert (told["real_videos"], told["fake_people"], told["groups"]) == (PEOPLE, PEOPLE, PEOPLE)
    assert told["cross_validated_video_auc"]["supervised"]["value"] > 0.9
    assert told["reads"] == adapted.stands
    assert len(told["files"]) == 2 * PEOPLE
    scorer = Scorer(bundle)
    faces = np.array([[4.0, 5.0, 4.0], [4.0, 4.0, 6.0]], np.float32)
    p = scorer.p_value("supervised", scorer.score(faces, faces[:, 0], np.arange(2.0))["supervised"])
    assert p[1] < p[0]


def test_p_values_come_from_people_that_the_head_has_not_seen(adapted: AdaptReport) -> None:
    calibration = adapted.bundle.calibrations["supervised"]
    assert calibration.people == PEOPLE
    assert adapted.transfer["artifact"].false_windows < 0.2


def lent(people: int, faces: int, kind: str, shift: float) -> list[LabelledClip]:
    """People of a store, real and as a pseudo-fake; real ones lie ``shift`` towards the fakes of the footage."""
    rng = np.random.default_rng(faces)
    found = []
    for person in range(people):
        own = np.array([4.9, 4.9, 4.9]) + rng.normal(0, 0.3, 3) + shift * np.array([0.0, -0.5, 1.8])
        for family in ("", "mouth"):
            embedding = (own + (1.0 if family else 0.0) + rng.normal(0, 0.05, (faces, 3))).astype(np.float32)
            nothing = np.zeros(faces, np.int64)
            features = Features(
                np.arange(faces) / 4, nothing, nothing, np.zeros(faces, np.float32), embedding, embedding[:, 0],
                np.zeros((faces, 0), np.float32), faces, faces,
            )  # fmt: skip
            name = f"{kind} {person}"
            item = Item(Path(), FAKE if family else REAL, name, f"{name} {family}", pair=name, method=family)
            found.append(LabelledClip(item, name, family, AS_RECORDED, PSEUDO_FAKES, features))
    return found


def test_a_head_that_reads_no_pictures_is_calibrated_on_none(folders: Path, tmp_path: Path) -> None:
    detector = ColourDetector(colour_bundle(tmp_path / "before"))
    photos = lent(20, 1, "photo", 0.0)
    asked = settings(folders, tmp_path / "cache", crfs=())
    video = adapt(asked, detector, tmp_path / "video", photos).bundle.calibrations["supervised"]
    assert video.people == PEOPLE
    both = adapt(settings(folders, tmp_path / "cache", crfs=(), stills=True), detector, tmp_path / "both", photos)
    assert both.bundle.calibrations["supervised"].people == PEOPLE + 20


def test_a_score_of_too_few_people_to_be_calibrated_is_shown_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path)
    for person in range(6, PEOPLE):  # too short for an anchor
        for folder in ("real", f"tool{person % 2}"):
            write_video(tmp_path / folder / f"p{person}.mp4", [(90 + person, 120, 130)] * 4)
    detector = ColourDetector(colour_bundle(tmp_path / "before"))
    report = adapt(settings(tmp_path, tmp_path / "cache", crfs=()), detector, tmp_path / "after")
    assert "supervised_minus_anchor" in report.figures["as recorded"]
    assert "supervised_minus_anchor" not in report.bundle.manifest.scores
    commands_adapt._show(report, tmp_path / "after")
    assert report.bundle.model_id in capsys.readouterr().out


def test_what_cannot_be_known_speaks_against_a_head(adapted: AdaptReport) -> None:
    unknown = replace(adapted.transfer["artifact"], false_windows=float("nan"))
    assert not unknown.helps


def test_genuine_clips_unlike_the_footage_count_among_the_false_alarms(folders: Path, tmp_path: Path) -> None:
    detector = ColourDetector(colour_bundle(tmp_path / "before"))
    # Photos hide, in the calibration of a head that reads them, that clips lie near to the fakes.
    more = lent(60, 1, "photo", 0.0) + lent(8, 24, "clip", 0.7)
    asked = settings(folders, tmp_path / "cache", crfs=(), stills=True)
    report = adapt(asked, detector, tmp_path / "after", more)
    assert any("genuine windows" in reason for reason in report.transfer["artifact"].reasons_against)
    assert report.stands.get("artifact") is None


def test_adapting_again_starts_from_what_was_there_before(adapted: AdaptReport, folders: Path, tmp_path: Path) -> None:
    detector = ColourDetector(Bundle.load(adapted.bundle.path))
    again = adapt(settings(folders, tmp_path / "cache", use=Use.NEVER, crfs=()), detector, tmp_path / "again")
    assert again.bundle.manifest.evidence["artifact"] == "logit"
    assert "artifact_still" not in again.bundle.manifest.evidence
    assert again.bundle.manifest.training["adapted"]["reads"] == {}
    assert set(again.bundle.calibrations) == set(adapted.bundle.calibrations)
    assert set(again.bundle.manifest.scores) == set(adapted.bundle.manifest.scores)


def test_an_evaluation_on_its_own_files_says_so(adapted: AdaptReport, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "real").mkdir(parents=True)
    (tmp_path / "data" / "fake").mkdir()
    for i, (name, side) in enumerate((("real/p0", "real"), ("real/p1", "real"), ("tool0/p0", "fake"))):
        (tmp_path / "data" / side / f"renamed{i}.mp4").write_bytes((folders / f"{name}.mp4").read_bytes())
    asked = EvaluationSettings(
        layout=Layout.FOLDERS, root=tmp_path / "data", cache=tmp_path / "cache", fps=8.0, draws=10
    )
    notes = evaluate(asked, ColourDetector(adapted.bundle)).notes
    assert any(note.startswith("3 of these files taught the bundle") for note in notes)
    before = ColourDetector(colour_bundle(tmp_path / "before"))
    assert not any("taught" in note for note in evaluate(asked, before).notes)


def test_fakes_of_one_tool_do_not_make_it_the_default(folders: Path, tmp_path: Path) -> None:
    root = tmp_path / "one"
    for name in ("real", "tool0"):
        (root / name).mkdir(parents=True)
    for path in (folders / "real").glob("*.mp4"):
        (root / "real" / path.name).write_bytes(path.read_bytes())
    for path in folders.glob("tool*/*.mp4"):
        (root / "tool0" / path.name).write_bytes(path.read_bytes())
    detector = ColourDetector(colour_bundle(tmp_path / "before"))
    report = adapt(settings(root, tmp_path / "cache", crfs=()), detector, tmp_path / "after")
    assert any("other tools" in reason for reason in report.transfer["artifact"].reasons_against)
    assert report.bundle.manifest.evidence["artifact"] == "logit"
    assert "artifact_still" not in report.bundle.manifest.evidence
    assert "supervised" in report.bundle.manifest.scores
    asked = settings(root, tmp_path / "cache", crfs=(), use=Use.ALWAYS, stills=True)
    always = adapt(asked, ColourDetector(colour_bundle(tmp_path / "before")), tmp_path / "always").bundle
    assert {always.manifest.readings(is_still=still)["artifact"] for still in (False, True)} == {"supervised"}


@pytest.mark.parametrize("people", [2, 9])
def test_too_little_is_refused(tmp_path: Path, people: int) -> None:
    write_folders(tmp_path / "few", people=people)
    detector = ColourDetector(colour_bundle(tmp_path / "before"))
    with pytest.raises(DataError, match=r"too little to learn from: .* real videos") as caught:
        adapt(settings(tmp_path / "few", tmp_path / "cache", crfs=()), detector, tmp_path / "after")
    assert "at least 10 videos of 8 people" in caught.value.hint
    assert not (tmp_path / "after").exists()


def test_nothing_in_the_report_is_missing(adapted: AdaptReport, tmp_path: Path) -> None:
    write(adapted, markdown=tmp_path / "a.md", json=tmp_path / "a.json")
    saved = json.loads((tmp_path / "a.json").read_text())
    assert saved == json.loads(json.dumps(to_json(adapted)))
    assert saved["figures"]["as recorded"]["supervised"]["window_5s"]["auc"]["interval"]
    assert saved["auc_minus_logit"]["supervised"]["CRF 35"]["video"]["value"] > 0
    text = to_markdown(adapted)
    assert "`artifact` is now read by `supervised` (logit before)" in text
    assert "nan" not in text


def test_files_that_differ_by_label_are_told(tmp_path: Path) -> None:
    """Every fake larger than every real one: whatever the head finds, it may be the camera."""
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        for side, size in (("real", (64, 48)), ("tool", (96, 80))):
            write_person(tmp_path / side, f"p{person}", rng.uniform(90, 160, 3), np.zeros(3), person, size)
    detector = ColourDetector(colour_bundle(tmp_path / "before"))
    report = adapt(settings(tmp_path, tmp_path / "cache", crfs=()), detector, tmp_path / "after")
    assert report.probe.auc.value == 1.0
    assert report.probe.is_telling
    assert "files alone" in to_markdown(report)


def test_alike_files_are_not(adapted: AdaptReport) -> None:
    assert not adapted.probe.is_telling


def test_what_belongs_together_stays_together(tmp_path: Path) -> None:
    for name in ("anna_1", "anna_2", "bert_1"):
        write_person(tmp_path / "real", name, np.full(3, 120.0), np.zeros(3), 0)
        write_person(tmp_path / "fakes", name, np.full(3, 120.0), np.zeros(3), 1)
    plain, _ = list_labelled([tmp_path / "real"], [tmp_path / "fakes"])
    assert {one.group for one in plain} == {"anna_1", "anna_2", "bert_1"}
    assert {one.source for one in plain if one.item.label} == {"fakes"}
    series, _ = list_labelled([tmp_path / "real"], [tmp_path / "fakes"], series=True)
    assert {one.group for one in series} == {"anna", "bert"}
    assert {one.source for one in series if one.item.label} == {"anna", "bert"}
    assert {one.item.video for one in series} == {one.item.video for one in plain}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        list_labelled([tmp_path / "no"], [tmp_path])
    with pytest.raises(DataError, match="no video"):
        list_labelled([tmp_path], [tmp_path])


def test_no_file_is_real_and_fake(tmp_path: Path) -> None:
    for folder in ("real", "fake"):
        (tmp_path / folder).mkdir()
    (tmp_path / "real" / "a.mp4").touch()
    (tmp_path / "fake" / "b.mp4").symlink_to(tmp_path / "real" / "a.mp4")
    with pytest.raises(DataError, match=r"1 files are given as real and as fake, a\.mp4"):
        list_labelled([tmp_path / "real"], [tmp_path / "fake"])
