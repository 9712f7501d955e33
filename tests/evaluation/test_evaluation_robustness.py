"""The robustness card: what a condition does shows in the figures, and the page says only what they say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import ColourDetector, WriteVideo

from difffake.bundle import Bundle
from difffake.errors import BundleError, DataError
from difffake.evaluation import EvaluationSettings, Layout, Recompression
from difffake.evaluation.conditions import conditions_named
from difffake.evaluation.robustness import RobustnessReport, RobustnessSettings, robustness, shown_scores
from difffake.evaluation.robustness_report import robustness_command, robustness_json, robustness_markdown
from difffake.evaluation.warming import warm
from stream.cli import main

PEOPLE, FRAMES = 3, 48


@pytest.fixture
def pairs(tmp_path: Path, write_video: WriteVideo) -> Path:
    """Side by side; the swap is 30 levels redder than its genuine half, and people differ by less."""
    rng = np.random.default_rng(0)
    root = tmp_path / "pairs"
    for person in range(PEOPLE):
        left = [(90 + 5 * person + int(rng.integers(-3, 4)), 90, 60) for _ in range(FRAMES)]
        write_video(root / f"p{person}.mp4", left, [(r + 30, g, b) for r, g, b in left], size=(160, 64))
    write_video(root / "nobody.mp4", [(0, 0, 0)] * 8, size=(160, 64))
    return root


def settings(root: Path, *names: str, **changes: Any) -> RobustnessSettings:
    told = EvaluationSettings(
        layout=Layout.SIDE_BY_SIDE, root=root, cache=root.parent / "cache", fps=2.0, max_frames=20, draws=100
    )
    return RobustnessSettings(evaluation=told, conditions=conditions_named(names), **changes)


def judged(report: RobustnessReport, condition: str, score: str) -> Any:
    return next(u for u in report.under if u.condition.name == condition).scores[score]


def test_conditions_are_held_against_the_footage_as_recorded(pairs: Path, detector: Any) -> None:
    report = robustness(settings(pairs, "h264-crf23", "brighter", "darker"), detector)
    assert [u.condition.name for u in report.under] == ["as-recorded", "h264-crf23", "darker", "brighter"]
    assert report.videos == (PEOPLE, PEOPLE)
    recorded = judged(report, "as-recorded", "logit")
    assert recorded.video.value == 1.0
    assert (recorded.shift, recorded.coverage, recorded.against_recorded.difference.value) == (0.0, 1.0, 0.0)
    # Light moves genuine scores one way or the other; a good encode does not.
    shifts = {name: judged(report, name, "logit").shift for name in ("h264-crf23", "darker", "brighter")}
    assert shifts["brighter"] > 3 > abs(shifts["h264-crf23"])
    assert shifts["darker"] < -3
    # The whole stream is brighter, and so is its anchor.
    assert abs(judged(report, "brighter", "logit_minus_anchor").shift) < 1
    assert judged(report, "brighter", "logit_minus_anchor").video.value == 1.0
    assert report.under[0].left_out[0].item.video.startswith("nobody")


def test_an_anchor_as_recorded_knows_nothing_of_the_condition(pairs: Path, detector: Any) -> None:
    told = settings(pairs, "brighter")
    own = robustness(told, detector)
    kept = RobustnessSettings(
        evaluation=EvaluationSettings(
            layout=Layout.SIDE_BY_SIDE,
            root=pairs,
            cache=told.evaluation.cache,
            fps=2.0,
            max_frames=20,
            draws=0,
            anchor_as_recorded=True,
        ),
        conditions=told.conditions,
    )
    recorded = robustness(kept, detector)
    name = "logit_minus_anchor"
    assert judged(recorded, "brighter", name).shift > judged(own, "brighter", name).shift + 1
    assert robustness_command(kept).endswith("--anchor-as-recorded --condition brighter")


def test_faces_that_go_show_as_coverage(pairs: Path, write_video: WriteVideo, detector: Any) -> None:
    for person in range(PEOPLE):
        # A third of the time in the dark: after 50 levels less there is no face at all.
        dark = [(90, 90, 60)] * (2 * FRAMES // 3) + [(60, 50, 50)] * (FRAMES // 3)
        write_video(pairs / f"p{person}.mp4", dark, size=(160, 64))
    report = robustness(settings(pairs, "darker"), detector)
    assert judged(report, "darker", "logit").coverage == report.under[1].coverage == pytest.approx(2 / 3, abs=0.1)


def test_a_condition_under_which_nobody_is_seen_has_no_figure(
    pairs: Path, write_video: WriteVideo, detector: Any
) -> None:
    for path in pairs.glob("p*.mp4"):
        write_video(path, [(60, 50, 50)] * FRAMES, [(70, 50, 50)] * FRAMES, size=(160, 64))
    report = robustness(settings(pairs, "darker", "brighter"), detector)
    assert report.under[1].coverage == 0
    text = robustness_markdown(report)
    assert "| darker | 0.0 % | – |" in text
    assert "no figure under darker" in text
    assert "of 1; no figure" in text
    assert robustness_json(report)["conditions"]["darker"]["scores"]["logit"]["video_auc"] is None


def test_footage_without_faces_is_an_error(tmp_path: Path, write_video: WriteVideo, detector: Any) -> None:
    root = tmp_path / "pairs"
    write_video(root / "nobody.mp4", [(0, 0, 0)] * 8, size=(160, 64))
    with pytest.raises(DataError, match="as recorded not one"):
        robustness(settings(root, "darker"), detector)


def test_a_second_run_looks_at_nothing_again(pairs: Path, detector: Any) -> None:
    robustness(settings(pairs, "h264-crf23"), detector)
    seen = detector.seen
    again = robustness(settings(pairs, "h264-crf23"), detector)
    # Only the clip without a face is kept, too.
    assert detector.seen == seen
    robustness(settings(pairs, "h264-crf23", "h264-crf45"), detector)
    assert detector.seen == seen + seen // 2
    assert again.under[1].condition.name == "h264-crf23"


def test_processes_fill_the_cache(pairs: Path, detector: Any) -> None:
    told = settings(pairs, "h264-crf23")
    steps: list[tuple[int, int]] = []
    make = partial(_colour_detector, detector.bundle.path)
    warm(told, make, 1, lambda done, total, _: steps.append((done, total)))
    robustness(told, detector)
    assert detector.seen == 0
    assert steps[-1] == (2 * (2 * PEOPLE + 2), 2 * (2 * PEOPLE + 2))


def _colour_detector(path: Path) -> ColourDetector:
    return ColourDetector(Bundle.load(path))


def test_real_clips_and_their_false_alarms(pairs: Path, tmp_path: Path, write_video: WriteVideo, detector: Any) -> None:
    clips = tmp_path / "clips"
    for name, red in (("calm", 60), ("red", 240)):
        write_video(clips / f"{name}.mp4", [(red, 90, 60)] * 96, size=(96, 64))
    (clips / "notes.txt").write_text("no video")
    told = settings(pairs, "h264-crf23", clips=clips, clips_conditions=conditions_named(["h264-crf23"]))
    ends: list[tuple[int, int]] = []
    report = robustness(told, detector, lambda done, total, _: ends.append((done, total)))
    assert ends[-1][0] == ends[-1][1]
    rows = {(one.condition.name, one.evidence): one for one in report.clips}
    assert set(rows) == {(c, e) for c in ("as-recorded", "h264-crf23") for e in ("artifact", "anchor")}
    # Two windows of 5 s a clip; the red one is far above what calibrated the logit.
    artifact = rows["as-recorded", "artifact"]
    assert (artifact.suspicious.clips, artifact.suspicious.windows, artifact.footage_s) == (2, 4, 20.0)
    assert [report.clip_names[i] for i in artifact.suspicious.concerned] in ([], ["red.mp4"])
    text = robustness_markdown(report)
    assert "## False alarms on real clips" in text
    assert "`difffake robustness pairs --layout side-by-side --condition h264-crf23 --clips clips`" in text
    saved = robustness_json(report)
    assert saved["clips"]["rows"][0]["windows"] == 4
    assert json.loads(json.dumps(saved, allow_nan=False))["conditions"]["as-recorded"]["coverage"] == 1.0


def test_scores_shown(detector: Any, identity_detector: Any) -> None:
    assert shown_scores(detector.bundle) == ["logit", "logit_minus_anchor", "signed_anchor"]
    assert shown_scores(identity_detector.bundle)[-1] == "identity_stream"
    assert shown_scores(detector.bundle, ("signed_self",)) == ["signed_self"]
    with pytest.raises(BundleError, match="no score magic"):
        shown_scores(detector.bundle, ("magic",))


def test_a_score_without_calibration_has_no_false_alarms(pairs: Path, detector: Any) -> None:
    report = robustness(settings(pairs, "h264-crf23"), detector)
    assert np.isnan(judged(report, "h264-crf23", "signed_anchor").suspicious)
    line = next(
        x for x in robustness_markdown(report).split("`signed_anchor` (anchor)")[1].splitlines() if "crf23" in x
    )
    assert line.endswith("| – | – |")


def test_what_does_not_fit_together(pairs: Path) -> None:
    told = settings(pairs, "h264-crf23")
    with pytest.raises(DataError, match="first condition"):
        RobustnessSettings(evaluation=told.evaluation, conditions=told.conditions[1:])
    with pytest.raises(DataError, match="encode by themselves"):
        RobustnessSettings(
            evaluation=EvaluationSettings(
                layout=Layout.SIDE_BY_SIDE, root=pairs, cache=pairs, recompression=Recompression()
            ),
            conditions=told.conditions,
        )
    with pytest.raises(DataError, match="encodes by itself"):
        EvaluationSettings(
            layout=Layout.SIDE_BY_SIDE,
            root=pairs,
            cache=pairs,
            recompression=Recompression(),
            condition=told.conditions[1],
        )


def test_the_page_names_what_taught_the_bundle(pairs: Path, detector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difffake.evaluation.robustness.taught_notes", lambda *_: iter(["Taught."]))
    assert "**Taught.**" in robustness_markdown(robustness(settings(pairs, "h264-crf45"), detector))


def test_the_command_on_real_faces(short_clips: dict[str, Path], tiny_bundle: Bundle, tmp_path: Path) -> None:
    arguments = ["robustness", str(short_clips["pair"].parent), "--layout", "side-by-side"]
    arguments += ["--bundle", str(tiny_bundle.path)]
    arguments += ["--condition", "caption-chin", "--condition", "height-180", "--max-frames", "6", "--draws", "50"]
    arguments += ["--threads", "1", "--cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--out", str(tmp_path / "card.md"), "--json", str(tmp_path / "card.json")])
    assert not left.value.code
    saved = json.loads((tmp_path / "card.json").read_text())
    assert list(saved["conditions"]) == ["as-recorded", "height-180", "caption-chin"]
    assert saved["conditions"]["caption-chin"]["coverage"] > 0.5
    assert saved["conditions"]["height-180"]["scores"]["logit"]["genuine_shift_sd"] is not None
    assert "## At a glance" in (tmp_path / "card.md").read_text()
