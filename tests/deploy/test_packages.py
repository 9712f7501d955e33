"""What images are made of: pinned, with hashes, from nowhere in particular, and under licences that we may pass on."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from promql import DEPLOY

ROOT = DEPLOY.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {file.stem: file.read_text() for file in sorted((DEPLOY / "requirements").glob("*.lock"))}
#: As scripts/lock.sh has them.
EXTRAS = {"cpu": ["wall", "otel"], "openvino": ["wall", "otel", "openvino"], "gpu": ["wall", "otel", "tensorrt"]}


def pins(lock: str) -> dict[str, set[str]]:
    """Versions by name; more than one where Python's version decides."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCKS[lock], re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_package_index_and_no_folder_of_anybodys(lock: str) -> None:
    assert not re.search(r"https?://|--index|--find-links|file:|(?<![\w.-])/\w", LOCKS[lock])


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    blocks = re.findall(r"^[\w.-]+==.*(?:\n    .*)*", LOCKS[lock], re.MULTILINE)
    assert len(blocks) >= 5
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("lock", EXTRAS)
def test_locks_hold_what_the_project_asks_for(lock: str) -> None:
    wanted = [*PROJECT["dependencies"], *(r for e in EXTRAS[lock] for r in PROJECT["optional-dependencies"][e])]
    there = pins(lock)
    for requirement in map(Requirement, wanted):
        versions = there.get(canonicalize_name(requirement.name), set())
        assert any(requirement.specifier.contains(v) for v in versions), f"{requirement}: run `make lock`"
    script = (ROOT / "scripts" / "lock.sh").read_text()
    assert f"lock {lock} {' '.join(EXTRAS[lock])}\n" in script


def _licences(*extras: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "licences.py", *extras]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_we_may_pass_on_what_a_worker_is_made_of() -> None:
    done = _licences("wall", "otel", "openvino")
    assert done.returncode == 0, done.stdout + done.stderr
    told = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"difffake", "kafka-python", "onnxruntime", "openvino", "starlette", "av"} <= told


@pytest.mark.parametrize(
    "licence",
    [
        "AGPL-3.0-or-later",
        "GNU Affero General Public License v3",
        "CC-BY-NC-4.0",
        "SSPL-1.0",
        "Business Source License",
        "",
    ],
)
def test_what_we_may_not_pass_on_is_refused(licence: str, tmp_path: Path) -> None:
    for name, needs, said in (("difffake", "Requires-Dist: other", "Apache-2.0"), ("other", "", licence)):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        lines = [
            "Metadata-Version: 2.4",
            f"Name: {name}",
            "Version: 1.0",
            needs,
            said and f"License-Expression: {said}",
        ]
        (info / "METADATA").write_text("\n".join(filter(None, lines)) + "\n")
    script = ROOT / "scripts" / "licences.py"
    # Only the two are there; packaging comes from where this runs.
    home = Path(importlib.metadata.distribution("packaging").locate_file(""))
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(home)!r}); import packaging.requirements, packaging.utils;"
        f"sys.path[:] = [{str(tmp_path)!r}] + [p for p in sys.path if 'site-packages' not in p and p != {str(home)!r}];"
        f"sys.argv = ['licences']; runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "refused: other" in done.stderr
