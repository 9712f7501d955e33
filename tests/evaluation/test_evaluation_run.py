"""A data set in, figures out: on videos of plain colour, where every figure can be known beforehand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difffake.density import GaussianMixture
from difffake.errors import DataError
from difffake.evaluation import (
    EvaluationSettings,
    Layout,
    Level,
    Recompression,
    Resampling,
    Subject,
    auc,
    compare,
    evaluate,
    performance,
    to_json,
    to_markdown,
    write,
)
from difffake.settings import ScanSettings

WriteVideo = Callable[..., Path]
BLACK, BLUE = (0, 0, 0), (0, 0, 200)
PEOPLE = 6
FRAMES = 48  # 6 s


@pytest.fixture
def pairs(tmp_path: Path, write_video: WriteVideo) -> Path:
    """Side by side: every person has a red of their own, and the swap adds 30 to it, less than people differ by."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pairs"
    for person in range(PEOPLE):
        own = 60 + 20 * person
        left = [(own + int(rng.integers(-3, 4)), 90, 60) for _ in range(FRAMES)]
        right = [(r + 30, g, b) for r, g, b in left]
        write_video(root / f"person_{person}.mp4", left, right, size=(160, 48))
    write_video(root / "swap_only.mp4", [(90, 90, 60)] * 4, size=(64, 48))
    (root / "broken.mp4").write_text("no video " * 50)
    write_video(root / "nobody.mp4", [BLACK] * 8, size=(160, 48))
    write_video(root / "half_good.mp4", [(60, 90, 60)] * 8, [BLUE] * 8, size=(160, 48))
    return root


def settings(root: Path, **changes: Any) -> EvaluationSettings:
    values: dict[str, Any] = {
        "layout": Layout.SIDE_BY_SIDE,
        "root": root,
        "cache": root.parent / "cache",
        "draws": 200,
    }
    return EvaluationSettings(**(values | changes))


def test_scores_at_every_level(pairs: Path, detector: Any) -> None:
    report = evaluate(settings(pairs), detector)
    # Half of one clip and all of another cannot be scored; the genuine half of the former can.
    assert len(report.videos) == 2 * PEOPLE + 1
    logit = report.performance["logit"]
    real = np.append(60 + 20 * np.arange(PEOPLE), 60)
    fake = real[:PEOPLE] + 30
    expected = auc(np.repeat([0, 1], [PEOPLE + 1, PEOPLE]), np.concatenate([real, fake]))
    assert logit[Level.VIDEO].auc.value == pytest.approx(expected, abs=0.03)
    assert (logit[Level.VIDEO].real, logit[Level.VIDEO].fake) == (PEOPLE + 1, PEOPLE)
    # Over the anchor, people no longer differ: the swap stands out perfectly.
    anchored = report.performance["logit_minus_anchor"]
    assert all(p.auc.value == 1.0 for p in anchored.values())
    assert anchored[Level.VIDEO].auc.interval == (1.0, 1.0)
    assert report.performance["signed_anchor"][Level.VIDEO].auc.value == 1.0
    assert logit[Level.VIDEO].auc.value < 0.9
    # 6 s at 4 a second; 5-s windows take in the last second.
    assert logit[Level.FRAME].fake == 24 * PEOPLE
    assert logit[Level.WINDOW_1S].fake == 6 * PEOPLE
    assert logit[Level.WINDOW_5S].fake == logit[Level.WINDOW_10S].fake == PEOPLE
    assert report.evidence["logit_minus_anchor"] == "anchor"


def test_the_anchors_frames_are_judged_on_neither_side(pairs: Path, detector: Any) -> None:
    report = evaluate(settings(pairs), detector)
    logit, anchored = (report.performance[n][Level.FRAME] for n in ("logit", "logit_minus_anchor"))
    # Of 24 frames a side, the first 8 made the anchor (the first third of 6 s holds 8).
    assert anchored.fake == 16 * PEOPLE
    assert logit.fake - anchored.fake == 8 * PEOPLE
    short = 4  # one genuine half lasts a second: its first third is too short for an anchor
    assert logit.real - anchored.real == 8 * PEOPLE + short
    fewer = evaluate(settings(pairs, anchor_frames=4), detector).performance["logit_minus_anchor"][Level.FRAME]
    assert fewer.fake == 20 * PEOPLE


