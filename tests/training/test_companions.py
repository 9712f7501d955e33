from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from test_training_loop import TINY

from difffake.errors import DataError
from difffake.extractor import build_extractor, load_checkpoint, read_tensors
from difffake.training.batches import PairBatches
from difffake.training.companions import LEAST_GAP_S, Companions, consistency_loss, number_clips
from difffake.training.held_out_clips import HeldOutClips
from difffake.training.loop import TrainProgress, train
from difffake.training.split import Split, bank_of
from difffake.training.store import CropStore

#: Half of the pairs from clips, and nothing at random beside them.
CONSISTENT = msgspec.structs.replace(
    TINY, validate_crops=2, consistency_weight=1.0, video_share=0.5, batch_pairs=4, captured=0.0, degrade_strength=0.0
)


@pytest.fixture(scope="module")
def parts(store: CropStore) -> Split:
    third = store.people % 3
    return Split(*(np.flatnonzero(mask) for mask in (third < 2, third == 2, third > 2)))


def companions_of(store: CropStore, rows: np.ndarray) -> Companions:
    clips = number_clips(store.people, store.is_video, store.time_s)[rows]
    return Companions(clips, store.time_s[rows], store.landmarks[rows])


def batches(store: CropStore, rows: np.ndarray, settings: object) -> PairBatches:
    return PairBatches(
        bank_of(store, rows), store.is_video[rows], store.eye_distance_px[rows], settings, companions_of(store, rows)
    )


def test_a_clip_ends_where_the_person_changes_or_time_goes_back() -> None:
    people = np.array([0, 0, 1, 1, 1, 1, 2, 2, 1], np.int32)
    is_video = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1], bool)
    time_s = np.array([np.nan, np.nan, 0, 1, 0, 1, 2, 3, 2], np.float32)
    assert number_clips(people, is_video, time_s).tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3]


def test_a_companion_is_another_frame_of_the_same_clip(store: CropStore) -> None:
    rows = np.arange(len(store))
    companions, rng = companions_of(store, rows), np.random.default_rng(0)
    found = 0
    for row in rows:
        for _ in range(3):
            other = companions.draw(int(row), rng)
            if not store.is_video[row]:
                assert other is None
            elif other is not None:
                found += 1
                assert store.is_video[other]
                assert store.people[other] == store.people[row]
                assert abs(store.time_s[other] - store.time_s[row]) >= LEAST_GAP_S
    # Four frames half a second apart: each has one or two that are a second away.
    assert found == 3 * store.is_video.sum()


def test_of_the_frames_it_takes_the_one_of_the_same_expression() -> None:
    time_s = np.arange(10, dtype=np.float32)
    landmarks = np.zeros((10, 5, 2), np.float32)
    landmarks[:, 4, 1] = [0, 9, 9, 9, 9, 1, 9, 9, 9, 9]
    companions = Companions(np.zeros(10, np.int64), time_s, landmarks)
    drawn = [companions.draw(0, np.random.default_rng(seed)) for seed in range(60)]
    # Eight of nine are looked at.
    assert np.mean(np.array(drawn) == 5) > 0.7


def test_companions_leave_the_pairs_as_they_are(store: CropStore, parts: Split) -> None:
    settings = msgspec.structs.replace(CONSISTENT, captured=1.0, degrade_strength=1.0)
    without = msgspec.structs.replace(settings, consistency_weight=0.0)
    for step in range(2):
        plain = batches(store, parts.train, without)[step]
        more = batches(store, parts.train, settings)[step]
        assert len(plain.faces) == 8
        assert len(plain.companion_of) == 0
        assert torch.equal(more.faces[:8], plain.faces)
        assert torch.equal(more.families, plain.families)
        assert len(more.faces) == 8 + len(more.companion_of)


def test_a_companion_looks_like_its_own_pair(store: CropStore, parts: Split) -> None:
    """The same clip, the same jitter and mirroring: drawn people differ by the colour of their skin."""
    seen = 0
    for step in range(5):
        batch = batches(store, parts.train, CONSISTENT)[step]
        middle = batch.faces[:, :, 40:56, 40:56].float().mean(dim=(2, 3))
        for i, pair in enumerate(batch.companion_of.tolist()):
            away = (middle[:4] - middle[8 + i]).norm(dim=1)
            nearest = int(away.argmin())
            seen += 1
            assert away[pair] <= away[nearest] + 12, (step, pair, away)
    assert seen > 3


def test_the_loss_wants_fakes_away_from_the_companion() -> None:
    companion_of = torch.tensor([0, 1])
    companion = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    near, far = companion + torch.tensor([0.0, 1.0]), companion + torch.tensor([0.0, 3.0])
    good = torch.cat([near, far, companion])
    # Distances 1 and 3, their mean 2: log(1 + e^((1 - 3) / 2)).
    assert consistency_loss(good, companion_of).item() == pytest.approx(np.log1p(np.exp(-1)), abs=1e-5)
    assert consistency_loss(100 * good, companion_of).item() == pytest.approx(np.log1p(np.exp(-1)), abs=1e-5)
    assert consistency_loss(torch.cat([far, near, companion]), companion_of) > 1
    assert consistency_loss(good[:4], torch.empty(0, dtype=torch.int64)).item() == 0
    # Pairs without a companion have no part in it.
    apart = torch.full((1, 2), 1e3)
    some = torch.cat([near, apart, far, apart, companion])
    assert consistency_loss(some, companion_of).item() == pytest.approx(np.log1p(np.exp(-1)), abs=1e-5)


