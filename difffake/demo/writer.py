"""Video files made by us: demonstration clips and broadcasts cut together."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


class VideoWriter:
    """An H.264 file of constant frame rate; use as a context manager.

    Args:
        path: the file; its suffix says which container.
        rate: frames per second.
        crf: quality of the encode, 0 to 51; lower is better.
    """

    def __init__(self, path: Path, rate: Fraction, crf: int = 20) -> None:
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
        self._stream.pix_fmt = "yuv420p"

    def write(self, image: U8) -> None:
        """Append RGB ``(H, W, 3) uint8``; an odd last row or column is left out."""
        even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        if not self._stream.codec_context.is_open:
            self._stream.height, self._stream.width = even.shape[:2]
        self._mux(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"))

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._mux(None)
        self._container.close()
