"""A robustness card as Markdown for people and as JSON for scripts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from difffake import __version__
from difffake.errors import DataError
from difffake.evaluation.alarms import Alarms
from difffake.evaluation.bootstrap import Estimate
from difffake.evaluation.conditions import AS_RECORDED, BASE_FPS, CONDITIONS
from difffake.evaluation.protocol import WINDOW_S, Level
from difffake.evaluation.robustness import (
    DEFAULT_FPS,
    DEFAULT_MAX_FRAMES,
    ClipsUnder,
    RobustnessReport,
    RobustnessSettings,
    ScoreUnder,
    UnderCondition,
)
from difffake.evaluation.tables import NO_FIGURE, cell, number, percent, row

FORMAT = 1
WINDOW = f"{WINDOW_S[Level.WINDOW_5S]:g} s"


def write_robustness(report: RobustnessReport, markdown: Path | None = None, json_file: Path | None = None) -> None:
    """Write the card as Markdown, as JSON, or both.

    Raises:
        DataError: a file cannot be written.
    """
    for path, render in ((markdown, robustness_markdown), (json_file, _json_text)):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(report), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}", hint="choose another path") from None


def robustness_command(settings: RobustnessSettings) -> str:
    """The command line that asks for this card."""
    told = settings.evaluation
    parts = ["difffake robustness", told.root.name, f"--layout {told.layout.value}"]
    if told.layout.value in {"ffpp", "dfd"}:
        parts.append(f"--compression {told.compression}")
    if told.split is not None:
        parts.append(f"--split {told.split.name}")
    if (told.fps, told.max_frames) != (DEFAULT_FPS, DEFAULT_MAX_FRAMES):
        parts.append(f"--fps {told.fps:g} --max-frames {told.max_frames}")
    if told.anchor_as_recorded:
        parts.append("--anchor-as-recorded")
    if len(settings.conditions) < len(CONDITIONS):
        parts += [f"--condition {c.name}" for c in settings.conditions if c != AS_RECORDED]
    parts += [f"--score {name}" for name in settings.scores]
    if settings.clips is not None:
        parts.append(f"--clips {settings.clips.name}")
        if settings.clips_conditions != tuple(c for c in settings.conditions if c.is_core):
            parts += [f"--clips-condition {c.name}" for c in settings.clips_conditions if c != AS_RECORDED]
    return " ".join(parts)


def robustness_markdown(report: RobustnessReport) -> str:
    """The card for people."""
    lines = [
        f"# Robustness of {report.model_id}",
        "",
        f"`{robustness_command(report.settings)}`",
        "",
        *_introduction(report),
        "",
        *(line for note in report.notes for line in (f"**{note}**", "")),
        "## At a glance",
        "",
        "Video AUC of each score, and how many of the frames that were scored as recorded are still scored.",
        "",
        *_glance(report),
        "",
        *_told(report),
    ]
    for name, evidence in report.evidence.items():
        lines += ["", f"## `{name}` ({evidence})", "", *_score_lines(report, name)]
    lines += [*_clip_lines(report), *_left_out_lines(report), "", "## The conditions", "", *_condition_lines(report)]
    return "\n".join(lines) + "\n"


def _introduction(report: RobustnessReport) -> list[str]:
    told = report.settings.evaluation
    real, fake = report.videos
    suspicious, strong = report.levels
    anchors = "the genuine video " + ("as recorded" if told.anchor_as_recorded else "under the same condition")
    done = (
        f"What streams do to pictures, done to {real} genuine and {fake} manipulated videos of {report.people} people",
        f"({told.root.name}), one [condition](#the-conditions) at a time: the whole picture is treated, then encoded",
        "and decoded again, before anything is cropped or scored. Genuine and manipulated footage goes through the",
        "same chain; two halves of one picture get the same treatment and share every encode. Footage is first",
        f"brought to about {BASE_FPS:g} frames a second by leaving out every second frame or more. Looked at are",
        f"{told.fps:g} frames a second, the first {told.max_frames} of each video. Anchors come from {anchors}.",
        f"Model `{report.model_id}`, difffake {__version__}.",
    )
    reading = (
        "How to read it: AUC is how often a fake scores above a genuine frame (or video), .5 is chance; in brackets",
        f"95 % intervals, {told.draws} draws of people (seed {told.seed}). *Against recorded*: the paired difference",
        "of the video AUC over the same draws; where its interval holds 0, nothing was shown. *Shift*: how far the",
        "means of genuine videos moved, in standard deviations of genuine frames as recorded; positive looks more",
        f"suspicious. The last columns are false alarms: genuine frames with a p-value below {suspicious:g}, and",
        f"genuine windows of {WINDOW} below {suspicious:g} (suspicious) and below {strong:g} (strong), as verdicts",
        "have them. Limits: few people, short stretches; a condition is one setting of one encoder, not all that",
        "bears its name; footage that was compressed when it was recorded starts from there, and enlarging adds no",
        "detail; frames without a face that can be scored count in no AUC: look at *scored* first; of",
        f"{len(report.under) - 1} differences to the footage as recorded, some leave out 0 by chance.",
    )
    return [" ".join(done), "", " ".join(reading)]


def _glance(report: RobustnessReport) -> list[str]:
    names = list(report.evidence)
    lines = [row(["condition", "scored", *(f"`{name}`" for name in names)]), "|---" * (len(names) + 2) + "|"]
    for under in report.under:
        figures = (_plain(under.scores[name].video.value) for name in names)
        lines.append(row([under.condition.name, percent(under.coverage), *figures]))
    return lines


def _told(report: RobustnessReport) -> Iterator[str]:
    """What the figures say, in sentences that are made of them."""
    others = [under for under in report.under if under.condition != AS_RECORDED]
    if not others:
        return
    least = min(others, key=lambda under: under.coverage)
    yield f"- Fewest faces scored: {least.condition.name}, {percent(least.coverage)} of those as recorded."
    for name in report.evidence:
        known = [u for u in others if math.isfinite(u.scores[name].against_recorded.difference.value)]
        figures = [(under.condition.name, under.scores[name]) for under in known]
        worse = [_named(c, f) for c, f in figures if _side(f) < 0]
        better = [_named(c, f) for c, f in figures if _side(f) > 0]
        same = len(figures) - len(worse) - len(better)
        parts = (
            [f"worse than as recorded under {', '.join(worse)}"] if worse else ["under no condition shown to be worse"]
        )
        parts += [f"better under {', '.join(better)}"] if better else []
        parts += [f"no difference shown under {same} of {len(figures)}"]
        if silent := [under.condition.name for under in others if under not in known]:
            parts += [f"no figure under {', '.join(silent)}"]
        yield f"- `{name}`: {'; '.join(parts)}."
        moved = [(c, f) for c, f in figures if math.isfinite(f.shift)]
        if moved:
            condition, most = max(moved, key=lambda one: abs(one[1].shift))
            yield (
                f"  Genuine scores move most under {condition} ({most.shift:+.2f} standard deviations); "
                f"{_most_suspicious(report, name)}."
            )


def _most_suspicious(report: RobustnessReport, name: str) -> str:
    judged = [(u.condition.name, u.scores[name].suspicious) for u in report.under]
    judged = [(condition, share) for condition, share in judged if math.isfinite(share)]
    most = max((share for _, share in judged), default=0.0)
    if not most:
        return "no genuine window is suspicious under any condition"
    first = [condition for condition, share in judged if share == most]
    told = f"{percent(most)}; as recorded {percent(dict(judged).get(AS_RECORDED.name, math.nan))}"
    return f"most genuine windows are suspicious under {', '.join(first)} ({told})"


def _named(condition: str, figure: ScoreUnder) -> str:
    return f"{condition} ({figure.against_recorded.difference.value:+.2f})"


def _side(figure: ScoreUnder) -> int:
    """-1 or 1 where the interval of the difference leaves out 0."""
    interval = figure.against_recorded.difference.interval
    if interval is None:
        return 0
    return -1 if interval[1] < 0 else int(interval[0] > 0)


def _score_lines(report: RobustnessReport, name: str) -> Iterator[str]:
    yield row(
        [
            "condition",
            "scored",
            "AUC, frame",
            "AUC, video",
            "against recorded",
            "shift, SD",
            "genuine frames suspicious",
            f"genuine windows of {WINDOW}: suspicious / strong",
        ]
    )
    yield "|---" * 8 + "|"
    for under in report.under:
        figure = under.scores[name]
        against = NO_FIGURE
        if under.condition != AS_RECORDED:
            against = cell(figure.against_recorded.difference, signed=True, digits=2)
        alarms = NO_FIGURE
        if math.isfinite(figure.suspicious):
            alarms = f"{percent(figure.suspicious)} / {percent(figure.strong)} of {figure.windows}"
        yield row(
            [
                under.condition.name,
                percent(figure.coverage),
                cell(figure.frame, digits=2),
                cell(figure.video, digits=2),
                against,
                f"{figure.shift:+.2f}" if math.isfinite(figure.shift) else NO_FIGURE,
                percent(figure.frames_below),
                alarms,
            ]
        )


def _clip_lines(report: RobustnessReport) -> Iterator[str]:
    if not report.clips:
        return
    settings = report.settings
    folder = settings.clips.name if settings.clips is not None else ""
    suspicious, strong = report.levels
    yield from (
        "",
        "## False alarms on real clips",
        "",
        f"{len(report.clip_names)} clips ({folder}) that are taken for real: every alarm is a false one. An alarm is a "
        f"run of windows of {WINDOW} whose mean score has a p-value below the level; anchors come from a clip's own "
        "beginning; footage counts only where a face is scored. At most: 95 % upper bound if alarms came "
        "independently, which those of one clip do not. Whether people of these clips have calibrated the model, this "
        "command does not know: see the model card.",
        "",
        row(
            [
                "condition",
                "evidence, score",
                "footage, min",
                "windows",
                f"p < {suspicious:g}",
                "alarms an hour (at most)",
                f"p < {strong:g}",
                "alarms an hour (at most)",
            ]
        ),
        "|---" * 8 + "|",
    )
    for one in report.clips:
        cells = [one.condition.name, f"{one.evidence}, `{one.score}`", f"{one.footage_s / 60:.1f}"]
        cells.append(str(one.suspicious.windows))
        for alarms in (one.suspicious, one.strong):
            rates = (alarms.per_hour(one.footage_s), alarms.per_hour_at_most(one.footage_s))
            cells += [percent(alarms.share), f"{_plain(rates[0], 1)} ({_plain(rates[1], 1)})"]
        yield row(cells)


def _left_out_lines(report: RobustnessReport) -> Iterator[str]:
    gone = [
        f"- {under.condition.name}: "
        + "; ".join(f"{reason}: {count}" for reason, count in Counter(o.reason for o in under.left_out).items())
        for under in report.under
        if under.left_out
    ]
    skipped = [f"{reason}: {count}" for reason, count in report.listing.skipped.items()]
    if gone or skipped:
        yield from ("", "## Videos that were not judged", "")
        if skipped:
            yield f"- {'; '.join(skipped)}"
        yield from gone


def _condition_lines(report: RobustnessReport) -> Iterator[str]:
    used = {under.condition for under in report.under} | set(report.settings.clips_conditions)
    yield row(["condition", "what happens to the whole picture"])
    yield "|---|---|"
    for condition in CONDITIONS:
        if condition in used:
            yield row([condition.name, condition.what])


def _plain(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else NO_FIGURE


def robustness_json(report: RobustnessReport) -> dict[str, Any]:
    """``conditions.<condition>.scores.<score>.{video_auc, ...}`` and ``clips``; figures that do not exist are null."""
    told = report.settings.evaluation
    return {
        "format": FORMAT,
        "difffake": __version__,
        "model": report.model_id,
        "data": told.root.name,
        "command": robustness_command(report.settings),
        "settings": {
            "layout": told.layout.value,
            "fps": told.fps,
            "max_frames": told.max_frames,
            "anchor_as_recorded": told.anchor_as_recorded,
            "draws": told.draws,
            "seed": told.seed,
            "suspicious_p": report.levels[0],
            "strong_p": report.levels[1],
        },
        "videos": dict(zip(("real", "fake"), report.videos, strict=True)),
        "people": report.people,
        "evidence": report.evidence,
        "conditions": {under.condition.name: _condition_json(under) for under in report.under},
        "clips": {"names": list(report.clip_names), "rows": [_clip_json(one) for one in report.clips]},
        "notes": list(report.notes),
    }


def _condition_json(under: UnderCondition) -> dict[str, Any]:
    return {
        "what": under.condition.what,
        "coverage": number(under.coverage),
        "left_out": [{"video": o.item.video, "label": o.item.label, "reason": o.reason} for o in under.left_out],
        "scores": {name: _score_json(figure) for name, figure in under.scores.items()},
    }


def _score_json(figure: ScoreUnder) -> dict[str, Any]:
    return {
        "frames": dict(zip(("real", "fake"), figure.rows, strict=True)),
        "coverage": number(figure.coverage),
        **_estimate("frame_auc", figure.frame),
        **_estimate("video_auc", figure.video),
        **_estimate("against_recorded", figure.against_recorded.difference),
        "people": figure.against_recorded.people,
        "genuine_shift_sd": number(figure.shift),
        "genuine_frames_suspicious": number(figure.frames_below),
        "genuine_windows": figure.windows,
        "genuine_windows_suspicious": number(figure.suspicious),
        "genuine_windows_strong": number(figure.strong),
    }


def _estimate(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: number(estimate.value), f"{name}_ci": estimate.interval}


def _clip_json(one: ClipsUnder) -> dict[str, Any]:
    def told(alarms: Alarms) -> dict[str, Any]:
        return {
            "windows_below": alarms.below,
            "alarms": alarms.alarms,
            "per_hour": number(alarms.per_hour(one.footage_s)),
            "per_hour_at_most": number(alarms.per_hour_at_most(one.footage_s)),
            "clips_concerned": len(alarms.concerned),
        }

    return {
        "condition": one.condition.name,
        "evidence": one.evidence,
        "score": one.score,
        "footage_s": one.footage_s,
        "windows": one.suspicious.windows,
        "clips": one.suspicious.clips,
        "suspicious": told(one.suspicious),
        "strong": told(one.strong),
    }


def _json_text(report: RobustnessReport) -> str:
    return json.dumps(robustness_json(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
