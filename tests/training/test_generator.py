"""Training of face generators, on drawn faces and for seconds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run

from difffake.errors import DataError, OutputError
from difffake.pseudofake import FaceGenerator
from difffake.training import generator
from difffake.training.generator import FacePairs, GeneratorSettings, train_generator
from difffake.training.generator_net import Redrawer, Swapper, drawing_loss
from difffake.training.split import bank_of
from difffake.training.store import GENERATOR_FOLDER, CropStore

SETTINGS = GeneratorSettings(minutes=0.03, batch=4, precision="fp32")


def test_a_store_keeps_its_generator_and_banks_carry_it(store: CropStore, tmp_path: Path) -> None:
    from faces_on_disk import drawn_store

    drawn_store(tmp_path / "store", people=4, photos=2, clips=0)
    assert CropStore.load(tmp_path / "store").generator is None
    told = []
    rows = np.arange(len(store))
    made = train_generator(store, rows, tmp_path / "store" / GENERATOR_FOLDER, SETTINGS, lambda *now: told.append(now))
    assert made.steps == len(told) > 0
    assert made.people == len(store.names)
    again = CropStore.load(tmp_path / "store")
    assert again.generator is not None
    assert again.generator.manifest == made
    bank = bank_of(again, np.arange(len(again)))
    assert isinstance(bank.generator, FaceGenerator)


def test_a_generator_that_was_torn_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from faces_on_disk import drawn_store

    folder = tmp_path / "store"
    drawn_store(folder, people=30, photos=2, clips=0)
    (folder / GENERATOR_FOLDER).mkdir()
    (folder / GENERATOR_FOLDER / "swapper.onnx").write_bytes(b"half")
    make = ["train-generator", folder, "--minutes", "0.03", "--threads", "1", "--clip-shares", "0.4", "0.1", "0.5"]
    assert run(*make) == 0
    made = CropStore.load(folder).generator
    assert made is not None
    assert (made.manifest.seed, made.manifest.clip_shares) == (0, (0.4, 0.1, 0.5))
    # Who is held out by the run must be held out from its generator.
    assert run("train", folder, "--out", tmp_path / "run", "--images", "8", "--no-pretrained") == DataError.exit_code
    assert "seed 0 and --clip-shares 0.4 0.1 0.5: it has seen people whom this run holds out" in capsys.readouterr().err
    # One that fails while it is written leaves the one that was there.
    monkeypatch.setattr(generator.torch.onnx, "export", _full_disk)
    assert run(*make) == OutputError.exit_code
    kept = CropStore.load(folder).generator
    assert kept is not None
    assert kept.manifest == made.manifest


def _full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("wrong", [{"minutes": 0.0}, {"minutes": float("nan")}, {"seed": -1}, {"threads": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="out of its range"):
        GeneratorSettings(**wrong)  # type: ignore[arg-type]


def test_one_person_is_too_few(store: CropStore, tmp_path: Path) -> None:
    alone = np.flatnonzero(store.people == store.people[0])
    with pytest.raises(DataError, match="several people"):
        train_generator(store, alone, tmp_path, SETTINGS)


def test_pairs_show_one_person() -> None:
    """Faces of one flat colour a person: what is seen, wanted and looked up must agree."""
    people = np.repeat(np.arange(5, dtype=np.int32), 3)
    faces = np.empty((15, 128, 128, 3), np.uint8)
    faces[:] = (people * 40 + 20)[:, None, None, None]
    pairs = FacePairs(faces, people, GeneratorSettings(batch=12))
    seen, wanted, others = pairs[3]
    of = wanted[:, 64, 64, 0].int()
    for batch in (seen, others):
        assert (batch[:, 64, 64].float().mean(dim=1) - of).abs().max() < 20
    assert all(torch.equal(a, b) for a, b in zip(pairs[3], (seen, wanted, others), strict=True))


def test_the_loss_is_nothing_for_equal_pictures_and_sees_blur() -> None:
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 128, 128) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(picture, 5, stride=1, padding=2)
    assert drawing_loss(picture, picture).item() == pytest.approx(0, abs=1e-5)
    assert drawing_loss(blurred, picture) > drawing_loss(picture + 0.05, picture)


def test_an_untold_swapper_knows_no_donor_and_learns_to_listen() -> None:
    """Its code enters through weights that begin at zero; one step makes it matter."""
    torch.manual_seed(0)
    swapper, target, donor = Swapper(), torch.rand(2, 3, 128, 128), torch.rand(2, 3, 128, 128)
    mix = torch.ones(2)
    assert torch.allclose(swapper(target, donor, mix), swapper(target, target, mix))
    optimiser = torch.optim.SGD(swapper.parameters(), lr=0.1)
    swapper(target, donor, mix).square().mean().backward()
    optimiser.step()
    assert not torch.allclose(swapper(target, donor, mix), swapper(target, target, mix))
    assert Redrawer()(target).shape == target.shape
