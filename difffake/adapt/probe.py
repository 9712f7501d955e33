"""Could the files alone give the answer away? A head may learn a camera, a codec or a size, not a manipulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from difffake.adapt.clips import Rows
from difffake.adapt.cross import divide
from difffake.adapt.heads import Candidate, fit_heads
from difffake.adapt.listing import Labelled
from difffake.errors import DiffFakeError
from difffake.evaluation.bootstrap import Estimate, Resampling, performance
from difffake.evaluation.layouts import FAKE
from difffake.video import open_video

#: From here on the files say more about the label than chance does.
TELLING_AUC = 0.65


@dataclass(frozen=True, slots=True)
class FileProbe:
    """How well size, rate, bits per pixel and codec of the files tell fakes from real ones, by cross-validation."""

    auc: Estimate
    files: int

    @property
    def is_telling(self) -> bool:
        """Whether a head may have learned the files instead of the faces."""
        low = self.auc.interval[0] if self.auc.interval is not None else 0.0
        return self.auc.value >= TELLING_AUC and low > 0.5


def probe_files(videos: Sequence[Labelled], resampling: Resampling, seed: int = 0) -> FileProbe:
    """Tell real videos from fakes by everything but their pictures."""
    described = [(one, found) for one in videos if (found := _describe(one)) is not None]
    codecs = sorted({codec for _, (_, codec) in described})
    label = np.array([one.item.label == FAKE for one, _ in described], bool)
    groups = [one.group for one, _ in described]
    scores = np.full(len(described), np.nan)
    if len(described) and len(np.unique(label)) == 2 and len(set(groups)) > 1:
        x = np.array([[*numbers, *(codec == c for c in codecs)] for _, (numbers, codec) in described], np.float32)
        fold = np.array([divide(groups, 10, seed)[group] for group in groups])
        for one in np.unique(fold):
            scores[fold == one] = _scores(x, label, fold == one)
    people = np.array([one.item.person for one, _ in described])
    return FileProbe(performance(label.astype(np.int64), scores, people, resampling).auc, len(described))


def _scores(x: NDArray[np.float32], label: NDArray[np.bool_], out: NDArray[np.bool_]) -> NDArray[np.float64]:
    kept = ~out
    weight = np.where(label, 0.5 / max(1, (label & kept).sum()), 0.5 / max(1, (~label & kept).sum()))[kept]
    rows = Rows(x[kept], x[kept, 0], label[kept], weight.astype(np.float64))
    varies = x[kept].std(axis=0) > 0
    # Nothing differs, or one label is all that is left: the files say nothing.
    if not varies.any() or len(np.unique(label[kept])) < 2 or _alike(rows, varies):
        return np.zeros(int(out.sum()))
    (head,) = fit_heads(Rows(rows.x[:, varies], rows.logit, rows.fake, rows.weight), [Candidate(0.5)])
    return head(x[out][:, varies], x[out, 0])


def _alike(rows: Rows, varies: NDArray[np.bool_]) -> bool:
    means = [np.average(rows.x[mask], axis=0, weights=rows.weight[mask])[varies] for mask in (rows.fake, ~rows.fake)]
    return bool(np.allclose(means[0], means[1]))


def _describe(one: Labelled) -> tuple[list[float], str] | None:
    try:
        size = one.item.path.stat().st_size
        with open_video(one.item.path) as video:
            info = video.info
    except (DiffFakeError, OSError):
        return None
    pixels = max(1, info.width * info.height)
    fps, duration_s = info.fps or 1.0, info.duration_s or 1.0
    bits = 8 * size / max(1e-3, duration_s) / pixels / max(1e-3, fps)
    return [float(np.log(v)) for v in (pixels, info.width / max(1, info.height), fps, max(bits, 1e-9))], info.codec
