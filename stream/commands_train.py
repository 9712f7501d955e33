"""``difffake crops``, ``train``, ``fit`` and ``contact-sheet``: from folders of faces to a model bundle."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Annotated, TypeGuard

import msgspec
import numpy as np
import typer
from rich.progress import TextColumn, TimeRemainingColumn
from rich.table import Table

from difffake.density import Covariance
from difffake.errors import DataError, MissingExtraError
from difffake.files import check_targets, write_whole, writing
from stream.console import print_table, printable, progress_bar, results_console

#: Of the embeddings of an extractor and of its export: all that rounding leaves.
EXPORTED_COSINE = 0.999

Sources = Annotated[
    list[Path], typer.Argument(help="Folders of people, flat folders of pictures, tar files of these, video clips.")
]
Store = Annotated[Path, typer.Argument(metavar="STORE", help="A crop store, made by `difffake crops`.")]
ClipShares = Annotated[
    tuple[float, float, float],
    typer.Option(metavar="TRAIN VALIDATE FIT", help="Shares of the filmed people; photos: 0.80 0.05 0.15."),
]
SharesAsTrained = Annotated[
    tuple[float, float, float] | None,
    typer.Option(metavar="TRAIN VALIDATE FIT", help="For a RUN that did not write its shares down."),
]


def crops(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="The crop store to make.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing store.")] = False,
) -> None:
    """Find and align the main face of every picture and clip."""
    _require_extra()
    from difffake.training.crops import prepare, skipped_in_words
    from difffake.training.store import GENERATOR_FOLDER

    had_generator = overwrite and (out / GENERATOR_FOLDER).exists()
    with progress_bar(TextColumn("{task.completed} files, {task.fields[kept]} faces")) as bar:
        task = bar.add_task("aligning faces", total=None, kept=0)
        store = prepare(
            sources, out, overwrite=overwrite, progress=lambda done, kept: bar.update(task, completed=done, kept=kept)
        )
    typer.echo(f"{len(store)} faces of {len(store.names)} people in {out}")
    if passed_over := skipped_in_words(store.skipped):
        typer.echo(printable(passed_over), err=True)
    if had_generator:
        typer.echo(
            f"the face generator of the old store is gone with it; next: difffake train-generator {out}", err=True
        )


def train_generator(
    store: Store,
    minutes: Annotated[float, typer.Option(help="Budget in minutes.")] = 20.0,
    clip_shares: ClipShares = (0.5, 0.05, 0.45),
    seed: Annotated[int, typer.Option(help="Seed of the split, the weights and the batches.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
) -> None:
    """Train the face generators that draw two families of pseudo-fakes, on the training people of STORE.

    They are kept in STORE/generator, where `difffake train` and `difffake fit` find them.
    """
    _require_extra()
    from difffake.training.generator import GeneratorSettings
    from difffake.training.generator import train_generator as run
    from difffake.training.split import split_people
    from difffake.training.store import GENERATOR_FOLDER, CropStore

    settings = GeneratorSettings(minutes=minutes, seed=seed, threads=threads)
    faces = CropStore.load(store, with_generator=False)  # one that is damaged is made again
    rows = split_people(faces, seed=seed, clip_shares=clip_shares).train
    with progress_bar(TextColumn("{task.fields[note]}"), TimeRemainingColumn()) as bar:
        task = bar.add_task("training generators", total=1.0, note="")

        def show(share: float, swapper: float, redrawer: float) -> None:
            bar.update(task, completed=share, note=f"loss of the swapper {swapper:.3f}, of the redrawer {redrawer:.3f}")

        made = run(faces, rows, store / GENERATOR_FOLDER, settings, show, clip_shares=clip_shares)
    typer.echo(f"{made.steps} steps on {made.faces} faces of {made.people} people; {store / GENERATOR_FOLDER}")


def train(
    store: Store,
    out: Annotated[Path, typer.Option(help="The run's folder; an interrupted run in it goes on.")],
    backbone: Annotated[
        str, typer.Option(help="efficientnet_lite0/1/2, efficientnet_b4, resnet50 or any timm name.")
    ] = "efficientnet_lite0",
    pretrained: Annotated[bool, typer.Option(help="Start from ImageNet weights.")] = True,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes.")] = None,
    images: Annotated[int | None, typer.Option(help="Budget in images, real and fake.")] = None,
    clip_shares: ClipShares = (0.5, 0.05, 0.45),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, e.g. lr=0.0005.")
    ] = None,
) -> None:
    """Train an extractor on real faces against pseudo-deepfakes made from them; resumable."""
    _require_extra()
    from difffake.extractor import export_onnx, load_checkpoint
    from difffake.training.loop import TrainProgress
    from difffake.training.loop import train as run
    from difffake.training.settings import TrainSettings
    from difffake.training.store import CropStore

    known: dict[str, object] = {"backbone": backbone, "pretrained": pretrained, "minutes": minutes, "images": images}
    known["clip_shares"] = clip_shares
    for item in set_ or []:
        name, _, value = item.partition("=")
        if name not in TrainSettings.__struct_fields__:
            raise typer.BadParameter(f"{name!r}: one of {', '.join(TrainSettings.__struct_fields__)}")
        known[name] = value
    if all(known.get(budget) is None for budget in ("minutes", "images", "steps")):
        raise typer.BadParameter("when does training end? Give --minutes, --images, or --set steps=N")
    try:
        known |= {name: msgspec.json.decode(value) for name, value in known.items() if _is_json(value)}
        settings = msgspec.convert(known, TrainSettings, strict=False)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise typer.BadParameter(str(error)) from error
    faces = CropStore.load(store)
    with progress_bar(TextColumn("{task.fields[note]}"), TimeRemainingColumn()) as bar:
        task = bar.add_task("training", total=1.0, note="")

        def show(now: TrainProgress) -> None:
            auc = f", held-out AUC {now.validation.mean:.3f}" if now.validation else ""
            note = f"step {now.step}, loss {now.loss:.3f}, {now.images_per_s:.0f} images/s{auc}"
            bar.update(task, completed=now.share, note=note)

        result = run(settings, faces, out, progress=show)
    if result.interrupted:
        typer.echo(f"stopped at step {result.step}; the same command goes on from there", err=True)
        # A script's `train && fit` must not make a model of it.
        raise typer.Exit(130)
    checkpoint = load_checkpoint(result.model)
    export_onnx(checkpoint.extractor, out / "extractor.onnx", side_px=checkpoint.side_px)
    typer.echo(f"{result.step} steps; {out / 'extractor.onnx'}; curves in {out / 'curves.png'}; next: difffake fit")


def fit(
    store: Store,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished `difffake train`.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    name: Annotated[str, typer.Option(help="The model's name.")] = "difffake",
    data: Annotated[str, typer.Option(help="The training data and its terms, for the manifest.")] = "not stated",
    licence: Annotated[str, typer.Option(help="The model's licence, for the manifest.")] = "not stated",
    clip_shares: SharesAsTrained = None,
    covariance: Annotated[Covariance, typer.Option(help="Of the densities.")] = Covariance.DIAG,
    shrinkage: Annotated[float, typer.Option(help="0 to 1, towards equal variances.")] = 0.0,
    differences: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Keep the differences, to compare anomaly models on.")
    ] = None,
) -> None:
    """Fit densities and calibration on people kept out of training, and write a model bundle."""
    _require_extra()
    from difffake.bundle import check_bundle_target
    from difffake.extractor import check_parity, load_checkpoint
    from difffake.training.batches import centre_view
    from difffake.training.fit import FitSettings, embed_held_out, fit_bundle, held_out_differences
    from difffake.training.settings import TrainSettings
    from difffake.training.split import bank_of, shares_as_trained, split_people
    from difffake.training.store import CropStore
    from engines.onnx import OnnxEngine

    extractor = run / "extractor.onnx"
    if not extractor.is_file():
        raise DataError(f"no finished training run in {run}", hint="difffake train STORE --out RUN comes first")
    check_bundle_target(out, overwrite=overwrite)
    check_targets(differences)
    try:
        trained = msgspec.json.decode((run / "settings.json").read_bytes(), type=TrainSettings)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(
            f"{run / 'settings.json'} is missing or damaged: {error}", hint="the same `difffake train` writes it again"
        ) from error
    settings = FitSettings(name=name, licence=licence, covariance=covariance, shrinkage=shrinkage, seed=trained.seed)
    faces = CropStore.load(store)
    shares = shares_as_trained(trained.clip_shares, clip_shares)
    rows = split_people(faces, seed=trained.seed, clip_shares=shares).fit
    checkpoint = load_checkpoint(run / "model.pt")
    with progress_bar(TimeRemainingColumn()) as bar, OnnxEngine(extractor) as engine:
        task = bar.add_task("embedding held-out people", total=1.0)
        held_out = embed_held_out(
            bank_of(faces, rows),
            faces.time_s[rows].astype(np.float64),
            faces.is_video[rows],
            engine,
            settings,
            lambda share: bar.update(task, completed=share),
        )
        dim = engine.spec.dim
    if differences is not None:
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **held_out_differences(held_out, settings))
        write_whole(differences, packed.getvalue())
    view = centre_view(faces.crops[rows[:: max(1, len(rows) // 64)]], checkpoint.side_px)
    parity = check_parity(checkpoint.extractor, extractor, np.ascontiguousarray(view.transpose(0, 3, 1, 2)))
    if not parity.min_cosine > EXPORTED_COSINE:
        raise DataError(
            f"{extractor} is not what {run / 'model.pt'} computes (cosine {parity.min_cosine:.3f}): a run that went on "
            "was stopped",
            hint="the same `difffake train` ends it and exports it again",
        )
    bundle, figures = fit_bundle(
        held_out,
        extractor,
        out,
        settings,
        backbone=trained.backbone,
        dim=dim,
        side_px=checkpoint.side_px,
        training={
            "data": data,
            "settings": msgspec.to_builtins(trained),
            "steps": checkpoint.step,
            "images": checkpoint.step * 2 * trained.batch_pairs,
            "onnx_against_torch": {
                "embedding_cosine_min": parity.min_cosine,
                "embedding_error_max": parity.max_abs_error,
                "logit_spearman": parity.spearman,
            },
        },
        git_revision=_revision(),
    )
    table = Table(
        "score", "evidence", *next(iter(figures.auc.values())), title="AUC on pseudo-fakes of held-out people"
    )
    for score, by_family in figures.auc.items():
        spec = bundle.manifest.scores[score]
        table.add_row(score, spec.evidence, *(f"{value:.3f}" for value in by_family.values()))
    print_table(results_console(), table)
    typer.echo(
        f"{bundle.model_id} in {out}, fitted on {figures.frames} faces of {figures.people} people, {figures.clips} "
        f"clips; evidence: {bundle.manifest.evidence}"
    )


def contact_sheet(
    store: Store,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    people: Annotated[str, typer.Option(help="Only people whose key begins so, e.g. london/.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
) -> None:
    """Draw 32 pseudo-fakes of each family beside the faces they were made from."""
    _require_extra()
    from difffake.pseudofake import usable_landmarks, write_contact_sheets
    from difffake.training.split import bank_of
    from difffake.training.store import CropStore

    if seed < 0:
        raise typer.BadParameter("--seed must not be below 0")
    faces = CropStore.load(store)
    usable = usable_landmarks(faces.landmarks, faces.crops.shape[1])
    chosen = usable & np.char.startswith(faces.person_names(), people)
    if not chosen.any():
        raise DataError(f"nobody in {store} has a key that begins with {people!r}", hint="leave --people out")
    with writing(out):
        for path in write_contact_sheets(bank_of(faces, np.flatnonzero(chosen)), out, seed=seed):
            typer.echo(path)


def _is_json(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(("{", "["))


def _require_extra() -> None:
    try:
        import sklearn  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"training needs a package that is not installed: {error.name}", hint="pip install 'difffake[train]'"
        ) from error


def _revision() -> str:
    """Of this code, not of whatever repository the command is called in, or the package is installed in."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        for command in (["ls-files", "--error-unmatch", Path(__file__).name], ["rev-parse", "HEAD"]):
            said = subprocess.run([*here, *command], capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()
