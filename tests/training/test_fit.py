from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny import DIM, tiny_extractor

from difffake.bundle import Bundle
from difffake.errors import DataError
from difffake.faces import template
from difffake.networks import open_networks
from difffake.pseudofake import FAMILIES, FaceBank
from difffake.scoring import Scorer
from difffake.training.fit import (
    SCORES,
    Clip,
    FitSettings,
    HeldOut,
    best_score,
    cross_fit,
    embed_held_out,
    fit_bundle,
    fit_densities,
    held_out_differences,
)
from difffake.training.store import STORE_EYE_DISTANCE, STORE_SIDE_PX
from engines.onnx import OnnxEngine

SETTINGS = FitSettings(folds=3, components=2, pairs_per_person=40)
PEOPLE, FRAMES, PHOTOS = 6, 14, 6


#: Without a generator there are no others.
UNDRAWN = [name for name, family in FAMILIES.items() if not family.drawn]


def bank() -> tuple[FaceBank, np.ndarray, np.ndarray]:
    """Filmed people (a picture of soft noise each, changing a little from frame to frame), and photos."""
    rng = np.random.default_rng(0)
    crops, people, times = [], [], []
    for person in range(PEOPLE + PHOTOS):
        base = cv2.resize(rng.integers(0, 256, (24, 24, 3), np.uint8), (STORE_SIDE_PX, STORE_SIDE_PX))
        for frame in range(FRAMES if person < PEOPLE else 1):
            noise = rng.normal(0, 4, base.shape)
            crops.append(np.clip(base + noise + rng.normal(0, 4), 0, 255).astype(np.uint8))
            people.append(person)
            times.append(frame / 4 if person < PEOPLE else np.nan)
    points = np.repeat(template(STORE_SIDE_PX, eye_distance=STORE_EYE_DISTANCE)[None], len(crops), axis=0)
    time_s = np.array(times)
    return FaceBank(np.stack(crops), points, np.array(people, np.int32)), time_s, np.isfinite(time_s)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "extractor.onnx"
    path.write_bytes(tiny_extractor())
    return path


@pytest.fixture(scope="module")
def held_out(extractor: Path) -> HeldOut:
    faces, time_s, is_video = bank()
    with OnnxEngine(extractor, threads=1) as engine:
        return embed_held_out(faces, time_s, is_video, engine, SETTINGS)


def test_every_clip_meets_every_family_and_photos_take_turns(held_out: HeldOut) -> None:
    assert len(held_out.real) == PEOPLE + PHOTOS
    for i, clip in enumerate(held_out.real):
        made = [family for family in UNDRAWN if len(held_out.fakes[family][i].logit)]
        assert len(made) == (len(UNDRAWN) if len(clip.logit) > 1 else 1)
        for family in made:
            fake = held_out.fakes[family][i]
            assert fake.person == clip.person
            np.testing.assert_array_equal(fake.time_s, clip.time_s)
            assert (fake.embedding != clip.embedding).any()
    assert {len(c.logit) for c in held_out.real} == {1, FRAMES}


def test_a_network_of_another_side_is_fitted_on_the_same_faces(held_out: HeldOut, tmp_path: Path) -> None:
    """`difffake train --set side_px=160` ended, after hours, in a bundle that could not be fitted."""
    path = tmp_path / "extractor.onnx"
    path.write_bytes(tiny_extractor(side_px=112))
    faces, time_s, is_video = bank()
    with OnnxEngine(path, threads=1) as engine:
        small = embed_held_out(faces, time_s, is_video, engine, SETTINGS)
    # The network's grid of mean colours is about the same however large its faces are.
    for clip, other in zip(held_out.real, small.real, strict=True):
        np.testing.assert_allclose(other.embedding, clip.embedding, atol=0.05 * np.abs(clip.embedding).max())
    bundle, _ = fit_bundle(
        small, path, tmp_path / "bundle", SETTINGS,
        backbone="one matrix", dim=DIM, training={}, git_revision="abc", side_px=112,
    )  # fmt: skip
    open_networks(bundle, threads=1).close()


