"""Headless Chromium, the system's or one that is fetched without root; and a wall to look at."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from wall_world import alert, publish, score, served, until

from stream.broker.memory import MemoryBroker
from stream.wall.server import WallServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests; every test opens pages of its own."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = subprocess.run([ROOT / "scripts" / "chromium.sh"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"no Chromium: {found.stderr.strip()[-300:]}")
    arguments = ["--disable-dev-shm-usage"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox does not serve root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found.stdout.strip(), args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def wall() -> Iterator[tuple[WallServer, MemoryBroker]]:
    """Read-only, with one stream and its alert."""
    with served() as (server, broker):
        publish(broker, score("a"), alert(stream="a"))
        until(lambda: server.wall.has("a") and server.wall.thumbnail("1"))
        yield server, broker
