"""What the differential is worth: fakes in clips of held-out people, against an anchor of the same clip."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from difffake.errors import DataError
from difffake.evaluation.metrics import auc
from difffake.pseudofake import FAMILIES, FaceBank, degrade_companions, make_fake, shares_of
from difffake.scoring import difference_to_nearest
from difffake.training.batches import centre_matrix, to_tensor, warp
from difffake.training.companions import ANCHOR_FRAMES, LEAST_GAP_S

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

_SEED = 20_250
#: Judged frames of one clip, so that a long clip does not outvote the others.
FRAMES_PER_CLIP = 12
MIN_CLIPS = 2
#: Faces ``(N, 3, S, S) uint8`` to embeddings ``(N, D)`` and logits ``(N,)``.
Network = Callable[[Tensor], tuple[F32, F32]]


class ClipScores(msgspec.Struct, frozen=True):
    """Of each family, as made or as on streams: scores of the same R frames, real and fake, which stand in ``clip``."""

    clip: list[int]
    distance: dict[str, tuple[list[float], list[float]]]
    logit: dict[str, tuple[list[float], list[float]]]

    def auc(self, score: str) -> dict[str, float]:
        """AUC by family of ``distance`` or ``logit``, one threshold for all clips."""
        kept: dict[str, tuple[list[float], list[float]]] = getattr(self, score)
        return {name: _auc(*pair) for name, pair in kept.items()}


class DifferentialScores(msgspec.Struct, frozen=True):
    """Pictures as they are, and as on streams."""

    clean: ClipScores
    degraded: ClipScores

    def mean(self, score: str) -> float:
        """Mean AUC over families, clean and degraded alike."""
        return float(np.mean([*self.clean.auc(score).values(), *self.degraded.auc(score).values()]))


@dataclass(frozen=True, slots=True)
class HeldOutClips:
    """Anchors and judged frames of clips, and fakes made from the judged frames; all ``(.., S, S, 3) uint8``.

    Of each clip the anchor is `ANCHOR_FRAMES` frames spread over its first half; judged are up to `FRAMES_PER_CLIP` of
    those that are a second or more later. As on streams, a clip has one recipe for all its frames, genuine or not, and
    each frame noise of its own.
    """

    clip_of_anchor: I64
    clip_of_real: I64
    anchor: U8
    real: U8
    fakes: dict[str, U8]

    @staticmethod
    def make(bank: FaceBank, clips: I64, time_s: F32, side_px: int) -> HeldOutClips:
        """Take the clips (``clips (N,)``, -1: a photo, which may still be a donor) of ``bank`` that are long enough.

        Raises:
            DataError: fewer than two such clips.
        """
        anchors: list[I64] = []
        judged: list[I64] = []
        for clip in np.unique(clips[clips >= 0]):
            rows = np.flatnonzero(clips == clip)
            first = rows[: len(rows) // 2]
            if len(first) < ANCHOR_FRAMES:
                continue
            later = rows[time_s[rows] >= time_s[first[-1]] + LEAST_GAP_S]
            if not len(later):
                continue
            anchors.append(_spread(first, ANCHOR_FRAMES))
            judged.append(_spread(later, FRAMES_PER_CLIP))
        if len(anchors) < MIN_CLIPS:
            raise DataError(
                f"{len(anchors)} clips of held-out people are long enough to judge a difference by",
                hint="give `difffake crops` longer video files of more people",
            )
        matrix = centre_matrix(bank.side_px, side_px)
        rows = np.concatenate(judged)
        fakes = {}
        for number, family in enumerate(FAMILIES):
            if family in shares_of(bank):
                rng = np.random.default_rng([_SEED, number])
                fakes[family] = np.stack(
                    [warp(make_fake(bank, int(row), family, rng), matrix, side_px) for row in rows]
                )
        return HeldOutClips(
            np.repeat(np.arange(len(anchors)), [len(part) for part in anchors]),
            np.repeat(np.arange(len(anchors)), [len(part) for part in judged]),
            np.stack([warp(bank.crop(int(row)), matrix, side_px) for row in np.concatenate(anchors)]),
            np.stack([warp(bank.crop(int(row)), matrix, side_px) for row in rows]),
            fakes,
        )

    def score(self, network: Network) -> DifferentialScores:
        """Distance to the nearest frame of the anchor (`distance_nearest`), and the logit, of every judged frame."""
        anchor, real = _embed(network, self.anchor), _embed(network, self.real)
        clean = {name: (anchor, real, _embed(network, fake)) for name, fake in self.fakes.items()}
        numbered = enumerate(self.fakes.items())
        degraded = {name: self._on_stream(network, number, fake) for number, (name, fake) in numbered}
        return DifferentialScores(self._scores(clean), self._scores(degraded))

    def _on_stream(self, network: Network, number: int, fake: U8) -> tuple[_Read, _Read, _Read]:
        rng = np.random.default_rng([_SEED, number, 1])
        count = int(self.clip_of_real.max()) + 1
        ours = np.concatenate([self.clip_of_anchor, self.clip_of_real])
        # The fakes lie where their reals lay, behind the anchor: each meets the noise that its real one met.
        seen = [
            degrade_companions(np.concatenate([self.anchor, frames]), ours, count, copy.deepcopy(rng))
            for frames in (self.real, fake)
        ]
        split = len(self.anchor)
        real, fakes = seen
        return _embed(network, real[:split]), _embed(network, real[split:]), _embed(network, fakes[split:])

    def _scores(self, read: dict[str, tuple[_Read, _Read, _Read]]) -> ClipScores:
        distance = {
            name: (self._distance(real, anchor), self._distance(fake, anchor))
            for name, (anchor, real, fake) in read.items()
        }
        logit = {name: (real.logit.tolist(), fake.logit.tolist()) for name, (_, real, fake) in read.items()}
        return ClipScores(self.clip_of_real.tolist(), distance, logit)

    def _distance(self, judged: _Read, anchor: _Read) -> list[float]:
        away = np.empty(len(judged.embedding))
        for clip in np.unique(self.clip_of_real):
            ours = self.clip_of_real == clip
            change = difference_to_nearest(judged.embedding[ours], anchor.embedding[self.clip_of_anchor == clip])
            away[ours] = np.linalg.norm(change, axis=1)
        return away.tolist()


@dataclass(frozen=True, slots=True)
class _Read:
    embedding: F32
    logit: F32


def _embed(network: Network, faces: U8) -> _Read:
    return _Read(*network(to_tensor(faces)))


def _spread(rows: I64, most: int) -> I64:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]


def _auc(real: list[float], fake: list[float]) -> float:
    return auc(np.repeat([0, 1], [len(real), len(fake)]), np.array([*real, *fake]))
