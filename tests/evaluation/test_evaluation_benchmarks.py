"""The benchmarks on anchors, from files to tables: on real faces, with a tiny bundle whose figures mean nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_evaluation_end_to_end import side_by_side
from tiny import write_tiny_bundle

from difffake.bundle import Bundle

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORDED, HALF = "as recorded", "half the size, H.264 CRF 23"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", identity=True)


def run(module: ModuleType, tmp_path: Path, bundle: Bundle, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "results" / "figures"
    fixed = ["--bundle", str(bundle.path), "--cache", str(tmp_path / "cache"), "--out", str(out), "--fps", "4"]
    module.main([*arguments, *fixed])
    report: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    assert str(tmp_path) not in out.with_suffix(".json").read_text() + out.with_suffix(".md").read_text()
    return report


def test_false_alarms(clips: dict[str, Path], bundle: Bundle, tmp_path: Path) -> None:
    woman, man = clips["woman"], clips["man"]
    report = run(
        benchmark("false_alarms"), tmp_path, bundle,
        str(woman), str(man), "--max-frames", "32", "--same", f"{woman.stem},{man.stem}",
        "--condition", RECORDED, "--condition", HALF,
    )  # fmt: skip
    rows = report["rows"]
    assert {row["condition"] for row in rows} == {RECORDED, HALF}
    same, other = ([r for r in rows if r["setting"] == s] for s in ("same stream", "other footage"))
    # Anchors of the stream and of other footage have each their own calibration.
    assert {r["score"] for r in same} == {"signed_anchor", "identity_stream"}
    assert {r["score"] for r in other} == {"signed_anchor", "identity_enrolled"}
    for row in rows:
        assert row["alarms"] <= row["below"] <= row["windows"]
        assert row["per_hour"] < row["per_hour_at_most"]
        assert row["per_hour"] == pytest.approx(row["alarms"] / row["footage_h"])
    one, five = (next(r for r in same if r["window_s"] == w and r["condition"] == RECORDED) for w in (1, 5))
    # 8 s of the woman and 2.4 s of the man, less the first third: about 7 s.
    assert 5 <= one["windows"] <= 8
    assert five["windows"] < one["windows"]
    assert one["footage_h"] * 3600 == pytest.approx(7, abs=1.2)
    # Other footage is judged from its beginning: about 10 s.
    assert next(r for r in other if r["window_s"] == 1)["footage_h"] * 3600 == pytest.approx(10.4, abs=1)
    turned = [r for r in report["poses"] if r["window_s"] == 1 and r["setting"] == "same stream"]
    by_pose = [r for r in turned if (r["condition"], r["score"], r["level"]) == (RECORDED, one["score"], "strong")]
    assert sum(r["windows"] for r in by_pose) == one["windows"]
    assert report["without_anchor"] == []
    assert report["left_out"] == []


def test_false_alarms_tells_what_it_could_not_use(clips: dict[str, Path], bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "broken.mp4").write_text("no video " * 50)
    (folder / "man.mp4").write_bytes(clips["man"].read_bytes())
    (folder / "empty.mp4").write_bytes(clips["no_face"].read_bytes())
    (folder / "unwanted.mp4").write_text("left out by name")
    module = benchmark("false_alarms")
    report = run(
        module, tmp_path, bundle,
        str(folder), "--max-frames", "8", "--skip", "unwanted", "--condition", RECORDED,
    )  # fmt: skip
    assert {out["clip"] for out in report["left_out"]} == {"broken", "empty"}
    assert report["clips"] == ["broken", "empty", "man"]
    with pytest.raises(SystemExit):
        run(module, tmp_path, bundle, str(folder), "--same", "man,nobody")


def test_identity_trap(clips: dict[str, Path], bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "swaps"
    folder.mkdir()
    side_by_side(clips["man"], folder / "Face_0.mp4")
    side_by_side(clips["woman"], folder / "Face_1.mp4")
    report = run(benchmark("identity_trap"), tmp_path, bundle, str(folder), "--threshold", "1e6", "--max-frames", "16")
    assert report["recordings"] == 2
    impersonation, actors, everybody, faces, hijack, genuine = report["rows"]
    assert [test["test"] for test in impersonation["tests"]] == ["Face_1 against Face_0", "Face_0 against Face_1"]
    assert [row["pairs"] for row in (impersonation, actors, everybody, faces, hijack, genuine)] == [2, 2, 2, 0, 2, 2]
    assert [row["pass"] for row in (impersonation, actors, hijack, genuine)] == [2, 2, 2, 2]
    assert genuine["median_distance"] < hijack["median_distance"] < everybody["median_distance"]
    assert (impersonation["evidence"], hijack["evidence"]) == ("identity_enrolled", "identity")
    strict = run(benchmark("identity_trap"), tmp_path, bundle, str(folder), "--threshold", "0", "--max-frames", "16")
    assert all(row["pass"] == 0 for row in strict["rows"])


def test_the_threshold_is_what_one_in_a_thousand_pairs_falls_below() -> None:
    rng = np.random.default_rng(0)
    faces = rng.normal(size=(200, 8)).astype(np.float32)
    threshold = benchmark("identity_trap").verification_threshold(faces)
    gaps = np.linalg.norm(faces[:, None] - faces[None], axis=2)[np.triu_indices(200, 1)]
    assert np.mean(gaps < threshold) == pytest.approx(1e-3, abs=1e-4)


def test_a_picture_a_person(tmp_path: Path) -> None:
    for name in ("ann/ann_1.jpg", "ann/ann_2.jpg", "bob/bob_1.png", "cy.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = benchmark("identity_trap").impostor_items(tmp_path, 10)
    assert [(item.person, item.path.name) for item in found] == [
        ("ann", "ann_1.jpg"),
        ("bob", "bob_1.png"),
        ("cy", "cy.jpg"),
    ]
