"""The pipeline's figures as a page and as plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_plan import KEY_FPS

GOALS = {
    "bound_ratio": "at least 0.90",
    "vs_user_loop": "at least 20",
    "streams_per_core_720p": "12",
    "streams_per_core_720p_watch": "36",
    "jain_flood": "at least 0.98",
    "cost_spread_by_streams": "at most 0.15",
    "mib_per_stream": "under 8",
    "overload_back_to_normal_s": "under 5",
}


def headline(parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that are followed from release to release, each with how it was measured."""
    found: dict[str, dict[str, Any]] = {}

    def say(name: str, part: str, value: float, how: str) -> None:
        shared = parts[part]
        found[name] = {"value": value, "how": how, "machine": shared["machine"], "others": shared["others"]}

    if part := parts.get("pipeline"):
        how = "frames/s of one worker process through Apache Kafka on all cores, over cores / sum of the stages' CPU"
        say("bound_ratio", "pipeline", part["kafka"]["ratio"], how)
        how_cpu = "the stages' CPU a frame over the worker's, Kafka client included; holds on a machine that others use"
        say("bound_ratio_cpu", "pipeline", part["kafka"]["cpu_ratio"], how_cpu)
        say("bound_ratio_memory", "pipeline", part["memory"]["ratio"], "the same without Kafka")
        if "kafka_processes" in part:
            say("bound_ratio_processes", "pipeline", part["kafka_processes"]["ratio"], "one process per core")
    for case in _cases(parts.get("user_loop", {})):
        if (case["size"], case["fps"]) == ("720p", 2.0):
            say("vs_user_loop", "user_loop", case["ratio"], "frames/s in memory over those of pipeline_user_loop.py")
            say("vs_user_loop_cpu", "user_loop", case["cpu_ratio"], "CPU a frame of the user's loop over ours")
        else:
            is_watch = case["fps"] == KEY_FPS
            name = f"vs_user_loop_{case['size']}_{'watch' if is_watch else format(case['fps'], 'g') + 'fps'}"
            looked = "key frames, one a second" if is_watch else f"{case['fps']:g} frames a second"
            say(name, "user_loop", case["ratio"], f"the same at {case['size']}, {looked}")
    for row in parts.get("live", {}).get("rows", []):
        suffix = "" if row["gear"] == "analyse" else f"_{row['gear']}"
        name = f"streams_per_core_{row['size']}{suffix}"
        how = f"{row['form']}: most streams of one core with p95 < 1 s from record timestamp to a committed reader"
        if row["form"] == "units":
            name, by = f"{name}_units", name
            if found.get(by, {"value": -1})["value"] >= row["streams_per_core"]:
                by = ""
        else:
            by = ""
        say(name, "live", row["streams_per_core"], how)
        if by:
            say(by, "live", row["streams_per_core"], how)
    if part := parts.get("flood"):
        say("jain_flood", "flood", part["jain"], "share of its max-min fair share that each stream got, one at 10x")
        say("flood_worst_quiet_p99_s", "flood", part["worst_quiet_p99_s"], "p99 latency of the quiet stream worst off")
    if part := parts.get("scaling"):
        say(
            "cost_spread_by_streams", "scaling", part["cost_spread"], "dearest over cheapest number of streams, minus 1"
        )
        say(
            "mib_per_stream",
            "scaling",
            part["mib_per_stream"],
            "slope of the worker's resident memory, from as many streams on as are worked on at once",
        )
    if part := parts.get("overload"):
        say("overload_back_to_normal_s", "overload", part["back_to_normal_s"], "last score over 1 s after the storm")
        say(
            "overload_told_of_due", "overload", part["told"] / max(1, part["due"]), "scores, shed ones included, of due"
        )
        say("overload_p95_s", "overload", part["latency"]["p95_s"], "of all frames in the storm, shed ones included")
    return found


def page(figures: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Pipeline",
        "",
        "Made by `make bench` or `make bench-full` (`benchmarks/pipeline.py`). `others`: cores that other work on the",
        "machine kept busy meanwhile; where it is not near 0, ratios on the wall mean little, those of CPU more.",
        "",
        "| figure | value | goal | others | how |",
        "|---|---|---|---|---|",
    ]
    for name, one in figures["headline"].items():
        goal = GOALS.get(name, "")
        lines.append(f"| `{name}` | {one['value']:.3g} | {goal} | {one['others']:.2f} | {one['how']} |")
    for name, (title, section) in _SECTIONS.items():
        if part := figures["parts"].get(name):
            lines += ["", f"## {title}", "", _where(part), "", *section(part)]
    return "\n".join(lines) + "\n"


