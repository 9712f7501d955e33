"""Pseudo-fakes of held-out people: made once, scored again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from difffake.evaluation.metrics import auc
from difffake.pseudofake import FAMILIES, FaceBank, degrade_pairs, make_fake, shares_of
from difffake.training.batches import Draw, centre_matrix, check_bank, to_tensor, warp
from difffake.training.settings import TrainSettings

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

#: Own seed: the same held-out fakes for every run on the same people, so that runs can be compared.
_SEED = 20_250


class Validation(msgspec.Struct, frozen=True):
    """AUC by family on held-out people, pictures as they are and as on streams."""

    clean: dict[str, float]
    degraded: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean over the families, clean and degraded alike."""
        return float(np.mean([*self.clean.values(), *self.degraded.values()]))


@dataclass(frozen=True, slots=True)
class HeldOutFakes:
    """Reals and, family by family, the fakes made from them; ``(C, S, S, 3) uint8`` each, clean and degraded.

    The degraded reals differ by family: each fake met the same recipe as its own real crop.
    """

    real: U8
    fakes: dict[str, U8]
    degraded: dict[str, tuple[U8, U8]]

    @staticmethod
    def make(bank: FaceBank, is_video: npt.NDArray[np.bool_], settings: TrainSettings) -> HeldOutFakes:
        """Make ``validate_crops`` fakes of each family from people drawn evenly.

        Raises:
            DataError: too few crops or people.
        """
        check_bank(bank, "validate on")
        side = settings.side_px
        rows = Draw.of(bank.people, is_video, settings.video_share).rows(
            settings.validate_crops, np.random.default_rng(_SEED)
        )
        matrix = centre_matrix(bank.side_px, side)
        real = np.stack([warp(bank.crop(int(row)), matrix, side) for row in rows])
        fakes, degraded = {}, {}
        for number, family in enumerate(FAMILIES):
            if family not in shares_of(bank):
                continue
            rng = np.random.default_rng([_SEED, number])
            fakes[family] = np.stack([warp(make_fake(bank, int(row), family, rng), matrix, side) for row in rows])
            degraded[family] = degrade_pairs(real, fakes[family], rng)
        return HeldOutFakes(real, fakes, degraded)

    def score(self, logits: Callable[[Tensor], F32]) -> Validation:
        """Score all with ``logits``, which takes faces ``(N, 3, S, S) uint8`` and gives ``(N,)``."""
        real = logits(to_tensor(self.real))
        clean = {name: _auc(real, logits(to_tensor(fake))) for name, fake in self.fakes.items()}
        degraded = {
            name: _auc(logits(to_tensor(real)), logits(to_tensor(fake))) for name, (real, fake) in self.degraded.items()
        }
        return Validation(clean, degraded)


def _auc(real: F32, fake: F32) -> float:
    labels = np.repeat([0, 1], [len(real), len(fake)])
    return float(auc(labels, np.concatenate([real, fake])))
