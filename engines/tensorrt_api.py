"""Finds TensorRT and the GPUs of this host, without importing anything of NVIDIA's before it is asked for.

Two packages have one API: ``tensorrt`` (builds on the card it will run on) and ``tensorrt_rtx`` (builds ahead of time,
also without a card, and finishes on the card that runs it). The CUDA driver is asked first: without a GPU, the runtime
of full TensorRT may end the process instead of raising.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from difffake.errors import EngineHostError

Flavour = Literal["tensorrt", "tensorrt_rtx"]
#: The best first: full TensorRT searches for the fastest kernels of one card.
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt-cu13", "tensorrt_rtx": "tensorrt-rtx-cu13"}
#: Before 10.12 the parser and the strongly typed networks lacked what our graphs need.
OLDEST = (10, 12)

_INSTALL_CUDA = "install NVIDIA's driver, and pip install 'difffake[tensorrt]'; or take another engine: --engine auto"


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA card: its name, compute capability ("9.0") and memory."""

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class HostInfo:
    """What this host has for TensorRT.

    Attributes:
        runtimes: flavour -> exact build, of those that can be imported.
        driver: newest CUDA version that the driver serves ("13.1"), or None.
        gpus: the cards, numbered as CUDA numbers them.
        problem: why no card can be used, or None.
        hint: what to do about it.
    """

    runtimes: dict[str, str]
    driver: str | None
    gpus: tuple[Gpu, ...]
    problem: str | None = None
    hint: str | None = None


def import_tensorrt(flavour: Flavour) -> ModuleType:
    """Import one flavour of TensorRT.

    Raises:
        EngineHostError: not installed, its libraries do not load here, or older than `OLDEST`.
    """
    package = PACKAGES[flavour]
    if importlib.util.find_spec(flavour) is None:
        raise EngineHostError(
            f"{flavour} is not installed", hint=f"pip install {package}, or take another engine: --engine auto"
        )
    try:
        module = importlib.import_module(flavour)
        version = str(module.__version__)
    except Exception as error:  # a library that does not load raises ImportError, OSError or RuntimeError
        raise EngineHostError(
            f"{flavour} is installed and cannot be loaded: {_first_line(error)}",
            hint=f"install it again for this system's CUDA: pip install --force-reinstall {package}",
        ) from error
    if flavour == "tensorrt" and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise EngineHostError(
            f"tensorrt {version} is too old; {OLDEST[0]}.{OLDEST[1]} or newer is needed",
            hint=f"pip install -U {package}",
        )
    return module


def pick_flavour() -> Flavour:
    """The best flavour that is installed here.

    Raises:
        EngineHostError: neither is.
    """
    reasons = []
    for flavour in FLAVOURS:
        try:
            import_tensorrt(flavour)
        except EngineHostError as error:
            reasons.append(str(error))
        else:
            return flavour
    raise EngineHostError(
        f"no TensorRT here: {'; '.join(reasons)}",
        hint=f"pip install {' or '.join(PACKAGES.values())}, or take another engine: --engine auto",
    )


def host_info() -> HostInfo:
    """Ask the driver for its GPUs, then each TensorRT for its build. Never raises."""
    driver, gpus, problem, hint = _gpus()
    runtimes: dict[str, str] = {}
    for flavour in FLAVOURS:
        try:
            runtimes[flavour] = str(import_tensorrt(flavour).__version__)
        except EngineHostError:
            continue
    return HostInfo(runtimes, driver, gpus, problem, hint)


def _gpus() -> tuple[str | None, tuple[Gpu, ...], str | None, str | None]:
    """Driver, cards, problem, hint."""
    try:
        cuda: Any = importlib.import_module("cuda.bindings.runtime")
    except Exception as error:  # absent, or built for libraries that are not here
        return None, (), f"cuda-bindings cannot be imported: {_first_line(error)}", "pip install cuda-bindings"
    try:
        status, number = cuda.cudaDriverGetVersion()
        driver = f"{number // 1000}.{number % 1000 // 10}" if status == 0 and number else None
        if driver is None:
            return None, (), "there is no NVIDIA driver", _INSTALL_CUDA
        status, count = cuda.cudaGetDeviceCount()
        if status != 0:
            return driver, (), f"CUDA says: {cuda_message(cuda, status)}", _hint(cuda, status, driver)
        gpus = []
        for index in range(count):
            status, properties = cuda.cudaGetDeviceProperties(index)
            if status != 0:
                return driver, (), f"GPU {index}: {cuda_message(cuda, status)}", _INSTALL_CUDA
            name = bytes(properties.name).split(b"\0")[0].decode(errors="replace")
            gpus.append(Gpu(name, f"{properties.major}.{properties.minor}", int(properties.totalGlobalMem)))
    except Exception as error:  # a driver in pieces fails in ways of its own, and doctor must still answer
        return None, (), f"CUDA cannot be asked: {_first_line(error)}", _INSTALL_CUDA
    if not gpus:
        return driver, (), "the driver sees no GPU", "check nvidia-smi, and CUDA_VISIBLE_DEVICES"
    return driver, tuple(gpus), None, None


def cuda_message(cuda: Any, status: Any) -> str:
    """What CUDA says of a status; ``cuda`` is ``cuda.bindings.runtime``."""
    _, text = cuda.cudaGetErrorString(status)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _hint(cuda: Any, status: Any, driver: str) -> str:
    if status == cuda.cudaError_t.cudaErrorInsufficientDriver:
        return f"the driver serves CUDA up to {driver}: update it, or install the cuda-bindings of that version"
    return "check nvidia-smi, and CUDA_VISIBLE_DEVICES"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
