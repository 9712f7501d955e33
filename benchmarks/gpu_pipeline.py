"""Workers that share an NVIDIA GPU, through Apache Kafka: streams per card, beside the same cores without it.

    python benchmarks/gpu_pipeline.py --out benchmarks/results/gpu_pipeline.json

Some cores are for the broker, the publisher and the reader, the others for worker processes, which all have their
networks on the card (`--engine torch`). They are given more and more streams in real time, until the p95 latency, from
the record's timestamp to the score in the hands of a reader of committed records, is over the goal. Then a backlog is
worked off, beside the loop that a user would write, its networks on the same card. Adds a run to a JSON and, beside it,
to a Markdown page. Needs what `benchmarks/pipeline.py` needs, torch and cuda-bindings. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # one thread in each of many places; set before NumPy is loaded
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import structlog  # noqa: E402
from apache_kafka import ApacheKafka  # noqa: E402
from pipeline import processor, scratch  # noqa: E402
from pipeline_live import Live, backlog, beside, percentiles, streams_of, wait_for_scores, watched, workers  # noqa: E402
from pipeline_plan import NODE, QUICK, Bench  # noqa: E402

from difffake.demo.clips import fetch_clips  # noqa: E402
from difffake.networks import EngineChoice  # noqa: E402
from engines.choose import EngineKind  # noqa: E402
from engines.tensorrt_api import host_info  # noqa: E402
from stream.bench.clips import Footage  # noqa: E402
from stream.bench.clock import process_s  # noqa: E402

ROOT = Path(__file__).parents[1]
FPS = 2.0
#: Of the scores that were due, so many must have come.
COVERAGE = 0.97


@dataclass(frozen=True, slots=True)
class Case:
    """What is looked at, what decodes, and what runs the networks."""

    size: str
    gear: str = "analyse"
    hwaccel: str = "off"
    engine: str = "torch"
    #: Streams a core to begin with.
    first: float = 6.0

    @property
    def given(self) -> dict[str, str]:
        """For the workers."""
        return {"gear": self.gear, "hwaccel": self.hwaccel, "engine": self.engine, "detector": self.engine}


CASES = {
    "720p": Case("720p"),
    "720p, without the GPU": Case("720p", engine="onnx", first=3.0),
    "720p, watch": Case("720p", "watch", first=12.0),
    "720p, watch, without the GPU": Case("720p", "watch", engine="onnx", first=6.0),
    "1080p": Case("1080p", first=3.0),
    "1080p, watch": Case("1080p", "watch", first=8.0),
    # A decoder is made for every segment, which takes a GPU far longer than decoding it.
    "720p, decoded by the GPU": Case("720p", hwaccel="cuda", first=3.0),
    "1080p, decoded by the GPU": Case("1080p", hwaccel="cuda", first=2.0),
}


def main() -> int:
    """Parse, measure, write after every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON; a page is written beside it")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES)[:6])
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one for each core that is theirs")
    parser.add_argument("--beside", type=int, default=4, help="cores of broker, publisher and reader")
    parser.add_argument("--goal-s", type=float, default=0.5, help="p95 latency")
    parser.add_argument("--commit-s", type=float, default=0.15, help="time between commits")
    parser.add_argument("--step-s", type=float, default=8.0, help="how long each number of streams is watched")
    parser.add_argument("--deadline-s", type=float, default=0.06, help="longest wait of a frame for a batch")
    parser.add_argument("--first", type=float, help="streams a core to begin with, instead of each case's own")
    parser.add_argument("--limit-s", type=float, default=1e9, help="begin no further case after this")
    parser.add_argument("--backlog-streams", type=int, default=96)
    parser.add_argument("--user-s", type=float, default=12.0, help="of the user's loop; 0 leaves backlog and loop out")
    parser.add_argument("--user-sizes", nargs="+", default=["720p", "1080p"])
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    began_s = time.monotonic()
    every = sorted(os.sched_getaffinity(0))
    ours, theirs = set(every[-options.beside :]), every[: -options.beside] or every
    count = options.workers or len(theirs)
    host = host_info()
    found: dict[str, Any] = {
        "command": "python benchmarks/gpu_pipeline.py " + " ".join(sys.argv[1:]),
        "card": host.gpus[0].name if host.gpus else None,
        "cpu": processor(),
        "cores_of_workers": len(theirs),
        "cores_beside": len(ours),
        "workers": count,
        "goal_s": options.goal_s,
        "commit_s": options.commit_s,
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "began_s": time.time(),
        "cases": {},
    }
    work = ROOT / ".cache" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    clips = fetch_clips(ROOT / ".cache" / "clips")
    sources = [clips[name] for name in ("woman", "man", "face_noface", "noface_face")]
    kafka = work / f"kafka-{os.getpid()}"
    # What was read is deleted: minutes of many streams would fill the disk.
    bounds = {"log.retention.bytes": "100000000", "log.segment.bytes": "50000000"}
    bounds["log.retention.check.interval.ms"] = "5000"
    with (
        scratch(kafka),
        ApacheKafka(kafka, properties=NODE | bounds) as node,
        beside(ours, os.getpid(), node.pid or os.getpid()),
    ):
        bench = Bench(QUICK, work, sources, node, EngineChoice(EngineKind.ONNX))
        given = {
            "cpus": theirs, "threads": max(1, len(theirs) // count), "fps": FPS, "commit_s": options.commit_s,
            "deadline_s": options.deadline_s, "batch": 16,
        }  # fmt: skip
        for name in options.cases:
            if time.monotonic() - began_s > options.limit_s:
                found["cases"][name] = {"left_out": "the time was over"}
                continue
            case = CASES[name]
            first = options.first or case.first
            print(f"{time.monotonic() - began_s:5.0f} s  {name}", flush=True)
            try:
                found["cases"][name] = ramp(bench, bench.footage(case.size), given | case.given, count, first, options)
            except (RuntimeError, TimeoutError) as error:
                found["cases"][name] = {"failed": str(error)[:300]}
            write(options.out, found)
        if options.user_s and time.monotonic() - began_s < options.limit_s:
            print(f"{time.monotonic() - began_s:5.0f} s  backlog and the user's loop", flush=True)
            found["user_loop"] = beside_user(bench, given, count, options)
            write(options.out, found)
    print(page(found))
    return 0


def ramp(
    bench: Bench, source: Footage, given: dict[str, Any], count: int, per_core: float, options: Any
) -> dict[str, Any]:
    """More and more streams on the same workers, by a sixth each time, until the goal is missed."""
    name = bench.name("gpu")
    given = {"bootstrap": bench.node.bootstrap, "topic": f"{name}.in", "group": name} | given
    rate = FPS if given["gear"] == "analyse" else 1.0
    cores = len(given["cpus"])
    steps: list[dict[str, Any]] = []
    topics = given["topic"], f"{name}.scores"
    with workers(count, given) as running, Live(bench.node.bootstrap, *topics, partitions=2 * count) as live:
        # One stream for each partition, until the workers have loaded their networks and seen all sizes of a batch.
        total = 2 * count
        live.publish(streams_of(source, total, "first"))
        wait_for_scores(live, [f"first{number:03d}" for number in range(total)], running)
        _settled(live, options.goal_s, within_s=60.0)
        pids = running.pids
        while True:
            more = max(1, round(per_core * cores) - total)
            streams = streams_of(source, more, f"s{len(steps)}-", first=total)
            live.publish(streams)
            total += more
            wait_for_scores(live, [stream.name for stream in streams], running)
            calm = _settled(live, options.goal_s, within_s=15.0)
            broker_s, began_s = process_s(bench.node.pid or 0), time.monotonic()
            with gpu_watched() as gpu:
                seen, spent = watched(live, running, options.step_s)
            took_s = time.monotonic() - began_s
            steps.append(
                {
                    "streams": total,
                    "settled": calm,
                    "coverage": len(seen) / (total * options.step_s * rate),
                    "worker_cores": spent.cpu_s / took_s,
                    "broker_cores": (process_s(bench.node.pid or 0) - broker_s) / took_s,
                    "cpu_ms": 1e3 * spent.cpu_s / max(1, len(seen)),
                    "resident_mib": running.resident_mib,
                    "publisher_late_s": live.late_s,
                    "gpu": gpu,
                }
                | percentiles([one.latency_s for one in seen])
            )
            print(f"        {json.dumps(steps[-1])}", flush=True)
            if not _holds(steps[-1], options.goal_s) or running.pids != pids or len(steps) >= 8:
                break
            per_core *= 7 / 6
    most = max((step["streams"] for step in steps if _holds(step, options.goal_s)), default=0)
    return {"streams": most, "steps": steps, "kbit_s": source.kbit_s} | {
        key: given[key] for key in ("engine", "detector", "hwaccel", "gear")
    }


def _settled(live: Live, goal_s: float, within_s: float) -> bool:
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        live.check()
        now = time.time()
        latest = [seen.latency_s for seen in live.seen[-4000:] if now - seen.at_s < 2.0]
        if latest and percentiles(latest)["p95_s"] < goal_s:
            return True
        time.sleep(0.25)
    return False


def _holds(step: dict[str, Any], goal_s: float) -> bool:
    return bool(step["coverage"] >= COVERAGE and step["p95_s"] < goal_s)


@contextmanager
def gpu_watched() -> Iterator[dict[str, float]]:
    """What nvidia-smi says meanwhile: share of the time in which a kernel ran, memory; empty without it."""
    found: dict[str, float] = {}
    rows: list[list[float]] = []
    done = threading.Event()

    def look() -> None:
        command = [
            "nvidia-smi",
            "--query-gpu=utilization.gpu,utilization.decoder,memory.used",
            "--format=csv,noheader,nounits",
        ]
        while not done.wait(0.5):
            try:
                said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout
                rows.append([float(one) for one in said.splitlines()[0].split(",")])
            except (OSError, ValueError, IndexError, subprocess.SubprocessError):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        if rows:
            busy, decoder, memory = (statistics.fmean(column) for column in zip(*rows, strict=True))
            found |= {"busy_percent": busy, "decoder_percent": decoder, "memory_mib": memory}


def beside_user(bench: Bench, given: dict[str, Any], count: int, options: Any) -> dict[str, Any]:
    """A backlog through Kafka, and the user's loop with its networks on the card, on all the workers' cores."""
    rows: dict[str, dict[str, Any]] = {}
    for size in options.user_sizes:
        script, clip = ROOT / "benchmarks" / "pipeline_user_loop.py", bench.clip(size)
        device = "cuda" if host_info().gpus else "cpu"
        command = [sys.executable, str(script), str(clip), "--fps", str(FPS), "--seconds", str(options.user_s)]
        keep = ["taskset", "-c", ",".join(map(str, given["cpus"]))]
        said = subprocess.run([*keep, *command, "--device", device], capture_output=True, text=True, check=False)
        if said.returncode:
            rows[size] = {"failed": said.stderr[-500:]}
            continue
        user = json.loads(said.stdout.strip().splitlines()[-1])
        theirs_fps = user["frames"] / user["wall_s"]
        runs = {"engine": "torch", "detector": "torch"} if host_info().gpus else {}
        done = backlog(
            bench.node.bootstrap, bench.node.pid or 0, bench.footage(size), bench.name("backlog"), count=count,
            streams=options.backlog_streams, loops=1, partitions=2 * count, **{**given, "commit_s": 1.0, **runs}
        )  # fmt: skip
        rows[size] = {
            "user": user,
            "user_fps": theirs_fps,
            "user_faces": user["faces"] / user["frames"],
            "fps": done.fps,
            "cpu_ms": done.cpu_ms,
            "frames": done.frames,
            "ratio": done.fps / theirs_fps,
            "cpu_ratio": 1e3 * user["cpu_s"] / user["frames"] / done.cpu_ms,
            "counts": {key: n for key, n in done.counts.items() if key.startswith("frames:")},
        }
        print(f"        {size} {json.dumps(rows[size])}", flush=True)
    return rows


def write(out: Path, found: dict[str, Any]) -> None:
    """Put this run behind the earlier ones in the JSON, and in the page beside it."""
    runs = json.loads(out.read_text())["runs"] if out.exists() else []
    runs = [run for run in runs if run["began_s"] != found["began_s"]] + [found]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"runs": runs}, indent=1, default=float) + "\n")
    out.with_suffix(".md").write_text("\n".join(map(page, runs)))


