"""People, never images, are divided: who trains, who validates, and who is kept for fitting and calibration."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError
from difffake.pseudofake import FaceBank, usable_landmarks
from difffake.training.store import CropStore

I64 = npt.NDArray[np.int64]

#: Shares of train, validate, fit. More clips than photos are kept for fitting: only footage shows natural change.
PHOTO_SHARES = (0.80, 0.05, 0.15)
CLIP_SHARES = (0.50, 0.10, 0.40)
#: What the commands divide filmed people by, unless they are told otherwise.
COMMAND_CLIP_SHARES = (0.50, 0.05, 0.45)


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of a crop store, ascending; no person has rows in two of them."""

    train: I64
    validate: I64
    fit: I64


def split_people(
    store: CropStore,
    *,
    seed: int = 0,
    photo_shares: tuple[float, float, float] = PHOTO_SHARES,
    clip_shares: tuple[float, float, float] = CLIP_SHARES,
) -> Split:
    """Divide the people of a store by a hash of seed and name.

    A person's part depends on nothing but these two: it stays the same when others come or go. People with at
    least one crop from a clip follow ``clip_shares``. Rows whose landmarks no mask fits are left out.

    Raises:
        DataError: shares that are negative or do not add up to 1.
    """
    for shares in (photo_shares, clip_shares):
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise DataError(f"shares {shares} of train, validate, fit", hint="three numbers that add up to 1")
    filmed = np.zeros(len(store.names), bool)
    filmed[store.people[store.is_video]] = True
    draws = np.array([_unit(seed, name) for name in store.names])
    edges = np.where(filmed[:, None], np.cumsum(clip_shares)[:2], np.cumsum(photo_shares)[:2])
    part = (draws[:, None] >= edges).sum(axis=1)[store.people]
    usable = usable_landmarks(store.landmarks, store.crops.shape[1])
    train, validate, fit = (np.flatnonzero((part == k) & usable) for k in range(3))
    return Split(train, validate, fit)


def shares_as_trained(
    known: tuple[float, float, float] | None, asked: tuple[float, float, float] | None
) -> tuple[float, float, float]:
    """The shares to find the people by whom a training has not seen.

    Args:
        known: what the training divided by, None where it did not write that down.
        asked: what the user says, None for nothing.

    Raises:
        DataError: the two differ: people who trained would be taken for people who did not.
    """
    if known is not None and asked is not None and known != asked:
        raise DataError(
            f"the extractor was trained with --clip-shares {' '.join(map(str, known))}, not "
            f"{' '.join(map(str, asked))}: people whom it has seen would be judged as people whom it has not",
            hint="leave --clip-shares out",
        )
    return known or asked or COMMAND_CLIP_SHARES


def bank_of(store: CropStore, rows: I64) -> FaceBank:
    """Copy rows of a store into memory (250 kB each): fakes are then made of these people's faces alone."""
    return FaceBank(np.asarray(store.crops[rows]), store.landmarks[rows], store.people[rows], store.generator)


def _unit(seed: int, name: str) -> float:
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