def test_two_clips_of_a_person_stay_two(extractor: Path, held_out: HeldOut) -> None:
    faces, time_s, is_video = bank()
    again = time_s.copy()
    half = np.flatnonzero(faces.people == 0)[FRAMES // 2 :]
    again[half] -= time_s[half[0]]  # the second clip begins at zero, as the first did
    with OnnxEngine(extractor, threads=1) as engine:
        found = embed_held_out(faces, again, is_video, engine, SETTINGS)
    assert [len(clip.logit) for clip in found.real if clip.person == 0] == [FRAMES // 2, FRAMES // 2]
    whole = next(clip for clip in held_out.real if clip.person == 0)
    np.testing.assert_array_equal(
        np.concatenate([clip.embedding for clip in found.real if clip.person == 0]), whole.embedding
    )
    assert all((np.diff(clip.time_s) > 0).all() for clip in found.real)


def test_clips_that_are_too_short_to_choose_by_are_named(held_out: HeldOut, tiny_bundle: Bundle) -> None:
    few = FRAMES - sum(~np.isin(held_out.real[-1].time_s, held_out.real[-1].anchor().times_s))  # type: ignore[union-attr]
    short = HeldOut([_first(clip, few) for clip in held_out.real], {
        family: [_first(clip, few) for clip in clips] for family, clips in held_out.fakes.items()
    })  # fmt: skip
    with pytest.raises(DataError, match="no clip is long enough to choose a score of anchor"):
        best_score(cross_fit(short, lambda _: Scorer(tiny_bundle), SETTINGS), "anchor")
    photos = HeldOut([clip for clip in held_out.real if len(clip.logit) == 1], {})
    with pytest.raises(DataError, match="fewer than two have a clip"):
        held_out_differences(photos, SETTINGS)


def _first(clip: Clip, count: int) -> Clip:
    return Clip(clip.person, clip.time_s[:count], clip.embedding[:count], clip.logit[:count])


def test_a_density_never_judges_the_people_it_was_fitted_on(held_out: HeldOut, tiny_bundle: Bundle) -> None:
    fitted: list[set[int]] = []
    everybody = {clip.person for clip in held_out.real}

    def score_with(clips: list[Clip]) -> Scorer:
        fitted.append({clip.person for clip in clips})
        return Scorer(tiny_bundle)

    figures = cross_fit(held_out, score_with, SETTINGS)
    left_out = [everybody - people for people in fitted]
    assert len(fitted) == SETTINGS.folds
    assert set().union(*left_out) == everybody
    assert sum(map(len, left_out)) == len(everybody)
    assert figures.people == len(everybody)


def test_frames_of_the_anchor_are_no_test_of_it(held_out: HeldOut, tiny_bundle: Bundle) -> None:
    scores, people = cross_fit(held_out, lambda _: Scorer(tiny_bundle), SETTINGS).real_scores["signed_anchor"]
    anchors = [clip.anchor() for clip in held_out.real]
    tested = [len(c.logit) - len(a) for c, a in zip(held_out.real, anchors, strict=True) if a is not None]
    assert len(scores) == sum(tested)
    assert set(people.tolist()) == set(range(PEOPLE))


def test_the_bundle_is_whole_and_says_where_it_comes_from(held_out: HeldOut, extractor: Path, tmp_path: Path) -> None:
    bundle, figures = fit_bundle(
        held_out, extractor, tmp_path / "bundle", SETTINGS,
        backbone="one matrix", dim=DIM, training={"data": "noise"}, git_revision="abc",
    )  # fmt: skip
    again = Bundle.load(tmp_path / "bundle")
    assert again.model_id == bundle.model_id
    assert set(again.calibrations) == set(SCORES)
    assert set(again.manifest.evidence) == {"artifact", "anchor"}
    assert again.manifest.training["data"] == "noise"
    assert again.manifest.training["fitted_on"]["people"] == PEOPLE + PHOTOS
    for name, by_family in figures.auc.items():
        assert set(by_family) == set(UNDRAWN), name
        assert all(0 <= value <= 1 for value in by_family.values())
    clip = held_out.real[0]
    p = Scorer(again).p_value("logit", clip.logit.astype(float))
    assert ((p > 0) & (p <= 1)).all()


def test_the_best_score_is_chosen_by_its_mean_over_families(held_out: HeldOut, tiny_bundle: Bundle) -> None:
    figures = cross_fit(held_out, lambda _: Scorer(tiny_bundle), SETTINGS)
    means = {name: np.mean(list(f.values())) for name, f in figures.auc.items() if f}
    artifact = {n: m for n, m in means.items() if SCORES[n].evidence == "artifact"}
    assert best_score(figures, "artifact") == max(artifact, key=artifact.__getitem__)


def test_far_embeddings_are_improbable_under_the_fitted_densities(held_out: HeldOut) -> None:
    densities = fit_densities(held_out.real, SETTINGS)
    known = np.concatenate([c.embedding for c in held_out.real])
    assert densities["single"].log_density(known).min() > densities["single"].log_density(known * 50 + 50).max()


def test_differences_for_the_comparison_come_from_different_people(held_out: HeldOut) -> None:
    parts = held_out_differences(held_out, SETTINGS)
    per_clip = (FRAMES - len(held_out.real[-1].anchor() or ())) * len(held_out.real[-1].anchor() or ())
    assert len(parts["train"]) + len(parts["held_out_real"]) == PEOPLE * per_clip
    assert len(parts["pseudo_fake"]) == len(UNDRAWN) * len(parts["held_out_real"])


def test_one_clip_alone_shows_none_to_those_who_must_judge_it(held_out: HeldOut) -> None:
    with pytest.raises(DataError, match="nobody has a clip of several seconds") as caught:
        fit_densities([clip for clip in held_out.real if len(clip.logit) == 1], SETTINGS)
    assert "--clip-shares" in caught.value.hint


def test_photos_alone_show_no_natural_change(extractor: Path) -> None:
    faces, time_s, is_video = bank()
    photos = np.flatnonzero(~is_video)
    alone = FaceBank(faces.crops[photos], faces.landmarks[photos], faces.people[photos])
    with OnnxEngine(extractor, threads=1) as engine, pytest.raises(DataError, match="cannot be fitted") as caught:
        embed_held_out(alone, time_s[photos], is_video[photos], engine, SETTINGS)
    assert "clips" in caught.value.hint
