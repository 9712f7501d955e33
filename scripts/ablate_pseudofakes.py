"""What each kind of pseudo-fake, and each choice of the recipe, is worth: short runs side by side.

    python scripts/ablate_pseudofakes.py STORE --out DIR [--images 4800] [--side 112] [--only NAME ...]

Every run starts from ImageNet, with the same people and the same budget; each is judged on every family, also on those
it was not trained on, by people kept out of training, with pictures as they are and as on streams: the logit of single
pictures, and `distance_nearest` of frames in clips, each against eight earlier genuine frames of its clip. STORE needs
generators (`difffake train-generator`) and clips. Writes ``ablation.json`` and ``ablation.md``; what is done is not
repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from difffake.evaluation.metrics import roc
from difffake.extractor import load_checkpoint
from difffake.pseudofake import FAMILIES
from difffake.training.companions import number_clips
from difffake.training.held_out_clips import DifferentialScores, HeldOutClips
from difffake.training.loop import train
from difffake.training.settings import TrainSettings
from difffake.training.split import Split, bank_of, split_people
from difffake.training.store import CropStore
from difffake.training.validation import HeldOutFakes, Validation

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
    "all, another seed": (ALL, {"seed": 1}),
    "all, consistent": (ALL, {"consistency_weight": 1.0}),
    "all, consistent, another seed": (ALL, {"consistency_weight": 1.0, "seed": 1}),
    "all, consistent, weight 3": (ALL, {"consistency_weight": 3.0}),
    "all, 160 px": (ALL, {"side_px": 160}),
    "all, lite1": (ALL, {"backbone": "efficientnet_lite1"}),
    "all, lite2": (ALL, {"backbone": "efficientnet_lite2"}),
}
#: What the others are held against.
BASE = "all families"


class Row(msgspec.Struct, frozen=True):
    """One run's outcome."""

    name: str
    images: int
    trained_on: list[str]
    auc: Validation
    clips: DifferentialScores | None = None


