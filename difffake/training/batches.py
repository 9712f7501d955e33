"""Batches of real crops and the fakes made from them, each a function of seed and step alone."""

from __future__ import annotations

import copy
import math
import signal
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from difffake.errors import DataError
from difffake.faces import CROP_SIDE_PX
from difffake.pseudofake import (
    FAMILIES,
    FaceBank,
    capture,
    decoder_of,
    degrade_companions,
    degrade_pairs,
    draw_family,
    make_pair,
    shares_of,
)
from difffake.training.companions import Companions
from difffake.training.settings import TrainSettings

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

#: Jitter of scale, rotation (degrees) and position (share of the side); about what a detector's noise does.
SCALE, ROTATION_DEG, SHIFT = 0.08, 8.0, 0.04
#: Eyes so far apart in the original make a photo sharp: a stored crop holds little more.
SHARP_PX = 55.0
MIN_CROPS, MIN_PEOPLE = 6, 2


@dataclass(frozen=True, slots=True)
class Draw:
    """Draws crops so that people, not images, come up evenly, and clips as often as asked."""

    photos: list[I64]
    clips: list[I64]
    video_share: float
    sharp: list[I64] = field(default_factory=list)
    sharp_share: float = 0.0

    @staticmethod
    def of(
        people: npt.NDArray[np.int32],
        is_video: npt.NDArray[np.bool_],
        video_share: float,
        eye_distance_px: F32 | None = None,
        sharp_share: float = 0.0,
    ) -> Draw:
        """Group the rows ``(N,)`` of a bank by person, photos, sharp photos and clips apart."""
        sharp = ~is_video if eye_distance_px is None else ~is_video & (eye_distance_px >= SHARP_PX)
        return Draw(
            _by_person(people, ~is_video), _by_person(people, is_video), video_share, _by_person(people, sharp),
            sharp_share,
        )  # fmt: skip

    def rows(self, count: int, rng: np.random.Generator) -> I64:
        """Draw ``count`` rows."""
        share = self.video_share if self.photos else 1.0
        from_clips = rng.random(count) < (share if self.clips else 0.0)
        rows = np.empty(count, np.int64)
        for i, clip in enumerate(from_clips):
            groups = self.clips if clip else self.photos
            if not clip and self.sharp and self.sharp_share and rng.random() < self.sharp_share:
                groups = self.sharp
            rows[i] = rng.choice(groups[rng.integers(len(groups))])
        return rows


def _by_person(people: npt.NDArray[np.int32], mask: npt.NDArray[np.bool_]) -> list[I64]:
    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(people[rows], kind="stable")]
    if not len(rows):
        return []
    return np.split(rows, np.flatnonzero(np.diff(people[rows])) + 1)


def draw_jitter(store_px: int, side_px: int, rng: np.random.Generator) -> F32:
    """A matrix ``(2, 3)`` from the pixels of a stored crop to a jittered, perhaps mirrored one of ``side_px``."""
    scale = math.exp(rng.uniform(-SCALE, SCALE)) * side_px / 224
    angle = math.radians(rng.uniform(-ROTATION_DEG, ROTATION_DEG))
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    shift = rng.uniform(-SHIFT, SHIFT, size=2) * side_px
    middle = np.full(2, (store_px - 1) / 2)
    return np.hstack([linear, ((side_px - 1) / 2 + shift - linear @ middle)[:, None]]).astype(np.float32)


def centre_matrix(store_px: int, side_px: int) -> F32:
    """The matrix ``(2, 3)`` without jitter: the middle of a stored crop, as the network sees it in use."""
    scale = side_px / 224
    shift = (side_px - 1) / 2 - scale * (store_px - 1) / 2
    return np.array([[scale, 0, shift], [0, scale, shift]], np.float32)


def centre_view(crops: U8, side_px: int) -> U8:
    """The middles of stored crops ``(N, M, M, 3)`` as a network of ``side_px`` sees them in use: ``(N, S, S, 3)``."""
    store_px = crops.shape[1]
    if side_px == CROP_SIDE_PX:
        margin = (store_px - side_px) // 2
        return crops[:, margin : margin + side_px, margin : margin + side_px]
    matrix = centre_matrix(store_px, side_px)
    return np.stack([warp(crop, matrix, side_px) for crop in crops])


