"""What the pipeline's benchmark works out from what it measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from pipeline_live import fair_shares, jain, percentiles
from pipeline_parts import search
from pipeline_profile import summary
from pipeline_release import BEGIN, END, row, with_row


def test_jain_is_one_where_all_are_served_alike_and_one_nth_where_one_takes_all() -> None:
    assert jain([0.7, 0.7, 0.7]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=10), st.floats(0, 500))
def test_fair_shares_give_nobody_more_than_asked_and_waste_nothing(demands: list[float], capacity: float) -> None:
    shares = fair_shares(demands, capacity)
    assert all(share <= demand + 1e-9 for share, demand in zip(shares, demands, strict=True))
    assert sum(shares) == pytest.approx(min(capacity, sum(demands)), abs=1e-6)
    unserved = [share for share, demand in zip(shares, demands, strict=True) if share < demand - 1e-6]
    # Whoever wants more has as much as anybody.
    assert all(share >= max(shares) - 1e-6 for share in unserved)


def probes(limit: int) -> Any:
    def run(count: int) -> dict[str, Any]:
        return {"streams": count, "settled": True, "coverage": 1.0, "p95_s": 0.5 if count <= limit else 2.0}

    return run


@pytest.mark.parametrize(("start", "limit"), [(1, 13), (12, 13), (40, 13), (13, 1)])
def test_the_search_finds_the_most_streams_that_hold(start: int, limit: int) -> None:
    most, tried = search(start, 20, probes(limit))
    assert most == limit
    assert len(tried) < 20


def test_the_search_says_zero_where_none_holds() -> None:
    assert search(3, 5, probes(0))[0] == 0


def test_a_stream_without_scores_has_no_latency_that_could_pass() -> None:
    assert not percentiles([])["p95_s"] < 1.0


def test_a_release_has_one_row_and_new_ones_come_last() -> None:
    headline = {"bound_ratio": {"value": 0.91, "others": 0.0, "machine": {"cpu": "C", "cores": 2}}}
    page = f"text\n{BEGIN}\n{END}\nmore\n"
    for version, value in (("1.0", 0.9), ("1.1", 0.92), ("1.0", 0.95)):
        headline["bound_ratio"]["value"] = value
        page = with_row(page, version, row(version, {"headline": headline}))
    rows = [line for line in page.splitlines() if line.startswith("| 1.")]
    assert [line.split("|")[1:3] for line in rows] == [[" 1.1 ", " 0.92 "], [" 1.0 ", " 0.95 "]]
    assert page.startswith("text\n")
    assert page.endswith("\nmore\n")


def test_a_sample_counts_for_the_library_of_its_innermost_frame() -> None:
    head = "Pipeline._look (stream/pipeline.py:1);"
    raw = "\n".join(
        [
            f"{head}run (engines/onnx.py:2);0x1 (onnxruntime.so);0x2 (libc.so.6) 6",
            f"{head}of (difffake/faces/finder.py:3) 3",
            f"{head}of (difffake/faces/finder.py:4);PyLong_Add (libpython3.11.so) 1",
            f"{head}Condition.wait (threading.py:331) 10",
            "elsewhere (other.py:1) 100",
        ]
    )
    found = summary(raw)
    assert found["libraries"] == {"ONNX Runtime": 0.6, "Python": 0.4}
    assert found["python"] == 0.4
    assert found["top_python"] == {"of (difffake/faces/finder.py)": 0.4}
    assert found["waiting"] == {"work": 0.5}