def main() -> None:
    """Run what is not done yet, and write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4800)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(RUNS), default=list(RUNS))
    asked = parser.parse_args()
    store = CropStore.load(asked.store)
    split = split_people(store, clip_shares=(0.5, 0.05, 0.45))
    asked.out.mkdir(parents=True, exist_ok=True)
    table = asked.out / "ablation.json"
    rows = msgspec.json.decode(table.read_bytes(), type=list[Row]) if table.exists() else []
    judge = _Judge(store, split, asked.threads)
    held_out: dict[int, HeldOutFakes] = {}
    for name in asked.only:
        done = {row.name: row for row in rows}
        folder = asked.out / name.replace(" ", "_").replace(",", "")
        if name in done and done[name].clips is not None:
            continue
        if name not in done:
            families, changes = RUNS[name]
            settings = msgspec.convert(
                {
                    "images": asked.images, "side_px": asked.side, "threads": asked.threads, "families": families,
                    "validate_every": 0, "validate_crops": 192, "video_share": 0.2, "ema_decay": 0.98,
                    "warmup_steps": 20, **changes,
                },
                TrainSettings,
            )  # fmt: skip
            side = settings.side_px
            if side not in held_out:  # half of what a run costs, and the same for all
                people = bank_of(store, split.validate)
                held_out[side] = HeldOutFakes.make(people, store.is_video[split.validate], settings)
            result = train(settings, store, folder, split=split, held_out=held_out[side])
            if result.interrupted or result.validation is None:
                break
            trained_on = [family for family, share in families.items() if share]
            done[name] = Row(name, result.step * 2 * settings.batch_pairs, trained_on, result.validation)
        done[name] = msgspec.structs.replace(done[name], clips=judge(folder / "model.pt"))
        rows = [done[known] for known in RUNS if known in done]
        table.write_bytes(msgspec.json.encode(rows))
        (asked.out / "ablation.md").write_text(markdown(rows), encoding="utf-8")


class _Judge:
    """Clips of all who do not train, made once for each side of faces."""

    def __init__(self, store: CropStore, split: Split, threads: int) -> None:
        self._store, self._threads = store, threads
        self._rows = np.sort(np.concatenate([split.validate, split.fit]))
        self._clips: dict[int, HeldOutClips] = {}

    def __call__(self, model: Path) -> DifferentialScores:
        """Score the clips with a run's network."""
        loaded = load_checkpoint(model)
        side = loaded.side_px
        if side not in self._clips:
            store, rows = self._store, self._rows
            clips = number_clips(store.people, store.is_video, store.time_s)[rows]
            cv2.setNumThreads(1)
            self._clips[side] = HeldOutClips.make(bank_of(store, rows), clips, store.time_s[rows], side)
        torch.set_num_threads(self._threads)

        def network(faces: Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
            with torch.inference_mode():
                parts = [loaded.extractor(part) for part in torch.split(faces, 64)]
            return torch.cat([e for e, _ in parts]).numpy(), torch.cat([x for _, x in parts]).numpy()

        return self._clips[side].score(network)


def markdown(rows: list[Row]) -> str:
    """Three tables, AUC as made / as on streams; in brackets: a family that the run was not trained on."""
    judged = [row for row in rows if row.clips is not None]
    parts = ["Logit, single pictures:\n", _by_family(rows, "pictures")]
    if judged:
        parts += ["\n`distance_nearest`, frames of clips:\n", _by_family(judged, "distance")]
        parts += [f"\nThe same frames, means, and differences to {BASE!r}:\n", _against_base(judged)]
    return "\n".join(parts)


def _by_family(rows: list[Row], score: str) -> str:
    families = list(rows[0].auc.clean)
    head = ["run", *families, "mean", "mean of families never trained on"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if score == "pictures" or row.clips is None:
            clean, degraded = row.auc.clean, row.auc.degraded
        else:
            clean, degraded = row.clips.clean.auc(score), row.clips.degraded.auc(score)
        cells = []
        for family in families:
            cell = f"{clean[family]:.2f} / {degraded[family]:.2f}"
            cells.append(cell if family in row.trained_on else f"[{cell}]")
        unseen = [auc[family] for family in families if family not in row.trained_on for auc in (clean, degraded)]
        mean = np.mean([*clean.values(), *degraded.values()])
        cells += [f"{mean:.3f}", f"{np.mean(unseen):.3f}" if unseen else "-"]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _against_base(rows: list[Row]) -> str:
    """Means over families, as made and as on streams; intervals: 95 % of a bootstrap over clips, paired."""
    head = ["run", "logit", "`distance_nearest`", "difference", "logit, difference"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    base = next((row.clips for row in rows if row.name == BASE), None)
    for row in rows:
        if row.clips is None:
            continue
        cells = [f"{row.clips.mean(score):.3f}" for score in ("logit", "distance")]
        for score in ("distance", "logit"):
            if base is None or row.name == BASE:
                cells.append("-")
                continue
            change = _drawn(row.clips, score) - _drawn(base, score)
            low, high = np.quantile(change, [0.025, 0.975])
            cells.append(f"{row.clips.mean(score) - base.mean(score):+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _drawn(scores: DifferentialScores, score: str, draws: int = 1000) -> npt.NDArray[np.float64]:
    """Mean AUC ``(draws,)`` on clips drawn with replacement, the same ones for every run."""
    total: list[npt.NDArray[np.float64]] = []
    for part in (scores.clean, scores.degraded):
        clip = np.array(part.clip)
        count = int(clip.max()) + 1
        weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=draws)
        kept: dict[str, tuple[list[float], list[float]]] = getattr(part, score)
        for real, fake in kept.values():
            labels = np.repeat([0, 1], [len(real), len(fake)])
            total.append(roc(labels, [*real, *fake], weights[:, np.concatenate([clip, clip])]).auc())
    return np.asarray(np.mean(total, axis=0), np.float64)


if __name__ == "__main__":
    main()
