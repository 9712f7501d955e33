"""Tables of pages say what the results that they cite say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_false_alarms_by_encode_are_those_of_the_results() -> None:
    """A run whose page was forgotten is how such a table grows old."""
    results = json.loads((ROOT / "benchmarks/results/false_alarms.json").read_text(encoding="utf-8"))
    table = runpy.run_path(str(ROOT / "benchmarks" / "false_alarms.py"))["page_table"](results)
    assert table.count("\n") == 5
    assert table in (ROOT / "docs" / "identity.md").read_text(encoding="utf-8")
