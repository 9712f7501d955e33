"""The parts of the pipeline's benchmark; each gives a dict that goes into the JSON as it is."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pipeline_live import (
    Backlog,
    Live,
    Seen,
    Stream,
    by_stream,
    fair_shares,
    jain,
    key_interval_s,
    percentiles,
    settle,
    streams_of,
    wait_for_scores,
    watched,
    workers,
)
from pipeline_plan import FPS, FULL, KEY_FPS, TINY, Bench, shown

from stream.batcher import BatchSettings
from stream.bench.clips import Footage
from stream.bench.clock import Moment
from stream.bench.saturated import Saturated, worked_off
from stream.bench.stages import Stage, Tools, measure_stages
from stream.container import usable_cores
from stream.decode import Gear
from stream.live import LiveModels
from stream.pipeline import PipelineSettings
from stream.publish import Form

#: What a stream costs, in that of 720p: where a search begins.
_GUESS = {"360p": 0.75, "720p": 1.0, "1080p": 1.6}
#: The goal of live mode: 95 % of the scores can be read so soon after their record was published.
P95_S = 1.0
#: Of the scores that were due, so many must have come: a stream that is not looked at has no latency. They come in
#: commits, so that the ends of what is measured are worth up to 2 %.
COVERAGE = 0.97
#: How often each batch is tried before one is chosen.
_PASSES = 3


def pipeline(bench: Bench) -> dict[str, Any]:
    """The bound, the pipeline in memory, the pipeline through Kafka: turn and turn about. The speed of a shared machine
    moves within a minute: for each run the stages count as they cost right before and right after it, with the batch
    that was the cheapest at the beginning."""
    plan, source = bench.plan, bench.footage()
    tools = Tools.load(None, bench.live, bench.choice)
    runs: dict[str, Callable[[], Saturated | Backlog]] = {
        "memory": lambda: worked_off(source, models, bench.live, streams=plan.streams, loops=plan.loops, fps=FPS),
        "kafka": lambda: bench.backlog(source, "one", streams=plan.streams, loops=plan.loops),
    }
    if usable_cores() > 1:
        # One process for each core.
        runs["kafka_processes"] = lambda: bench.backlog(
            source, "each", streams=plan.streams, loops=plan.loops, count=usable_cores(), threads=1
        )

    def stages(batch: int) -> dict[str, Stage]:
        return measure_stages(source, tools, fps=FPS, min_frames=plan.stage_frames, batches=(batch,))

    rounds = []
    with LiveModels.load(None, bench.live, bench.choice) as models:
        # Turn and turn about, or a minute in which the machine is slow would choose.
        passes = [{batch: _cost_ms(stages(batch)) for batch in plan.batches} for _ in range(_PASSES)]
        first = {batch: statistics.median(one[batch] for one in passes) for batch in plan.batches}
        batch = min(plan.batches, key=lambda one: first[one])
        before = stages(batch)
        for number in range(plan.rounds):
            row: dict[str, Any] = {}
            for name, run in runs.items():
                done = run()
                after = stages(batch)
                row[name] = _beside_bound(done, before, after)
                before = after
            rounds.append(row)
            print(f"round {number + 1}: {json.dumps(row, default=float)}", flush=True)
    tools.networks.close()
    found: dict[str, Any] = {
        "rounds": rounds, "streams": plan.streams, "kbit_s": source.kbit_s,
        "batches": first,
        "stages": {
            name: {
                "batch": batch, "cpu_ms": statistics.median(row[run]["stages"][name] for row in rounds for run in runs)
            }
            for name in before
        },
    }  # fmt: skip
    for name in runs:
        found[name] = {
            key: statistics.median(row[name][key] for row in rounds) for key in ("fps", "cpu_ms", "ratio", "cpu_ratio")
        }
    bench.cost["analyse"] = found["kafka"]["cpu_ms"] * FPS / 1e3
    return found


def _cost_ms(stages: dict[str, Stage]) -> float:
    """Of all stages together, for a frame."""
    return sum(stage.cpu_ms for stage in stages.values())


def _beside_bound(done: Saturated | Backlog, before: dict[str, Stage], after: dict[str, Stage]) -> dict[str, Any]:
    cost_ms = {name: (before[name].cpu_ms + after[name].cpu_ms) / 2 for name in before}
    bound_ms = sum(cost_ms.values())
    found: dict[str, Any] = {
        "frames": done.frames,
        "fps": done.fps,
        "cpu_ms": done.cpu_ms,
        "stages": cost_ms,
        "bound_cpu_ms": bound_ms,
        "bound_fps": 1e3 * usable_cores() / bound_ms,
        "ratio": done.fps * bound_ms / usable_cores() / 1e3,
        "cpu_ratio": bound_ms / done.cpu_ms,
    }
    if isinstance(done, Backlog):
        found["broker_cpu_ms"] = 1e3 * done.broker_cpu_s / done.frames
    return found | shown(done.spent)


def user_loop(bench: Bench) -> dict[str, Any]:
    """The loop that a user would write, and the pipeline (in memory) beside it."""
    cases = []
    with LiveModels.load(None, bench.live, bench.choice) as models:
        for size, fps in bench.plan.user_cases:
            rounds = [_beside_user(bench, models, size, fps) for _ in range(bench.plan.rounds)]
            keys = ("ratio", "cpu_ratio", "user_fps", "pipeline_fps", "user_faces", "pipeline_faces")
            medians = {key: statistics.median(row[key] for row in rounds) for key in keys}
            cases.append({"size": size, "fps": fps, "rounds": rounds} | medians)
            print(f"user's loop: {json.dumps(cases[-1])}", flush=True)
    return {"cases": cases}


def _beside_user(bench: Bench, models: LiveModels, size: str, fps: float) -> dict[str, Any]:
    plan, source, clip = bench.plan, bench.footage(size), bench.clip(size)
    script = Path(__file__).with_name("pipeline_user_loop.py")
    command = [sys.executable, str(script), str(clip), "--fps", str(fps), "--seconds", str(plan.user_s)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        raise RuntimeError(f"the user's loop failed: {said.stderr[-2000:]}")
    theirs = json.loads(said.stdout.strip().splitlines()[-1])
    # About as many frames, however many there are in a second; but as many streams as are worked on at once.
    streams = max(PipelineSettings.for_cores(0, BatchSettings()).in_progress, round(plan.streams * FPS / fps))
    loops = max(1, round(plan.loops * FPS / fps))
    gear = Gear.WATCH if fps == KEY_FPS else Gear.ANALYSE
    ours = worked_off(source, models, bench.live, streams=streams, loops=loops, fps=fps, gear=gear)
    return {
        "user": theirs,
        "user_fps": theirs["frames"] / theirs["wall_s"],
        "user_faces": theirs["faces"] / theirs["frames"],
        "pipeline_fps": ours.fps,
        "pipeline_faces": ours.faces,
        "ratio": ours.fps * theirs["wall_s"] / theirs["frames"],
        "cpu_ratio": 1e3 * theirs["cpu_s"] / theirs["frames"] / ours.cpu_ms,
        "others": ours.spent.others,
    }


def probe(bench: Bench, source: Footage, count: int, *, gear: str = "analyse", seconds: float) -> dict[str, Any]:
    """So many streams in real time on one worker: latencies, from the record's timestamp to its score in a reader of
    committed records."""
    name = bench.name(f"live-{gear}")
    given = _given(bench, name, gear=gear)
    streams = streams_of(source, count)
    with workers(1, given) as running, Live(bench.node.bootstrap, given["topic"], f"{name}.scores") as live:
        time.sleep(3.0)  # the worker joins
        live.publish(streams)
        wait_for_scores(live, [stream.name for stream in streams], running)
        settled = settle(live, running, within_s=max(10.0, seconds))
        seen, spent = watched(live, running, seconds)
        memory, late_s = running.resident_mib, live.late_s
    rate = FPS if gear == "analyse" else 1 / key_interval_s(source)
    return (
        {
            "streams": count,
            "gear": gear,
            "settled": settled,
            "coverage": len(seen) / (count * seconds * rate),
            "cpu_s_per_stream_s": spent.cpu_s / (count * seconds),
            "resident_mib": memory,
            "publisher_late_s": late_s,
            "statuses": _statuses(seen),
        }
        | percentiles([one.latency_s for one in seen])
        | shown(spent)
    )


def _given(bench: Bench, name: str, **more: Any) -> dict[str, Any]:
    return {
        "bootstrap": bench.node.bootstrap, "topic": f"{name}.in", "group": name, "commit_s": 0.4, "fps": FPS,
        "gear": "analyse", "cpus": [bench.core],
    } | bench.runtimes | more  # fmt: skip


def _statuses(seen: list[Seen]) -> dict[str, int]:
    names = [one.status for one in seen]
    return {name: names.count(name) for name in sorted(set(names))}


def _full_cost(found: dict[str, Any]) -> float:
    """CPU s of a second of a stream, had all that was due been looked at; without an end where nothing was."""
    coverage = min(1.0, found["coverage"])
    return float(found["cpu_s_per_stream_s"]) / coverage if coverage else float("inf")


def holds(found: dict[str, Any]) -> bool:
    """Whether a probe reached the goal."""
    return bool(found["settled"] and found["coverage"] >= COVERAGE and found["p95_s"] < P95_S)


def search(start: int, probes: int, run: Callable[[int], dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
    """The largest number of streams that holds, and all probes; first up or down by a quarter, then by halves."""
    low, high, count, tried = 0, 0, max(1, start), []
    for _ in range(probes):
        tried.append(run(count))
        print(f"  {json.dumps(tried[-1])}", flush=True)
        if holds(tried[-1]):
            low = max(low, count)
        else:
            high = count
        if high and high - low <= 1:
            break
        count = (low + high) // 2 if low and high else max(1, low * 5 // 4 + 1 if low else high * 3 // 4)
    return low, tried


def live(bench: Bench) -> dict[str, Any]:
    """The most streams on one core whose p95 latency stays below a second, by size, gear and form. The worker has the
    first core for itself where there are several; broker, publisher and reader have the others."""
    rows = []
    for size in bench.plan.sizes:
        for gear in bench.plan.gears:
            for form in bench.plan.forms if size == "720p" or bench.plan is FULL else (Form.SEGMENTS,):
                source = bench.footage(size, form)
                cost = bench.cost.get(gear, 0.08 if gear == "analyse" else 0.04) * _GUESS[size]
                if bench.plan is TINY:
                    cost = 0.5
                most, tried = search(
                    bench.plan.start or int(0.95 / cost),
                    bench.plan.probes if size == "720p" else max(1, bench.plan.probes - 1),
                    lambda count, source=source, gear=gear: probe(  # type: ignore[misc]
                        bench, source, count, gear=gear, seconds=bench.plan.live_s
                    ),
                )
                rows.append({"size": size, "gear": gear, "form": form.value, "streams_per_core": most, "probes": tried,
                             "by_cpu": 1 / min(_full_cost(one) for one in tried)})  # fmt: skip
    return {"rows": rows, "p95_goal_s": P95_S}


def flood(bench: Bench) -> dict[str, Any]:
    """One stream sends ten times as much as it should, among others that fill three fifths of a core."""
    source = bench.footage()
    seconds = bench.plan.live_s
    count = 3 if bench.plan is TINY else max(4, int(0.6 / bench.cost.get("analyse", 0.06)))
    name = bench.name("flood")
    given = _given(bench, name)
    quiet = streams_of(source, count)
    loud = Stream("flood", source, count, speed=10.0)
    with workers(1, given) as running, Live(bench.node.bootstrap, given["topic"], f"{name}.scores") as watch:
        time.sleep(3.0)
        watch.publish(quiet)
        wait_for_scores(watch, [stream.name for stream in quiet], running)
        settle(watch, running, within_s=max(10.0, seconds))
        before, _ = watched(watch, running, seconds)
        watch.publish([loud])
        time.sleep(min(5.0, seconds))
        during, spent = watched(watch, running, seconds)
    served = {stream: len(seen) for stream, seen in by_stream(during).items()}
    names = [stream.name for stream in quiet] + [loud.name]
    got = [float(served.get(one, 0)) for one in names]
    demands = [FPS * seconds] * count + [FPS * 10 * seconds]
    fair = fair_shares(demands, sum(got))
    quiet_seen = {
        stream: [s.latency_s for s in seen] for stream, seen in by_stream(during).items() if stream != "flood"
    }
    p99 = {stream: float(np.percentile(latencies, 99)) for stream, latencies in quiet_seen.items()}
    return {
        "streams": count,
        "jain": jain([min(1.0, have / share) if share else 1.0 for have, share in zip(got, fair, strict=True)]),
        "jain_quiet": jain(got[:-1]),
        "served_quiet": [min(got[:-1]), max(got[:-1])],
        "demand_quiet": demands[0],
        "served_flood": got[-1],
        "fair_flood": fair[-1],
        "before": percentiles([one.latency_s for one in before]),
        "during_quiet": percentiles([one for latencies in quiet_seen.values() for one in latencies]),
        "worst_quiet_p99_s": max(p99.values(), default=float("nan")),
    } | shown(spent)


def overload(bench: Bench) -> dict[str, Any]:
    """Three times what a core can do, in shed mode; then half of what it can."""
    source, plan = bench.footage(), bench.plan
    capacity = 2 if plan is TINY else max(2, int(1 / bench.cost.get("analyse", 0.06)))
    name = bench.name("overload")
    given = _given(bench, name, overload="shed")
    calm = streams_of(source, max(1, capacity // 2))
    storm = streams_of(source, 3 * capacity - len(calm), "storm", first=len(calm), stop_s=plan.overload_s)
    memory: list[float] = []
    with workers(1, given) as running, Live(bench.node.bootstrap, given["topic"], f"{name}.scores") as watch:
        time.sleep(3.0)
        watch.publish(calm)
        wait_for_scores(watch, [stream.name for stream in calm], running)
        settle(watch, running, within_s=20.0)
        watch.publish(storm)
        began, begin, before = time.time(), len(watch.seen), Moment.now(running.pids)
        while time.time() < began + plan.overload_s:
            time.sleep(1.0)
            memory.append(running.resident_mib)
        end, spent = time.time(), Moment.now(running.pids).since(before)
        time.sleep(plan.recover_s)
        seen = watch.seen[begin:]
        after_mib = running.resident_mib
    # What was published in the storm and is in a score: every picture that was due, seen or shed.
    due = sum(
        round(FPS * len([s for s in stream.sent_s if began <= s < end]) * source.length_ns / 1e9 / len(source.records))
        for stream in (*calm, *storm)
    )
    in_storm = [one for one in seen if began <= one.at_s - one.latency_s < end]
    slow = [one.at_s for one in seen if one.at_s >= end and one.latency_s >= P95_S]
    half = len(memory) // 2
    return {
        "capacity": capacity,
        "streams": len(calm) + len(storm),
        "storm_s": plan.overload_s,
        "due": due,
        "told": len(in_storm),
        "statuses": _statuses(in_storm),
        "worker_shed": running.counts["frames:SHED"],
        "latency": percentiles([one.latency_s for one in in_storm]),
        "latency_scored": percentiles([one.latency_s for one in in_storm if one.status != "SHED"]),
        "memory_mib": memory,
        "memory_slope_mib_per_min": float(np.polyfit(np.arange(half), memory[-half:], 1)[0] * 60) if half > 1 else 0.0,
        "after_mib": after_mib,
        "back_to_normal_s": max((at - end for at in slow), default=0.0),
        "timeline": _timeline(seen, began),
    } | shown(spent)


def _timeline(seen: list[Seen], began: float) -> list[dict[str, float]]:
    """p95 latency and the share that was shed, second by second of the arrival."""
    by_second: dict[int, list[Seen]] = {}
    for one in seen:
        by_second.setdefault(int(one.at_s - began), []).append(one)
    return [
        {
            "s": float(second),
            "p95_s": float(np.percentile([one.latency_s for one in some], 95)),
            "shed": sum(one.status == "SHED" for one in some) / len(some),
        }
        for second, some in sorted(by_second.items())
    ]


def scaling(bench: Bench) -> dict[str, Any]:
    """Cost and memory by the number of streams, workers, faces, and by size; through Kafka, a backlog worked off."""
    plan, rows = bench.plan, []

    def run(kind: str, value: Any, source: Footage, streams: int, faces: int = 1, **more: Any) -> None:
        loops = max(1, round(plan.scaling_frames / (streams * FPS * source.length_ns / 1e9)))
        done = bench.backlog(source, kind, streams=streams, loops=loops, max_faces=max(8, faces), **more)
        rows.append(
            {
                "by": kind, "value": value, "streams": streams, "frames": done.frames, "fps": done.fps,
                "cpu_s_per_stream_s": done.cpu_ms * FPS / 1e3, "resident_mib": done.resident_mib,
                "statuses": {k: n for k, n in done.counts.items() if k.startswith("frames:")},
            } | shown(done.spent)
        )  # fmt: skip
        print(f"  {json.dumps(rows[-1])}", flush=True)

    source = bench.footage()
    for streams in plan.scaling_streams:
        run("streams", streams, source, streams)
    for count in plan.scaling_workers:
        run("workers", count, source, plan.streams, count=count, threads=max(1, usable_cores() // count))
    for faces in plan.scaling_faces:
        run("faces", faces, bench.footage(faces=faces), plan.streams, faces=faces)
    for size in plan.sizes:
        run("size", size, bench.footage(size), plan.streams)
    by_streams = [row for row in rows if row["by"] == "streams"]
    # Up to `in_progress` streams are worked on at once, each with a decoder and pictures: that is a bound, not a slope.
    many = [row for row in by_streams if row["streams"] >= PipelineSettings.for_cores(0, BatchSettings()).in_progress]
    many = many if len(many) > 1 else by_streams
    slope = np.polyfit([r["streams"] for r in many], [r["resident_mib"] for r in many], 1)[0]
    costs = [row["cpu_s_per_stream_s"] for row in by_streams]
    return {"rows": rows, "mib_per_stream": float(slope), "cost_spread": max(costs) / min(costs) - 1}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "pipeline": pipeline,
    "user_loop": user_loop,
    "live": live,
    "flood": flood,
    "overload": overload,
    "scaling": scaling,
}
#: About what one core can do.
ONE_CORE = frozenset({"live", "flood", "overload"})
