"""What a worker holds in memory, minute by minute, with far more streams than it can work on.

    python benchmarks/worker_memory.py --minutes 10

Streams of 720p in real time through Apache Kafka to one worker on one core, which sheds what it has no time for. Page
faults are what it costs to give memory back: up to 2 us each. Memory may be measured beside other work, as long as
that leaves the worker some of its core. Linux only; prints a Markdown table, asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / "tests"))

import numpy as np  # noqa: E402
import structlog  # noqa: E402
from apache_kafka import ApacheKafka  # noqa: E402
from pipeline_live import Live, Workers, beside, streams_of, workers  # noqa: E402
from pipeline_plan import QUICK, Bench  # noqa: E402

from difffake.demo.clips import fetch_clips  # noqa: E402
from difffake.networks import EngineChoice  # noqa: E402
from stream.bench.clock import process_s, resident_mib  # noqa: E402


@dataclass(frozen=True, slots=True)
class Sample:
    """A worker at some time: page faults, processor time, and the frames that it told of, since it began."""

    at_s: float
    mib: float
    faults: int
    cpu_s: float
    looked_at: int
    shed: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2, help="of the worker, on its one core")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    clips = fetch_clips(_ROOT / ".cache" / "clips")
    work = _ROOT / ".cache" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="kafka-", dir=work))
    every = os.sched_getaffinity(0)
    core = min(every)
    try:
        with ApacheKafka(folder) as node, beside((every - {core}) or every, os.getpid(), node.pid or os.getpid()):
            bench = Bench(QUICK, work, [clips["woman"], clips["man"]], node, EngineChoice(), core=core)
            name = bench.name("memory")
            given = {"bootstrap": node.bootstrap, "topic": f"{name}.in", "group": name, "commit_s": 0.2, "fps": 2.0,
                     "gear": "analyse", "overload": "shed", "cpus": [core], "threads": options.threads}  # fmt: skip
            with workers(1, given) as running, Live(node.bootstrap, given["topic"], f"{name}.scores") as watch:
                watch.publish(streams_of(bench.footage(), options.streams))
                report(list(samples(watch, running, 60 * options.minutes)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def samples(watch: Live, running: Workers, seconds: float) -> Iterator[Sample]:
    """One a second, from the first score on."""
    while not watch.seen:
        watch.check()
        _ = running.pids
        time.sleep(0.1)
    began, told, looked_at = time.monotonic(), 0, 0
    while time.monotonic() < began + seconds:
        time.sleep(1.0)
        watch.check()
        (pid,) = running.pids
        fresh = watch.seen[told:]
        told += len(fresh)
        looked_at += sum(one.status != "SHED" for one in fresh)
        faults = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
        yield Sample(time.monotonic() - began, resident_mib(pid), faults, process_s(pid), looked_at, told - looked_at)


def report(found: list[Sample]) -> None:
    """Print a row a minute, and how fast memory grows over the last half."""
    print("| minute | MiB, mean | MiB, most | CPU s | page faults a CPU second | frames looked at | shed |")
    print("|---|---|---|---|---|---|---|")
    for minute in range(int(found[-1].at_s // 60) + 1):
        those = [one for one in found if one.at_s // 60 == minute]
        if len(those) < 2:
            continue
        first, last = those[0], those[-1]
        cpu_s = last.cpu_s - first.cpu_s
        mib = [one.mib for one in those]
        print(f"| {minute + 1} | {np.mean(mib):.1f} | {max(mib):.1f} | {cpu_s:.1f} "
              f"| {(last.faults - first.faults) / cpu_s if cpu_s else float('nan'):.0f} "
              f"| {last.looked_at - first.looked_at} | {last.shed - first.shed} |")  # fmt: skip
    late = [one for one in found if one.at_s >= found[-1].at_s / 2]
    if len(late) > 1:
        slope = np.polyfit([one.at_s / 60 for one in late], [one.mib for one in late], 1)[0]
        print(f"\nThe last {(late[-1].at_s - late[0].at_s) / 60:.1f} minutes: {slope:+.2f} MiB a minute.")


if __name__ == "__main__":
    main()
