"""The options by which every command that runs networks is told which engines shall do it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from difffake.networks import EngineChoice
from engines.choose import EngineKind

ENGINE_ENV, ENGINES_ENV = "DIFFFAKE_ENGINE", "DIFFFAKE_ENGINES"

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


def engine_choice(engine: EngineKind, engines: Path | None) -> EngineChoice:
    """What the two options say."""
    return EngineChoice(engine, engines)
