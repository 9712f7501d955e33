"""The simulation of alerts, asked for what it cannot do."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from difffake.bundle import Bundle

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("simulate_alerts", BENCHMARKS / "simulate_alerts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "simulate_alerts", module)
    spec.loader.exec_module(module)
    return module


def test_too_little_footage_is_told(
    simulation: ModuleType,
    tiny_bundle: Bundle,
    clips: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*arguments: object) -> str:
        fixed = ["--bundle", tiny_bundle.path, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
        with pytest.raises(SystemExit) as ended:
            simulation.main([str(part) for part in (*arguments, *fixed)])
        assert ended.value.code == 2
        return capsys.readouterr().err

    folder = tmp_path / "clips"
    assert "there is no" in refused(folder)
    folder.mkdir()
    assert "0 are of people who set constants and 0 people judge" in refused(folder)
    names = [f"p{number}" for number in range(12)]
    for name in [n for n in names if simulation.sets_constants(n)][:2] + [
        n for n in names if not simulation.sets_constants(n)
    ][:2]:
        shutil.copy(clips["woman"], folder / f"{name}.mp4")
    assert "--days and --repeats" in refused(folder, "--days", "nan")
    assert "one of artifact, anchor, identity" in refused(folder, "--tuning", "artefact", "0.1", "1")
    assert "two numbers" in refused(folder, "--tuning", "artifact", "x", "1")
    for path in folder.iterdir():
        path.write_bytes(b"no video" * 9)
    assert "no clip can be used (" in refused(folder)
    assert not list(tmp_path.glob("out*"))