def test_nothing_is_dropped_silently(pairs: Path, detector: Any) -> None:
    counts = to_json(evaluate(settings(pairs), detector))["counts"]
    assert counts["videos_listed"] == {"real": PEOPLE + 2, "fake": PEOPLE + 2}
    assert counts["videos_scored"] == {"real": PEOPLE + 1, "fake": PEOPLE}
    assert counts["left_out"] == {"no face": 2, "no face good enough to be scored": 1}
    assert counts["skipped"]["swap only, no genuine half"] == 1
    assert sum(counts["skipped"].values()) == 2
    assert counts["people"] == PEOPLE + 1
    assert counts["anchored_pairs"] == PEOPLE


def test_a_second_run_looks_at_nothing_again(pairs: Path, detector: Any) -> None:
    first = evaluate(settings(pairs), detector)
    seen = detector.seen
    second = evaluate(settings(pairs), detector)
    assert detector.seen == seen
    assert to_json(second) == to_json(first)


def test_densities_can_be_refitted_on_the_same_features(pairs: Path, detector: Any) -> None:
    evaluate(settings(pairs), detector)
    seen = detector.seen
    bundle = detector.bundle
    moved = GaussianMixture(np.ones(1), np.full((1, 3), 9.0), np.ones((1, 3)))
    detector.bundle = replace(bundle, densities=bundle.densities | {"plain": moved})
    density = evaluate(settings(pairs), detector).performance["density"][Level.VIDEO]
    assert detector.seen == seen
    assert density.auc.value < 0.4  # now more red is more likely
    detector.settings = ScanSettings(analysis_side_px=320)
    evaluate(settings(pairs), detector)
    assert detector.seen > seen


def test_progress_reaches_the_end(pairs: Path, detector: Any) -> None:
    calls: list[tuple[int, int]] = []
    evaluate(settings(pairs), detector, lambda done, total, _: calls.append((done, total)))
    total = 2 * PEOPLE + 4
    assert calls == [(i, total) for i in range(total + 1)]


def test_recompression_is_said_and_costs_little_here(pairs: Path, detector: Any) -> None:
    report = evaluate(settings(pairs, recompression=Recompression(crf=30)), detector)
    assert report.performance["logit_minus_anchor"][Level.VIDEO].auc.value == 1.0
    saved = to_json(report)
    assert saved["command"] == "difffake evaluate --layout side-by-side --codec h264 --crf 30 pairs"
    assert saved["settings"]["recompression"] == "h264-crf30-veryfast"


def test_json_has_what_scripts_read(pairs: Path, tmp_path: Path, detector: Any) -> None:
    report = evaluate(settings(pairs), detector)
    markdown, out = tmp_path / "deep" / "report.md", tmp_path / "deep" / "report.json"
    write(report, markdown=markdown, json=out)
    saved = json.loads(out.read_text())
    assert saved["model"] == detector.bundle.model_id
    assert set(saved["scores"]) == set(detector.bundle.manifest.scores)
    for score in saved["scores"].values():
        assert list(score) == ["frame", "window_1s", "window_2s", "window_5s", "window_10s", "video"]
        for figures in score.values():
            assert {"auc", "auc_ci", "eer", "tpr_at_fpr_1e-3", "tpr_at_fpr_1e-2", "tpr_at_fpr_5e-2"} <= set(figures)
            assert figures["auc_ci"][0] <= figures["auc"] <= figures["auc_ci"][1]
    difference = saved["auc_minus_logit"]["logit_minus_anchor"]["video"]
    assert difference["difference_ci"][0] > 0
    text = markdown.read_text()
    assert to_markdown(report) == text
    assert "`difffake evaluate --layout side-by-side pairs`" in text
    assert "| logit_minus_anchor | anchor | video | 6 / 6 | 1.000 [1.000, 1.000] |" in text
    assert "no face: 2" in text
    assert "`half_good/right`" in text
    assert str(tmp_path) not in text + out.read_text()


