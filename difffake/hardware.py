"""Decoding on the GPU (NVDEC) through FFmpeg: asked for, checked, and counted wherever software had to do it.

FFmpeg falls back to software without a word. Here every stream is counted once, with the reason, and logged once.

What comes out of the GPU is copied into host memory as it is decoded: faces are found, aligned and cropped on the CPU.
(PyAV can leave frames on the GPU for others to take by DLPack; that pays only once detection and alignment run there.)
The decoder shares the GPU's primary context with TensorRT and torch, instead of making a context for each stream.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TypeVar

import av.codec.codec
import av.codec.context
import av.error
import structlog
from av.codec.hwaccel import HWAccel

from difffake.errors import EngineHostError

log = structlog.get_logger()
T = TypeVar("T")


class Hwaccel(StrEnum):
    """Where video is decoded."""

    OFF = "off"  # in software, everywhere the same to the bit, damaged video too
    AUTO = "auto"  # on the GPU where there is one that can
    CUDA = "cuda"  # on the GPU; without one nothing is decoded


@dataclass(frozen=True, slots=True)
class HardwareStatus:
    """Streams and files that asked for the GPU since the process began.

    Attributes:
        hardware: decoded on the GPU.
        software: reason -> decoded in software nevertheless.
    """

    hardware: int = 0
    software: dict[str, int] = field(default_factory=dict)


class HardwareCounts:
    """Counts for the whole process; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hardware = 0
        self._software: Counter[str] = Counter()

    def count(self, reason: str | None) -> None:
        """Count a stream: None for hardware, else why it was software."""
        with self._lock:
            if reason is None:
                self._hardware += 1
            else:
                self._software[reason] += 1

    def status(self) -> HardwareStatus:
        """What has been counted so far."""
        with self._lock:
            return HardwareStatus(self._hardware, dict(self._software))


#: For doctor and metrics.
COUNTS = HardwareCounts()


@cache
def problem() -> str | None:
    """Why this host cannot decode on a GPU, or None. Asks the driver once a process."""
    try:
        av.codec.context.CodecContext.create("h264", "r", hwaccel=_accelerator())
    except Exception as error:  # FFmpeg's errors, and those of a PyAV that was built without CUDA
        return f"no GPU that decodes: {getattr(error, 'strerror', None) or error}"
    return None


def check(mode: Hwaccel) -> None:
    """Refuse `Hwaccel.CUDA` on a host that cannot do it, before anything is opened.

    Raises:
        EngineHostError: there is no GPU or driver.
    """
    why = problem() if mode is Hwaccel.CUDA else None
    if why is not None:
        raise EngineHostError(
            f"cannot decode on the GPU: {why}",
            hint="install NVIDIA's driver with its video libraries (in containers: NVIDIA_DRIVER_CAPABILITIES must "
            "have video), or take hwaccel=auto",
        )


class HardwareUse:
    """How one stream or file is decoded. Its decoder may be made anew many times; it is counted once for each outcome.

    Args:
        mode: what was asked for.
        name: of the stream or file, for the log.

    Raises:
        EngineHostError: see `check`.
    """

    def __init__(self, mode: Hwaccel, name: str = "") -> None:
        check(mode)
        self._mode, self._name = mode, name
        self._asked = False
        self._told: set[str | None] = set()

    def accelerator(self, codec: str | None = None) -> HWAccel | None:
        """What to open a decoder with; None: in software.

        Args:
            codec: FFmpeg's name of the decoder; None: the container will tell.
        """
        if self._mode is Hwaccel.OFF:
            return None
        why = problem()
        if why is None and codec is not None and not _has_hardware(codec):
            why = f"no hardware decoder for {codec}"
        if why is not None:
            self._tell(why)
            return None
        return _accelerator()

    def saw(self, context: av.codec.context.CodecContext) -> None:
        """Look at a decoder that has just given a picture: only now it is known who made it."""
        if not self._asked:
            return
        if not context.is_hwaccel:
            self._tell(f"no hardware decoder for {context.name}")
        elif getattr(context, "pix_fmt", None) != "cuda":
            self._tell(f"the GPU takes no such {context.name}")
        else:
            self._tell(None)

    def open(self, make: Callable[[HWAccel | None], T], codec: str | None = None) -> T:
        """Make a decoder or container, in software where the GPU refuses: its memory is full, or too many are open.

        Args:
            make: called with what to open it with; raises what is wrong with the video.
            codec: see `accelerator`.
        """
        accelerator = self.accelerator(codec)
        self._asked = accelerator is not None
        if accelerator is None:
            return make(None)
        try:
            return make(accelerator)
        except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
            made = make(None)
            self._asked = False
            self._tell(f"the GPU refused: {str(error)[:80]}")
            return made

    def _tell(self, why: str | None) -> None:
        if why in self._told:
            return
        self._told.add(why)
        COUNTS.count(why)
        if why is not None:
            log.warning("decoded in software", stream=self._name, reason=why)


def _accelerator() -> HWAccel:
    return HWAccel("cuda", allow_software_fallback=True, options={"primary_ctx": "1"})


@cache
def _has_hardware(codec: str) -> bool:
    configs = av.codec.codec.Codec(codec, "r").hardware_configs or ()
    return any(config.is_supported and config.device_type.name == "cuda" for config in configs)
