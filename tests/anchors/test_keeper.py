"""The anchor of a stream's person: found, guarded, given up, carried on elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from faces_made_up import DIM, IDENTITY_DIM, candidates, who
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.anchors import AnchorKeeper, AnchorMode, AnchorPolicy, AnchorPool, AnchorState, Candidates, Origin
from difffake.errors import AnchorError, DataError

BOUNDED = AnchorPolicy(mode=AnchorMode.BOUNDED, updates_per_minute=600)
START = np.arange(40) * 0.2


def ready(policy: AnchorPolicy | None = None) -> AnchorKeeper:
    """A keeper that has just got its anchor."""
    keeper = AnchorKeeper(policy)
    assert keeper.offer(candidates(START)[:23])
    assert keeper.since_s == START[22]
    return keeper


def enrolled_pool(**fields: Any) -> AnchorPool:
    start = candidates(np.arange(8) * 1.0)
    given = {"embeddings": start.embedding, "logits": start.logit, "identity": start.identity} | fields
    return AnchorPool(times_s=start.time_s, origin=Origin.ENROLLED, **given)


def shuffled(faces: Candidates, rng: np.random.Generator) -> Candidates:
    return faces[rng.permutation(len(faces))]


# -- finding it --------------------------------------------------------------------------------------------------------
def test_the_first_good_frames_become_a_frozen_anchor_of_k() -> None:
    keeper = AnchorKeeper()
    assert keeper.status(0.0).state is AnchorState.COLLECTING
    assert not keeper.offer(candidates(START[:10]))
    assert keeper.pool is None
    # What there is, what counts, and how long the rest takes: seven more, a quarter of a second apart.
    assert keeper.status(2.0).reason == (
        "5 of 12 good frames (fit for scoring, unsuspicious, 0.25 s apart); it takes 1.8 s more of this face, or longer"
    )
    keeper.offer(candidates(START[10:]))
    assert keeper.pool is not None
    assert len(keeper.pool) == 8
    assert keeper.origin is Origin.SELF
    assert (np.diff(keeper.pool.times_s) >= 0.25).all()
    assert keeper.since_s == pytest.approx(4.4)
    status = keeper.status(10.0)
    assert (status.state, status.frames, status.origin) == (AnchorState.FROZEN, 8, Origin.SELF)
    assert status.age_s == keeper.age_s(10.0) == pytest.approx(5.6)


def test_it_is_diverse() -> None:
    faces = candidates(START)
    faces.yaw_deg[:] = 0
    faces.yaw_deg[[4, 10]] = 35, -35
    keeper = AnchorKeeper()
    keeper.offer(faces)
    assert keeper.pool is not None
    assert keeper.pool.yaw_deg is not None
    assert (keeper.pool.yaw_deg.min(), keeper.pool.yaw_deg.max()) == (-35, 35)


def test_a_stream_that_starts_manipulated_does_not_anchor_itself() -> None:
    keeper = AnchorKeeper()
    suspicious = candidates(np.arange(300) * 0.2, artifact_p=np.full(300, 0.001))
    assert not keeper.offer(suspicious)
    status = keeper.status(60.0)
    assert status.state is AnchorState.COLLECTING
    assert status.reason == "suspicious: its own frames look manufactured"
    # Half of its frames alone look so: still no anchor, though there are enough others.
    half = AnchorKeeper()
    half.offer(candidates(np.arange(200) * 0.4, artifact_p=np.where(np.arange(200) % 5 < 3, 0.001, 0.9)))
    assert half.pool is None
    assert half.status(80.0).reason.startswith("suspicious")
    # When the manipulation ends, the person gets an anchor, from clean frames alone.
    assert keeper.offer(candidates(60 + START * 4))
    assert keeper.pool is not None
    assert keeper.pool.times_s.min() >= 60


def test_single_suspicious_frames_are_no_members() -> None:
    p = np.full(40, 0.5)
    p[::6] = 0.001
    keeper = AnchorKeeper()
    keeper.offer(candidates(START, artifact_p=p))
    assert keeper.pool is not None
    assert not set(keeper.pool.times_s.tolist()) & set(START[::6].tolist())
    unknown = AnchorKeeper()
    assert unknown.offer(candidates(START, artifact_p=np.full(40, np.nan)))


def test_two_faces_of_one_person_in_a_frame_are_no_candidates() -> None:
    keeper = AnchorKeeper()
    keeper.offer(candidates(np.repeat(START, 2)))
    assert keeper.pool is None
    assert keeper.status(8.0).reason == "ambiguous: two faces of this person in one frame"


def test_frames_that_do_not_agree_in_identity_make_no_anchor() -> None:
    identity = np.stack([who(i % 2) for i in range(200)])
    keeper = AnchorKeeper()
    keeper.offer(candidates(np.arange(200) * 0.3, identity))
    assert keeper.pool is None
    assert keeper.status(60.0).reason == "ambiguous: its frames show more than one face"


def test_a_single_stranger_among_the_first_frames_is_left_out() -> None:
    faces = candidates(START)
    faces.identity[2] = who(1)
    keeper = AnchorKeeper()
    keeper.offer(faces)
    assert keeper.pool is not None
    assert np.linalg.norm(keeper.pool.identities - who(0), axis=1).max() < 0.4


def test_frames_that_come_too_seldom_are_forgotten() -> None:
    keeper = AnchorKeeper()
    keeper.offer(candidates(np.arange(100) * 5.0))
    assert keeper.pool is None
    assert keeper.status(500.0).reason.startswith("5 of 12 good frames ")


def test_unfit_and_unknown_faces_do_not_count() -> None:
    faces = candidates(START, good=np.arange(40) % 2 == 0)
    faces.embedding[~faces.good] = np.nan
    faces.identity[0] = np.nan
    keeper = AnchorKeeper()
    keeper.offer(faces)
    assert keeper.pool is not None
    assert START[0] not in keeper.pool.times_s
    assert set(keeper.pool.times_s.tolist()) <= set(START[::2].tolist())


def test_missing_parts() -> None:
    only_artifact = AnchorKeeper(BOUNDED)
    only_artifact.offer(candidates(np.arange(200) * 0.2, np.zeros((200, 0))))
    assert only_artifact.pool is not None
    assert not only_artifact.pool.has_identity
    assert only_artifact.drift.identity is None
    assert only_artifact.drift.artifact is not None
    none = np.full(200, np.nan)
    only_identity = AnchorKeeper(BOUNDED)
    only_identity.offer(candidates(np.arange(200) * 0.2, embedding=np.zeros((200, 0)), logit=none, artifact_p=none))
    assert only_identity.pool is not None
    assert not only_identity.pool.has_artifact
    assert only_identity.drift.artifact is None
    for keeper in (only_artifact, only_identity):
        assert AnchorKeeper.from_state(keeper.to_state()).to_state() == keeper.to_state()
    with pytest.raises(DataError, match="without any embedding"):
        AnchorKeeper().offer(candidates(START, np.zeros((40, 0)), embedding=np.zeros((40, 0))))


def test_embeddings_of_another_size_are_refused() -> None:
    keeper = ready()
    with pytest.raises(DataError, match="embeddings of"):
        keeper.offer(candidates([50.0], np.zeros((1, 64))))
    waiting = AnchorKeeper()
    waiting.offer(candidates([0.0]))
    with pytest.raises(DataError):
        waiting.offer(candidates([1.0], embedding=np.zeros((1, 3))))
    with pytest.raises(DataError):
        candidates([0.0], logit=np.zeros(2))


# -- order and batches -------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), mode=st.sampled_from(list(AnchorMode)), cuts=st.lists(st.integers(1, 149), max_size=12)
)
def test_order_and_batches_and_moves_change_nothing(seed: int, mode: AnchorMode, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    policy = AnchorPolicy(mode=mode, updates_per_minute=60, expire_after_s=40, max_age_s=rng.choice([None, 20.0]))
    frames = np.cumsum(rng.choice([0.1, 0.2, 1.0, 50.0], 150, p=[0.5, 0.4, 0.09, 0.01]))
    of = np.sort(np.concatenate([np.arange(150), rng.integers(0, 150, rng.integers(0, 10))]))
    n = len(of)
    faces = candidates(
        frames[of],
        seed=seed,
        good=rng.random(n) < 0.9,
        artifact_p=np.where(rng.random(n) < 0.1, 0.001, 0.5),
    )
    faces.identity[rng.random(n) < 0.05] = who(1)
    whole = AnchorKeeper(policy)
    whole.offer(faces)
    moved = AnchorKeeper(policy)
    for batch in np.split(np.arange(150), sorted(cuts)):
        moved = AnchorKeeper.from_state(moved.to_state())
        moved.offer(shuffled(faces[np.isin(of, batch)], rng))
        moved.offer(shuffled(faces[np.isin(of, batch)], rng))  # a repeated batch is an old story
    assert moved.to_state() == whole.to_state()
    assert moved.status(frames[-1]) == whole.status(frames[-1])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), mode=st.sampled_from(list(AnchorMode)), is_enrolled=st.booleans())
def test_a_frame_that_may_pass_by_would_have_changed_nothing_else(
    seed: int, mode: AnchorMode, is_enrolled: bool
) -> None:
    rng = np.random.default_rng(seed)
    policy = AnchorPolicy(mode=mode, updates_per_minute=60, expire_after_s=40, max_age_s=rng.choice([None, 20.0]))
    offered, passed = (
        AnchorKeeper.enrolled(enrolled_pool(), policy, since_s=1.0) if is_enrolled else AnchorKeeper(policy)
        for _ in range(2)
    )
    passes, time_s = 0, 0.0
    for number in range(150):
        time_s += float(rng.choice([0.0, 0.1, 0.2, 1.0, 50.0], p=[0.02, 0.48, 0.4, 0.09, 0.01]))
        n = int(rng.choice([1, 2, 3], p=[0.9, 0.05, 0.05]))
        faces = candidates([time_s] * n, seed=number, good=rng.random(n) < 0.9)
        if rng.random() < 0.02:
            offered.freeze()
            passed.freeze()
        offered.offer(faces)
        if passed.pass_by(time_s, int(faces.good.sum())):
            passes += 1
        else:
            passed.offer(faces)
        assert passed.to_state() == offered.to_state()
        assert passed.status(time_s) == offered.status(time_s)
    assert passes or offered.pool is None or mode is AnchorMode.BOUNDED


# -- being dragged away ------------------------------------------------------------------------------------------------
def within_bounds(keeper: AnchorKeeper, first: AnchorPool) -> None:
    """The promises of a bounded anchor, from the pools themselves."""
    pool, policy = keeper.pool, keeper.policy
    assert pool is not None
    home = first.identities.astype(float).mean(axis=0)
    spread = np.sqrt(((first.embeddings - first.embeddings.astype(float).mean(axis=0)) ** 2).sum(axis=1).mean())
    moved = np.linalg.norm(pool.identities.astype(float).mean(axis=0) - home)
    artifact = np.linalg.norm(pool.embeddings.astype(float).mean(axis=0) - first.embeddings.astype(float).mean(axis=0))
    assert moved <= policy.max_drift_identity + 1e-9
    assert artifact <= policy.max_drift_artifact * spread + 1e-6
    assert keeper.drift.identity == pytest.approx(moved)
    assert keeper.drift.artifact == pytest.approx(artifact / spread)
    kept = {row.tobytes() for row in first.identities}
    newcomers = [row for row in pool.identities if row.tobytes() not in kept]
    assert len(pool) == len(first)
    assert len(newcomers) <= len(first) // 2
    assert all(np.linalg.norm(row - home) <= policy.max_drift_identity + 1e-9 for row in newcomers)
    centre = pool.identities.astype(float).mean(axis=0)
    assert np.linalg.norm(centre - who(0)) < np.linalg.norm(centre - who(1))


def morph(steps: int, noise: float, seed: int) -> Candidates:
    rng = np.random.default_rng(seed)
    share = np.linspace(0, 1, steps)[:, None]
    identity = (1 - share) * who(0) + share * who(1) + rng.normal(0, noise / IDENTITY_DIM**0.5, (steps, IDENTITY_DIM))
    embedding = rng.normal(0, 0.3, (steps, DIM)) + share * 20
    return candidates(10 + np.arange(steps) * 0.2, identity, embedding=embedding, artifact_p=np.ones(steps))


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(2, 800), noise=st.floats(0, 0.3), seed=st.integers(0, 999), size=st.integers(1, 200))
def test_no_morph_at_any_speed_drags_an_anchor_away(steps: int, noise: float, seed: int, size: int) -> None:
    frozen, bounded = ready(), ready(BOUNDED)
    first = frozen.pool
    assert first is not None
    faces = morph(steps, noise, seed)
    for start in range(0, steps, size):
        assert not frozen.offer(faces[start : start + size])
        bounded.offer(faces[start : start + size])
        within_bounds(bounded, first)
    assert frozen.pool is first
    assert frozen.drift.identity == frozen.drift.artifact == 0


@pytest.mark.parametrize("part", ["identity", "embedding"])
@pytest.mark.parametrize("reach", [0.5, 0.95, 0.9999])
def test_an_adversary_who_sees_the_anchor_cannot_drag_it_away(part: str, reach: float) -> None:
    """Every frame is the farthest towards the other person, or the other picture, that may still enter."""
    keeper = ready(BOUNDED)
    first = keeper.pool
    assert first is not None
    identity, embedding = first.identities.mean(axis=0), first.embeddings.mean(axis=0)
    if part == "identity":
        identity = identity + reach * BOUNDED.max_drift_identity * (who(1) - who(0)) / 0.7
    else:
        spread = np.sqrt(((first.embeddings - embedding) ** 2).sum(axis=1).mean())
        embedding = embedding + reach * BOUNDED.max_drift_artifact * spread * np.ones(DIM) / DIM**0.5
    updates = 0
    for step in range(400):
        updates += keeper.offer(
            candidates([20.0 + step], identity[None], embedding=embedding[None], artifact_p=np.ones(1), seed=step)
        )
        within_bounds(keeper, first)
    assert updates > 4  # it does follow, up to its bound
    centre = keeper.pool.identities.mean(axis=0)  # type: ignore[union-attr]
    assert np.linalg.norm(centre - who(0)) < np.linalg.norm(centre - who(1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), step=st.floats(0.001, 0.3))
def test_no_random_walk_leaves_the_bounds(seed: int, step: float) -> None:
    keeper = ready(BOUNDED)
    first = keeper.pool
    assert first is not None
    rng = np.random.default_rng(seed)
    walk = who(0) + np.cumsum(rng.normal(0, step / IDENTITY_DIM**0.5, (300, IDENTITY_DIM)), axis=0)
    drift = np.cumsum(rng.normal(0, 1, (300, DIM)), axis=0) * 0.1
    keeper.offer(candidates(20 + np.arange(300) * 0.5, walk, embedding=drift, artifact_p=np.ones(300)))
    within_bounds(keeper, first)


def test_a_bounded_anchor_follows_its_person_at_its_rate() -> None:
    keeper = ready(AnchorPolicy(mode=AnchorMode.BOUNDED, updates_per_minute=2))
    first = keeper.pool
    assert first is not None
    assert keeper.status(8.0).state is AnchorState.READY
    keeper.offer(candidates(10 + np.arange(550) * 0.2, seed=5))
    within_bounds(keeper, first)
    new = set(keeper.pool.times_s.tolist()) - set(first.times_s.tolist())  # type: ignore[union-attr]
    assert 2 <= len(new) <= 4


@pytest.mark.parametrize("fields", [{"artifact_p": np.full(50, 0.001)}, {"good": np.zeros(50, bool)}])
def test_what_is_suspicious_or_unfit_does_not_enter(fields: dict[str, Any]) -> None:
    keeper = ready(BOUNDED)
    assert not keeper.offer(candidates(20 + np.arange(50), seed=5, **fields))
    assert keeper.offer(candidates(80 + np.arange(50), seed=5))


def test_an_operators_freeze_holds_until_it_is_lifted() -> None:
    keeper = ready(BOUNDED)
    first = keeper.pool
    keeper.freeze()
    keeper = AnchorKeeper.from_state(keeper.to_state())
    later = candidates(1e6 + np.arange(50), seed=5)
    assert not keeper.offer(later)
    assert keeper.status(1e6).state is AnchorState.FROZEN
    assert keeper.status(1e6).reason == "frozen by the operator"
    assert first is not None
    np.testing.assert_array_equal(keeper.pool.identities, first.identities)  # type: ignore[union-attr]
    keeper.unfreeze()
    assert keeper.offer(candidates(1e6 + 100 + np.arange(50), seed=5))


# -- ending ------------------------------------------------------------------------------------------------------------
def test_a_person_not_seen_for_long_gets_a_new_anchor_like_the_first() -> None:
    keeper = ready(AnchorPolicy(expire_after_s=100))
    assert keeper.status(104.0).state is AnchorState.FROZEN
    expired = keeper.status(105.0)
    assert (expired.state, expired.origin) == (AnchorState.EXPIRED, None)
    assert "not seen for too long" in expired.reason
    assert keeper.offer(candidates([200.0]))
    assert keeper.pool is None
    # Another face comes back: no anchor for it, under this person's name.
    assert not keeper.offer(candidates(201 + START, np.stack([who(1)] * 40)))
    assert keeper.status(210.0).state is AnchorState.EXPIRED
    assert keeper.offer(candidates(230 + START, seed=3))
    assert keeper.status(240.0).state is AnchorState.FROZEN
    assert keeper.since_s == pytest.approx(234.4)
    assert 0 < keeper.drift.identity <= keeper.policy.max_drift_identity  # type: ignore[operator]


def test_an_anchor_ends_at_its_greatest_age() -> None:
    keeper = ready(AnchorPolicy(max_age_s=60))
    keeper.offer(candidates(10 + np.arange(500) * 0.2, seed=2))
    assert keeper.since_s is not None
    assert keeper.since_s > 60
    assert "greatest age" in keeper.status(keeper.since_s + 61).reason


def test_an_enrolled_anchor_waits_for_its_person_and_is_never_replaced_by_the_stream() -> None:
    pool = enrolled_pool()
    keeper = AnchorKeeper.enrolled(pool, AnchorPolicy(max_age_s=1e6))
    keeper.offer(candidates([9e5]))
    assert keeper.pool is pool
    assert keeper.status(9e5).state is AnchorState.FROZEN
    assert keeper.offer(candidates(2e6 + START))
    assert keeper.pool is None
    assert "enrol again" in keeper.status(2e6).reason
    keeper.reset()
    assert keeper.status(2e6).state is AnchorState.COLLECTING
    keeper.offer(candidates(3e6 + START))
    assert keeper.origin is Origin.SELF


def test_an_enrolled_anchor_of_photos_takes_a_stream_with_both_embeddings() -> None:
    pool = enrolled_pool(embeddings=np.zeros((8, 0)), logits=np.full(8, np.nan))
    keeper = AnchorKeeper.enrolled(pool, BOUNDED)
    assert keeper.offer(candidates(20 + START, seed=4))
    assert keeper.pool is not None
    assert not keeper.pool.has_artifact
    assert keeper.pool.origin is Origin.ENROLLED
    assert AnchorKeeper.from_state(keeper.to_state()).to_state() == keeper.to_state()


# -- bytes -------------------------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_states_are_refused(data: st.DataObject) -> None:
    state = bytearray(ready(BOUNDED).to_state())
    at = data.draw(st.integers(0, len(state) - 1))
    state[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AnchorError) as caught:
        AnchorKeeper.from_state(bytes(state[: data.draw(st.sampled_from([len(state), at]))]))
    assert caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"gap_s": -1},
        {"min_frames": 4},
        {"min_frames": 10_000},
        {"patience_s": 1},
        {"suspicious_p": 2},
        {"max_drift_identity": float("nan")},
        {"expire_after_s": 0},
        {"mode": "loose"},
    ],
)
def test_policies_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"anchor|need|frames|loose"):
        AnchorPolicy(**wrong)
