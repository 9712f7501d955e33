"""DiffFake: the method. Arrays and files in, arrays and files out.

>>> import difffake
>>> detector = difffake.Detector.load()            # doctest: +SKIP
>>> print(detector.scan("clip.mp4").summary())     # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import engines  # noqa: F401  (before ONNX Runtime, wherever that is imported first)
from difffake.errors import DiffFakeError

if TYPE_CHECKING:
    from difffake.detector import Detector

__version__ = "0.1.0"
__all__ = ["Detector", "DiffFakeError", "__version__"]


def __getattr__(name: str) -> object:
    # Lazy, so that `engines` can import difffake.errors without loading OpenCV and PyAV.
    if name == "Detector":
        from difffake.detector import Detector

        return Detector
    raise AttributeError(f"module 'difffake' has no attribute {name!r}")
