"""Where a saturated worker's time goes, and what share of it is Python: samples of py-spy, native frames included.

    python benchmarks/pipeline_profile.py --out benchmarks/results

Writes OUT/pipeline_flame.svg (a flame graph) and OUT/pipeline_profile.json. A sample counts for whatever library its
innermost frame lies in: Python and NumPy count as Python, since most of NumPy's share here is the price of its calls.
Samples that wait (for work, a lock, the interpreter's lock) are told apart. The samples' rate falls behind where the
machine is busy; shares stay right.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from difffake.demo.clips import fetch_clips

CACHE = Path(__file__).parents[1] / ".cache"
#: What a sample waits for, by what stands in its stack; the first that fits.
_WAITS = {
    "work": ("_queue_SimpleQueue_get", "Condition.wait", "lock_PyThread_acquire_lock"),
    "interpreter's lock": ("take_gil", "PyThread_cond_timedwait", "pthread_cond_timedwait"),
}
_LIBRARIES = {
    "ONNX Runtime": ("onnxruntime",),
    "OpenVINO": ("openvino",),
    "OpenCV": ("cv2",),
    "FFmpeg": ("libav", "libsw", "libx264"),
    "NumPy": ("_multiarray", "_umath", "openblas", "numpy"),
}
_STAGES = {
    "decode": "_decode (",
    "find": "_find (",
    "align": "cut_out (",
    "networks": "infer (",
    "state and evidence": "Teller.take",
    "messages": "Teller.finish",
    "commit": "_flush (",
    "input": "_read (",
}
_LIBRARY_OF = re.compile(r"\(([^()]*)\)$")


def library(frame: str) -> str | None:
    """Where a frame lies; None for the C library, which works for others."""
    found = _LIBRARY_OF.search(frame)
    where = found[1] if found else ""
    for name, marks in _LIBRARIES.items():
        if any(mark in where for mark in marks):
            return name
    if "libc.so" in where or "ld-linux" in where or not where:
        return None
    return "Python" if "libpython" in where or ".py" in where else "other native"


def summary(raw: str) -> dict[str, Any]:
    """Shares of py-spy's raw samples, ``frame;frame;... count`` a line."""
    waits: Counter[str] = Counter()
    libraries: Counter[str] = Counter()
    stages: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, times = line.rpartition(" ")
        if not times.isdigit() or "_bootstrap>" in stack or ("pipeline.py" not in stack and "worker.py" not in stack):
            continue
        count = int(times)
        if wait := next((name for name, marks in _WAITS.items() if any(m in stack for m in marks)), None):
            waits[wait] += count
            continue
        frames = stack.split(";")
        where = next((found for frame in reversed(frames) if (found := library(frame))), "Python")
        libraries[where] += count
        stages[next((name for name, mark in _STAGES.items() if mark in stack), "rest")] += count
        if where in ("Python", "NumPy"):
            ours = [f for f in frames if re.search(r"\((?:.*/)?(?:stream|difffake|engines)/[^()]*\.py", f)]
            functions[re.sub(r":\d+\)$", ")", ours[-1]) if ours else "?"] += count
    total = sum(libraries.values())

    def shares(counter: Counter[str], most: int | None = None) -> dict[str, float]:
        return {name: count / total for name, count in counter.most_common(most)}

    return {
        "samples": total,
        "python": (libraries["Python"] + libraries["NumPy"]) / total if total else float("nan"),
        "libraries": shares(libraries),
        "stages": shares(stages),
        "top_python": shares(functions, 20),
        "waiting": {name: count / (total + sum(waits.values())) for name, count in waits.items()},
    }


def main() -> None:
    """Parse, sample twice, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--engine", default="onnx")
    options = parser.parse_args()
    beside = Path(sys.executable).with_name("py-spy")
    spy = str(beside) if beside.exists() else shutil.which("py-spy")
    if spy is None:
        raise SystemExit("no py-spy: pip install py-spy")
    clip = fetch_clips(CACHE / "clips")["woman"]
    options.out.mkdir(parents=True, exist_ok=True)
    run = [sys.executable, "-c", _RUN, str(clip), str(options.streams), str(options.loops), options.engine]
    graph = options.out / "pipeline_flame.svg"
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "samples"
        for form, out in (("raw", raw), ("flamegraph", graph)):
            subprocess.run([spy, "record", "--native", "-r", "50", "-f", form, "-o", str(out), "--", *run], check=True)
        found = summary(raw.read_text())
    # Its title is the command, with this machine's folders.
    graph.write_text(graph.read_text().replace(f"{CACHE.parent}/", ""))
    (options.out / "pipeline_profile.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


_RUN = """
import sys, tempfile
from pathlib import Path
from difffake.networks import EngineChoice
from engines.choose import EngineKind
from stream.bench.clips import encode, footage
from stream.bench.saturated import worked_off
from stream.live import LiveModels, LiveSettings
from stream.publish import Form
with tempfile.TemporaryDirectory() as folder:
    clip = encode([Path(sys.argv[1])], Path(folder) / "c.mp4", width=1280, height=720, seconds=20)
    source = footage(clip, Form.SEGMENTS)
live = LiveSettings(threads=1)
with LiveModels.load(None, live, EngineChoice(EngineKind(sys.argv[4]))) as models:
    done = worked_off(source, models, live, streams=int(sys.argv[2]), loops=int(sys.argv[3]))
print(f"{done.fps:.1f} frames/s, {done.cpu_ms:.1f} CPU ms a frame", file=sys.stderr)
"""


if __name__ == "__main__":
    main()
