"""Backbones side by side: the same people, the same fakes in the same order, the same small budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from difffake.errors import DataError
from difffake.training.loop import TrainProgress, train
from difffake.training.settings import TrainSettings
from difffake.training.split import Split, split_people
from difffake.training.store import CropStore
from difffake.training.validation import Validation


class Contender(msgspec.Struct, frozen=True):
    """A backbone and how it starts."""

    backbone: str
    pretrained: bool

    @property
    def label(self) -> str:
        """Name for tables and folders."""
        return f"{self.backbone}-{'imagenet' if self.pretrained else 'scratch'}"


#: The paper's two, and lite0 from both starts: where only it has ImageNet weights, the fair rival is its scratch.
CONTENDERS = (
    Contender("efficientnet_b4", pretrained=False),
    Contender("resnet50", pretrained=False),
    Contender("efficientnet_lite0", pretrained=False),
    Contender("efficientnet_lite0", pretrained=True),
)


class Row(msgspec.Struct, frozen=True):
    """One contender's outcome."""

    contender: Contender
    steps: int
    images: int
    images_per_s: float
    auc: Validation


def compare(
    contenders: Sequence[Contender],
    settings: TrainSettings,
    store: CropStore,
    out_dir: Path,
    *,
    split: Split | None = None,
    progress: Callable[[str, TrainProgress], None] | None = None,
) -> list[Row]:
    """Train each contender with ``settings`` (their backbone and start aside) and table what held-out people say.

    Writes ``comparison.json`` and ``comparison.md`` into ``out_dir``, and each run into a folder of its own; a
    comparison that was stopped goes on where it was. Give the budget as steps or images: minutes would give a fast
    backbone more to learn from.

    Raises:
        DataError: no contender, one twice, a budget in minutes, or what `train` raises.
    """
    labels = [contender.label for contender in contenders]
    if not labels or len(set(labels)) < len(labels):
        raise DataError("a comparison needs contenders, each once", hint="name backbones and their starts")
    if settings.last_step is None or settings.minutes is not None:
        raise DataError("minutes are no fair budget for a comparison", hint="give steps or images")
    split = split or split_people(store, seed=settings.seed)
    rows: list[Row] = []
    for contender in contenders:
        label = contender.label
        result = train(
            msgspec.structs.replace(
                settings, backbone=contender.backbone, pretrained=contender.pretrained, validate_every=0
            ),
            store,
            out_dir / label,
            split=split,
            progress=None if progress is None else partial(progress, label),
        )
        if result.interrupted or result.validation is None:
            break
        images = result.step * 2 * settings.batch_pairs
        speed = images / max(result.elapsed_s, 1e-9)
        rows.append(Row(contender, result.step, images, round(speed, 2), result.validation))
        (out_dir / "comparison.json").write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
        (out_dir / "comparison.md").write_text(markdown(rows), encoding="utf-8")
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """A table: AUC on held-out people by family, clean / as on streams.

    Raises:
        DataError: no rows.
    """
    if not rows:
        raise DataError("there is nothing to table", hint="let at least one contender finish")
    families = list(rows[0].auc.clean)
    head = ["backbone", "start", "training images", "images/s", *families, "mean"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{row.auc.clean[name]:.3f} / {row.auc.degraded[name]:.3f}" for name in families]
        start = "ImageNet" if row.contender.pretrained else "scratch"
        cells = [row.contender.backbone, start, f"{row.images}", f"{row.images_per_s:.1f}", *cells]
        lines.append("| " + " | ".join([*cells, f"{row.auc.mean:.3f}"]) + " |")
    return "\n".join(lines) + "\n"
