"""Which frames become an anchor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.anchors import AnchorPool, AnchorProtocol, Origin, choose_self_anchor
from difffake.errors import DataError


def choose(times: object, **options: object) -> list[int] | None:
    times = np.asarray(times, float)
    embeddings, logits = np.zeros((len(times), 3), np.float32), np.zeros(len(times), np.float32)
    chosen = choose_self_anchor(times, embeddings, logits, **options)  # type: ignore[arg-type]
    return None if chosen is None else chosen.tolist()


def test_the_first_good_frames_with_a_gap() -> None:
    times = np.arange(40) * 0.1
    assert choose(times, k=3, min_gap_s=0.45) == [0, 5, 10]
    quality = np.ones(40, bool)
    quality[[0, 5, 6]] = False
    assert choose(times, k=3, min_gap_s=0.45, quality=quality) == [1, 7, 12]
    assert choose(times, k=8, min_gap_s=0.45, until_s=1.05) == [0, 5, 10]


def test_spread_is_the_papers_eight_of_forty() -> None:
    chosen = choose(np.arange(40) * 0.5, k=8, min_gap_s=0.25, protocol="spread")
    assert chosen == [2, 7, 12, 17, 22, 27, 32, 37]


def test_few_frames_are_used_as_they_are_but_one_is_no_anchor() -> None:
    assert choose([0.0, 1.0, 2.0], k=8) == [0, 1, 2]
    assert choose([0.0, 1.0, 2.0], k=8, protocol="spread") == [0, 1, 2]
    assert choose([0.0]) is None
    assert choose([]) is None
    assert choose([0.0, 0.1], min_gap_s=0.5) is None
    assert choose([0.0, 1.0], quality=np.zeros(2, bool)) is None
    assert choose([5.0, 6.0], until_s=5.5) is None


def test_frames_out_of_order_are_taken_by_time() -> None:
    assert choose([3.0, 1.0, 2.0, 0.0], k=2) == [3, 1]


def test_frames_without_a_finite_embedding_or_logit_do_not_count() -> None:
    embeddings, logits = np.zeros((5, 2)), np.zeros(5)
    embeddings[0, 1], logits[2] = np.nan, np.inf
    chosen = choose_self_anchor(np.arange(5.0), embeddings, logits, k=3)
    assert chosen is not None
    assert chosen.tolist() == [1, 3, 4]


@settings(max_examples=100, deadline=None)
@given(
    times=st.lists(st.floats(0, 30), max_size=60),
    k=st.integers(2, 12),
    gap=st.sampled_from([0.0, 0.25, 2.0]),
    protocol=st.sampled_from(list(AnchorProtocol)),
)
def test_promises_hold_for_any_times(times: list[float], k: int, gap: float, protocol: AnchorProtocol) -> None:
    chosen = choose(times, k=k, min_gap_s=gap, protocol=protocol)
    if chosen is None:
        assert len(times) < 2 or max(times) < min(times) + gap
        return
    assert 2 <= len(chosen) <= k
    assert len(set(chosen)) == len(chosen)
    picked = np.asarray(times)[chosen]
    assert (picked[1:] >= picked[:-1] + gap).all()


@pytest.mark.parametrize(
    "options",
    [{"k": 1}, {"k": 10**6}, {"min_gap_s": -1.0}, {"min_gap_s": np.nan}, {"quality": np.ones(3)}],
)
def test_bad_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(DataError) as caught:
        choose([0.0, 1.0, 2.0], **options)
    assert caught.value.hint


def test_frames_that_do_not_match_are_refused() -> None:
    with pytest.raises(DataError, match="do not match"):
        choose_self_anchor(np.zeros(3), np.zeros((3, 2)), np.zeros(2))


def test_a_pool_keeps_its_own_read_only_copy() -> None:
    embeddings = np.zeros((2, 3))
    pool = AnchorPool(embeddings, np.zeros(2), np.zeros(2), "self")  # type: ignore[arg-type]
    embeddings += 1
    assert len(pool) == 2
    assert pool.origin is Origin.SELF
    assert pool.embeddings.dtype == pool.logits.dtype == np.float32
    np.testing.assert_array_equal(pool.embeddings, 0.0)
    with pytest.raises(ValueError, match="read-only"):
        pool.embeddings[0] = 1


@pytest.mark.parametrize(
    "fields",
    [
        (np.zeros((0, 3)), np.zeros(0), np.zeros(0)),
        (np.zeros((2, 3)), np.zeros(3), np.zeros(2)),
        (np.zeros((2, 3)), np.zeros(2), np.zeros(1)),
        (np.full((2, 3), np.nan), np.zeros(2), np.zeros(2)),
        (np.zeros((5000, 3)), np.zeros(5000), np.zeros(5000)),
    ],
)
def test_bad_pools_are_refused(fields: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    with pytest.raises(DataError):
        AnchorPool(*fields, Origin.ENROLLED)