def warp(crop: U8, matrix: F32, side_px: int) -> U8:
    """Resample a crop to ``(side_px, side_px, 3) uint8``; beyond its border lies its mirror image."""
    flags = cv2.INTER_LINEAR
    size = (side_px, side_px)
    return np.asarray(cv2.warpAffine(crop, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


class Batch(NamedTuple):
    """One step's faces.

    Attributes:
        faces: ``(2 B + C, 3, S, S) uint8``: B real ones, the fakes made from them in the same order, and C companions:
            other genuine frames of the same clips, none unless `TrainSettings.consistency_weight` asks for them.
        families: ``(B,) int64`` of the fakes, indices into `FAMILIES`.
        companion_of: ``(C,) int64``, which of the B pairs each companion belongs to.
    """

    faces: Tensor
    families: Tensor
    companion_of: Tensor


class PairBatches(Dataset[Batch]):
    """Item ``step`` is the `Batch` of that step.

    Raises:
        DataError: too few crops or people to make fakes from, unknown families, or consistency asked for and no clips.
    """

    def __init__(
        self,
        bank: FaceBank,
        is_video: npt.NDArray[np.bool_],
        eye_distance_px: F32,
        settings: TrainSettings,
        companions: Companions | None = None,
    ) -> None:
        check_bank(bank, "train on")
        self._shares = settings.families or shares_of(bank)
        draw_family(np.random.default_rng(0), self._shares)
        if bank.generator is None and any(FAMILIES[name].drawn for name, share in self._shares.items() if share):
            raise DataError(
                "families of these fakes are drawn by a learned generator, and the crop store has none",
                hint="difffake train-generator STORE comes first, or choose other families",
            )
        self._companions = companions if settings.consistency_weight else None
        if self._companions is not None:
            self._companions.check()
        decoder_of(bank)
        self._bank = bank
        self._settings = settings
        self._draw = Draw.of(bank.people, is_video, settings.video_share, eye_distance_px, settings.sharp_share)

    def __getitem__(self, step: int) -> Batch:
        settings, bank = self._settings, self._bank
        rng = np.random.default_rng([settings.seed, step])
        # Companions draw from a generator of their own: the pairs are the same with and without them.
        aside = np.random.default_rng([settings.seed, step, 1])
        beside: list[U8] = []
        companion_of: list[int] = []
        side, pairs = settings.side_px, settings.batch_pairs
        real, fake = (np.empty((pairs, side, side, 3), np.uint8) for _ in range(2))
        families = np.empty(pairs, np.int64)
        names = list(FAMILIES)
        for i, row in enumerate(self._draw.rows(pairs, rng)):
            family = draw_family(rng, self._shares)
            families[i] = names.index(family)
            # The same matrix for both: where a face lies must not tell whether it is real.
            matrix = draw_jitter(bank.side_px, side, rng)
            other = self._companions.draw(int(row), aside) if self._companions is not None else None
            if other is not None:
                beside.append(warp(self._seen(other, copy.deepcopy(rng)), matrix, side))
                companion_of.append(i)
            pair = make_pair(bank, int(row), family, rng, captured=settings.captured)
            real[i], fake[i] = (warp(crop, matrix, side) for crop in pair)
        strength, as_it_was = settings.degrade_strength, copy.deepcopy(rng)
        parts = list(degrade_pairs(real, fake, rng, strength=strength))
        rows = np.array(companion_of, np.int64)
        if beside:
            parts.append(degrade_companions(np.stack(beside), rows, pairs, as_it_was, strength=strength))
        return Batch(to_tensor(np.concatenate(parts)), torch.from_numpy(families), torch.from_numpy(rows))

    def _seen(self, row: int, rng: np.random.Generator) -> U8:
        """A companion as the camera of its pair delivers it, given a copy of what `make_pair` will draw from."""
        crop = self._bank.crop(row)
        return capture(crop, rng, another=True) if rng.random() < self._settings.captured else crop


def check_bank(bank: FaceBank, use: str) -> None:
    """Raise DataError for a bank with too little in it."""
    people = len(np.unique(bank.people))
    if len(bank) < MIN_CROPS or people < MIN_PEOPLE:
        raise DataError(
            f"{len(bank)} usable crops of {people} people are too few to {use}",
            hint=f"give at least {MIN_CROPS} crops of {MIN_PEOPLE} people; a few thousand make a useful model",
        )


def to_tensor(images: U8) -> Tensor:
    """``(N, S, S, 3) uint8`` as ``(N, 3, S, S)`` in the channels-last layout, which is what it lies in already."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def loader(batches: PairBatches, first: int, end: int, workers: int) -> DataLoader[Batch]:
    """Batches of the steps ``first`` to ``end - 1``, in order, whatever the number of workers.

    Workers are forked: they share the bank's memory and the fitted face decoder.
    """
    if workers:
        # Ends OpenCV's thread pool here: a forked child that touched it would wait for threads that it has not got.
        cv2.setNumThreads(1)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, end),
        num_workers=workers,
        worker_init_fn=_start_worker if workers else None,
        multiprocessing_context="fork" if workers else None,
        prefetch_factor=4 if workers else None,
    )


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Such signals may go to the whole group: only the trainer answers, and it needs its next batch. A worker whose
    # trainer is gone notices by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
