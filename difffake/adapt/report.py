"""An adaptation as Markdown for people, as JSON for scripts and, in short, for the bundle's manifest."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from difffake.adapt.outcome import AdaptReport, AdaptSettings, Transfer
from difffake.bundle import ARTIFACT_STILL
from difffake.errors import DataError
from difffake.evaluation.bootstrap import Difference, Estimate, Performance
from difffake.evaluation.protocol import Level

_LEVELS = (Level.FRAME, Level.WINDOW_1S, Level.WINDOW_5S, Level.WINDOW_10S, Level.VIDEO)
_WORDS = {Level.FRAME: "frame", Level.WINDOW_1S: "1 s", Level.WINDOW_2S: "2 s", Level.WINDOW_5S: "5 s",
          Level.WINDOW_10S: "10 s", Level.VIDEO: "video"}  # fmt: skip


def write(report: AdaptReport, markdown: Path | None = None, json: Path | None = None) -> None:
    """Write the report as Markdown, as JSON, or both.

    Raises:
        DataError: a file cannot be written.
    """
    for path, text in ((markdown, to_markdown), (json, _json_text)):
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(report), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}", hint="choose another path") from None


def record(report: AdaptReport) -> dict[str, Any]:
    """For the manifest: what the bundle was adapted on and what that was worth, by cross-validation."""
    settings = report.settings
    recorded = next(iter(report.figures.values()), {})
    return {
        "data": settings.description,
        "folders": sorted(_folders(settings)),
        **report.counts,
        "groups": report.groups,
        "encoded_at_crf": list(settings.crfs),
        "pseudo_fakes": bool(report.pseudo_fakes),
        "recipe": report.chosen,
        "pseudo_share": settings.recipe.pseudo_share if report.pseudo_fakes else 0.0,
        "anchor_pseudo_share": settings.anchor_pseudo_share,
        "towards_logit": settings.recipe.towards_logit,
        "towards_length": settings.towards_length,
        "cross_validated_video_auc": {
            name: _estimate(levels[Level.VIDEO].auc) for name, levels in recorded.items() if Level.VIDEO in levels
        },
        "transfer": {evidence: _transfer(found) for evidence, found in report.transfer.items()},
        "auc_by_files_alone": _estimate(report.probe.auc),
        "reads": report.stands,
    }


def _transfer(found: Transfer) -> dict[str, Any]:
    return {
        "score": found.score,
        "baseline": found.baseline,
        "over_baseline": {v: _difference(levels[Level.VIDEO]) for v, levels in found.over_baseline.items()},
        "auc_on_sources_not_seen": _pairs(found.sources),
        f"auc_on_pseudo_fakes_of_{'families' if found.families_are_unseen else 'people'}_not_seen": _pairs(
            found.families
        ),
        "genuine_windows_below_p_0.05": _number(found.false_windows),
        "against_it": found.reasons_against,
    }


def to_json(report: AdaptReport) -> dict[str, Any]:
    """All figures; those that do not exist are null."""
    return {
        **record(report),
        "model": report.bundle.model_id,
        "recipes_of_the_folds": {name: Counter(of) for name, of in report.chosen_in_folds.items()},
        "figures": {
            variant: {
                name: {level.value: _performance(p) for level, p in levels.items()} for name, levels in scores.items()
            }
            for variant, scores in report.figures.items()
        },
        "auc_minus_logit": {
            name: {
                variant: {level.value: _difference(d) for level, d in levels.items()}
                for variant, levels in variants.items()
            }
            for name, variants in report.over_baseline.items()
        },
        "pseudo_fakes": {
            name: {family: _number(value) for family, value in by_family.items()}
            for name, by_family in report.pseudo_fakes.items()
        },
        "left_out": report.left_out,
        "notes": list(report.notes),
    }


def to_markdown(report: AdaptReport) -> str:
    """A page with all figures."""
    return "\n".join(_page(report)) + "\n"


def _page(report: AdaptReport) -> Iterator[str]:
    counts = report.counts
    yield f"# A head for {report.bundle.model_id}\n"
    yield (
        f"{counts['real_videos']} real videos of {counts['real_people']} people and {counts['fake_videos']} fakes of "
        f"{counts['fake_people']}, in {report.groups} groups. Every figure is by heads that have not seen the group "
        "that they judge; AUC with 95 % intervals over people.\n"
    )
    for evidence, found in report.transfer.items():
        is_read = evidence in report.stands
        yield f"- `{evidence}` is {'now' if is_read else 'not'} read by `{found.score}` ({found.baseline} before)."
        yield from (f"- Against it: {reason}." for reason in found.reasons_against)
        yield f"- Genuine 5 s windows of people not seen below p = .05 by `{found.score}`: {found.false_windows:.1%}."
    if still := report.stands.get(ARTIFACT_STILL):
        yield f"- `artifact` of still pictures is read by `{still}`, as before."
    if report.probe.is_telling:
        yield (
            "- **The files alone tell fakes from real ones**: the head may have learned a camera or a codec. "
            "Use fakes and real videos from the same sources."
        )
    yield f"- Size, rate, bits and codec of the files alone: AUC {_cell(report.probe.auc)}."
    for variant, scores in report.figures.items():
        yield f"\n## {variant[:1].upper()}{variant[1:]}\n"
        yield "| score | " + " | ".join(_WORDS[level] for level in _LEVELS) + " | TPR at 5 / 1 % FPR, 5 s | video |"
        yield "|---" * (len(_LEVELS) + 3) + "|"
        for name, levels in scores.items():
            cells = [_cell(levels[level].auc) if level in levels else "" for level in _LEVELS]
            rates = [_rates(levels.get(level)) for level in (Level.WINDOW_5S, Level.VIDEO)]
            yield f"| `{name}` | " + " | ".join(cells + rates) + " |"
    yield "\n## Against the logit, paired\n"
    yield "| score | footage | " + " | ".join(_WORDS[level] for level in _LEVELS) + " |"
    yield "|---" * (len(_LEVELS) + 2) + "|"
    for name, variants in report.over_baseline.items():
        for variant, differences in variants.items():
            cells = [_cell(differences[level].difference, signed=True) for level in _LEVELS]
            yield f"| `{name}` | {variant} | " + " | ".join(cells) + " |"
    read = report.transfer["artifact"]
    for title, pairs in (("Fakes", read.sources), ("Pseudo-fakes", read.families)):
        if pairs:
            yield f"\n## {title} of which the fit has seen none of the kind, AUC over videos\n"
            yield f"| kind | head | `{read.baseline}` |\n|---|---|---|"
            yield from (f"| {name} | {head:.3f} | {before:.3f} |" for name, (head, before) in pairs.items())
    if report.pseudo_fakes:
        families = list(next(iter(report.pseudo_fakes.values())))
        yield "\n## Pseudo-fakes of people not seen, AUC over frames\n"
        yield "| score | " + " | ".join(families) + " |"
        yield "|---" * (len(families) + 1) + "|"
        for name, by_family in report.pseudo_fakes.items():
            yield f"| `{name}` | " + " | ".join(f"{by_family.get(f, math.nan):.3f}" for f in families) + " |"
    recipe = report.settings.recipe
    yield (
        "\nRecipes: " + "; ".join(f"{name}: {one}" for name, one in report.chosen.items()) + f"; share of pseudo-fakes "
        f"{recipe.pseudo_share if report.pseudo_fakes else 0:g}, towards the logit {recipe.towards_logit:g}, "
        f"the difference's towards its size {report.settings.towards_length:g}."
    )
    for name, of in report.chosen_in_folds.items():
        yield f"In the folds, {name}: " + ", ".join(f"{c} ({n})" for c, n in Counter(of).most_common()) + "."
    yield from (f"\nLeft out: {video}: {reason}." for video, reason in report.left_out.items())
    yield from (f"\n{note}." for note in report.notes)


def _folders(settings: AdaptSettings) -> set[str]:
    folders = [*settings.real, *settings.fake, *(root for _, root in settings.data)]
    return {folder.resolve().name for folder in folders}


def _json_text(report: AdaptReport) -> str:
    return json.dumps(to_json(report), indent=1) + "\n"


def _cell(estimate: Estimate, *, signed: bool = False) -> str:
    style = "+.2f" if signed else ".2f"
    interval = "" if estimate.interval is None else " [{:{s}}, {:{s}}]".format(*estimate.interval, s=style)
    return f"{estimate.value:{style}}{interval}"


def _rates(performance: Performance | None) -> str:
    return "" if performance is None else " / ".join(f"{performance.tpr_at_fpr[r].value:.2f}" for r in (0.05, 0.01))


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _estimate(estimate: Estimate) -> dict[str, Any]:
    interval = None if estimate.interval is None else [_number(v) for v in estimate.interval]
    return {"value": _number(estimate.value), "interval": interval}


def _difference(difference: Difference) -> dict[str, Any]:
    return {**_estimate(difference.difference), "people": difference.people}


def _performance(p: Performance) -> dict[str, Any]:
    return {
        "auc": _estimate(p.auc),
        "eer": _estimate(p.eer),
        "tpr_at_fpr": {f"{rate:g}": _estimate(found) for rate, found in p.tpr_at_fpr.items()},
        "real": p.real,
        "fake": p.fake,
        "people": p.people,
    }


def _pairs(pairs: dict[str, tuple[float, float]]) -> dict[str, dict[str, float | None]]:
    return {name: {"head": _number(head), "baseline": _number(before)} for name, (head, before) in pairs.items()}
