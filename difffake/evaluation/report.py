"""An evaluation as Markdown for people and as JSON for scripts; two evaluations side by side."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from difffake import __version__
from difffake.errors import DataError
from difffake.evaluation.bootstrap import (
    DEFAULT_RESAMPLING,
    Difference,
    Estimate,
    Performance,
    Resampling,
    paired_difference,
)
from difffake.evaluation.layouts import FAKE, REAL
from difffake.evaluation.outcome import DEFAULT_FPS, DEFAULT_MAX_FRAMES, EvaluationReport, EvaluationSettings
from difffake.evaluation.protocol import EvaluationProtocol, Level
from difffake.evaluation.tables import cell, number, row

FORMAT = 1
MAX_NAMED = 20
MAX_JSON_BYTES = 256 * 2**20


def write(report: EvaluationReport, markdown: Path | None = None, json: Path | None = None) -> None:
    """Write the report as Markdown, as JSON, or both.

    Raises:
        DataError: a file cannot be written.
    """
    outputs: tuple[tuple[Path | None, Callable[[EvaluationReport], str]], ...] = (
        (markdown, to_markdown),
        (json, _json_text),
    )
    for path, render in outputs:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render(report), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}", hint="choose another path") from None


def to_json(report: EvaluationReport) -> dict[str, Any]:
    """``scores.<score>.<level>.{auc, auc_ci, eer, tpr_at_fpr_1e-2, ...}``, ``counts``, ``model`` and what led
    there.

    Figures that do not exist are null. ``videos`` holds each video's mean scores, so that two models can be
    compared video by video.
    """
    return {
        "format": FORMAT,
        "difffake": __version__,
        "model": report.model_id,
        "data": report.settings.root.name,
        "command": command(report.settings),
        "settings": _settings(report.settings),
        "counts": _counts(report),
        "scores": {
            name: {level.value: _performance(p) for level, p in levels.items()}
            for name, levels in report.performance.items()
        },
        "evidence": report.evidence,
        "auc_minus_logit": {
            name: {level.value: _difference(d) for level, d in levels.items()}
            for name, levels in report.over_baseline.items()
        },
        "methods": {
            method: {name: _performance(p) for name, p in scores.items()} for method, scores in report.methods.items()
        },
        "videos": [
            {
                "video": v.item.video,
                "person": v.item.person,
                "label": v.item.label,
                "scores": {name: number(score) for name, score in v.scores.items()},
            }
            for v in report.videos
        ],
        "left_out": [
            {"video": out.item.video, "label": out.item.label, "reason": out.reason} for out in report.left_out
        ],
        "missing_files": list(report.listing.missing),
        "notes": list(report.notes),
    }


def command(settings: EvaluationSettings) -> str:
    """The command line that asks for this evaluation."""
    parts = ["difffake evaluate", f"--layout {settings.layout.value}"]
    if settings.layout.value in {"ffpp", "dfd"}:
        parts.append(f"--compression {settings.compression}")
    if settings.split is not None:
        parts.append(f"--split {settings.split.name}")
    if (settings.fps, settings.max_frames) != (DEFAULT_FPS, DEFAULT_MAX_FRAMES):
        parts.append(f"--fps {settings.fps:g} --max-frames {settings.max_frames}")
    if settings.recompression is not None:
        parts.append(f"--codec {settings.recompression.codec.value} --crf {settings.recompression.crf}")
    if settings.protocol is not EvaluationProtocol.CLIP:
        parts.append(f"--protocol {settings.protocol.value}")
    if settings.anchor_as_recorded:
        parts.append("--anchor-as-recorded")
    return " ".join([*parts, settings.root.name])


def _settings(settings: EvaluationSettings) -> dict[str, Any]:
    return {
        "layout": settings.layout.value,
        "compression": settings.compression,
        "fps": settings.fps,
        "max_frames": settings.max_frames,
        "recompression": None if settings.recompression is None else str(settings.recompression),
        "subject": settings.judged_by.value,
        "anchor_frames": settings.anchor_frames,
        "draws": settings.draws,
        "seed": settings.seed,
        "protocol": settings.protocol.value,
        "anchor_as_recorded": settings.anchor_as_recorded,
    }


def _counts(report: EvaluationReport) -> dict[str, Any]:
    listed = Counter(item.label for item in report.listing.items)
    scored = Counter(v.item.label for v in report.videos)
    return {
        "videos_listed": {"real": listed[REAL], "fake": listed[FAKE]},
        "videos_scored": {"real": scored[REAL], "fake": scored[FAKE]},
        "frames_scored": {"real": report.frames[REAL], "fake": report.frames[FAKE]},
        "people": len({v.item.person for v in report.videos}),
        "anchored_pairs": report.anchored_pairs,
        "left_out": dict(sorted(Counter(out.reason for out in report.left_out).items())),
        "skipped": report.listing.skipped,
        "missing_files": len(report.listing.missing),
    }


def _performance(p: Performance) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, estimate in (
        ("auc", p.auc),
        ("eer", p.eer),
        *((f"tpr_at_fpr_{_fpr(fpr)}", e) for fpr, e in p.tpr_at_fpr.items()),
    ):
        found[key] = number(estimate.value)
        found[f"{key}_ci"] = estimate.interval
    return found | {"real": p.real, "fake": p.fake, "people": p.people}


def _difference(d: Difference) -> dict[str, Any]:
    return {
        "difference": number(d.difference.value),
        "difference_ci": d.difference.interval,
        "people": d.people,
    }


def _fpr(fpr: float) -> str:
    return f"{fpr:.0e}".replace("e-0", "e-")


def _json_text(report: EvaluationReport) -> str:
    return json.dumps(to_json(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_markdown(report: EvaluationReport) -> str:
    """The report for people: what, how many, the figures with their intervals, and what to keep in mind."""
    settings = report.settings
    how = f"{settings.fps:g} frames a second, up to {settings.max_frames}"
    if settings.recompression is not None:
        how += f", after an encode as {settings.recompression}"
    lines = [
        f"# Evaluation on {settings.root.name}",
        "",
        f"`{command(settings)}`",
        "",
        f"Model `{report.model_id}`, difffake {__version__}; {how}. Brackets: 95 % intervals, "
        f"{settings.draws} draws of people (seed {settings.seed}).",
        "",
        *_count_lines(report),
        "",
        "| score | evidence | level | real / fake | AUC | EER | TPR at FPR 5 % | TPR at FPR 1 % | TPR at FPR 0.1 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, levels in report.performance.items():
        for level, p in levels.items():
            figures = (p.auc, p.eer, p.tpr_at_fpr[0.05], p.tpr_at_fpr[0.01], p.tpr_at_fpr[0.001])
            cells = [name, report.evidence[name], level.value, f"{p.real} / {p.fake}", *map(cell, figures)]
            lines.append(row(cells))
    lines += [*_difference_lines(report), *_method_lines(report), *_note_lines(report)]
    return "\n".join(lines) + "\n"


def _count_lines(report: EvaluationReport) -> list[str]:
    counts = _counts(report)
    listed, scored, frames = counts["videos_listed"], counts["videos_scored"], counts["frames_scored"]
    lines = [
        "| | real | fake |",
        "|---|---|---|",
        row(["videos listed", str(listed["real"]), str(listed["fake"])]),
        row(["videos scored", str(scored["real"]), str(scored["fake"])]),
        row(["frames scored", str(frames["real"]), str(frames["fake"])]),
        "",
        f"{counts['people']} people; {counts['anchored_pairs']} genuine videos anchor their own fakes.",
    ]
    gone = [f"{reason}: {count}" for reason, count in (counts["left_out"] | counts["skipped"]).items()]
    if counts["missing_files"]:
        gone.append(f"listed but not there: {counts['missing_files']}")
    if gone:
        lines += ["", "Not evaluated: " + "; ".join(gone) + "."]
    named = [out.item.video for out in report.left_out] + list(report.listing.missing)
    if named:
        more = f" and {len(named) - MAX_NAMED} more (see the JSON)" if len(named) > MAX_NAMED else ""
        lines += ["", "By name: " + ", ".join(f"`{name}`" for name in named[:MAX_NAMED]) + more + "."]
    return lines


def _difference_lines(report: EvaluationReport) -> list[str]:
    if not report.over_baseline:
        return []
    lines = ["", "AUC minus that of `logit`, on the frames or videos that have both, on the same draws:", ""]
    lines += [
        "| score | frame | video |",
        "|---|---|---|",
        *(
            row([name, *(cell(levels[level].difference, signed=True) for level in levels)])
            for name, levels in report.over_baseline.items()
        ),
    ]
    return lines


def _method_lines(report: EvaluationReport) -> list[str]:
    if not report.methods:
        return []
    scores = list(report.performance)
    lines = [
        "",
        "Video AUC by manipulation:",
        "",
        row(["manipulation", *scores]),
        "|---" * (len(scores) + 1) + "|",
    ]
    for method, found in report.methods.items():
        lines.append(row([method, *(cell(found[name].auc) for name in scores)]))
    return lines


def _note_lines(report: EvaluationReport) -> list[str]:
    apart = "Scores against a given anchor leave out the stretch that it was taken from, in real and fake alike."
    return ["", *(f"- {note}" for note in (*report.notes, apart))]


class _Video(msgspec.Struct):
    video: str
    person: str
    label: int
    scores: dict[str, float | None]


class _Saved(msgspec.Struct):
    format: int
    model: str
    data: str
    command: str
    scores: dict[str, dict[str, dict[str, Any]]]
    videos: list[_Video]


def compare(a: Path, b: Path, resampling: Resampling = DEFAULT_RESAMPLING) -> str:
    """Two evaluations (their JSON files) side by side, as Markdown.

    For every score that both have: AUC at each level, and at video level the difference (second minus first)
    over the videos that both scored, with an interval over the same draws of people.

    Raises:
        DataError: a file is no evaluation, or the two share no score.
    """
    first, second = _load(a), _load(b)
    names = [name for name in first.scores if name in second.scores]
    if not names:
        raise DataError(f"{a.name} and {b.name} share no score", hint="compare evaluations of the same kind")
    labels, people, scores = _common(first, second)
    lines = [
        f"# {first.model} (a) and {second.model} (b)",
        "",
        f"- a: `{first.command}`",
        f"- b: `{second.command}`",
        f"- videos that both scored: {len(labels)} of {len(first.videos)} (a) and {len(second.videos)} (b)",
        "",
        "| score | level | AUC a | AUC b | b - a |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        for level in Level:
            old, new = (_saved_auc(saved, name, level) for saved in (first, second))
            delta = Estimate(new.value - old.value, None)
            if level is Level.VIDEO and len(labels):
                in_a, in_b = scores[name]
                delta = paired_difference(labels, in_b, in_a, people, resampling).difference
            lines.append(row([name, level.value, cell(old), cell(new), cell(delta, signed=True)]))
    return "\n".join(lines) + "\n"


def _common(first: _Saved, second: _Saved) -> tuple[list[int], list[str], dict[str, tuple[list[float], list[float]]]]:
    other = {(v.video, v.label): v for v in second.videos}
    both = [(v, other[v.video, v.label]) for v in first.videos if (v.video, v.label) in other]
    names = set(first.scores) & set(second.scores)
    scores = {
        name: ([_or_nan(v.scores.get(name)) for v, _ in both], [_or_nan(w.scores.get(name)) for _, w in both])
        for name in names
    }
    return [v.label for v, _ in both], [v.person for v, _ in both], scores


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _saved_auc(saved: _Saved, name: str, level: Level) -> Estimate:
    figures = saved.scores[name].get(level.value, {})
    value, interval = figures.get("auc"), figures.get("auc_ci")
    number = float(value) if isinstance(value, int | float) else math.nan
    if not isinstance(interval, list) or len(interval) != 2:
        return Estimate(number, None)
    low, high = np.asarray(interval, np.float64)
    return Estimate(number, (float(low), float(high)))


def _load(path: Path) -> _Saved:
    hint = "give a file that difffake evaluate --json has written"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path} is larger than {MAX_JSON_BYTES} bytes", hint=hint)
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is no evaluation: {error}", hint=hint) from None
    if saved.format != FORMAT:
        raise DataError(f"{path} has format {saved.format}, not {FORMAT}", hint="evaluate again with this version")
    return saved
