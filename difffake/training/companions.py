"""Companions: other genuine frames of the same clip, which a face and its fake are held against in training.

In use a face is compared with the nearest of eight anchor frames of the same person in the same stream, by the plain
Euclidean length of the difference of their embeddings (`distance_nearest`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from difffake.errors import DataError

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

#: Frames nearer in time are almost the same picture; an anchor is older.
LEAST_GAP_S = 1.0
#: Frames among which the most similar one is taken, as among those of an anchor.
ANCHOR_FRAMES = 8


def number_clips(
    people: npt.NDArray[np.integer], is_video: npt.NDArray[np.bool_], time_s: npt.NDArray[np.floating]
) -> I64:
    """Which clip each row ``(N,)`` of a crop store is from, -1 for photos.

    A store holds the frames of a clip one after the other: a clip ends where the person changes or time goes back.
    """
    frames = np.flatnonzero(is_video)
    begins = np.ones(len(frames), bool)
    begins[1:] = (np.diff(people[frames]) != 0) | (np.diff(time_s[frames]) <= 0) | (np.diff(frames) != 1)
    clips = np.full(len(people), -1, np.int64)
    clips[frames] = np.cumsum(begins) - 1
    return clips


@dataclass(frozen=True, slots=True)
class Companions:
    """Finds them for the rows of a bank; row i of each array is crop i.

    Args:
        clips: ``(N,) int64`` from `number_clips`.
        time_s: ``(N,) float32``; what it is for photos does not matter.
        landmarks: ``(N, 5, 2) float32``, px of the aligned crops: how they differ is pose and expression.
    """

    clips: I64
    time_s: F32
    landmarks: F32

    def of(self, row: int) -> I64:
        """The rows that may stand beside ``row``."""
        if self.clips[row] < 0:
            return np.empty(0, np.int64)
        apart = np.abs(self.time_s - self.time_s[row]) >= LEAST_GAP_S
        return np.flatnonzero((self.clips == self.clips[row]) & apart)

    def draw(self, row: int, rng: np.random.Generator) -> int | None:
        """Of up to eight frames of the clip, drawn from all that are a second or more away, the one of the most
        similar pose and expression; None for photos, and where the clip is too short."""
        others = self.of(row)
        if not len(others):
            return None
        drawn = rng.choice(others, min(ANCHOR_FRAMES, len(others)), replace=False)
        apart = np.square(self.landmarks[drawn] - self.landmarks[row]).sum(axis=(1, 2))
        return int(drawn[np.argmin(apart)])

    def check(self) -> None:
        """Raise DataError where no row has a companion."""
        if not any(len(self.of(int(row))) for row in np.flatnonzero(self.clips >= 0)):
            raise DataError(
                f"consistency is trained on clips, and nobody who trains has one of {LEAST_GAP_S:.0f} s or more",
                hint="give `difffake crops` video files of more people, or leave consistency_weight at 0",
            )


def consistency_loss(embedding: Tensor, companion_of: Tensor) -> Tensor:
    """Ranks distances to genuine frames of the same clip: those of fakes above those of real faces.

    ``embedding (2 B + C, D) float32``: B real faces, their fakes in the same order, C companions;
    ``companion_of (C,) int64``: which of the B each companion belongs to. ``log(1 + exp(real - fake))``, the mean over
    each distance of a real face against each of a fake, not of its own fake alone: in use one threshold serves all. In
    units of their mean: making all embeddings longer gains nothing. Zero without a companion.
    """
    count = len(companion_of)
    if not count:
        return embedding.new_zeros(())
    pairs = (len(embedding) - count) // 2
    companion = embedding[2 * pairs :]
    real = torch.linalg.vector_norm(embedding[companion_of] - companion, dim=1)
    fake = torch.linalg.vector_norm(embedding[pairs + companion_of] - companion, dim=1)
    unit = (real.mean() + fake.mean()) / 2 + 1e-6
    return functional.softplus((real[None] - fake[:, None]) / unit).mean()
