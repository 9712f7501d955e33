"""``difffake fit-identity``: the identity network, and what it may find in real footage, into a bundle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import TimeRemainingColumn
from rich.table import Table

from difffake.errors import DataError, MissingExtraError
from difffake.files import check_targets
from stream.console import print_error, print_table, printable, progress_bar, results_console


def fit_identity(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A crop store with several photos of many people.")],
    clips: Annotated[
        list[Path], typer.Argument(help="Real clips, or folders of them; clips in one folder show one person.")
    ],
    bundle: Annotated[Path, typer.Option(help="The bundle to add identity to, made by `difffake fit`.")],
    identity: Annotated[Path, typer.Option(metavar="FILE.onnx", help="The identity network.")],
    out: Annotated[Path, typer.Option(help="The bundle to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    data: Annotated[str, typer.Option(help="The data and its terms, for the manifest.")] = "not stated",
    network: Annotated[str, typer.Option(help="The network's origin and licence, for the manifest.")] = "not stated",
    statistic: Annotated[str, typer.Option(help="distance or differential.")] = "distance",
    faces: Annotated[
        Path | None, typer.Option(metavar="FILE.npz", help="Keep the embeddings, or take those kept there.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of degradations and folds.")] = 0,
) -> None:
    """Fit how far real people get from their own anchors, and write the bundle with identity evidence."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"fitting needs a package that is not installed: {error.name}", hint="pip install 'difffake[train]'"
        ) from error
    from difffake.bundle import Bundle, check_bundle_target
    from difffake.evaluation.seen import file_digest
    from difffake.faces import CenterFace
    from difffake.training.fit_identity import KINDS, LEVELS, STATISTICS, IdentitySettings, add_identity
    from difffake.training.fit_identity import fit_identity as fit
    from difffake.training.identity_faces import IdentityFaces, embed_clips, embed_photos, several_photos
    from difffake.training.store import CropStore
    from engines.onnx import OnnxEngine

    if statistic not in STATISTICS:
        raise typer.BadParameter(f"{statistic!r}: one of {', '.join(STATISTICS)}")
    if seed < 0:
        raise typer.BadParameter("--seed must not be below 0")
    if not identity.is_file():
        raise DataError(f"there is no identity network {identity}", hint="make it with scripts/make_identity.py")
    old, digest = Bundle.load(bundle), file_digest(identity)
    check_bundle_target(out, overwrite=overwrite)
    check_targets(faces)
    if faces is not None and faces.is_file():
        embedded = IdentityFaces.load(faces, network=digest)
    else:
        crops, detector, skipped = CropStore.load(store), CenterFace(), Counter[str]()
        photos = several_photos(crops)
        with (
            progress_bar(TimeRemainingColumn()) as bar,
            OnnxEngine(old.engine_path) as engine,
            OnnxEngine(identity) as network_engine,
        ):
            task = bar.add_task("photos", total=1.0)
            show = lambda share: bar.update(task, completed=share)  # noqa: E731
            parts = [embed_photos(crops, photos, detector, network_engine, np.random.default_rng(seed), progress=show)]
            bar.update(task, description="clips, with their encodes", completed=0.0)
            parts.append(embed_clips(clips, detector, engine, network_engine, skipped=skipped, progress=show))
        for reason, count in skipped.items():
            print_error(DataError(f"left out, {count} times: {reason}", hint="the others are used"))
        embedded = IdentityFaces.join(parts)
        if faces is not None:
            embedded.save(faces, network=digest)
    fitted = fit(embedded, IdentitySettings(statistic=statistic, seed=seed))
    made = add_identity(old, identity, fitted, out, training={"data": data, "network": network})
    table = Table("anchor from", "people", *(f"{statistic} at p = {level:g}" for level in LEVELS), "TPR at 1 % FPR")
    for kind, anchor in zip(KINDS, ("same stream", "other footage"), strict=True):
        figures = fitted.figures[kind]
        power = figures["impostors_by_statistic"][statistic]["tpr_at_fpr_0.01"]
        at = ("never" if value is None else f"{value:.3f}" for value in figures["score_at_p"].values())
        table.add_row(anchor, str(figures["people"]), *at, f"{power:.3f}")
    print_table(results_console(), table)
    typer.echo(f"{made.model_id} in {printable(str(out))}; evidence: {made.manifest.evidence}")
