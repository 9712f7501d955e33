"""Faces to judge and to calibrate compiled networks on."""

from __future__ import annotations

import numpy as np
import pytest

from difffake.errors import DataError
from difffake.faces import CROP_SIDE_PX
from difffake.identity import IDENTITY_SIDE_PX
from difffake.training.parity_faces import (
    ParityFacesSettings,
    calibration_faces,
    identity_parity_faces,
    parity_faces,
    search_faces,
)
from difffake.training.split import split_people
from difffake.training.store import CropStore


def test_judges_are_real_faces_and_fakes_of_the_same_clips(store: CropStore) -> None:
    found = parity_faces(store, ParityFacesSettings(max_photos=5, max_frames_per_clip=3, fakes_per_clip=2))
    assert found.faces.shape[1:] == (3, CROP_SIDE_PX, CROP_SIDE_PX)
    for clip in np.unique(found.clip):
        rows = found.clip == clip
        real, fake = rows & (found.family == 0), rows & (found.family > 0)
        # A clip comes with two families of fakes, a photo with one fake; each fake stands at the time of a real face.
        assert fake.sum() == real.sum() * (2 if real.sum() > 1 else 1)
        assert set(found.time_s[fake]) == set(found.time_s[real])
        assert (found.faces[fake][0] != found.faces[real][0]).any()
    assert max(np.bincount(found.clip[found.family == 0])) <= 3


def test_nobody_judges_who_calibrated(store: CropStore) -> None:
    """The people are divided as in training: calibration takes those whom the network knows, judging the others."""
    split = split_people(store)
    everyone = ParityFacesSettings(max_photos=10_000, calibration=10_000)
    judged, calibration = parity_faces(store, everyone), calibration_faces(store, everyone)
    assert (judged.family == 0).sum() == len(split.fit)
    assert len(calibration) == len(split.train)
    assert not set(store.people[split.fit]) & set(store.people[split.train])


def test_nobody_judges_who_looked_for_layers(store: CropStore) -> None:
    found, split = search_faces(store), split_people(store)
    people = {store.names[person] for person in np.unique(found.clip)}
    assert people
    assert people.isdisjoint(store.names[person] for person in np.unique(store.people[split.fit]))
    assert not found.family.any()
    assert np.isfinite(found.time_s).all()


def test_identity_is_judged_on_clips_and_impostors(store: CropStore) -> None:
    found = identity_parity_faces(store)
    assert found.faces.shape[1:] == (3, IDENTITY_SIDE_PX, IDENTITY_SIDE_PX)
    assert len(np.unique(found.clip)) == len(np.unique(store.people[store.is_video]))
    assert (found.family == 0).sum() == (found.family == 1).sum() == store.is_video.sum()


def test_the_same_seed_gives_the_same_faces(store: CropStore) -> None:
    small = ParityFacesSettings(max_photos=4, calibration=6)
    np.testing.assert_array_equal(parity_faces(store, small).faces, parity_faces(store, small).faces)
    np.testing.assert_array_equal(calibration_faces(store, small), calibration_faces(store, small))
    assert len(calibration_faces(store, small)) == 6


def test_says_when_a_store_holds_too_few_people(store: CropStore) -> None:
    one = CropStore(
        store.crops[:2], store.landmarks[:2], store.people[:2] * 0, store.names[:1], store.is_video[:2],
        store.time_s[:2], store.eye_distance_px[:2],
    )  # fmt: skip
    with pytest.raises(DataError, match="fewer than two"):
        parity_faces(one)
    with pytest.raises(DataError, match="fewer than two"):
        calibration_faces(one)