def page(found: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        f"# Pipeline on {found['card'] or 'no card'}",
        "",
        f"`{found['command']}`, {found['at']}.",
        f"{found['cpu']}: {found['workers']} worker processes on {found['cores_of_workers']} cores; broker, publisher",
        f"and reader on {found['cores_beside']} others. Segments of one second, 25 pictures a second, of which {FPS:g}",
        "(in watch: the key frame) are looked at. Latency from the record's timestamp to the score with a reader of",
        f"committed records; goal: p95 under {found['goal_s']:g} s. Commits every {found['commit_s']:g} s.",
        "",
        "| case | streams | p50 / p95 / p99 s, coverage, workers' cores, CPU ms a frame, GPU busy |",
        "|---|---|---|",
    ]
    for name, case in found["cases"].items():
        if "steps" in case:
            lines.append(f"| {name} | {case['streams']} | {'; '.join(map(_told, case['steps']))} |")
        else:
            lines.append(f"| {name} | - | {case.get('failed') or case.get('left_out')} |")
    if loop := found.get("user_loop"):
        lines += [
            "",
            "The loop that a user would write, with its networks on the same card and the same cores, beside a backlog",
            "worked off through Kafka:",
            "",
            "| size | theirs, frames/s (faces a frame) | ours, frames/s | on the wall | by CPU |",
            "|---|---|---|---|---|",
        ]
        for size, row in loop.items():
            if "failed" in row:
                lines.append(f"| {size} | failed: {row['failed'][-200:]!r} | | | |")
                continue
            theirs = f"{row['user_fps']:.1f} ({row['user_faces']:.2f})"
            lines.append(f"| {size} | {theirs} | {row['fps']:.0f} | {row['ratio']:.1f}x | {row['cpu_ratio']:.1f}x |")
    return "\n".join(lines) + "\n"


def _told(step: dict[str, Any]) -> str:
    latency = f"{step['p50_s']:.2f} / {step['p95_s']:.2f} / {step['p99_s']:.2f}"
    busy = f", {step['gpu']['busy_percent']:.0f} %" if step["gpu"] else ""
    cost = f"{step['worker_cores']:.1f}, {step['cpu_ms']:.1f}"
    return f"{step['streams']}: {latency}, {step['coverage']:.0%}, {cost}{busy}"


if __name__ == "__main__":
    raise SystemExit(main())
