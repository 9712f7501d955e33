"""A run's curves as a picture: loss, learning rate, and AUC on held-out people by family."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from difffake.files import write_whole
from difffake.training.log import LogLine, ValidationLine


def draw_curves(lines: Sequence[LogLine], validations: Sequence[ValidationLine], path: Path) -> None:
    """Write a PNG; the old one is replaced only by a whole new one."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([line.step for line in lines], [line.loss for line in lines], color="C0")
    left.set(title="training", xlabel="step", ylabel="loss")
    rate = left.twinx()
    rate.plot([line.step for line in lines], [line.lr for line in lines], color="0.7", linewidth=1)
    rate.set_ylabel("learning rate", color="0.5")
    steps = [entry.step for entry in validations]
    for number, family in enumerate(validations[-1].auc.clean if validations else ()):
        clean = [entry.auc.clean[family] for entry in validations]
        degraded = [entry.auc.degraded[family] for entry in validations]
        right.plot(steps, clean, color=f"C{number}", marker=".", label=family)
        right.plot(steps, degraded, color=f"C{number}", marker=".", linestyle="--")
    right.axhline(0.5, color="0.8", linewidth=1)
    right.set(title="held-out people (dashed: as on streams)", xlabel="step", ylabel="AUC")
    if validations:
        right.legend(fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_whole(path, drawn.getvalue())
