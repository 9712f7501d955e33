"""A head finds a weak direction in few clips, and says nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difffake.adapt.clips import AS_RECORDED, FOOTAGE, PSEUDO_FAKES, LabelledClip, rows_of
from difffake.adapt.cross import Recipe, choose, cross_fit, divide, video_auc, without_source
from difffake.adapt.heads import CANDIDATES, Candidate, fit_heads
from difffake.errors import DataError
from difffake.evaluation.features import Features
from difffake.evaluation.layouts import FAKE, REAL, Item
from difffake.head import LinearHead

DIM = 24
QUICK = Recipe(folds=4, inner_folds=3, candidates=(Candidate(0.9), Candidate(0.3)))


def features(embedding: np.ndarray) -> Features:
    count = len(embedding)
    nothing = np.zeros(count, np.int64)
    return Features(
        np.arange(count) / 4, nothing, nothing, np.zeros(count, np.float32), embedding.astype(np.float32),
        embedding[:, 0].astype(np.float32), np.zeros((count, 0), np.float32), count, count,
    )  # fmt: skip


def clips(
    people: int = 24,
    *,
    shift: float = 1.0,
    seed: int = 0,
    domain: str = FOOTAGE,
    sources: tuple[str, ...] = ("tool",),
    frames: int = 12,
    directions: np.ndarray | None = None,
) -> list[LabelledClip]:
    """Real clips and a fake of each: a person's own offset, and what a fake adds in its source's direction."""
    rng = np.random.default_rng(seed)
    directions = np.eye(DIM)[: len(sources)] if directions is None else directions
    found = []
    for person in range(people):
        own = rng.normal(0, 1.0, DIM)
        for fake in (False, True):
            source = sources[person % len(sources)]
            change = shift * directions[person % len(sources)] if fake else 0.0
            faces = own + change + rng.normal(0, 0.5, (frames, DIM))
            name = f"{domain} person {person}"
            item = Item(Path("x"), FAKE if fake else REAL, name, f"{name} {fake}", pair=name)
            found.append(LabelledClip(item, name, source if fake else "", AS_RECORDED, domain, features(faces)))
    return found


def held_out_auc(labelled: list[LabelledClip], recipe: Recipe = QUICK) -> float:
    fit = cross_fit(labelled, recipe)
    scores = np.array([fit.head_for(clip)(clip.features.embedding, clip.features.logit).mean() for clip in labelled])
    return video_auc(labelled, scores, recipe.pseudo_share)


def test_a_taught_direction_is_found_in_people_not_seen() -> None:
    assert held_out_auc(clips(shift=2.0)) > 0.85


def test_without_a_difference_left_out_people_are_at_chance() -> None:
    values = [held_out_auc(clips(40, shift=0.0, seed=seed)) for seed in range(4)]
    assert 0.35 < np.mean(values) < 0.65


def test_a_head_puts_real_faces_at_zero_with_unit_spread() -> None:
    labelled = clips(shift=2.0)
    rows = rows_of(labelled, 12, 0.0)
    for head in fit_heads(rows, CANDIDATES):
        score = head(rows.x, rows.logit)
        assert score[~rows.fake].mean() == pytest.approx(0, abs=1e-4)
        assert score[~rows.fake].std() == pytest.approx(1, abs=1e-4)
        assert score[rows.fake].mean() > 0.5


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    head, faces = LinearHead(rng.normal(size=1280), 0.1, 0.7), rng.normal(size=(33, 1280)).astype(np.float32)
    logit = rng.normal(size=33).astype(np.float32)
    whole = head(faces, logit)
    for count in (1, 2, 7):
        np.testing.assert_array_equal(
            np.concatenate([head(faces[i : i + count], logit[i : i + count]) for i in range(0, 33, count)]), whole
        )


def test_a_head_is_drawn_towards_the_logit_in_units_of_its_spread() -> None:
    rows = rows_of(clips(shift=2.0), 12, 0.0)
    (alone,), (drawn,) = fit_heads(rows, QUICK.candidates[:1]), fit_heads(rows, QUICK.candidates[:1], 3.0)
    more = drawn(rows.x, rows.logit) - alone(rows.x, rows.logit)
    real = ~rows.fake
    assert more[real].mean() == pytest.approx(0, abs=1e-4)
    assert more[real].std() == pytest.approx(3, abs=1e-3)
    assert np.corrcoef(more, rows.logit)[0, 1] == pytest.approx(1)


def test_a_head_is_drawn_towards_the_size_of_what_it_reads() -> None:
    rows = rows_of(clips(shift=2.0), 12, 0.0)
    (alone,) = fit_heads(rows, QUICK.candidates[:1])
    (drawn,) = fit_heads(rows, QUICK.candidates[:1], towards_length=1.0)
    more = drawn(rows.x, rows.logit) - alone(rows.x, rows.logit)
    real = ~rows.fake
    assert more[real].mean() == pytest.approx(0, abs=1e-4)
    assert more[real].std() == pytest.approx(1, abs=1e-3)
    assert np.corrcoef(more, np.linalg.norm(rows.x, axis=1))[0, 1] == pytest.approx(1)


def test_a_head_keeps_all_of_its_numbers() -> None:
    head = LinearHead(np.arange(1.0, 4.0), -0.5, 2.0, 0.25)
    again = LinearHead.from_arrays(head.to_arrays())
    x, logit = np.ones((2, 3), np.float32), np.zeros(2, np.float32)
    np.testing.assert_array_equal(again(x, logit), head(x, logit))
    before = {name: array for name, array in head.to_arrays().items() if name != "length_weight"}
    np.testing.assert_allclose(head(x, logit) - LinearHead.from_arrays(before)(x, logit), 0.25 * np.sqrt(3))


def test_classes_domains_sources_and_videos_weigh_as_promised() -> None:
    labelled = [
        *clips(6, sources=("a", "b", "b"), frames=5),
        *clips(30, domain=PSEUDO_FAKES, sources=("c",), frames=2),
    ]
    long = clips(1, seed=9, frames=50)[1]
    labelled.append(LabelledClip(long.item, long.group, "a", AS_RECORDED, FOOTAGE, long.features))
    rows = rows_of(labelled, 16, 0.25)
    assert rows.weight[rows.fake].sum() == pytest.approx(0.5)
    assert rows.weight[~rows.fake].sum() == pytest.approx(0.5)
    taken = [min(16, len(clip.features)) for clip in labelled]
    clip_of = np.repeat(np.arange(len(labelled)), taken)
    weight = np.bincount(clip_of, rows.weight)
    by_source: dict[str, float] = {}
    for clip, share in zip(labelled, weight, strict=True):
        by_source[clip.source if clip.is_fake else clip.domain] = (
            by_source.get(clip.source if clip.is_fake else clip.domain, 0.0) + share
        )
    assert by_source["a"] == pytest.approx(by_source["b"]) == pytest.approx(0.75 / 4)
    assert by_source["c"] == pytest.approx(0.25 / 2)
    assert by_source[PSEUDO_FAKES] == pytest.approx(0.25 / 2)


def test_two_encodes_of_a_video_share_its_weight() -> None:
    once = clips(4)
    again = [LabelledClip(c.item, c.group, c.source, "CRF 35", c.domain, c.features) for c in once[:2]]
    rows = rows_of([*once, *again], 12, 0.0)
    weight = np.bincount(np.repeat(np.arange(10), 12), rows.weight)
    assert weight[0] + weight[8] == pytest.approx(weight[2])


def test_groups_are_never_divided() -> None:
    labelled = clips(20)
    fold_of = divide([clip.group for clip in labelled], 5, 0)
    assert sorted(np.bincount(list(fold_of.values()))) == [4, 4, 4, 4, 4]
    with pytest.raises(DataError, match="one group"):
        divide(["a", "a"], 5, 0)


def test_a_head_for_one_tool_is_not_credited_with_another() -> None:
    """Each tool leaves its own trace: left out, neither is found."""
    labelled = clips(40, shift=3.0, sources=("one", "two"))
    fold_of = divide([clip.group for clip in labelled], 4, 0)
    known = held_out_auc(labelled)
    scores = without_source(labelled, "two", Candidate(0.8), QUICK, fold_of)
    judged = np.isfinite(scores)
    assert {c.source for c, j in zip(labelled, judged, strict=True) if j and c.is_fake} == {"two"}
    unseen = video_auc([c for c, j in zip(labelled, judged, strict=True) if j], scores[judged], 0.0)
    assert known > 0.8
    assert unseen < 0.65


def test_the_choice_is_made_without_the_clips_that_are_judged() -> None:
    candidate, found = choose(clips(shift=2.0), QUICK, 0)
    assert set(found) == {str(c) for c in QUICK.candidates}
    assert found[str(candidate)] >= max(found.values()) - 0.01


def test_one_label_teaches_nothing() -> None:
    with pytest.raises(DataError, match="one kind"):
        rows_of([clip for clip in clips(4) if clip.is_fake], 8, 0.0)


@pytest.mark.parametrize("weights", [np.zeros(3), np.array([1.0, np.nan]), np.ones((2, 2)), np.zeros(0)])
def test_a_head_of_rubbish_is_refused(weights: np.ndarray) -> None:
    with pytest.raises(DataError, match="not a head"):
        LinearHead(weights, 0.0)
    with pytest.raises(DataError):
        LinearHead.from_arrays(
            {"weights": weights.astype(np.float32), "bias": np.array(0.0), "logit_weight": np.array(0.0)}
        )
