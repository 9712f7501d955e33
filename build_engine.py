"""Build a compiled engine with its manifest and parity report: ``python build_engine.py --help``.

The work is done by `difffake.compiling` and `engines`; here it is asked for and shown.
"""

from __future__ import annotations

import logging
import sys
import traceback
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.table import Table

from difffake.bundle import Bundle, default_bundle_path
from difffake.compiling.build import BuildOptions, BuiltEngine, build_tensorrt, choose_flavour
from difffake.compiling.pictures import Pictures, collect_pictures, labelled_faces, list_files
from difffake.compiling.source import Source, open_source
from difffake.demo.clips import fetch_clips
from difffake.errors import DiffFakeError
from difffake.evaluation.layouts import Layout
from difffake.faces import CROP_SIDE_PX
from difffake.parity import ParityFaces
from engines.contract import U8, Precision
from engines.manifest import Comparison, EngineManifest
from engines.profile import BatchProfile, PictureProfile
from engines.tensorrt_api import HostInfo, host_info
from engines.tensorrt_build import BuildSettings
from stream.commands import StrictCommand
from stream.console import print_error, print_table, printable, progress_bar, results_console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_CLIPS = Path(".cache/clips")
_MULTIPLE_PX = 32
_MIN_FACES = 64


class NetworkName(StrEnum):
    """What can be compiled."""

    EXTRACTOR = "extractor"
    IDENTITY = "identity"
    DETECTOR = "detector"


