"""The pipeline at the hardware's limit: bound, throughput, the user's loop, live latency, fairness, overload, scaling.

    python benchmarks/pipeline.py --out benchmarks/results              # minutes: make bench
    python benchmarks/pipeline.py --out benchmarks/results --full       # hours: make bench-full
    python benchmarks/pipeline.py --out ... --only overload --minutes 10

Writes OUT/latest.json, OUT/pipeline.md and OUT/pipeline_*.png. ``--only`` measures some parts and keeps the others'
last figures. Needs Java 17 and Maven for an Apache Kafka of its own, the extra `train` for the user's loop and the
plots, and the network once: for the demonstration's clips and facenet-pytorch. Linux only. Nothing is asserted; the
machine should be quiet, and how much others used of it stands beside every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # one thread in each of many places; set before NumPy is loaded
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import structlog  # noqa: E402
from apache_kafka import ApacheKafka  # noqa: E402
from pipeline_live import beside  # noqa: E402
from pipeline_page import headline, page, plots  # noqa: E402
from pipeline_parts import ONE_CORE, PARTS  # noqa: E402
from pipeline_plan import FULL, NODE, QUICK, SIZES, TINY, Bench  # noqa: E402

from difffake.demo.clips import fetch_clips  # noqa: E402
from difffake.faces.runtime import DetectorRuntime  # noqa: E402
from difffake.networks import EngineChoice  # noqa: E402
from engines.choose import EngineKind  # noqa: E402
from stream.bench.clock import Moment  # noqa: E402
from stream.container import usable_cores  # noqa: E402
from stream.publish import Form  # noqa: E402

CACHE = Path(__file__).parents[1] / ".cache"
#: Of which parts single rows may be measured anew: where they stand, and what tells them apart.
_ROWS = {"live": ("rows", ("size", "gear", "form")), "user_loop": ("cases", ("size", "fps"))}


def main() -> None:
    """Parse, measure, write after every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--full", action="store_true", help="hours instead of minutes")
    parser.add_argument("--tiny", action="store_true", help="only to see that everything runs")
    parser.add_argument("--gears", nargs="+", choices=["analyse", "watch"], help="of live")
    parser.add_argument("--forms", nargs="+", type=Form, choices=[Form.SEGMENTS, Form.UNITS], help="of live at 720p")
    parser.add_argument("--start", type=int, help="streams with which live begins its search")
    parser.add_argument("--rounds", type=int, help="of pipeline and the user's loop")
    parser.add_argument("--minutes", type=float, help="of overload")
    parser.add_argument("--fps", type=float, nargs="+", help="pictures that the user's loop looks at a second")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="pictures of live, scaling and the user's loop")
    parser.add_argument("--streams", type=int, nargs="+", help="how many streams scaling tries")
    parser.add_argument("--faces", type=int, nargs="+", help="how many faces scaling tries")
    parser.add_argument("--engine", type=EngineKind, choices=list(EngineKind), default=EngineKind.ONNX)
    parser.add_argument("--engines", type=Path, help="folder of compiled engines")
    parser.add_argument("--detector-engine", type=DetectorRuntime, choices=list(DetectorRuntime), default="onnx")
    parser.add_argument("--clips", type=Path, nargs="+", help="of one face each, instead of the demonstration's")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    plan = TINY if options.tiny else FULL if options.full else QUICK
    asked = {
        "rounds": options.rounds,
        "gears": options.gears and tuple(options.gears),
        "forms": options.forms and tuple(options.forms),
        "start": options.start,
        "overload_s": options.minutes and 60 * options.minutes,
        "sizes": options.sizes and tuple(options.sizes),
        "user_cases": (options.sizes or options.fps)
        and tuple(
            (size, fps)
            for size, fps in plan.user_cases
            if size in (options.sizes or [size]) and fps in (options.fps or [fps])
        ),
        "scaling_streams": options.streams and tuple(options.streams),
        "scaling_faces": options.faces and tuple(options.faces),
    }
    if any(asked.values()):
        plan = replace(plan, **{name: value for name, value in asked.items() if value})
    clips = fetch_clips(CACHE / "clips")
    sources = options.clips or [clips[name] for name in ("woman", "man", "face_noface", "noface_face")]
    document = options.out / "latest.json"
    figures: dict[str, Any] = json.loads(document.read_text()) if document.exists() else {}
    parts: dict[str, Any] = figures.get("parts", {})
    choice = EngineChoice(options.engine, options.engines, detector=DetectorRuntime(options.detector_engine))
    work = CACHE / "bench"
    work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    kafka = work / f"kafka-{os.getpid()}"
    with scratch(kafka), ApacheKafka(kafka, properties=NODE) as node:
        bench = Bench(plan, work, sources, node, choice, core=min(os.sched_getaffinity(0)))
        if earlier := parts.get("pipeline"):
            bench.cost["analyse"] = earlier["kafka"]["cpu_ms"] * 2.0 / 1e3
        for name in options.only or PARTS:
            print(f"-- {name}", flush=True)
            began = Moment.now()
            found = _measured(name, bench)
            if rows := _ROWS.get(name):
                # What was not asked for keeps its last figures.
                kind, keys = rows
                every = {
                    tuple(row[key] for key in keys): row for row in parts.get(name, {}).get(kind, []) + found[kind]
                }
                found[kind] = list(every.values())
            parts[name] = found | {
                "machine": {"cpu": processor(), "cores": usable_cores(), "python": platform.python_version()},
                "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
                "took_s": Moment.now().since(began).wall_s,
                "engine": bench.runtimes["engine"],
                "detector": bench.runtimes["detector"],
                "tiny": options.tiny,
                "others": _others(found),
            }
            first = headline(parts)
            figures = {name: one["value"] for name, one in first.items()} | {"headline": first, "parts": parts}
            document.write_text(json.dumps(figures, indent=1, default=float) + "\n")
            (options.out / "pipeline.md").write_text(page(figures))
            plots(figures, options.out)
    print(page(figures))


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """The folder is gone afterwards, whatever happened."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(name: str, bench: Bench) -> dict[str, Any]:
    """One part. In those about one core, a worker has the first core and broker, publisher and reader the others."""
    every = os.sched_getaffinity(0)
    if name not in ONE_CORE or len(every) < 2:
        return PARTS[name](bench)
    with beside(every - {min(every)}, os.getpid(), bench.node.pid or os.getpid()):
        return PARTS[name](bench)


def processor() -> str:
    """What the processor calls itself."""
    found = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return found[1].strip() if found else platform.processor()


def _others(found: dict[str, Any]) -> float:
    """Cores kept busy by others, on average over all measurements of a part."""
    values: list[float] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("others"), float):
                values.append(value["others"])
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(found)
    return sum(values) / len(values) if values else float("nan")


if __name__ == "__main__":
    main()
