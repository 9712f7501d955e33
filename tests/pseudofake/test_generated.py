"""Pictures with a camera behind them, faces with another past, and faces that a learned generator draws."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_fakes import SIDE, draw_bank

from difffake.errors import DataError
from difffake.pseudofake import (
    FAMILIES,
    FaceBank,
    FaceGenerator,
    Mask,
    capture,
    draw_family,
    make_fake,
    make_pair,
    paste,
    shares_of,
)
from difffake.pseudofake.generator import FACE_PX, face_to_crop, take_face
from difffake.pseudofake.masks import fit_canonical


@pytest.fixture(scope="module")
def bank(generator: FaceGenerator) -> FaceBank:
    return draw_bank(30, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_shares_its_camera(bank: FaceBank, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    blend = paste.blend
    monkeypatch.setattr(paste, "blend", lambda *args, **how: (masks.append(args[2]), blend(*args, **how))[1])
    rng = np.random.default_rng(4)
    changed = 0
    for index in range(10):
        real, fake = make_pair(bank, index, family, rng, captured=1.0)
        outside = masks[-1].full(SIDE) == 0
        assert np.array_equal(real[outside], fake[outside])
        assert not np.array_equal(real, fake)
        changed += not np.array_equal(real, bank.crops[index])
    assert changed >= 6, "a camera leaves a trace more often than not"
    untouched, _ = make_pair(bank, 0, family, rng, captured=0.0)
    assert np.array_equal(untouched, bank.crops[0])


def test_a_pair_is_a_function_of_its_seed(bank: FaceBank) -> None:
    for family in ("history", "neural_swap", "neural_redraw"):
        first, again, other = (make_pair(bank, 2, family, np.random.default_rng(seed)) for seed in (7, 7, 8))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not np.array_equal(first[1], other[1])


def test_a_pair_names_what_is_wrong(bank: FaceBank) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="no family"):
        make_pair(bank, 0, "magic", rng)
    with pytest.raises(DataError, match="no face"):
        make_pair(bank, len(bank), "history", rng)


def test_a_camera_keeps_the_picture_and_its_layout(bank: FaceBank) -> None:
    rng = np.random.default_rng(1)
    for index in range(12):
        before = bank.crop(index)
        seen = capture(before, rng)
        assert seen.shape == before.shape
        assert seen.dtype == np.uint8
        assert np.corrcoef(seen[::4, ::4].ravel(), before[::4, ::4].ravel())[0, 1] > 0.9
        assert abs(float(seen.mean()) - float(before.mean())) < 8
    assert np.array_equal(*(capture(bank.crop(3), np.random.default_rng(5)) for _ in range(2)))


@pytest.mark.parametrize("two_bands", [False, True])
def test_blending_ends_where_the_mask_ends(two_bands: bool) -> None:
    rng = np.random.default_rng(0)
    crop, source = (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2))
    alpha = np.zeros((40, 40), np.float32)
    alpha[5:35, 5:35] = 0.5
    alpha[12:28, 12:28] = 1.0
    fake, change = paste.blend(crop, source[:40, :40], Mask(alpha, left=10, top=12), two_bands=two_bands)
    inside = Mask(alpha, left=10, top=12).full(64)
    assert np.array_equal(fake[inside == 0], crop[inside == 0])
    assert np.abs(fake[inside == 1].astype(int) - source[:40, :40][alpha == 1]).max() <= 1
    assert change > 20


def test_drawing_families_are_for_banks_with_a_generator(bank: FaceBank) -> None:
    plain = draw_bank(8)
    assert set(shares_of(bank)) == set(FAMILIES)
    assert set(shares_of(bank)) - set(shares_of(plain)) == {"neural_swap", "neural_redraw"}
    rng = np.random.default_rng(0)
    assert {draw_family(rng, shares_of(plain)) for _ in range(200)} <= set(shares_of(plain))
    for family in ("neural_swap", "neural_redraw"):
        with pytest.raises(DataError, match="the face bank has none") as caught:
            make_fake(plain, 0, family, rng)
        assert "train-generator" in caught.value.hint


def test_a_donors_picture_is_never_pasted_as_a_square() -> None:
    rng = np.random.default_rng(0)
    foreign = {shape for _ in range(100) for shape in paste.swap_shapes(rng, foreign=True)}
    own = {shape for _ in range(100) for shape in paste.swap_shapes(rng, foreign=False)}
    assert own - foreign == {"square"}
    assert {"mouth", "face"} <= foreign


def test_history_moves_nothing(bank: FaceBank) -> None:
    """Only texture changes: what is left after a blur stays where it was."""
    import cv2

    rng = np.random.default_rng(3)
    for index in range(10):
        fake = make_fake(bank, index, "history", rng)
        coarse = [cv2.GaussianBlur(picture, (0, 0), 6).astype(int) for picture in (fake, bank.crops[index])]
        assert np.abs(coarse[0] - coarse[1]).mean() < 2


def test_a_face_goes_out_and_back_to_where_it_was(bank: FaceBank) -> None:
    import cv2

    landmarks = bank.landmarks[4]
    for span in (2.2, 3.0):
        face = take_face(bank.crop(4), landmarks, span=span)
        assert face.shape == (FACE_PX, FACE_PX, 3)
        back = cv2.warpAffine(face, face_to_crop(landmarks, span=span), (SIDE, SIDE))
        where = cv2.warpAffine(
            np.full((FACE_PX, FACE_PX), 255, np.uint8), face_to_crop(landmarks, span=span), (SIDE, SIDE)
        )
        there = where == 255
        difference = cv2.GaussianBlur(back, (0, 0), 3).astype(int) - cv2.GaussianBlur(bank.crop(4), (0, 0), 3)
        assert np.abs(difference[there]).mean() < 4
    # Eyes lie level and symmetric in the square, whatever the crop.
    to_face = np.linalg.inv(np.vstack([face_to_crop(landmarks), [0, 0, 1]]))
    eyes = fit_canonical(landmarks) @ np.array([[-0.5, 0.5], [0, 0], [1, 1]])
    at = to_face @ np.vstack([eyes, [1, 1]])
    assert at[0].sum() == pytest.approx(FACE_PX - 1, abs=0.01)
    assert at[1, 0] == pytest.approx(at[1, 1], abs=0.01)


def test_a_generator_draws_what_it_is_told(generator: FaceGenerator) -> None:
    face, donor = (np.random.default_rng(i).integers(0, 256, (FACE_PX, FACE_PX, 3), dtype=np.uint8) for i in range(2))
    for drawn in (generator.swap(face, donor, 1.0), generator.redraw(face)):
        assert drawn.shape == (FACE_PX, FACE_PX, 3)
        assert drawn.dtype == np.uint8
    assert np.array_equal(generator.swap(face, donor, 0.0), generator.swap(face, face, 1.0))


def _copy(generator: FaceGenerator, folder: Path) -> Path:
    folder.mkdir()
    (folder / "generator.json").write_bytes(msgspec.json.encode(generator.manifest))
    for name, data in generator.networks.items():
        (folder / f"{name}.onnx").write_bytes(data)
    return folder


def test_files_that_are_not_its_own_are_refused(generator: FaceGenerator, tmp_path: Path) -> None:
    assert FaceGenerator.load(_copy(generator, tmp_path / "good")).manifest == generator.manifest
    changed = _copy(generator, tmp_path / "changed")
    data = bytearray((changed / "swapper.onnx").read_bytes())
    data[-1] ^= 1
    (changed / "swapper.onnx").write_bytes(data)
    with pytest.raises(DataError, match="not the file of its manifest"):
        FaceGenerator.load(changed)
    missing = _copy(generator, tmp_path / "missing")
    (missing / "redrawer.onnx").unlink()
    broken = _copy(generator, tmp_path / "broken")
    (broken / "generator.json").write_text("{}")
    for folder in (missing, broken, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="holds no face generator") as caught:
            FaceGenerator.load(folder)
        assert "train-generator" in caught.value.hint
