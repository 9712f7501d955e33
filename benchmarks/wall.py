"""The live wall in headless Chromium: how long until a score is on the page, what page and server cost, pictures of it.

    python benchmarks/wall.py --out benchmarks/results/wall --minutes 30
    python benchmarks/wall.py --out /tmp/wall --minutes 1 --screens docs --page docs/wall.md

Starts an Apache Kafka node (Java 17, Maven), ``difffake wall`` as a process of its own, and Chromium. A worker scores
the demo's clips once; what it said is then told of every stream as if it were now (`wall_show.Show`): 2 frames a second
each, with their alerts. Machine and load are written down, since other work on the machine changes every figure here.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import structlog
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from apache_kafka import ApacheKafka
from wall_show import Show, record

from stream.bench.clock import process_s, resident_mib
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.topics import Topics

ROOT = Path(__file__).parents[1]
PREFIX, SOURCE = "show", "show.video"
_BEGIN, _END = "<!-- figures: benchmarks/wall.py -->", "<!-- end of figures -->"
#: When a tile has been painted, the age of the newest score that it shows.
_WATCH = """() => {
  window.ages = [];
  new MutationObserver((list) => requestAnimationFrame(() => setTimeout(() => {
    const now = Date.now();
    for (const { target } of list) window.ages.push(now - 1000 * Number(target.dataset.at));
  }))).observe(document.getElementById("tiles"), { subtree: true, attributeFilter: ["data-at"] });
}"""
_SCREENS: dict[str, dict[str, Any]] = {
    "wall-dark": {"color_scheme": "dark", "viewport": {"width": 1920, "height": 1080}},
    "wall-light": {"color_scheme": "light", "viewport": {"width": 1920, "height": 1080}},
    "wall-phone": {
        "color_scheme": "dark",
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--clips", type=Path, default=ROOT / ".cache" / "clips")
    parser.add_argument("--screens", type=Path, help="folder for screenshots, as WebP")
    parser.add_argument("--page", type=Path, help="page whose figures are rewritten")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as scratch:
        templates = record(options.clips, Path(scratch))
        for name, template in templates.items():
            print(f"{name}: {len(template.scores)} scores, {sum(map(len, template.alerts.values()))} alert records")
        with ApacheKafka(Path(scratch) / "kafka") as node:
            broker = KafkaBroker(KafkaSettings(bootstrap_servers=node.bootstrap))
            with (
                Show(broker, Topics.under(PREFIX), SOURCE, templates, options.streams),
                _wall(node.bootstrap) as (wall, port),
                _chromium() as browser,
            ):
                figures = _measure(browser, wall, port, options)
                if options.screens is not None:
                    _shoot(browser, port, options.screens)
            broker.close()
    figures |= {"machine": platform.machine(), "cores": os.cpu_count(), "load_average": os.getloadavg()}
    options.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    table = _table(figures)
    options.out.with_suffix(".md").write_text(table)
    print(table)
    if options.page is not None:
        text = options.page.read_text(encoding="utf-8")
        if _BEGIN not in text:
            raise SystemExit(f"{options.page} has no place for figures")
        new = f"{_BEGIN}\n{table}{_END}"
        options.page.write_text(
            re.sub(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", lambda _: new, text, flags=re.DOTALL), encoding="utf-8"
        )


@contextmanager
def _wall(bootstrap: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "stream.cli", "wall", "--bootstrap-servers", bootstrap, "--prefix", PREFIX]
    process = subprocess.Popen([*command, "--http", "127.0.0.1:0", "--pictures"], stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline() if process.stderr else ""
        found = re.search(r":(\d+)/", line)
        if found is None:
            raise SystemExit(f"the wall did not start: {line}{process.communicate()[0]}")
        threading.Thread(target=process.communicate, daemon=True).start()
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _chromium() -> Iterator[Browser]:
    found = subprocess.run([ROOT / "scripts" / "chromium.sh"], capture_output=True, text=True, check=True)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found.stdout.strip(), args=arguments)
        yield browser
        browser.close()


def _open(browser: Browser, port: int, streams: int | None = None, **how: Any) -> Page:
    page = browser.new_context(**how).new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    deadline = time.monotonic() + 60
    while streams is not None and page.locator(".tile").count() < streams and time.monotonic() < deadline:
        time.sleep(0.2)
    return page


def _measure(browser: Browser, wall: subprocess.Popen[str], port: int, options: argparse.Namespace) -> dict[str, Any]:
    page = _open(browser, port, options.streams, viewport={"width": 1920, "height": 1080})
    tiles = page.locator(".tile").count()
    devtools, system = page.context.new_cdp_session(page), browser.new_browser_cdp_session()
    devtools.send("Performance.enable")
    # What is drawn first is a backlog; figures begin with what comes live.
    time.sleep(10)
    page.evaluate(_WATCH)
    memory = [_memory(devtools, system)]
    began_s, wall_s, page_s = time.monotonic(), process_s(wall.pid), _renderer(system)["cpuTime"]
    ages: list[float] = []
    while time.monotonic() - began_s < options.minutes * 60:
        time.sleep(min(60.0, options.minutes * 60))
        ages += page.evaluate("() => window.ages.splice(0)")
        memory.append(_memory(devtools, system))
        print(f"{(time.monotonic() - began_s) / 60:.1f} min: {memory[-1]}", flush=True)
    seconds = time.monotonic() - began_s
    states = {name: int(page.locator(f"[data-count={name}]").inner_text()) for name in ("alert", "clean")}
    figures = {
        "streams": options.streams,
        "tiles": tiles,
        "minutes": round(seconds / 60, 1),
        "updates": len(ages),
        "latency_ms": {f"p{q}": round(float(np.percentile(ages, q))) for q in (50, 95, 99)},
        "events_kib_per_s": _events(port, 10.0),
        "server_cpu": round((process_s(wall.pid) - wall_s) / seconds, 3),
        "server_resident_mib": round(resident_mib(wall.pid), 1),
        "page_cpu": round((_renderer(system)["cpuTime"] - page_s) / seconds, 3),
        "page": {"begin": memory[0], "end": memory[-1], "all": memory},
        "at_the_end": states,
    }
    page.context.close()
    return figures


def _memory(devtools: Any, system: Any) -> dict[str, float]:
    devtools.send("HeapProfiler.collectGarbage")
    metrics = {entry["name"]: entry["value"] for entry in devtools.send("Performance.getMetrics")["metrics"]}
    return {
        "heap_mib": round(metrics["JSHeapUsedSize"] / 2**20, 2),
        "nodes": metrics["Nodes"],
        "listeners": metrics["JSEventListeners"],
        "resident_mib": round(resident_mib(_renderer(system)["id"]), 1),
    }


def _renderer(system: Any) -> dict[str, Any]:
    """The page's process."""
    processes = [p for p in system.send("SystemInfo.getProcessInfo")["processInfo"] if p["type"] == "renderer"]
    return dict(max(processes, key=lambda process: process["cpuTime"]))


