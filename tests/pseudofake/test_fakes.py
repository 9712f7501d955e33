"""Families: what a pseudo-fake changes, and above all what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from difffake.errors import DataError
from difffake.pseudofake import (
    FAMILIES,
    FaceBank,
    FaceGenerator,
    contact_sheet,
    decoder_of,
    draw_family,
    fit_decoder,
    make_fake,
    usable_landmarks,
    write_contact_sheets,
)

SIDE = 288
TEMPLATE = np.array([[112, 121], [175, 121], [144, 158], [118, 192], [170, 192]], np.float32)


def draw_bank(count: int, seed: int = 0, people: int | None = None, generator: FaceGenerator | None = None) -> FaceBank:
    """Drawn faces: skin, eyes and mouth of their own over a noisy background."""
    rng = np.random.default_rng(seed)
    landmarks = (TEMPLATE + rng.normal(0, 2, size=(count, 5, 2))).astype(np.float32)
    crops = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for row, points in enumerate(landmarks):
        rough = rng.integers(40, 200, size=(36, 36, 3), dtype=np.uint8)
        canvas = np.asarray(cv2.resize(rough, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)
        skin = tuple(int(v) for v in rng.integers(90, 220, size=3))
        cv2.ellipse(canvas, (144, 150), (70, 100), 0, 0, 360, skin, -1)
        for x, y in points[:2]:
            cv2.circle(canvas, (int(x), int(y)), int(rng.integers(5, 9)), (20, 20, 30), -1)
        cv2.line(canvas, tuple(points[3].astype(int)), tuple(points[4].astype(int)), (150, 30, 40), 5)
        grain = rng.normal(0, 4, size=canvas.shape)
        crops[row] = np.clip(canvas + grain, 0, 255).astype(np.uint8)
    owners = np.arange(count) % (people or count)
    return FaceBank(crops, landmarks, owners.astype(np.int32), generator)


@pytest.fixture(scope="module")
def bank(generator: FaceGenerator) -> FaceBank:
    return draw_bank(40, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_face_changes_and_it_does(bank: FaceBank, family: str) -> None:
    rng = np.random.default_rng(5)
    seen = np.zeros((SIDE, SIDE), bool)
    strongest = []
    for index in range(len(bank)):
        before = bank.crops[index].copy()
        fake = make_fake(bank, index, family, rng)
        assert fake.shape == (SIDE, SIDE, 3)
        assert fake.dtype == np.uint8
        assert np.array_equal(bank.crops[index], before), "the bank itself must not change"
        difference = np.abs(fake.astype(int) - before).max(axis=2)
        changed = difference > 0
        seen |= changed
        strongest.append(np.percentile(difference[changed], 90) if changed.any() else 0.0)
    # A face reaches about a third of the crop around its centre; the rim of the crop is never touched.
    rim = np.ones((SIDE, SIDE), bool)
    rim[20:-20, 20:-20] = False
    assert not (seen & rim).any()
    assert min(strongest) >= 2
    assert np.median(strongest) >= 6


@pytest.mark.parametrize("family", FAMILIES)
def test_outside_the_mask_is_the_source_bit_by_bit(
    bank: FaceBank, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from difffake.pseudofake import paste

    masks = []
    real_blend = paste.blend
    monkeypatch.setattr(paste, "blend", lambda *args, **how: (masks.append(args[2]), real_blend(*args, **how))[1])
    rng = np.random.default_rng(9)
    for index in range(12):
        fake = make_fake(bank, index, family, rng)
        outside = masks[-1].full(SIDE) == 0
        assert outside.mean() > 0.3
        assert np.array_equal(fake[outside], bank.crops[index][outside])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_decides_everything(bank: FaceBank, family: str) -> None:
    first = make_fake(bank, 3, family, np.random.default_rng(1))
    again = make_fake(draw_bank(40, generator=bank.generator), 3, family, np.random.default_rng(1))
    other = make_fake(bank, 3, family, np.random.default_rng(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_swap_takes_another_persons_face(bank: FaceBank) -> None:
    rng = np.random.default_rng(0)
    assert all(bank.people[bank.donor(0, rng)] != bank.people[0] for _ in range(50))
    one_other = draw_bank(30, people=30)
    one_other.people[:29] = 7
    one_other.people[29] = 8
    assert one_other.donor(0, rng, candidates=1) == 29


def test_a_bank_of_one_person_cannot_swap(generator: FaceGenerator) -> None:
    alone = draw_bank(12, people=1, generator=generator)
    with pytest.raises(DataError, match="two people") as caught:
        make_fake(alone, 0, "cross_swap", np.random.default_rng(0))
    assert "other people" in caught.value.hint
    for family in set(FAMILIES) - {"cross_swap"}:
        assert make_fake(alone, 0, family, np.random.default_rng(0)).shape == (SIDE, SIDE, 3)


def test_decoder_keeps_the_strongest_directions_and_cannot_remember(bank: FaceBank) -> None:
    decoder = fit_decoder(bank, np.random.default_rng(0))
    assert decoder.basis.shape == (len(bank) // 3, decoder.mean.size)
    assert np.allclose(decoder.basis @ decoder.basis.T, np.eye(len(decoder.basis)), atol=1e-4)
    assert (np.diff(decoder.scale) <= 1e-3).all()
    same = fit_decoder(bank, np.random.default_rng(0))
    assert np.array_equal(decoder.basis, same.basis)
    assert decoder_of(bank) is decoder_of(bank)
    with pytest.raises(DataError, match="5 faces"):
        fit_decoder(draw_bank(5), np.random.default_rng(0))


def test_more_components_decode_closer(bank: FaceBank) -> None:
    from difffake.pseudofake.decoder import take_patch

    decoder = decoder_of(bank)
    patch = take_patch(bank.crop(0), bank.landmarks[0])
    errors = [
        float(np.square(decoder.decode(decoder.encode(patch, k)).astype(float) - patch).mean()) for k in (1, 5, 13)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_shares_are_followed() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_family(rng) for _ in range(4000)]
    for name, family in FAMILIES.items():
        assert drawn.count(name) / 4000 == pytest.approx(family.share, abs=0.03)
    assert sum(family.share for family in FAMILIES.values()) == pytest.approx(1)
    assert {draw_family(rng, {"decoder": 2.0, "cross_swap": 0.0}) for _ in range(50)} == {"decoder"}


@pytest.mark.parametrize("shares", [{}, {"decoder": 0.0}, {"decoder": -1.0}, {"no_such": 1.0}, {"decoder": np.nan}])
def test_wrong_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(DataError):
        draw_family(np.random.default_rng(0), shares)


def test_unknown_family_and_index_are_refused(bank: FaceBank) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="no family") as caught:
        make_fake(bank, 0, "magic", rng)
    assert "cross_swap" in caught.value.hint
    for index in (-1, len(bank)):
        with pytest.raises(DataError, match="no face"):
            make_fake(bank, index, "decoder", rng)


def test_the_bank_refuses_arrays_that_do_not_fit(bank: FaceBank) -> None:
    crops, landmarks, people = bank.crops, bank.landmarks, bank.people
    wrong = [
        (crops[0], landmarks, people),
        (crops[:, :200], landmarks, people),
        (crops.astype(np.float32), landmarks, people),
        (crops, landmarks[:-1], people),
        (crops, landmarks.astype(np.float64), people),
        (crops, landmarks, people[:-1]),
        (crops, landmarks, people.astype(np.int64)),
        (crops[:0], landmarks[:0], people[:0]),
        (crops[:, :32, :32], landmarks, people),
    ]
    for arrays in wrong:
        with pytest.raises(DataError):
            FaceBank(*arrays)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda points: points * 0 + 50,  # all in one place
        lambda points: np.full_like(points, np.nan),
        lambda points: points + 200,  # outside the crop
        lambda points: points * [1, 0.01] + [0, 100],  # on one line
        lambda points: points * [1, -1] + [0, SIDE],  # mirrored: the mouth above the eyes
    ],
)
def test_degenerate_landmarks_are_named(bank: FaceBank, spoil: object) -> None:
    assert callable(spoil)
    landmarks = bank.landmarks.copy()
    landmarks[4] = spoil(landmarks[4])
    with pytest.raises(DataError, match="degenerate landmarks in 1 of 40 crops, first at row 4") as caught:
        FaceBank(bank.crops, landmarks, bank.people)
    assert "usable_landmarks" in caught.value.hint
    assert np.flatnonzero(~usable_landmarks(landmarks, SIDE)).tolist() == [4]


def test_a_bank_may_be_a_memory_map(bank: FaceBank, tmp_path: Path) -> None:
    np.save(tmp_path / "crops.npy", bank.crops)
    mapped = np.load(tmp_path / "crops.npy", mmap_mode="r", allow_pickle=False)
    on_disk = FaceBank(mapped, bank.landmarks, bank.people, bank.generator)
    for family in FAMILIES:
        fakes = [make_fake(b, 2, family, np.random.default_rng(3)) for b in (bank, on_disk)]
        assert np.array_equal(*fakes)


def test_contact_sheets(bank: FaceBank, tmp_path: Path) -> None:
    sheet = contact_sheet(bank, "cross_swap", np.random.default_rng(0), n=6)
    assert sheet.shape == (2 * 116, 4 * 228, 3)
    left, right = sheet[:112, :112].astype(int), sheet[:112, 112:224].astype(int)
    assert 0 < np.abs(left - right).mean() < 60
    paths = write_contact_sheets(bank, tmp_path / "sheets", n=4)
    assert [path.stem for path in paths] == [*FAMILIES, "degrade"]
    for path in paths:
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture.shape == (116, 912, 3)
    with pytest.raises(DataError):
        contact_sheet(bank, "decoder", np.random.default_rng(0), n=0)
    with pytest.raises(DataError):
        contact_sheet(bank, "magic", np.random.default_rng(0), n=2)
