"""A real Prometheus that scrapes real processes: the deployment's configuration, rules included, at a faster pace."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
#: Whatever is waited for comes within a few seconds, or on a machine with much else to do within this.
_PATIENCE_S = 120.0


class Prometheus:
    """A server of its own on a free port, scraping each target twice a second; use as a context manager."""

    def __init__(self, folder: Path, programs: Path, *targets: str) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / "rules" / "*.yml")]
        # The job of the deployment, with addresses in the place of the discovery.
        job = next(one for one in config["scrape_configs"] if one["job_name"] == "difffake")
        del job["dns_sd_configs"]
        config["scrape_configs"] = [{**job, "static_configs": [{"targets": [*targets]}]}]
        self._config = folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._command = [
            programs / "prometheus",
            f"--config.file={self._config}",
            f"--web.listen-address={self.address}",
        ]
        self._command += [f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
        self._log = folder / "prometheus.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.wait(self._is_ready, "a Prometheus that is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Samples of an instant query, as the API gives them."""
        return list(self._get("query", query=expr)["result"])

    def value(self, expr: str) -> float:
        """The only sample; NaN where there is none."""
        samples = self.query(expr)
        return float(samples[0]["value"][1]) if samples else float("nan")

    def rules(self) -> list[dict[str, Any]]:
        """Rules as they were last evaluated, with their health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until it holds."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self._log.read_text()[-1000:]}"
            time.sleep(0.1)

    def in_the_end(self, wrong: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is still wrong after a while: a scrape that was too slow leaves gaps for once."""
        deadline = time.monotonic() + _PATIENCE_S / 2
        while (found := wrong()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def scraped(self, times: int = 2) -> None:
        """Until each target was scraped so many times more."""
        expr = "min(count_over_time(up[1h]))"
        before = self.value(expr)
        before = 0.0 if before != before else before
        self.wait(lambda: self.value(expr) >= before + times, "scrapes")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str, **arguments: str) -> dict[str, Any]:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return dict(json.load(answer)["data"])
