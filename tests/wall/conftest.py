"""Headless Chromium, the system's or one that is fetched without root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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
