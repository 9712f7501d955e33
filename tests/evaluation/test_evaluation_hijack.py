"""Is the stream still the one of its anchor? On videos of plain colour, where every figure can be known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difffake.errors import BundleError, DataError
from difffake.evaluation import (
    EvaluationProtocol,
    EvaluationSettings,
    Layout,
    Level,
    Recompression,
    Subject,
    evaluate,
    features_id,
    to_json,
    to_markdown,
)

WriteVideo = Callable[..., Path]
PEOPLE = 5
FRAMES = 96  # 12 s
GIVEN = {"signed_anchor", "logit_minus_anchor", "identity_stream"}


@pytest.fixture
def pairs(tmp_path: Path, write_video: WriteVideo) -> Path:
    """Side by side: the genuine half turns redder by 40 after a quarter; the swap has another green, the same red.

    So a person's own change of red exceeds what the swap changes of it: only who it is (green) tells them apart.
    """
    root = tmp_path / "pairs"
    for person in range(PEOPLE):
        reds = [60 + 20 * person + (40 if i >= FRAMES // 4 else 0) for i in range(FRAMES)]
        left = [(r, 80, 60) for r in reds]
        right = [(r, 120, 60) for r in reds]
        write_video(root / f"person_{person}.mp4", left, right, size=(160, 48))
    write_video(root / "second.mp4", [(90, 80, 60)] * 8, [(90, 120, 60)] * 8, size=(160, 48))
    return root


def settings(root: Path, **changes: Any) -> EvaluationSettings:
    values: dict[str, Any] = {
        "layout": Layout.SIDE_BY_SIDE,
        "root": root,
        "cache": root.parent / "cache",
        "draws": 100,
        "protocol": EvaluationProtocol.HIJACK,
    }
    return EvaluationSettings(**(values | changes))


def test_only_scores_against_the_anchor_are_judged(pairs: Path, identity_detector: Any) -> None:
    report = evaluate(settings(pairs), identity_detector)
    assert set(report.performance) == GIVEN
    assert report.over_baseline == {}
    identity = report.performance["identity_stream"]
    assert all(p.auc.value == 1.0 for p in identity.values())
    assert identity[Level.VIDEO].tpr_at_fpr[0.001].value == 1.0
    assert identity[Level.VIDEO].auc.interval == (1.0, 1.0)
    assert report.performance["logit_minus_anchor"][Level.VIDEO].auc.value == pytest.approx(0.5, abs=0.15)


def test_judged_is_the_same_stretch_after_the_first_third(pairs: Path, identity_detector: Any) -> None:
    report = evaluate(settings(pairs), identity_detector)
    # 48 moments from 0 to 11.75 s; the third ends at 3.92 s, and half a step beyond it is left out too.
    rows = {level: report.performance["identity_stream"][level] for level in Level}
    assert (rows[Level.FRAME].real, rows[Level.FRAME].fake) == (31 * PEOPLE, 31 * PEOPLE)
    assert rows[Level.WINDOW_1S].real == rows[Level.WINDOW_1S].fake == 8 * PEOPLE
    assert rows[Level.WINDOW_2S].real == 4 * PEOPLE
    assert rows[Level.WINDOW_5S].real == 2 * PEOPLE
    assert rows[Level.VIDEO].real == rows[Level.VIDEO].people == PEOPLE
    assert report.frames == (31 * PEOPLE, 31 * PEOPLE)


def test_a_clip_too_short_for_an_anchor_is_left_out_with_its_fake(pairs: Path, identity_detector: Any) -> None:
    saved = to_json(evaluate(settings(pairs), identity_detector))
    out = {(o["video"], o["reason"].split(":")[0]) for o in saved["left_out"]}
    assert out == {("second/left", "no anchor"), ("second/right", "no anchor")}
    assert saved["counts"]["anchored_pairs"] == PEOPLE


def test_the_report_says_what_was_asked_and_what_few_negatives_mean(pairs: Path, identity_detector: Any) -> None:
    report = evaluate(settings(pairs), identity_detector)
    text, saved = to_markdown(report), to_json(report)
    command = "difffake evaluate --layout side-by-side --protocol hijack pairs"
    assert f"`{command}`" in text
    assert saved["command"] == command
    assert saved["settings"]["protocol"] == "hijack"
    assert "is the stream still the one of its anchor?" in text
    few = next(note for note in saved["notes"] if "FPR 0.1 %" in note)
    assert "without a single false alarm" in few
    assert "frame (155)" in few
    assert "video (5)" in few
    assert f"- {few}" in text
    one_percent = next(note for note in saved["notes"] if "FPR 1 %" in note)
    assert "frame" not in one_percent
    assert "window_2s (20)" in one_percent


def test_the_command_names_another_sampling(pairs: Path, identity_detector: Any) -> None:
    saved = to_json(evaluate(settings(pairs, fps=8.0, max_frames=90), identity_detector))
    assert "--layout side-by-side --fps 8 --max-frames 90 --protocol hijack pairs" in saved["command"]
    assert saved["scores"]["identity_stream"]["frame"]["real"] > 31 * PEOPLE


def test_anchors_from_the_recording_and_frames_from_its_encode(pairs: Path, identity_detector: Any) -> None:
    encode = Recompression(crf=40)
    both = evaluate(settings(pairs, recompression=encode), identity_detector)
    seen = identity_detector.seen
    report = evaluate(settings(pairs, recompression=encode, anchor_as_recorded=True), identity_detector)
    # Only the genuine halves were looked at as recorded.
    assert 0 < identity_detector.seen - seen <= 48 * PEOPLE + 4
    scores = {v.item.video: v.scores["identity_stream"] for v in report.videos}
    assert scores != {v.item.video: v.scores["identity_stream"] for v in both.videos}
    assert report.performance["identity_stream"][Level.VIDEO].auc.value == 1.0
    saved = to_json(report)
    assert saved["command"].endswith("--crf 40 --protocol hijack --anchor-as-recorded pairs")
    assert any("as recorded" in note for note in saved["notes"])
    # Without an encode the two are one.
    seen = identity_detector.seen
    evaluate(settings(pairs, anchor_as_recorded=True), identity_detector)
    again = identity_detector.seen
    evaluate(settings(pairs), identity_detector)
    assert identity_detector.seen == again > seen


def test_other_layouts_with_pairs(tmp_path: Path, write_video: WriteVideo, identity_detector: Any) -> None:
    root = tmp_path / "ffpp"
    real, fakes = root / "original_sequences/youtube/c23/videos", root / "manipulated_sequences"
    for i in range(3):
        name, other = f"{i:03}", f"{(i + 1) % 3:03}"
        write_video(real / f"{name}.mp4", [(80 + i, 80, 60)] * 48)
        write_video(fakes / f"Deepfakes/c23/videos/{name}_{other}.mp4", [(80 + i, 120, 60)] * 48)
        write_video(fakes / f"Face2Face/c23/videos/{name}_{other}.mp4", [(80 + i, 80, 60)] * 48)
    report = evaluate(settings(root, layout=Layout.FFPP), identity_detector)
    assert report.methods["Deepfakes"]["identity_stream"].auc.value == 1.0
    # The same person all the time: identity cannot see it.
    assert report.methods["Face2Face"]["identity_stream"].auc.value < 1.0


def test_fakes_without_their_genuine_video(tmp_path: Path, write_video: WriteVideo, identity_detector: Any) -> None:
    root = tmp_path / "folders"
    write_video(root / "real/a.mp4", [(90, 80, 60)] * 48)
    write_video(root / "fake/b.mp4", [(90, 120, 60)] * 48)
    with pytest.raises(DataError, match="not one fake video could be scored: no anchor") as caught:
        evaluate(settings(root, layout=Layout.FOLDERS), identity_detector)
    assert "genuine videos" in caught.value.hint


def test_genuine_videos_without_fakes_count_as_negatives(
    tmp_path: Path, write_video: WriteVideo, identity_detector: Any
) -> None:
    root = tmp_path / "celeb"
    write_video(root / "Celeb-real/id0_0000.mp4", [(90, 80, 60)] * 48)
    write_video(root / "Celeb-synthesis/id0_id1_0000.mp4", [(90, 120, 60)] * 48)
    write_video(root / "YouTube-real/00000.mp4", [(120, 60, 60)] * 48)
    report = evaluate(settings(root, layout=Layout.CELEBDF), identity_detector)
    video = report.performance["identity_stream"][Level.VIDEO]
    assert (video.real, video.fake, video.auc.value) == (2, 1, 1.0)


def test_crowds_are_judged_by_the_main_face(tmp_path: Path) -> None:
    assert settings(tmp_path, layout=Layout.FFIW).judged_by is Subject.MAIN
    with pytest.raises(DataError, match="most suspicious"):
        settings(tmp_path, subject=Subject.MOST_SUSPICIOUS)


def test_a_bundle_without_anchored_scores(pairs: Path, detector: Any) -> None:
    manifest = detector.bundle.manifest
    alone = {name: spec for name, spec in manifest.scores.items() if spec.anchor != "given"}
    detector.bundle = replace(detector.bundle, manifest=_with_scores(manifest, alone))
    with pytest.raises(BundleError, match="given anchor"):
        evaluate(settings(pairs), detector)


def _with_scores(manifest: Any, scores: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(manifest, scores=scores)


def test_an_identity_network_changes_no_other_figure(pairs: Path, detector: Any, identity_detector: Any) -> None:
    clip = settings(pairs, protocol=EvaluationProtocol.CLIP)
    plain, more = (to_json(evaluate(clip, one)) for one in (detector, identity_detector))
    assert set(more["scores"]) - set(plain["scores"]) == {"identity_stream"}
    for name, figures in plain["scores"].items():
        assert more["scores"][name] == figures
    assert more["evidence"]["identity_stream"] == "identity"


def test_the_identity_network_is_in_the_caches_key(detector: Any, identity_detector: Any) -> None:
    assert features_id(detector) != features_id(identity_detector)
    files = identity_detector.bundle.manifest.files
    assert files["identity.onnx"].sha256 in features_id(identity_detector)


def test_hijack_figures_by_hand(tmp_path: Path, write_video: WriteVideo, identity_detector: Any) -> None:
    root = tmp_path / "pairs"
    for person, green in enumerate((100, 130)):
        # One swap is nearer to its anchor than the other person's natural change (100 against 120, 130 against 140).
        left = [(90, green, 60)] * 24 + [(90, green + (20 if person == 0 else 0), 60)] * 48
        right = [(90, green + (60 if person == 0 else 10), 60)] * 72
        write_video(root / f"{person}.mp4", left, right, size=(160, 48))
    report = evaluate(settings(root), identity_detector)
    scores = {v.item.video: v.scores["identity_stream"] * 25 for v in report.videos}
    assert scores == pytest.approx({"0/left": 20, "0/right": 60, "1/left": 0, "1/right": 10}, abs=2.5)
    video = report.performance["identity_stream"][Level.VIDEO]
    assert video.auc.value == 0.75
    assert video.tpr_at_fpr[0.001].value == 0.5
    assert np.isfinite(video.eer.value)
