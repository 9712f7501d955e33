from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny import IDENTITY_DIM, tiny_extractor, tiny_identity

from difffake.errors import DataError
from difffake.evaluation.recompress import Recompression, recompress
from difffake.faces import CenterFace, Faces
from difffake.training.identity_faces import (
    DEGRADED,
    ENCODES,
    MIN_TRACK,
    ORIGINAL,
    IdentityFaces,
    embed_clips,
    embed_photos,
    several_photos,
)
from difffake.training.identity_trials import stream_trials
from difffake.training.store import CropStore
from engines.contract import Engine
from engines.onnx import OnnxEngine


@pytest.fixture(scope="module")
def identity_engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("network") / "identity.onnx"
    path.write_bytes(tiny_identity())
    return OnnxEngine(path, threads=1)


@pytest.fixture(scope="module")
def observed(
    clips: dict[str, Path], identity_engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> tuple[IdentityFaces, Counter[str]]:
    """Four seconds of a woman, in a folder of her name, beside a clip without a face."""
    folder = tmp_path_factory.mktemp("clips")
    recompress(clips["woman"], folder / "clips" / "Ann" / "talk.mp4", Recompression(crf=18), stop_s=4.0)
    recompress(clips["no_face"], folder / "clips" / "nobody.mp4", Recompression(crf=18), stop_s=1.0)
    extractor = folder / "extractor.onnx"
    extractor.write_bytes(tiny_extractor())
    skipped, shares = Counter[str](), list[float]()
    faces = embed_clips(
        [folder / "clips"],
        CenterFace(320, threads=1),
        OnnxEngine(extractor, threads=1),
        identity_engine,
        skipped=skipped,
        progress=shares.append,
    )
    assert shares == [0.5, 1.0]
    return faces, skipped


class FoundWhereTheyWere:
    """Finds the faces of a store's crops at the template, but loses every third."""

    def __init__(self, landmarks: np.ndarray) -> None:
        self._landmarks, self._calls = landmarks, 0

    def detect(self, images: list[np.ndarray]) -> list[Faces]:
        found = []
        for _ in images:
            self._calls += 1
            points = self._landmarks[:1] + (0 if self._calls % 3 else 200)
            found.append(Faces(np.array([[80, 80, 200, 240]], np.float32), points, np.ones(1, np.float32)))
        return found


def test_a_clip_is_seen_in_every_delivery(observed: tuple[IdentityFaces, Counter[str]]) -> None:
    faces, _ = observed
    assert set(faces.delivery.tolist()) == {ORIGINAL, *map(str, ENCODES)}
    assert set(faces.people.tolist()) == {"clips/Ann"}
    assert faces.identity.shape == (len(faces), IDENTITY_DIM)
    assert np.isfinite(faces.identity).all()
    assert faces.is_video.all()
    times = {d: faces.time_s[faces.delivery == d] for d in np.unique(faces.delivery)}
    for own in times.values():
        assert len(own) >= MIN_TRACK - 2
        np.testing.assert_array_less(0, np.diff(own))
        # The same moments in every delivery: they are one face of one clip.
        assert np.abs(own[:, None] - times[ORIGINAL][None]).min(axis=1).max() < 0.125
    assert stream_trials(faces)


def test_encoding_changes_an_identity_but_little(observed: tuple[IdentityFaces, Counter[str]]) -> None:
    faces, _ = observed
    original = faces.identity[faces.delivery == ORIGINAL].mean(axis=0)
    for encode in map(str, ENCODES):
        encoded = faces.identity[faces.delivery == encode].mean(axis=0)
        assert 0 < np.linalg.norm(encoded - original) < 0.2 * np.linalg.norm(original)


def test_a_clip_without_a_face_is_left_out_and_counted(observed: tuple[IdentityFaces, Counter[str]]) -> None:
    _, skipped = observed
    assert len(skipped) == 1
    assert next(iter(skipped)).startswith("nobody.mp4")


def test_photos_are_seen_plain_and_degraded_unless_the_face_is_lost(store: CropStore, identity_engine: Engine) -> None:
    rows = several_photos(store)
    detector = FoundWhereTheyWere(store.landmarks)
    faces = embed_photos(store, rows, detector, identity_engine, np.random.default_rng(0))
    plain, degraded = faces[faces.delivery == ORIGINAL], faces[faces.delivery == DEGRADED]
    assert plain.footage.tolist() == rows.tolist()
    assert plain.people.tolist() == store.person_names()[rows].tolist()
    assert not faces.is_video.any()
    assert len(degraded) == len(rows) - len(rows) // 3
    assert set(degraded.footage.tolist()) < set(rows.tolist())
    again = embed_photos(store, rows, FoundWhereTheyWere(store.landmarks), identity_engine, np.random.default_rng(0))
    np.testing.assert_array_equal(again.identity, faces.identity)


def test_only_people_with_several_photos_show_natural_change(store: CropStore) -> None:
    rows = several_photos(store)
    names = store.person_names()[rows]
    assert not store.is_video[rows].any()
    assert all(np.sum(names == name) > 1 for name in np.unique(names))


def test_embeddings_are_kept_exactly(observed: tuple[IdentityFaces, Counter[str]], tmp_path: Path) -> None:
    faces, _ = observed
    faces.save(tmp_path / "faces.npz")
    again = IdentityFaces.load(tmp_path / "faces.npz")
    for name in IdentityFaces.__slots__:
        np.testing.assert_array_equal(getattr(again, name), getattr(faces, name))


def test_faces_of_another_network_are_not_taken(observed: tuple[IdentityFaces, Counter[str]], tmp_path: Path) -> None:
    faces, _ = observed
    kept = tmp_path / "kept"  # as it was called, without another ending
    faces.save(kept, network="abc")
    assert len(IdentityFaces.load(kept, network="abc")) == len(faces)
    with pytest.raises(DataError, match="another network"):
        IdentityFaces.load(kept, network="def")
    faces.save(kept)  # as those of before were
    assert len(IdentityFaces.load(kept, network="def")) == len(faces)


@pytest.mark.parametrize("damage", ["nothing there", "no npz", "an array is missing", "rows differ"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "faces.npz"
    arrays = {
        "identity": np.zeros((3, 2), np.float32), "people": np.array(["a", "b", "c"]), "footage": np.arange(3),
        "track": np.zeros(3, np.int64), "delivery": np.full(3, ORIGINAL), "time_s": np.zeros(3),
    }  # fmt: skip
    if damage == "no npz":
        path.write_bytes(b"PK not really")
    elif damage == "an array is missing":
        np.savez(path, **{k: v for k, v in arrays.items() if k != "track"})
    elif damage == "rows differ":
        np.savez(path, **arrays | {"time_s": np.zeros(2)})
    with pytest.raises(DataError, match=r"faces\.npz"):
        IdentityFaces.load(path)


def test_footage_without_any_face_cannot_be_used(tmp_path: Path, identity_engine: Engine) -> None:
    with pytest.raises(DataError, match="no face"):
        embed_clips([tmp_path], CenterFace(320, threads=1), identity_engine, identity_engine)