def test_steps_on_it_lower_the_ratio_of_distances(store: CropStore, parts: Split) -> None:
    settings = msgspec.structs.replace(CONSISTENT, video_share=1.0, families={"cross_swap": 1.0})
    batch = batches(store, parts.train, settings)[0]
    assert len(batch.companion_of) == 4
    torch.manual_seed(0)
    extractor = build_extractor("mobilenetv3_small_050", pretrained=False).train()
    optimiser = torch.optim.Adam(extractor.backbone.parameters(), lr=1e-3)

    def ratio() -> float:
        with torch.no_grad():
            embedding = extractor.embed(batch.faces)
        real, fake, companion = embedding[:4], embedding[4:8], embedding[8:]
        real, fake = real[batch.companion_of], fake[batch.companion_of]
        return float((real - companion).norm(dim=1).mean() / (fake - companion).norm(dim=1).mean())

    before = ratio()
    for _ in range(8):
        optimiser.zero_grad()
        consistency_loss(extractor.embed(batch.faces), batch.companion_of).backward()
        optimiser.step()
    assert ratio() < 0.9 * before


def test_no_weight_is_the_run_of_before_and_a_weight_another(tmp_path: Path, store: CropStore, parts: Split) -> None:
    plain = msgspec.structs.replace(CONSISTENT, consistency_weight=0.0, steps=2, validate_every=0, ema_decay=0.0)
    assert TINY.consistency_weight == 0
    weights = []
    for name, settings in (("plain", plain), ("more", msgspec.structs.replace(plain, consistency_weight=5.0))):
        run = train(settings, store, tmp_path / name, split=parts)
        weights.append(load_checkpoint(run.model).extractor.state_dict()["backbone.conv_stem.weight"])
    assert not torch.equal(*weights)
    with pytest.raises(DataError, match="consistency_weight"):
        train(plain, store, tmp_path / "more", split=parts)


def test_a_continued_run_with_companions_equals_an_uninterrupted_one(
    tmp_path: Path, store: CropStore, parts: Split
) -> None:
    settings = msgspec.structs.replace(CONSISTENT, steps=3, validate_every=0, captured=0.5, degrade_strength=1.0)

    def stop_at_one(now: TrainProgress) -> None:
        if now.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    train(settings, store, tmp_path / "whole", split=parts)
    assert train(settings, store, tmp_path / "parts", split=parts, progress=stop_at_one).interrupted
    train(settings, store, tmp_path / "parts", split=parts)
    ours, theirs = (read_tensors(tmp_path / name / "last.pt")["extractor"] for name in ("parts", "whole"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_store_without_clips_is_refused(tmp_path: Path, store: CropStore, parts: Split) -> None:
    photos = Split(*(rows[~store.is_video[rows]] for rows in (parts.train, parts.validate, parts.fit)))
    with pytest.raises(DataError, match="trained on clips") as caught:
        train(CONSISTENT, store, tmp_path, split=photos)
    assert "video files" in caught.value.hint
    for wrong in ({"video_share": 0.0}, {"consistency_weight": -1.0}):
        with pytest.raises(DataError):
            msgspec.structs.replace(CONSISTENT, **wrong)


def test_a_network_that_sees_the_fake_is_told_by_its_distance(store: CropStore) -> None:
    """Clips made longer: each of its frames five times, so that an anchor of eight is there."""
    frames = np.flatnonzero(store.is_video)
    rows = np.repeat(frames, 5)
    clips = store.people[rows].astype(np.int64)
    time_s = np.tile(np.arange(20, dtype=np.float32), len(frames) // 4)
    held_out = HeldOutClips.make(bank_of(store, rows), clips, time_s, 96)
    assert len(held_out.anchor) == 6 * 8
    assert held_out.clip_of_real.tolist() == np.repeat(np.arange(6), len(held_out.real) // 6).tolist()
    marked = {name: fake.copy() for name, fake in held_out.fakes.items()}
    for fake in marked.values():
        fake[:, 40:56, 40:56] = (255, 0, 255)
    told = HeldOutClips(held_out.clip_of_anchor, held_out.clip_of_real, held_out.anchor, held_out.real, marked)

    def network(faces: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        colour = faces[:, :, 40:56, 40:56].float().mean(dim=(2, 3))
        return colour.numpy(), (colour[:, 0] - colour[:, 1]).numpy()

    scores = told.score(network)
    assert min(scores.clean.auc("distance").values()) > 0.95
    assert min(scores.degraded.auc("distance").values()) > 0.8
    assert scores.mean("distance") > 0.9
    with pytest.raises(DataError, match="long enough"):
        HeldOutClips.make(bank_of(store, frames), store.people[frames].astype(np.int64), store.time_s[frames], 96)
