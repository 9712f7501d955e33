"""The tables of ``simulate_alerts.py`` for people."""

from __future__ import annotations

from typing import Any

from difffake.results import EVIDENCES


def markdown(report: dict[str, Any]) -> str:
    """All of the report."""
    lines = [
        "# Alerts: budgets kept, and time to detect",
        "",
        f"Model `{report['model']}`, difffake {report['difffake']}; {report['fps']:g} frames a second, seed "
        f"{report['seed']}. {len(report['setting_clips'])} clips set the constants, {len(report['judging_clips'])} of "
        "other people judge. A stream-day is 24 hours of one visible face at a time, an hour each, its seconds drawn "
        "in runs from one short clip: what a real day brings beyond these seconds is not in it.",
        "",
        *_constants(report),
        *_assumed(report),
        *_false_alerts(report),
        *_detection(report),
    ]
    if report["left_out"]:
        out = [f"{row['clip']} ({row['condition']}: {row['reason']})" for row in report["left_out"]]
        lines += ["", f"Left out: {'; '.join(out)}."]
    return "\n".join(lines) + "\n"


def _constants(report: dict[str, Any]) -> list[str]:
    lines = [
        "## Constants",
        "",
        "From the first half of the people, all encodes: how long seconds of one face go on saying the same, and the "
        "largest kappa with which nobody's evidence grows, not even where the encoder changes after the anchor. The "
        "rule: the next smaller kappa, and for all evidence the longest decorrelation, rounded up to half a second. Of "
        "the judges: people whose evidence grows with what is in use, so that they raise an alert in the end, whatever "
        "the budget.",
        "",
        "| evidence | decorrelation measured, s (correlation at 1 s) | largest kappa, the rule's | "
        "in use: share, kappa, s | "
        "judges whose evidence grows |",
        "|---|---|---|---|---|",
    ]
    for name in EVIDENCES:
        found, used, judges = report["constants"][name], report["settings"][name], report["growing"][name]
        lags = found["decorrelation"]["lags"]
        first = f"{lags[0]['correlation']:.2f}, {lags[0]['clips']} stretches" if lags else "–"
        lines.append(
            f"| {name} | {found['decorrelation']['seconds']:.1f} ({first}) | "
            f"{found['largest_kappa'] or 'none of those tried'}, {found['kappa']:g} and {found['decorrelation_s']:g} s"
            " | "
            f"{used['share']:g}, {used['kappa']:g}, {used['decorrelation_s']:g} | "
            f"{len(judges['growing'])} of {judges['people']}{_names(judges['growing'])} |"
        )
    return lines


def _assumed(report: dict[str, Any]) -> list[str]:
    rows = report["assumed"]
    lines = [
        "",
        "## Where the assumption holds, and where it is bent",
        "",
        "Made-up p-values, uniform over people as calibrated ones should be; another person every hour, "
        f"{rows[0]['stream_days']:g} stream-days. False alerts per stream-day of all evidence (standard error).",
        "",
        "| p-values | " + " | ".join(f"budget {b:g}" for b in dict.fromkeys(r["budget_per_day"] for r in rows)) + " |",
        "|---|---|---|---|",
    ]
    for what in dict.fromkeys(r["what"] for r in rows):
        cells = [f"{r['per_day']:.3g} ({r['standard_error']:.2g})" for r in rows if r["what"] == what]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def _false_alerts(report: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## False alerts per stream-day",
        "",
        "In brackets: 95 % interval over people (bootstrap), which says nothing where all are 0. Behind it, how many "
        "people raised any, and the share of people that may do so (95 % upper bound).",
        "",
        "| footage | condition | seconds of it | budget | allowed | artifact | anchor | identity | all | "
        "people with any (at most) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((r["footage"], r["condition"], r["budget_per_day"]) for r in report["false_alerts"])
    for footage, condition, budget in keys:
        rows = {
            r["evidence"]: r
            for r in report["false_alerts"]
            if (r["footage"], r["condition"], r["budget_per_day"]) == (footage, condition, budget)
        }
        whole = rows["all"]
        cells = [f"{rows[n]['per_day']:.3g} [{rows[n]['low']:.3g}, {rows[n]['high']:.3g}]" for n in (*EVIDENCES, "all")]
        lines.append(
            f"| {footage} | {condition} | {whole['seconds']:.0f} | {budget:g} | {whole['allowed_per_day']:g} | "
            f"{' | '.join(cells)} | {len(whole['people_concerned'])} of {whole['people']} "
            f"({100 * whole['share_of_people_at_most']:.0f} %){_names(whole['people_concerned'])} |"
        )
    return lines


def _detection(report: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Time to detect, seconds: median / 95th percentile (share found in 30 s)",
        "",
        "Ten minutes of the person's natural footage, then the swap, for ten minutes; – : not found in these.",
        "",
        "| swaps | condition | swaps, people | budget | artifact | anchor | identity | the first of them |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((r["swaps_from"], r["condition"], r["budget_per_day"]) for r in report["detection"])
    for source, condition, budget in keys:
        rows = {
            r["evidence"]: r
            for r in report["detection"]
            if (r["swaps_from"], r["condition"], r["budget_per_day"]) == (source, condition, budget)
        }
        cells = [
            f"{_time(rows[n]['p50_s'])} / {_time(rows[n]['p95_s'])} ({100 * rows[n]['found_in_30_s']:.0f} %)"
            for n in (*EVIDENCES, "any")
        ]
        whole = rows["any"]
        lines.append(
            f"| {source} | {condition} | {whole['swaps']}, {whole['people']} | {budget:g} | {' | '.join(cells)} |"
        )
    return lines


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.0f}"


def _names(names: list[str]) -> str:
    return f": {', '.join(names)}" if names else ""
