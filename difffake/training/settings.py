"""What a training run is: everything that decides its outcome, in one frozen object."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from difffake.errors import DataError
from difffake.faces import CROP_SIDE_PX

#: May differ between a run and its continuation: they say how long and where, not what is learned.
FREE_TO_CHANGE = (
    "steps",
    "images",
    "minutes",
    "workers",
    "threads",
    "device",
    "checkpoint_minutes",
    "log_every",
)


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one run.

    The budget is the least of ``steps``, ``images`` (real and fake ones) and ``minutes`` of training; one of them
    is needed. The cosine follows the share of the budget that is spent.

    Args:
        backbone: see `difffake.extractor.build_extractor`.
        pretrained: start from ImageNet.
        start: an exported extractor (ONNX) of the same backbone to begin with, instead of ImageNet.
        side_px: side of the faces that the network sees.
        batch_pairs: real crops per batch, each with one fake made from it.
        lr: peak learning rate of AdamW.
        warmup_steps: steps until the peak.
        weight_decay: of matrices and kernels, not of biases and norms.
        dropout: before the head.
        label_smoothing: targets are this and one minus this.
        rank_weight: weight of the term that asks each fake to score above its own real crop.
        consistency_weight: weight of the term that asks fakes to lie further than real faces from another genuine
            frame of the same clip (`difffake.training.companions`); 0: no such frames are drawn. Only pairs from clips
            have such frames, ``video_share`` of all; they come on top of the budget's images.
        sam_rho: radius of sharpness-aware minimisation (Foret et al. 2021), which doubles the cost; 0: off.
        ema_decay: of the averaged weights that are kept; 0: off.
        captured: share of pairs whose picture a camera and its coder had before the fake was made (`capture`).
        sharp_share: share of the photos, drawn person by person, whose eyes are at least `SHARP_PX` apart in the
            original; 0: as they come. Most photos of people are small, and small faces hold no fine texture.
        residual: the network also sees what a blur takes away, see `difffake.extractor.build_extractor`.
        video_share: share of crops that come from clips, where there are any.
        families: shares of the pseudo-fakes by name; None: their defaults.
        degrade_strength: 0 to 1, how hard pictures are treated as on streams.
        clip_shares: of the filmed people, for training, validating and fitting; None: those of `split_people`.
        precision: ``bf16`` is autocast, ``fp32`` is exact.
        device: ``auto`` takes a GPU where there is one.
        workers: processes that make batches; 0 makes them in the training process.
        threads: of torch on the CPU.
        validate_every: steps between two looks at held-out people; 0: only at the end.
        validate_crops: held-out crops, each with a fake of every family, clean and degraded.
        checkpoint_minutes: between two checkpoints.
        log_every: steps between two lines of the log.
    """

    backbone: str = "efficientnet_lite0"
    pretrained: bool = True
    start: str | None = None
    side_px: int = CROP_SIDE_PX
    batch_pairs: int = 32
    steps: int | None = None
    images: int | None = None
    minutes: float | None = None
    lr: float = 4e-4
    warmup_steps: int = 100
    weight_decay: float = 0.02
    dropout: float = 0.2
    label_smoothing: float = 0.03
    rank_weight: float = 0.3
    consistency_weight: float = 0.0
    sam_rho: float = 0.0
    ema_decay: float = 0.998
    video_share: float = 1 / 3
    captured: float = 0.5
    sharp_share: float = 0.4
    residual: bool = False
    families: dict[str, float] | None = None
    degrade_strength: float = 1.0
    seed: int = 0
    clip_shares: tuple[float, float, float] | None = None
    precision: Literal["bf16", "fp32"] = "bf16"
    device: str = "auto"
    workers: int = 1
    threads: int = 2
    validate_every: int = 500
    validate_crops: int = 96
    checkpoint_minutes: float = 5.0
    log_every: int = 20

    def __post_init__(self) -> None:
        hint = "see difffake.training.settings.TrainSettings"
        budgets = (self.steps, self.images, self.minutes)
        if all(budget is None for budget in budgets):
            raise DataError("training has no end", hint="give steps, images or minutes")
        if any(budget is not None and not budget > 0 for budget in budgets):
            raise DataError(f"a budget of {budgets} steps, images, minutes", hint="give more than nothing")
        least_one = (self.batch_pairs, self.threads, self.validate_crops, self.log_every)
        least_zero = (self.workers, self.warmup_steps, self.validate_every, self.seed)
        if min(least_one) < 1 or min(least_zero) < 0 or not 32 <= self.side_px <= 1024:
            raise DataError("a count of the training settings is out of its range", hint=hint)
        shares = (
            self.dropout, self.ema_decay, self.video_share, self.degrade_strength, self.captured, self.sharp_share,
        )  # fmt: skip
        if not all(0 <= share <= 1 for share in shares) or self.ema_decay == 1 or self.dropout == 1:
            raise DataError("a share of the training settings is not within 0 and 1", hint=hint)
        rates = (
            self.weight_decay, self.rank_weight, self.consistency_weight, self.sam_rho, self.checkpoint_minutes,
        )  # fmt: skip
        if not self.lr > 0 or not all(rate >= 0 for rate in rates) or not 0 <= self.label_smoothing < 0.5:
            raise DataError("a rate of the training settings is out of its range", hint=hint)

        if self.consistency_weight and not self.video_share:
            raise DataError("consistency is trained on clips, and video_share draws none", hint="give a video_share")

    @property
    def last_step(self) -> int | None:
        """Steps after which steps or images run out; None where only minutes count."""
        ends = [self.steps] if self.steps is not None else []
        if self.images is not None:
            ends.append(math.ceil(self.images / (2 * self.batch_pairs)))
        return min(ends, default=None)

    def spent(self, step: int, elapsed_s: float) -> float:
        """Share of the budget spent after ``step`` steps and ``elapsed_s`` seconds, 0 to 1."""
        by_steps = step / self.last_step if self.last_step else 0.0
        by_time = elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def lr_at(self, step: int, elapsed_s: float) -> float:
        """Learning rate of step ``step`` (from 0): linear warm-up, then a cosine over the budget."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * self.spent(step, elapsed_s)))

    def must_equal(self, other: TrainSettings) -> list[str]:
        """Names of the fields that differ and may not, between a run and its continuation."""
        names = [name for name in self.__struct_fields__ if name not in FREE_TO_CHANGE]
        if self.clip_shares is None:  # runs of before the shares were written down
            names.remove("clip_shares")
        return [name for name in names if getattr(self, name) != getattr(other, name)]
