"""What each kind of pseudo-fake, and each choice of the recipe, is worth: short runs side by side.

    python scripts/ablate_pseudofakes.py STORE --out DIR [--images 6400] [--side 112] [--only NAME ...]

Every run starts from ImageNet, with the same people and the same budget; each is judged on every family, also on those
it was not trained on, by people kept out of training, with pictures as they are and as on streams. STORE needs
generators (`difffake train-generator`). Writes ``ablation.json`` and ``ablation.md``; what is done is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np

from difffake.pseudofake import FAMILIES
from difffake.training.loop import train
from difffake.training.settings import TrainSettings
from difffake.training.split import split_people
from difffake.training.store import CropStore
from difffake.training.validation import Validation

OLD = {"self_blend_global": 0.15, "self_blend_local": 0.15, "cross_swap": 0.35, "decoder": 0.25, "mouth_resynth": 0.10}
ALL = {name: family.share for name, family in FAMILIES.items()}


def _without(*names: str) -> dict[str, float]:
    return {name: share for name, share in ALL.items() if name not in names}


#: Name of a run, its families, and what else it changes.
RUNS: dict[str, tuple[dict[str, float], dict[str, object]]] = {
    "first five families": (OLD, {"captured": 0.0, "sharp_share": 0.0}),
    "all families": (ALL, {}),
    "all, no camera before the swap": (ALL, {"captured": 0.0}),
    "all, no stream after it": (ALL, {"degrade_strength": 0.0}),
    "all, photos as they come": (ALL, {"sharp_share": 0.0}),
    "all, with the residual": (ALL, {"residual": True}),
    "without drawn": (_without("neural_swap", "neural_redraw"), {}),
    "without history": (_without("history"), {}),
    "without cross swap, decoder": (_without("cross_swap", "decoder", "mouth_resynth"), {}),
    "without self-blends": (_without("self_blend_global", "self_blend_local"), {}),
    "drawn alone": ({"neural_swap": 0.5, "neural_redraw": 0.5}, {}),
    "history alone": ({"history": 1.0}, {}),
    "cross swap alone": ({"cross_swap": 1.0}, {}),
    "decoder alone": ({"decoder": 1.0}, {}),
    "self-blends alone": ({"self_blend_global": 0.5, "self_blend_local": 0.5}, {}),
}


class Row(msgspec.Struct, frozen=True):
    """One run's outcome."""

    name: str
    images: int
    trained_on: list[str]
    auc: Validation


def main() -> None:
    """Run what is not done yet, and write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS))
    asked = parser.parse_args()
    store = CropStore.load(asked.store)
    split = split_people(store, clip_shares=(0.5, 0.05, 0.45))
    asked.out.mkdir(parents=True, exist_ok=True)
    table = asked.out / "ablation.json"
    rows = msgspec.json.decode(table.read_bytes(), type=list[Row]) if table.exists() else []
    for name in asked.only:
        if name in {row.name for row in rows}:
            continue
        families, changes = RUNS[name]
        settings = msgspec.convert(
            {
                "images": asked.images, "side_px": asked.side, "threads": asked.threads, "families": families,
                "validate_every": 0, "validate_crops": 192, "video_share": 0.2, "ema_decay": 0.98,
                "warmup_steps": 20, **changes,
            },
            TrainSettings,
        )  # fmt: skip
        result = train(settings, store, asked.out / name.replace(" ", "_").replace(",", ""), split=split)
        if result.interrupted or result.validation is None:
            break
        trained_on = [family for family, share in families.items() if share]
        rows.append(Row(name, result.step * 2 * settings.batch_pairs, trained_on, result.validation))
        table.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))
        (asked.out / "ablation.md").write_text(markdown(rows), encoding="utf-8")


def markdown(rows: list[Row]) -> str:
    """AUC by family, as made / as on streams; in brackets: a family that the run was not trained on."""
    families = list(rows[0].auc.clean)
    head = ["run", *families, "mean", "mean of families never trained on"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = []
        for family in families:
            cell = f"{row.auc.clean[family]:.2f} / {row.auc.degraded[family]:.2f}"
            cells.append(cell if family in row.trained_on else f"[{cell}]")
        unseen = [
            auc for family in families if family not in row.trained_on
            for auc in (row.auc.clean[family], row.auc.degraded[family])
        ]  # fmt: skip
        cells += [f"{row.auc.mean:.3f}", f"{np.mean(unseen):.3f}" if unseen else "-"]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
