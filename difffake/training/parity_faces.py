"""Faces for compiling a network and for judging it, from a crop store: of different people, and as streams look.

Those who calibrate an int8 network, and those who look for layers that low precision spoils, train or validate; those
who judge were kept out of training, as in `fit`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError
from difffake.faces import CROP_SIDE_PX
from difffake.identity import align_identity
from difffake.parity import ParityFaces
from difffake.pseudofake import FaceBank, degrade, degrade_pairs, make_fake, usable_landmarks
from difffake.pseudofake.families import shares_of
from difffake.training.split import bank_of, split_people
from difffake.training.store import CropStore

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ParityFacesSettings:
    """How many faces are taken.

    Args:
        max_photos: photos, each with one fake.
        max_frames_per_clip: real frames of a clip, evenly spread.
        fakes_per_clip: families of fakes of each clip, one after the other.
        calibration: faces that calibrate int8.
        seed: of the draws, and of the division of people.
    """

    max_photos: int = 800
    max_frames_per_clip: int = 60
    fakes_per_clip: int = 2
    calibration: int = 300
    seed: int = 0


def parity_faces(store: CropStore, settings: ParityFacesSettings | None = None) -> ParityFaces:
    """Real faces of people kept out of training, with pseudo-fakes of the same frames.

    Clips stay as they are; a photo and its fake are degraded alike, as a stream would deliver them.

    Raises:
        DataError: the store holds no such people, or too few.
    """
    settings = settings or ParityFacesSettings()
    rows = split_people(store, seed=settings.seed).fit
    if len(np.unique(store.people[rows])) < 2:
        raise DataError(
            "the store holds fewer than two people who are kept out of training",
            hint="make it of more people: difffake crops",
        )
    rng = np.random.default_rng(settings.seed)
    bank = bank_of(store, rows)
    is_video, times_s = store.is_video[rows], np.nan_to_num(store.time_s[rows]).astype(np.float64)
    families = list(shares_of(bank))
    faces: list[U8] = []
    clip: list[int] = []
    time_s: list[float] = []
    family_of: list[int] = []

    def add(crops: U8, times: npt.NDArray[np.float64], family: int, number: int) -> None:
        faces.append(_inner(crops))
        clip.extend([number] * len(crops))
        time_s.extend(times.tolist())
        family_of.extend([family] * len(crops))

    number = 0
    for person in np.unique(bank.people[is_video]):
        frames = np.flatnonzero(is_video & (bank.people == person))
        frames = frames[np.argsort(times_s[frames], kind="stable")]
        frames = frames[np.unique(np.linspace(0, len(frames) - 1, settings.max_frames_per_clip).round().astype(int))]
        add(np.asarray(bank.crops[frames]), times_s[frames], 0, number)
        for step in range(min(settings.fakes_per_clip, len(families))):
            family = (number * settings.fakes_per_clip + step) % len(families)
            add(_fakes(bank, frames, families[family], rng), times_s[frames], 1 + family, number)
        number += 1
    photos = np.sort(rng.permutation(np.flatnonzero(~is_video))[: settings.max_photos])
    for start in range(0, len(photos), 64):  # degraded a batch at a time: many go through one encoder
        part = photos[start : start + 64]
        kinds = [(number + i) % len(families) for i in range(len(part))]
        fakes = np.concatenate([_fakes(bank, part[i : i + 1], families[k], rng) for i, k in enumerate(kinds)])
        pair = degrade_pairs(np.asarray(bank.crops[part]), fakes, rng)
        for i, kind in enumerate(kinds):
            add(pair[0][i : i + 1], np.zeros(1), 0, number)
            add(pair[1][i : i + 1], np.zeros(1), 1 + kind, number)
            number += 1
    return ParityFaces(
        np.concatenate(faces), np.array(clip, np.int64), np.array(time_s, np.float64), np.array(family_of, np.int64)
    )


def identity_parity_faces(store: CropStore, settings: ParityFacesSettings | None = None) -> ParityFaces:
    """Chips for an identity network: every clip of the store, and in each as many faces of others as impostors.

    The network was trained on none of them, so all clips judge. The chips are cut out of the stored crops.

    Raises:
        DataError: fewer than two clips.
    """
    settings = settings or ParityFacesSettings()
    rng = np.random.default_rng(settings.seed)
    rows = np.flatnonzero(store.is_video & usable_landmarks(store.landmarks, store.crops.shape[1]))
    people = store.people[rows]
    if len(np.unique(people)) < 2:
        raise DataError("the store holds fewer than two clips", hint="make it of more clips: difffake crops")
    chips = np.concatenate(
        [align_identity(np.ascontiguousarray(store.crops[row]), store.landmarks[row : row + 1]) for row in rows]
    )
    faces, clip, time_s, family = [], [], [], []
    for person in np.unique(people):
        own = np.flatnonzero(people == person)
        own = own[np.argsort(store.time_s[rows[own]], kind="stable")][: settings.max_frames_per_clip]
        others = rng.choice(np.flatnonzero(people != person), len(own))
        for part, kind in ((own, 0), (others, 1)):
            faces.append(chips[part])
            clip.append(np.full(len(part), person, np.int64))
            time_s.append(store.time_s[rows[own]].astype(np.float64))
            family.append(np.full(len(part), kind, np.int64))
    planes = np.ascontiguousarray(np.concatenate(faces).transpose(0, 3, 1, 2))
    return ParityFaces(planes, np.concatenate(clip), np.concatenate(time_s), np.concatenate(family))


def search_faces(store: CropStore, settings: ParityFacesSettings | None = None) -> ParityFaces:
    """Real faces that look for the layers which low precision spoils: clips of people who train or validate.

    None of them is among those of `parity_faces`.

    Raises:
        DataError: the store holds no clip of such people.
    """
    settings = settings or ParityFacesSettings()
    split = split_people(store, seed=settings.seed)
    rows = np.concatenate([split.train, split.validate])
    rows = rows[store.is_video[rows]]
    if not len(rows):
        raise DataError("the store holds no clip of people who train", hint="make it of more clips: difffake crops")
    return ParityFaces(
        _inner(np.asarray(store.crops[rows])),
        store.people[rows].astype(np.int64),
        store.time_s[rows].astype(np.float64),
        np.zeros(len(rows), np.int64),
    )


def calibration_faces(store: CropStore, settings: ParityFacesSettings | None = None) -> U8:
    """Faces of training people ``(N, 3, 224, 224) uint8``, degraded as by streams, every third one a fake.

    An int8 network must have seen the range of what it will meet, fakes among it.

    Raises:
        DataError: the store holds no training people, or one alone.
    """
    settings = settings or ParityFacesSettings()
    rows = split_people(store, seed=settings.seed).train
    if len(np.unique(store.people[rows])) < 2:
        raise DataError("the store holds fewer than two training people", hint="make it of more people: difffake crops")
    rng = np.random.default_rng(settings.seed + 1)
    # As many people as can be: a clip would fill the set with one face.
    order = rng.permutation(rows)
    first = np.unique(store.people[order], return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(order)), first)
    chosen = np.sort(order[np.concatenate([rng.permutation(first), rest])[: settings.calibration]])
    bank = bank_of(store, chosen)
    families = list(shares_of(bank))
    crops = np.array(bank.crops)
    for place, i in enumerate(range(0, len(chosen), 3)):
        crops[i] = make_fake(bank, i, families[place % len(families)], rng)
    return _inner(np.concatenate([degrade(crops[i : i + 64], rng) for i in range(0, len(crops), 64)]))


def _fakes(bank: FaceBank, rows: I64, family: str, rng: np.random.Generator) -> U8:
    # The same seed for every frame of a clip: one manipulation, not a new one in each frame.
    seed = int(rng.integers(2**31))
    return np.stack([make_fake(bank, int(i), family, np.random.default_rng(seed)) for i in rows])


def _inner(crops: U8) -> U8:
    """What the network sees of crops with a margin: ``(N, S, S, 3)`` to ``(N, 3, 224, 224)``."""
    margin = (crops.shape[1] - CROP_SIDE_PX) // 2
    inner = crops[:, margin : margin + CROP_SIDE_PX, margin : margin + CROP_SIDE_PX]
    return np.ascontiguousarray(inner.transpose(0, 3, 1, 2))