def _spread(part: dict[str, Any], run: str, key: str) -> str:
    """The median over the rounds, and from where to where they lie."""
    values = [row[run][key] for row in part["rounds"]]
    return f"{part[run][key]:.2f} ({min(values):.2f} to {max(values):.2f})"


def _bound(part: dict[str, Any]) -> list[str]:
    lines = ["| stage | CPU ms a frame | batch |", "|---|---|---|"]
    lines += [f"| {name} | {s['cpu_ms']:.2f} | {s['batch']} |" for name, s in part["stages"].items()]
    lines += [
        "",
        f"{part['streams']} streams of 720p25, {part['kbit_s']:.0f} kbit/s, medians of {len(part['rounds'])} rounds",
        "(from the least to the most); each is held against what the stages cost right before and after it.",
        "",
        "| run | frames/s | CPU ms a frame | of the bound | of the bound by CPU |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {name} | {run['fps']:.1f} | {run['cpu_ms']:.1f} | {_spread(part, name, 'ratio')}"
        f" | {_spread(part, name, 'cpu_ratio')} |"
        for name in RUNS
        if (run := part.get(name))
    ]


def _cases(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the user's loop, the smallest pictures and fewest a second first."""
    return sorted(part.get("cases", []), key=lambda case: (int(case["size"].rstrip("p")), case["fps"]))


def _user_loop(part: dict[str, Any]) -> list[str]:
    user = part["cases"][0]["rounds"][0]["user"]
    return [
        f"{user['detector']}, torch {user['torch']}, {user['threads']} threads; the same clip and sampling for both.",
        "Where more pictures are looked at, decoding, which both need, is a smaller part of each.",
        "",
        "| size | looked at a second | theirs, frames/s (faces a frame) | ours | on the wall | by CPU |",
        "|---|---|---|---|---|---|",
    ] + [
        f"| {case['size']} | {case['fps']:g}{' (watch)' if case['fps'] == KEY_FPS else ''} "
        f"| {case['user_fps']:.2f} ({case['user_faces']:.2f}) "
        f"| {case['pipeline_fps']:.1f} ({case['pipeline_faces']:.2f}) "
        f"| {case['ratio']:.1f}x | {case['cpu_ratio']:.1f}x |"
        for case in _cases(part)
    ]


def _live(part: dict[str, Any]) -> list[str]:
    lines = [
        "Latency runs from the record's timestamp (when it was published: a segment when its last picture is there) to",
        "the score in the hands of a reader of committed records. Commits every 0.4 s. `by CPU`: what the cheapest",
        "probe's CPU would allow.",
        "",
        "| size | gear | form | streams a core | by CPU | probes (streams: p50 / p95 / p99 s, coverage) |",
        "|---|---|---|---|---|---|",
    ]
    for row in part["rows"]:
        probes = "; ".join(
            f"{p['streams']}: {p['p50_s']:.2f} / {p['p95_s']:.2f} / {p['p99_s']:.2f}, {p['coverage']:.0%}"
            for p in sorted(row["probes"], key=lambda p: p["streams"])
        )
        what = f"{row['size']} | {row['gear']} | {row['form']}"
        lines.append(f"| {what} | {row['streams_per_core']} | {row['by_cpu']:.1f} | {probes} |")
    return lines


def _flood(part: dict[str, Any]) -> list[str]:
    return [
        f"{part['streams']} quiet streams and one at ten times the speed. Jain's index {part['jain']:.4f} (quiet ones",
        f"alone {part['jain_quiet']:.4f}); p99 of the quiet {part['before']['p99_s']:.2f} s before,",
        f"{part['during_quiet']['p99_s']:.2f} s during, of the one worst off {part['worst_quiet_p99_s']:.2f} s.",
    ]


def _overload(part: dict[str, Any]) -> list[str]:
    latency, memory = part["latency"], part["memory_mib"]
    return [
        f"{part['streams']} streams where {part['capacity']} fit, {part['storm_s']:.0f} s: {part['due']} frames due,",
        f"{part['told']} told ({part['statuses']}). p95 {latency['p95_s']:.2f} s, longest {latency['max_s']:.2f} s.",
        f"Memory {memory[0]:.0f} to {memory[-1]:.0f} MiB, in the second half",
        f"{part['memory_slope_mib_per_min']:+.1f} MiB a minute. Back to normal after {part['back_to_normal_s']:.1f} s.",
    ]


def _scaling(part: dict[str, Any]) -> list[str]:
    lines = ["| by | value | streams | frames/s | CPU s a stream-second | MiB |", "|---|---|---|---|---|---|"]
    return lines + [
        f"| {r['by']} | {r['value']} | {r['streams']} | {r['fps']:.1f} | {r['cpu_s_per_stream_s']:.4f} | "
        f"{r['resident_mib']:.0f} |"
        for r in part["rows"]
    ]


RUNS = ("memory", "kafka", "kafka_processes")
_SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "pipeline": ("The bound and the pipeline", _bound),
    "user_loop": ("Beside the loop that a user would write", _user_loop),
    "live": ("Live", _live),
    "flood": ("Flood", _flood),
    "overload": ("Overload", _overload),
    "scaling": ("Scaling", _scaling),
}


