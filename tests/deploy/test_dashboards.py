"""Grafana dashboards: made from code, and asking only for what there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from promql import DASHBOARDS, DEPLOY, METRICS, Query, asked, dashboards, known, mistakes, queries

#: Panels of today's Grafana; graph, singlestat and table-old are gone.
PANELS = {"row", "stat", "timeseries", "table", "state-timeline", "heatmap", "bargauge"}


def test_they_are_what_the_code_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DEPLOY / "grafana" / "source", tmp_path], check=True)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in DASHBOARDS.iterdir()}, "run `make docs`"


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.where)
def test_panels_ask_only_for_what_workers_expose(query: Query) -> None:
    assert mistakes(query.expr) == []
    # Whoever picks a deployment sees no other one.
    assert "$job" in query.raw or query.where.endswith("variable job")


def test_nothing_that_workers_expose_is_shown_nowhere() -> None:
    shown = {one.name for query in queries() for one in asked(query.expr)}
    hidden = {metric.name for metric in METRICS if not shown & set(metric.series)}
    recorded = {name for name in known() if ":" in name and name in shown}
    # Shown through recording rules alone, or of no use in a picture.
    assert hidden <= {
        "difffake_stream_seconds_total",
        "difffake_stream_covered_seconds_total",
        "difffake_covered_seconds_total",
        "difffake_observed_seconds_total",
        "difffake_alert_budget_per_stream_hour",
        "difffake_gpu_info",
        "process_virtual_memory_bytes",
    }
    assert "job:difffake_coverage:ratio_rate5m" in recorded


@pytest.mark.parametrize("name", dashboards())
def test_panels_have_a_unit_a_place_and_a_kind_that_grafana_still_has(name: str) -> None:
    panels = dashboards()[name]["panels"]
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] in PANELS
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("name", dashboards())
def test_the_file_is_plain(name: str) -> None:
    text = (DASHBOARDS / f"{name}.json").read_text()
    assert json.loads(text)["uid"] == f"difffake-{name}"
    assert "http://" not in text
    assert "https://" not in text