def _events(port: int, seconds: float) -> float:
    """KiB a second that one page is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    answer.readline()
    while not answer.readline().startswith(b"data: "):  # everything there is
        pass
    size, end_s = 0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        size += len(answer.readline())
    connection.close()
    return round(size / seconds / 1024, 1)


def _shoot(browser: Browser, port: int, folder: Path) -> None:
    for name, how in _SCREENS.items():
        page = _open(browser, port, **how)
        deadline = time.monotonic() + 60
        # An alert should be open, and all pictures there.
        while time.monotonic() < deadline and page.locator("#alerts-open > li").count() == 0:
            time.sleep(0.2)
        time.sleep(8)
        image = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        cv2.imwrite(str(folder / f"{name}.webp"), image, [cv2.IMWRITE_WEBP_QUALITY, 80])
        page.context.close()


def _table(figures: dict[str, Any]) -> str:
    latency, page = figures["latency_ms"], figures["page"]
    minutes, after = f"{figures['minutes']:g} minutes", page["end"]
    before = page["begin"]
    rows = {
        "streams, 2 scores a second each": figures["streams"],
        "from a score's writing to its paint on the page, p50 / p95 / p99": " / ".join(map(str, latency.values()))
        + " ms",
        f"the page's JavaScript heap, first and after {minutes}": f"{before['heap_mib']}, {after['heap_mib']} MiB",
        "DOM nodes, then and then": f"{before['nodes']:.0f}, {after['nodes']:.0f}",
        "the page's process, resident, then and then": f"{before['resident_mib']}, {after['resident_mib']} MiB",
        "the page's process, of a core": f"{figures['page_cpu']:.0%}",
        "sent to a page": f"{figures['events_kib_per_s']} KiB/s",
        "the wall's process, resident": f"{figures['server_resident_mib']} MiB",
        "the wall's process, of a core": f"{figures['server_cpu']:.0%}",
    }
    load = figures["load_average"][1]
    lines = ["| what | figure |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    note = (
        f"Through Apache Kafka, {figures['updates']} updates, on {figures['cores']} cores that ran publisher, Kafka, "
        f"wall and Chromium side by side (load average {load:.1f})."
    )
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    main()
