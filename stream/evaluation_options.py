"""The options of commands that judge a data set: where it is, what of it is taken, and how the figures are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from difffake.evaluation import Layout

CACHE = Path(".cache/evaluation")
COMPRESSION, DRAWS = "c23", 1000

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The data set's root folder.")]
LayoutOption = Annotated[Layout, typer.Option(help="How the folder is laid out.")]
CompressionOption = Annotated[str, typer.Option(help="FF++ and DFD: c0 (raw), c23 or c40.")]
SplitOption = Annotated[Path | None, typer.Option(help="A JSON list of the videos to take (FF++'s test split).")]
BundleOption = Annotated[Path | None, typer.Option(help="Model bundle; the shipped one by default.")]
CacheOption = Annotated[Path, typer.Option(help="Folder that keeps embeddings between runs.")]
DrawsOption = Annotated[int, typer.Option(help="Bootstrap draws behind the intervals.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the bootstrap.")]
