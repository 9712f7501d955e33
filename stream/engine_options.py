"""The options by which commands are told what runs networks and what decodes video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from difffake.faces.runtime import DetectorRuntime
from difffake.hardware import Hwaccel
from difffake.networks import EngineChoice
from difffake.settings import MAX_THREADS
from engines.choose import EngineKind

ENGINE_ENV, ENGINES_ENV, DETECTOR_ENV = "DIFFFAKE_ENGINE", "DIFFFAKE_ENGINES", "DIFFFAKE_DETECTOR_ENGINE"
HWACCEL_ENV = "DIFFFAKE_HWACCEL"

EngineOption = Annotated[
    EngineKind,
    typer.Option(
        "--engine",
        envvar=ENGINE_ENV,
        help="What runs the networks; onnx is exact, auto the fastest that runs here (see `difffake doctor`).",
    ),
]
EnginesOption = Annotated[
    Path | None,
    typer.Option(
        "--engines",
        metavar="DIR",
        envvar=ENGINES_ENV,
        help="Compiled engines, in extractor/ and identity/ below it; the bundle's own by default.",
    ),
]
DetectorOption = Annotated[
    DetectorRuntime,
    typer.Option(
        "--detector-engine",
        envvar=DETECTOR_ENV,
        help="What runs the face detector; others than onnx cut faces out a fraction of a pixel elsewhere.",
    ),
]
ThreadsOption = Annotated[
    int, typer.Option(min=0, max=MAX_THREADS, help="Threads of each network; 0 takes every core.")
]
HwaccelOption = Annotated[
    Hwaccel,
    typer.Option(
        "--hwaccel", envvar=HWACCEL_ENV, help="What decodes video; auto: the GPU where there is one that can."
    ),
]


def engine_choice(
    engine: EngineKind, engines: Path | None, detector_engine: DetectorRuntime = DetectorRuntime.ONNX
) -> EngineChoice:
    """What the options say."""
    return EngineChoice(engine, engines, detector=detector_engine)