class Kind(StrEnum):
    """Which runtime it is compiled for; those with a precision are the names of engine folders."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"
    TENSORRT_FP16 = "tensorrt-fp16"
    TENSORRT_RTX_FP16 = "tensorrt_rtx-fp16"
    OPENVINO_BF16 = "openvino-bf16"
    OPENVINO_INT8 = "openvino-int8"


_OPENVINO = (Kind.OPENVINO_BF16, Kind.OPENVINO_INT8)


class Compatibility(StrEnum):
    """Which other cards may run a plan of full TensorRT."""

    NONE = "none"
    AMPERE_PLUS = "ampere_plus"
    SAME_COMPUTE_CAPABILITY = "same_compute_capability"


@app.command(cls=StrictCommand)
def build(
    bundle: Annotated[Path | None, typer.Option(help="A model bundle; the shipped one if not given.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="An extractor's checkpoint: compiled if no bundle is given, else compared with the bundle's."
        ),
    ] = None,
    network: Annotated[NetworkName, typer.Option(help="Which network.")] = NetworkName.EXTRACTOR,
    kind: Annotated[
        Kind, typer.Option(help="auto: full TensorRT where it has a GPU, else TensorRT-RTX, which needs none to build.")
    ] = Kind.AUTO,
    out: Annotated[
        Path | None,
        typer.Option(help="Engines folder; the engine lands in OUT/NETWORK/KIND. The bundle's own if not given."),
    ] = None,
    min_batch: Annotated[int, typer.Option(help="Least faces in a batch.")] = 1,
    opt_batch: Annotated[
        int | None, typer.Option(help="Faces in a batch that it is tuned for. [32; detector 4]")
    ] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most faces in a batch. [64; detector 16]")] = None,
    picture_px: Annotated[
        tuple[int, int], typer.Option(metavar="HEIGHT WIDTH", help="Of the detector: the size it is tuned for.")
    ] = (384, 640),
    optimization_level: Annotated[int, typer.Option(min=0, max=5, help="0 builds fast, 5 runs fast.")] = 3,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File that keeps kernel timings between builds (full TensorRT).")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Also for newer builds of this major version (full TensorRT).")
    ] = False,
    hardware_compatible: Annotated[
        Compatibility, typer.Option(help="Which other cards may run it; slower (full TensorRT).")
    ] = Compatibility.NONE,
    compute_capability: Annotated[
        list[str] | None, typer.Option(metavar="X.Y", help="Cards to build for (RTX); its own list if not given.")
    ] = None,
    faces: Annotated[
        list[Path] | None,
        typer.Option(help="Clips, pictures or folders with real faces for the parity report; demo clips if not given."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="For OpenVINO: a crop store (`difffake crops`) whose faces calibrate the extractor or look for the "
            "layers that stay in float32, and judge either network unless --judge is given."
        ),
    ] = None,
    judge: Annotated[
        Path | None,
        typer.Option(help="For OpenVINO: a data set of real and manipulated video to judge on, as of `evaluate`."),
    ] = None,
    judge_layout: Annotated[Layout, typer.Option(help="How --judge is laid out.")] = Layout.FOLDERS,
    max_faces: Annotated[int, typer.Option(min=_MIN_FACES, help="Most faces compared.")] = 256,
    device: Annotated[int, typer.Option(min=0, help="Number of the GPU.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the comparison; 0 takes every core.")] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show what TensorRT logs, and tracebacks.")] = False,
) -> None:
    """Compile a network for this machine's GPU, and prove that it gives the same scores."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s")
    detector = network is NetworkName.DETECTOR
    opt = opt_batch or (4 if detector else 32)
    most = max_batch or max(opt, 16 if detector else 64)
    try:
        settings = BuildSettings(
            BatchProfile(min_batch, opt_batch or min(opt, most), most),
            _picture_profile(picture_px) if detector else None,
            optimization_level,
            timing_cache,
            version_compatible,
            hardware_compatible.value,
            tuple(compute_capability or ()),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    host = host_info()
    runtime = _openvino if kind in _OPENVINO else _tensorrt
    if runtime is _tensorrt:
        choose_flavour(host, kind.value)  # what cannot be built here is said before anything is read
    source = open_source(network.value, bundle=bundle, checkpoint=checkpoint)
    if out is None:
        if checkpoint is not None and bundle is None:
            raise typer.BadParameter("a checkpoint has no folder of its own: say where with --out DIR")
        out = (bundle or default_bundle_path()) / "engines"
    labelled = (judge_layout, judge) if judge is not None else None
    request = _Request(
        source, kind, BuildOptions(settings, out, device, threads), faces, store, labelled, max_faces, bundle
    )
    with progress_bar() as bar:
        task = bar.add_task("collecting faces", total=1.0)

        def show(what: str, share: float = 0.0) -> None:
            bar.update(task, description=what, completed=share)

        built = runtime(request, host, show)
    _summarise(results_console(), source, built)


@dataclass(frozen=True, slots=True)
class _Request:
    """What shall be built, how, and what it is judged on."""

    source: Source
    kind: Kind
    options: BuildOptions
    faces: list[Path] | None
    store: Path | None
    judge: tuple[Layout, Path] | None
    max_faces: int
    bundle: Path | None = None

    def pictures(self) -> Pictures:
        """Faces of the clips that were named, or of the demonstration's."""
        network = self.source.network
        return collect_pictures(
            self.faces or [path for name, path in fetch_clips(_CLIPS).items() if name != "no_face"],
            side_px=self.source.shape.side_px if network == "extractor" else CROP_SIDE_PX,
            eye_distance=self.source.eye_distance,
            min_faces=1 if network == "detector" else _MIN_FACES,
            max_faces=self.max_faces,
            threads=self.options.threads,
        )


class _Show(Protocol):
    """Tells what is being done, and how much of it is."""

    def __call__(self, what: str, share: float = 0.0) -> None: ...


def _tensorrt(request: _Request, host: HostInfo, show: _Show) -> BuiltEngine:
    flavour = choose_flavour(host, request.kind.value)
    return build_tensorrt(
        request.source,
        flavour,
        request.options,
        request.pictures(),
        host,
        progress=lambda phase, share: show(f"{flavour}: {phase}", share),
        step=show,
    )


def _openvino(request: _Request, _: HostInfo, show: _Show) -> BuiltEngine:
    from difffake.compiling.openvino import build_openvino

    source = request.source
    calibration: U8 | None = None
    faces: ParityFaces | None = None
    search: ParityFaces | None = None
    if source.network == "detector":
        return _openvino_detector(request, show)
    if source.network == "identity" and request.kind is Kind.OPENVINO_INT8:
        raise typer.BadParameter("int8 is made of the extractor alone; for the identity network: --kind openvino-bf16")
    if request.store is not None:
        from difffake.training.parity_faces import calibration_faces, identity_parity_faces, parity_faces, search_faces
        from difffake.training.store import CropStore

        crops = CropStore.load(request.store)
        show("drawing the faces of the crop store")
        if source.network == "identity":
            faces = None if request.judge else identity_parity_faces(crops)
        else:
            if request.kind is Kind.OPENVINO_BF16:
                search = search_faces(crops)
            else:
                calibration = calibration_faces(crops)
            faces = None if request.judge else parity_faces(crops)
    if request.judge is not None:
        show("looking for the faces to judge on")
        extractor, identity = labelled_faces(
            *request.judge,
            side_px=source.shape.side_px if source.network == "extractor" else CROP_SIDE_PX,
            eye_distance=source.eye_distance,
            threads=request.options.threads,
        )
        faces = extractor if source.network == "extractor" else identity
    elif faces is None:
        pictures = request.pictures()
        faces = pictures.faces if source.network == "extractor" else pictures.identity
    options = request.options
    precision = Precision(request.kind.rpartition("-")[2])
    return build_openvino(
        source, precision, options.out, faces, calibration, search, threads=options.threads, step=show
    )


def _openvino_detector(request: _Request, show: _Show) -> BuiltEngine:
    from difffake.compiling.openvino import build_openvino_detector

    if request.kind is not Kind.OPENVINO_BF16:
        raise typer.BadParameter("for OpenVINO the detector is proven in bfloat16 alone: --kind openvino-bf16")
    if request.faces is None:
        raise typer.BadParameter("the detector is judged on real faces of many clips: --faces DIR")
    files, bundle, options = list_files(request.faces), Bundle.load(request.bundle), request.options
    return build_openvino_detector(request.source, files, bundle, options.out, threads=options.threads, step=show)


def _picture_profile(px: tuple[int, int]) -> PictureProfile:
    if any(side % _MULTIPLE_PX or not 64 <= side <= 4096 for side in px):
        raise ValueError(f"a picture's sides must be multiples of {_MULTIPLE_PX} from 64 to 4096 px, not {px}")
    longest = max(px)
    return PictureProfile((64, 64), px, (longest, longest))


def _summarise(console: Console, source: Source, built: BuiltEngine) -> None:
    manifest = built.manifest
    profile, pictures = manifest.profile, manifest.pictures
    compiled = sum(entry.size_bytes for entry in manifest.files.values())
    batches = f"{profile.min} to {profile.max}, tuned for {profile.opt}"
    if pictures is not None:
        batches += f"; up to {pictures.max[0]} x {pictures.max[1]} px, tuned for {pictures.opt[0]} x {pictures.opt[1]}"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")  # a path is longer than a terminal
    for name, value in (
        ("network", source.name),
        ("engine", f"{built.folder}"),
        ("built by", f"{manifest.runtime} {manifest.runtime_version} in {manifest.build_s:.1f} s"),
        ("runs on", _target(manifest)),
        ("batches", batches),
        ("ONNX fp32", _size(manifest.source.size_bytes)),
        *([] if manifest.graph is None else [("ONNX fp16", _size(manifest.graph.size_bytes))]),
        ("engine's files", _size(compiled)),
    ):
        table.add_row(name, printable(value))
    console.print(table)
    print_table(console, _parity_table(manifest.parity))
    for step in manifest.parity:
        if any("." in name for name in step.figures):
            print_table(console, _score_table(step))


def _target(manifest: EngineManifest) -> str:
    if manifest.gpu is not None:
        return f"{manifest.gpu.name} (compute capability {manifest.gpu.compute_capability})"
    if manifest.runtime == "openvino":
        return f"processors with {manifest.precision}"
    return ", ".join(manifest.compute_capabilities) or "every card that this TensorRT-RTX knows, finished there"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def _parity_table(steps: tuple[Comparison, ...]) -> Table:
    """One column a step, one row a figure."""
    table = Table(title="parity", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for step in steps:
        table.add_column(f"{step.candidate}\nagainst {step.reference}", justify="right")
    names = dict.fromkeys(name for step in steps for name in step.figures if "." not in name)
    table.add_row("pictures", *(str(step.pictures) if step.not_run is None else "not run" for step in steps))
    for name in names:
        table.add_row(name, *(_figure(step.figures.get(name)) for step in steps))
    table.add_row("verdict", *("" if step.accepted is None else "passed" for step in steps))
    reasons = [f"{step.candidate}: not run, {step.not_run}" for step in steps if step.not_run is not None]
    table.caption = printable("; ".join(reasons)) or None
    table.caption_justify = "left"
    return table


def _score_table(step: Comparison) -> Table:
    """One row a final score: the order of real faces, and how far scores and p-values move."""
    title = f"final scores, {step.candidate} against {step.reference}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    columns = {
        "faces": "faces",
        "rank\ncorrelation": "spearman",
        "score moves\nmedian": "shift_median",
        "score moves\np95": "shift_p95",
        "p moves\np95": "p_shift_p95",
        "p <= 0.05\nbefore": "alarms_0.05_before",
        "p <= 0.05\nafter": "alarms_0.05_after",
    }
    table.add_column("score")
    for heading in columns:
        table.add_column(heading, justify="right")
    for score in dict.fromkeys(name.partition(".")[0] for name in step.figures if "." in name):
        table.add_row(score, *(_figure(step.figures.get(f"{score}.{key}")) for key in columns.values()))
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def main() -> None:
    """Run the command, and leave with the exit code of what went wrong."""
    try:
        app()
    except DiffFakeError as error:
        print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        code = 130
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print_error(error)
        code = 1
    else:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
