"""What a training run consists of between two steps, and how it goes to disk and back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from difffake.errors import DataError
from difffake.extractor import Extractor, build_extractor, read_tensors, write_tensors
from difffake.training.settings import TrainSettings

FORMAT = 1


@dataclass(slots=True)
class RunState:
    """Network, its running average, optimiser, and how far the run has come."""

    extractor: Extractor
    average: Extractor
    optimiser: torch.optim.Optimizer
    step: int = 0
    elapsed_s: float = 0.0
    best: float = float("-inf")

    @staticmethod
    def begin(settings: TrainSettings, device: torch.device) -> RunState:
        """A new network, seeded; see `difffake.extractor.build_extractor` for what it raises."""
        torch.manual_seed(settings.seed)
        extractor = build_extractor(
            settings.backbone,
            pretrained=settings.pretrained,
            dropout=settings.dropout,
            residual=settings.residual,
        )
        extractor = extractor.to(device).to(memory_format=torch.channels_last)
        average = copy.deepcopy(extractor).requires_grad_(False)
        return RunState(extractor, average, _optimiser(extractor, settings))

    def follow(self, decay: float) -> None:
        """Move the average towards the network; in the first steps faster, so that it forgets the start."""
        weight = 1.0 - min(decay, (1 + self.step) / (10 + self.step))
        average, current = (list(m.state_dict().values()) for m in (self.average, self.extractor))
        floats = [(a, c) for a, c in zip(average, current, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [c for _, c in floats], weight)
        for a, c in zip(average, current, strict=True):
            if not a.is_floating_point():
                a.copy_(c)

    def save(self, path: Path, settings: TrainSettings) -> None:
        """Write everything that a continuation needs, whole or not at all."""
        write_tensors(
            path,
            {
                "format": FORMAT,
                "settings": msgspec.json.encode(settings).decode(),
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "best": self.best,
                "extractor": self.extractor.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
        )

    @staticmethod
    def load(path: Path, settings: TrainSettings, device: torch.device) -> RunState:
        """Continue from `save`.

        Raises:
            DataError: a damaged file, or a run with other settings.
        """
        data = read_tensors(path)
        hint = "remove the folder to begin anew"
        try:
            before = msgspec.json.decode(data["settings"], type=TrainSettings)
            differ = before.must_equal(settings)
            if data["format"] != FORMAT or differ:
                raise DataError(
                    f"{path} was trained with another {', '.join(differ) or 'format'}",
                    hint="continue with the same settings, or name a new folder",
                )
            # ImageNet's weights would be overwritten at once.
            state = RunState.begin(msgspec.structs.replace(settings, pretrained=False), device)
            _fill(state.extractor, data["extractor"])
            _fill(state.average, data["average"])
            state.optimiser.load_state_dict(data["optimiser"])
            state.step, state.elapsed_s = int(data["step"]), float(data["elapsed_s"])
            state.best = float(data["best"])
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
            raise DataError(f"{path} is no checkpoint of a run: {str(error)[:200]}", hint=hint) from error
        return state


def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict(weights)


def _optimiser(extractor: Extractor, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW; biases and the scales of norms are not pulled towards zero."""
    weights = [p for p in extractor.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr)