def test_compare_two_models(pairs: Path, tmp_path: Path, detector: Any) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write(evaluate(settings(pairs), detector), json=a)
    worse = json.loads(a.read_text())
    worse["model"] = "worse"
    for video in worse["videos"]:
        score = video["scores"]["logit_minus_anchor"]
        video["scores"]["logit_minus_anchor"] = None if score is None else -score
    worse["scores"]["logit_minus_anchor"]["video"] |= {"auc": 0.0, "auc_ci": [0.0, 0.0]}
    worse["videos"] = worse["videos"][1:]
    del worse["scores"]["density"]
    b.write_text(json.dumps(worse))
    text = compare(a, b)
    assert text.startswith(f"# {detector.bundle.model_id} (a) and worse (b)")
    assert "videos that both scored: 12 of 13 (a) and 12 (b)" in text
    assert (
        "| logit_minus_anchor | video | 1.000 [1.000, 1.000] | 0.000 [0.000, 0.000] | -1.000 [-1.000, -1.000] |" in text
    )
    assert "| density |" not in text


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', "[" * 100_000, '{"format": 1, "x": ' + "[" * 9999, '{"model": "\udcff"}']
)
def test_compare_refuses_other_files(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(DataError, match="no evaluation") as caught:
        compare(file, file)
    assert "--json" in caught.value.hint
    with pytest.raises(DataError, match="cannot be read"):
        compare(tmp_path / "missing.json", file)


def test_compare_refuses_another_format_and_foreign_scores(pairs: Path, tmp_path: Path, detector: Any) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write(evaluate(settings(pairs), detector), json=a)
    saved = json.loads(a.read_text())
    b.write_text(json.dumps(saved | {"format": 99}))
    with pytest.raises(DataError, match="format 99"):
        compare(a, b)
    b.write_text(json.dumps(saved | {"scores": {}}))
    with pytest.raises(DataError, match="share no score"):
        compare(a, b)


def test_without_genuine_counterparts_anchored_scores_are_left_out(
    tmp_path: Path, write_video: WriteVideo, detector: Any
) -> None:
    root = tmp_path / "folders"
    for i in range(3):
        write_video(root / f"real/r{i}.mp4", [(60 + i, 90, 60)] * 16)
        write_video(root / f"fake/f{i}.mp4", [(120 + i, 90, 60)] * 16)
    report = evaluate(settings(root, layout=Layout.FOLDERS), detector)
    # The genuine videos have anchors of their own; but no fake has one, and one class alone has no figures.
    assert set(report.performance) == {"logit", "density", "signed_self"}
    assert any("signed_anchor, logit_minus_anchor" in note for note in report.notes)
    assert report.performance["logit"][Level.VIDEO].auc.value == 1.0


def test_few_people_and_the_same_footage_twice_are_told(tmp_path: Path, write_video: WriteVideo, detector: Any) -> None:
    root = tmp_path / "folders"
    for i in range(3):
        write_video(root / f"real/r{i}.mp4", [(60 + i * 9, 90, 60)] * 16)
        write_video(root / f"fake/f{i}.mp4", [(120 + i * 9, 90, 60)] * 16)
    shutil.copy(root / "real/r0.mp4", root / "fake/wrong.mp4")
    shutil.copy(root / "fake/f1.mp4", root / "fake/twice.mp4")
    report = evaluate(settings(root, layout=Layout.FOLDERS), detector)
    told = [note for note in report.notes if "same footage" in note or "too narrow" in note]
    assert told == [
        "Intervals over fewer than 10 people are too narrow: real videos of 3, fake videos of 5.",
        "The same footage, real and fake at once: real/r0.mp4 and fake/wrong.mp4.",
        "The same footage, counted twice: fake/f1.mp4 and fake/twice.mp4.",
    ]


def test_the_most_suspicious_face_has_no_anchor(pairs: Path, detector: Any) -> None:
    report = evaluate(settings(pairs, subject=Subject.MOST_SUSPICIOUS), detector)
    assert "logit_minus_anchor" not in report.performance
    assert any("nobody knows" in note for note in report.notes)
    assert settings(pairs, layout=Layout.FFIW).judged_by is Subject.MOST_SUSPICIOUS
    assert settings(pairs, layout=Layout.FFPP).judged_by is Subject.MAIN


def test_ffpp_by_manipulation(tmp_path: Path, write_video: WriteVideo, detector: Any) -> None:
    root = tmp_path / "ffpp"
    real, fakes = root / "original_sequences/youtube/c23/videos", root / "manipulated_sequences"
    for i in range(3):
        name, other = f"{i:03}", f"{(i + 1) % 3:03}"
        write_video(real / f"{name}.mp4", [(80 + i, 90, 60)] * 24)
        write_video(fakes / f"Deepfakes/c23/videos/{name}_{other}.mp4", [(150, 90, 60)] * 24)
        write_video(fakes / f"Face2Face/c23/videos/{name}_{other}.mp4", [(40, 90, 60)] * 24)
    report = evaluate(settings(root, layout=Layout.FFPP), detector)
    assert report.methods["Deepfakes"]["logit"].auc.value == 1.0
    assert report.methods["Face2Face"]["logit"].auc.value == 0.0
    assert report.performance["logit"][Level.VIDEO].people == 3
    text = to_markdown(report)
    assert "| Deepfakes | 1.000" in text
    assert "| Face2Face | 0.000" in text
    assert "All videos are evaluated" in text or "all videos are evaluated" in text


def test_images_are_videos_of_one_frame(tmp_path: Path, detector: Any) -> None:
    import cv2

    root = tmp_path / "images"
    for i in range(3):
        for folder, red in (("real", 60), ("fake", 160)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            picture = np.full((48, 64, 3), (60, 90, red + i), np.uint8)  # BGR
            cv2.imwrite(str(root / folder / f"{i}.png"), picture)
    report = evaluate(settings(root, layout=Layout.FOLDERS, recompression=Recompression()), detector)
    assert report.performance["logit"][Level.FRAME].auc.value == 1.0
    # One frame is no anchor.
    assert set(report.performance) == {"logit", "density"}
    assert sum("Left out" in note for note in report.notes) == 2


def test_a_class_without_any_face_is_an_error(tmp_path: Path, write_video: WriteVideo, detector: Any) -> None:
    root = tmp_path / "folders"
    write_video(root / "real/a.mp4", [(90, 90, 60)] * 8)
    write_video(root / "fake/a.mp4", [BLACK] * 8)
    with pytest.raises(DataError, match="not one fake video could be scored: no face"):
        evaluate(settings(root, layout=Layout.FOLDERS), detector)


@pytest.mark.parametrize("wrong", [{"fps": 0.0}, {"max_frames": 0}, {"anchor_frames": 1}, {"draws": -1}, {"seed": -1}])
def test_settings_are_bounded(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        settings(tmp_path, **wrong)


def test_a_report_that_cannot_be_written(pairs: Path, tmp_path: Path, detector: Any) -> None:
    report = evaluate(settings(pairs), detector)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write(report, json=tmp_path / "file" / "report.json")


def test_people_are_the_groups_of_the_intervals(tmp_path: Path, write_video: WriteVideo, detector: Any) -> None:
    root, rng = tmp_path / "folders", np.random.default_rng(1)
    for person, real, fake in (("ann", 4, 1), ("bob", 1, 3), ("cy", 1, 1), ("di", 2, 2)):
        for folder, count in (("real", real), ("fake", fake)):
            for i in range(count):
                red = int(rng.integers(50, 200))
                write_video(root / folder / person / f"{i}.mp4", [(red, 90, 60)] * 4)
    report = evaluate(settings(root, layout=Layout.FOLDERS), detector)
    expected = performance(
        [v.item.label for v in report.videos],
        [v.scores["logit"] for v in report.videos],
        [v.item.path.parent.name for v in report.videos],
        Resampling(200, 0),
    )
    assert report.performance["logit"][Level.VIDEO] == expected
    assert expected.people == 4
    assert expected.auc.interval is not None
