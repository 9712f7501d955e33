"""The GPU benchmark on a host without a GPU, and without anything that a bare GPU host lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu_measure import overlap  # noqa: E402
from gpu_networks import EfficientNetB4, flops_per_face  # noqa: E402

#: What a bare host with torch, onnx, onnxruntime and cuda-bindings need not have.
ABSENT = ("av", "cv2", "jinja2", "kafka", "msgspec", "pydantic", "rich", "safetensors", "structlog", "timm", "typer")
ABSENT += ("torchvision", "sklearn", "scipy", "openvino")


def test_a_dry_run_goes_as_far_as_it_can(tmp_path: Path) -> None:
    """It says that there are no figures, and needs no package that a bare host lacks."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {ABSENT!r}:\n    sys.modules[name] = None  # importing it fails\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/gpu.py",
            "--dry-run",
            "--networks",
            "shipped",
            "--out",
            str(tmp_path / "gpu.json"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "there are no figures" in done.stdout
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["dry_run"]
    assert written["figures"] is None
    assert written["networks"]["shipped"]["would_run"]


def test_without_a_gpu_it_measures_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 25
    assert "--dry-run" in done.stderr
    assert not done.stdout


def test_its_b4_is_the_b4_of_others() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = timm.create_model("efficientnet_b4", num_classes=0)
    layers = (torch.nn.Conv2d, torch.nn.Linear)

    def sizes(model: torch.nn.Module) -> list[int]:
        return sorted(m.weight.numel() for m in model.modules() if isinstance(m, layers))

    mine = EfficientNetB4()
    head = mine.head.weight.numel()
    assert sizes(mine) == sorted([*sizes(theirs), head])
    assert 2.8e9 < flops_per_face(mine) < 3.2e9  # 1.5 billion multiply-adds at 224 px


def test_its_b4_stays_within_half_precision() -> None:
    model = EfficientNetB4().eval()
    largest = 0.0

    def note(_: object, __: object, output: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, float(output.abs().max()))

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.no_grad():
        embedding, _ = model(torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8))
    assert 1 < largest < 1e4
    assert float(embedding.std(dim=0).max()) > 0


def test_overlap_is_what_the_timeline_says() -> None:
    one = {"copy_in": 0.0, "copied_in": 2.0, "compute": 2.0, "computed": 6.0, "copy_out": 6.0, "copied_out": 7.0}
    two = {"copy_in": 2.0, "copied_in": 4.0, "compute": 6.0, "computed": 10.0, "copy_out": 10.0, "copied_out": 11.0}
    found = overlap([one, two])
    assert found["copies_ms"] == 6
    assert found["hidden_share"] == pytest.approx(3 / 6)  # the second's copy in, the first's copy out
    assert found["compute_busy_share"] == 1
    assert np.isfinite(list(found.values())).all()
