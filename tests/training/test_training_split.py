from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from difffake.adapt.pseudo import held_out_rows
from difffake.errors import DataError
from difffake.training.split import split_people
from difffake.training.store import CropStore


def test_no_person_is_in_two_parts_and_every_row_in_one(store: CropStore) -> None:
    split = split_people(store, photo_shares=(0.5, 0.25, 0.25), clip_shares=(0.4, 0.3, 0.3))
    parts = [split.train, split.validate, split.fit]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(store)))
    people = [set(store.people[rows].tolist()) for rows in parts]
    assert not people[0] & people[1]
    assert not people[0] & people[2]
    assert not people[1] & people[2]


def test_a_person_stays_where_they_are_when_others_leave(store: CropStore) -> None:
    half = np.flatnonzero(store.people % 2 == 0)
    smaller = replace(
        store,
        crops=store.crops[half],
        landmarks=store.landmarks[half],
        people=store.people[half],
        is_video=store.is_video[half],
    )
    whole, part = split_people(store, seed=3), split_people(smaller, seed=3)
    assert set(half[part.train]) == set(whole.train) & set(half)
    assert set(half[part.fit]) == set(whole.fit) & set(half)


def test_seed_and_shares_decide(store: CropStore) -> None:
    first, second = (split_people(store, seed=seed, photo_shares=(0.5, 0, 0.5)) for seed in (1, 2))
    assert not np.array_equal(first.train, second.train)
    everyone = split_people(store, photo_shares=(1, 0, 0), clip_shares=(0, 0, 1))
    assert np.array_equal(everyone.train, np.flatnonzero(~store.is_video))
    assert np.array_equal(everyone.fit, np.flatnonzero(store.is_video))
    with pytest.raises(DataError, match="shares"):
        split_people(store, photo_shares=(0.5, 0.5, 0.5))


def test_rows_that_no_mask_fits_are_left_out(store: CropStore) -> None:
    landmarks = store.landmarks.copy()
    landmarks[0] = 5.0
    split = split_people(replace(store, landmarks=landmarks), photo_shares=(1, 0, 0))
    assert 0 not in split.train
    assert 1 in split.train


def test_a_head_learns_from_people_whom_the_bundle_says_it_has_not_seen(store: CropStore) -> None:
    trained = {"settings": {"seed": 7, "clip_shares": [0.2, 0.1, 0.7], "lr": 1e-3}}
    expected = split_people(store, seed=7, clip_shares=(0.2, 0.1, 0.7)).fit
    np.testing.assert_array_equal(held_out_rows(store, trained), expected)
    assert not np.isin(
        held_out_rows(store, trained), split_people(store, seed=7, clip_shares=(0.2, 0.1, 0.7)).train
    ).any()
    with pytest.raises(DataError, match=r"was trained with --clip-shares 0\.2 0\.1 0\.7, not 0\.5"):
        held_out_rows(store, trained, (0.5, 0.05, 0.45))
    # Bundles of before they said it.
    older = split_people(store, clip_shares=(0.4, 0.1, 0.5)).fit
    np.testing.assert_array_equal(held_out_rows(store, {"settings": {"seed": 0}}, (0.4, 0.1, 0.5)), older)
    with pytest.raises(DataError, match="settings of the training"):
        held_out_rows(store, {"settings": {"seed": "x"}})