def _where(part: dict[str, Any]) -> str:
    machine = part["machine"]
    note = " **Tiny settings: the figures mean nothing.**" if part["tiny"] else ""
    where = f"{machine['cpu']}, {machine['cores']} cores, engine {part['engine']}, {part['at']}"
    return f"{where}; others kept {part['others']:.2f} cores busy.{note}"


def plots(figures: dict[str, Any], folder: Path) -> list[Path]:
    """PNG files: what there is to draw of the parts that were measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    parts, made = figures["parts"], []

    def save(name: str) -> None:
        path = folder / f"pipeline_{name}.png"
        plt.tight_layout()
        plt.savefig(path, dpi=110)
        plt.close()
        made.append(path)

    if part := parts.get("pipeline"):
        stages = part["stages"]
        plt.figure(figsize=(7, 3))
        left = 0.0
        for name, one in stages.items():
            plt.barh("stages", one["cpu_ms"], left=left, label=name)
            left += one["cpu_ms"]
        for name in RUNS:
            if name in part:
                plt.barh(name, part[name]["cpu_ms"], color="grey")
        plt.xlabel("CPU ms for an analysed frame")
        plt.legend(ncol=6, fontsize=7, loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False)
        save("bound")
    if rows := parts.get("live", {}).get("rows"):
        plt.figure(figsize=(7, 4))
        for row in rows:
            probes = sorted(row["probes"], key=lambda p: p["streams"])
            label = f"{row['size']} {row['gear']} {row['form']}"
            plt.plot([p["streams"] for p in probes], [p["p95_s"] for p in probes], "o-", label=label)
        plt.axhline(1.0, color="red", linewidth=0.8)
        plt.yscale("log")
        plt.xlabel("streams on one core")
        plt.ylabel("p95 latency, s")
        plt.legend(fontsize=7)
        save("latency")
    if part := parts.get("overload"):
        _, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True)
        above.plot([t["s"] for t in part["timeline"]], [t["p95_s"] for t in part["timeline"]], label="p95 latency, s")
        above.plot([t["s"] for t in part["timeline"]], [t["shed"] for t in part["timeline"]], label="share shed")
        above.axvline(part["storm_s"], color="grey", linewidth=0.8)
        above.legend(fontsize=8)
        below.plot(range(len(part["memory_mib"])), part["memory_mib"])
        below.set_ylabel("resident, MiB")
        below.set_xlabel("s")
        save("overload")
    if part := parts.get("scaling"):
        rows = [row for row in part["rows"] if row["by"] == "streams"]
        _, (one, two) = plt.subplots(1, 2, figsize=(8, 3))
        one.plot([r["streams"] for r in rows], [r["cpu_s_per_stream_s"] for r in rows], "o-")
        one.set(xlabel="streams", ylabel="CPU s a stream-second", ylim=(0, None))
        two.plot([r["streams"] for r in rows], [r["resident_mib"] for r in rows], "o-")
        two.set(xlabel="streams", ylabel="resident, MiB", ylim=(0, None))
        save("scaling")
    return made
