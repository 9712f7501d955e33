from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import pytest
from tiny import DIM, SCORES

from difffake.anchors import AnchorPool, Origin
from difffake.bundle import Bundle, ScoreSpec
from difffake.differential import Combination, differences
from difffake.errors import BundleError
from difffake.head import LinearHead
from difffake.scoring import Scorer, distances


@pytest.fixture
def scorer(tiny_bundle: Bundle) -> Scorer:
    return Scorer(tiny_bundle)


def clip(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(count, DIM)).astype(np.float32),
        rng.normal(size=count).astype(np.float32),
        np.arange(count) / 4,
    )


def pool(seed: int = 1) -> AnchorPool:
    embedding, logit, time_s = clip(8, seed)
    return AnchorPool(embedding, logit, time_s, Origin.ENROLLED)


def test_every_score_is_there_and_high_means_suspicious(scorer: Scorer, tiny_bundle: Bundle) -> None:
    embedding, logit, time_s = clip()
    scores = scorer.score(embedding, logit, time_s, pool())
    assert set(scores) == set(SCORES)
    assert all(values.shape == (40,) and np.isfinite(values).all() for values in scores.values())
    np.testing.assert_array_equal(scores["logit"], logit.astype(float))
    np.testing.assert_allclose(scores["density"], -tiny_bundle.densities["single"].log_density(embedding))
    far = scorer.score(embedding * 30, logit, time_s, pool())
    assert (far["density"] > scores["density"]).all()
    assert far["signed_anchor"].min() > scores["signed_anchor"].max()


def test_a_given_anchor_is_needed_for_its_scores(scorer: Scorer) -> None:
    assert set(scorer.score(*clip())) == {"logit", "density", "differential_self"}


def test_the_anchored_score_is_the_mean_over_the_pool(scorer: Scorer, tiny_bundle: Bundle) -> None:
    embedding, logit, time_s = clip()
    anchor = pool()
    changes = differences(embedding, anchor.embeddings, Combination.SIGNED)
    mixture = tiny_bundle.densities["signed"]
    expected = -np.stack([mixture.log_density(change) for change in changes]).mean(axis=1)
    got = scorer.score(embedding, logit, time_s, anchor)["signed_anchor"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    shifted = scorer.score(embedding, logit, time_s, anchor)["logit_minus_anchor"]
    np.testing.assert_allclose(shifted, logit - anchor.logits.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["signed_anchor", "logit_minus_anchor", "distance"])
def test_the_nearest_frame_of_the_anchor_can_stand_for_all(tiny_bundle: Bundle, name: str) -> None:
    distance = ScoreSpec(evidence="anchor", kind="distance", anchor="given")
    spec = tiny_bundle.manifest.scores.get(name, distance)
    nearest = msgspec.structs.replace(spec, frames="nearest")
    manifest = msgspec.structs.replace(tiny_bundle.manifest, scores={"all": spec, "nearest": nearest})
    scorer = Scorer(replace(tiny_bundle, manifest=manifest))
    embedding, logit, time_s = clip()
    anchor = pool()
    got = scorer.score(embedding, logit, time_s, anchor)["nearest"]
    chosen = np.linalg.norm(embedding[:, None] - anchor.embeddings, axis=2).argmin(axis=1)
    assert len(set(chosen)) > 2
    for row, frame in enumerate(chosen):
        alone = AnchorPool(
            anchor.embeddings[frame : frame + 1], anchor.logits[frame : frame + 1], anchor.times_s[:1], anchor.origin
        )
        one = slice(row, row + 1)
        expected = scorer.score(embedding[one], logit[one], time_s[one], alone)["all"]
        np.testing.assert_allclose(got[one], expected, rtol=1e-4, atol=1e-5)
    if name == "distance":
        assert (got < scorer.score(embedding, logit, time_s, anchor)["all"]).all()


@pytest.mark.parametrize("frames", ["all", "nearest"])
def test_a_head_reads_the_difference_to_the_anchor(tiny_bundle: Bundle, frames: Literal["all", "nearest"]) -> None:
    head = LinearHead(np.arange(DIM) - 2.5, 0.5, length_weight=3.0)
    spec = ScoreSpec(evidence="anchor", kind="supervised_difference", head="difference", anchor="given", frames=frames)
    manifest = msgspec.structs.replace(tiny_bundle.manifest, scores={"taught": spec})
    scorer = Scorer(replace(tiny_bundle, manifest=manifest, heads={"difference": head}))
    embedding, logit, time_s = clip()
    anchor = pool()
    nearest = np.linalg.norm(embedding[:, None] - anchor.embeddings, axis=2).argmin(axis=1)
    change = embedding - (anchor.embeddings[nearest] if frames == "nearest" else anchor.embeddings.mean(axis=0))
    expected = change @ head.weights + 0.5 + 3 * np.linalg.norm(change, axis=1)
    np.testing.assert_allclose(scorer.score(embedding, logit, time_s, anchor)["taught"], expected, atol=1e-4)


def test_an_anchor_frame_does_not_vouch_for_itself(scorer: Scorer) -> None:
    embedding, logit, time_s = clip(8)  # eight frames, a quarter of a second apart: all are anchors
    odd = embedding.copy()
    odd[3] += 40
    score = scorer.score(odd, logit, time_s)["differential_self"]
    # Compared with itself, the odd one would gain from one difference of exactly zero.
    alone = scorer.score(np.vstack([odd, odd[3:4]]), np.append(logit, 0).astype("f4"), np.append(time_s, 99))
    assert np.isfinite(score).all()
    assert score[3] != alone["differential_self"][3]


@pytest.mark.parametrize("count", [0, 1])
def test_self_anchored_scores_need_two_faces(scorer: Scorer, count: int) -> None:
    scores = scorer.score(*clip(count))
    assert np.isnan(scores["differential_self"]).all()
    assert scores["logit"].shape == (count,)


def test_p_values_fall_with_the_score_and_keep_gaps(scorer: Scorer) -> None:
    p = scorer.p_value("logit", np.array([-3.0, 0.0, np.nan, 3.0, 30.0]))
    assert np.isnan(p[2])
    known = p[[0, 1, 3, 4]]
    assert known[0] > known[1] > known[2] >= known[3]
    assert ((known > 0) & (known <= 1)).all()


def test_an_uncalibrated_score_has_no_p_value(scorer: Scorer) -> None:
    with pytest.raises(BundleError, match="no calibration for identity"):
        scorer.p_value("identity", np.zeros(1))


def test_distances_equal_the_plain_norm() -> None:
    a, b = clip(6)[0], clip(3, 5)[0]
    expected = np.linalg.norm(a[:, None] - b[None], axis=-1)
    np.testing.assert_allclose(distances(a, b), expected, rtol=1e-4)


def test_a_long_video_is_scored_without_copies_of_all_its_faces() -> None:
    rng = np.random.default_rng(0)
    faces, pool = rng.normal(size=(6000, 512)).astype(np.float32), rng.normal(size=(8, 512)).astype(np.float32)
    head = LinearHead(rng.normal(size=512), 0.5, 1.0, 2.0)
    logit = rng.normal(size=len(faces)).astype(np.float32)
    tracemalloc.start()
    try:
        scores, lengths = head(faces, logit), distances(faces, pool)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < faces.nbytes
    # The same to the bit as one face alone.
    for row in (0, 1023, 1024, 5999):
        alone = slice(row, row + 1)
        assert scores[row] == head(faces[alone], logit[alone])[0]
        np.testing.assert_allclose(lengths[row], np.linalg.norm(faces[alone] - pool, axis=1), rtol=1e-4)
