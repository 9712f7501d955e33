"""DiffFake: the method. Arrays and files in, arrays and files out.

>>> import difffake
>>> detector = difffake.Detector.load()            # doctest: +SKIP
>>> print(detector.scan("clip.mp4").summary())     # doctest: +SKIP

Behind these names: `difffake.video.open_video` (files and addresses to frames), `difffake.anchors` (people enrolled
from footage), `difffake.errors` (every failure, by class).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import engines  # noqa: F401  (before ONNX Runtime, wherever that is imported first)
from difffake.errors import DiffFakeError

if TYPE_CHECKING:
    from difffake.detector import Detector
    from difffake.results import ScanResult
    from difffake.settings import ScanSettings
    from difffake.video import Frame

__version__ = "0.1.0"
__all__ = ["Detector", "DiffFakeError", "Frame", "ScanResult", "ScanSettings", "__version__"]

_HOMES = {
    "Detector": "difffake.detector",
    "Frame": "difffake.video",
    "ScanResult": "difffake.results",
    "ScanSettings": "difffake.settings",
}


def __getattr__(name: str) -> object:
    # Lazy, so that `engines` can import difffake.errors without loading OpenCV and PyAV.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'difffake' has no attribute {name!r}")
