"""The table of releases in docs/performance.md: one row of the pipeline's figures for each.

    python benchmarks/pipeline_release.py benchmarks/results/latest.json docs/performance.md

Writes the row of the version that is installed, or replaces it. Rows are comparable where the machine is the same; that
of a run on a machine that others used says so.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from difffake import __version__

COLUMNS = (
    "bound_ratio",
    "bound_ratio_cpu",
    "vs_user_loop",
    "streams_per_core_720p",
    "streams_per_core_720p_watch",
    "jain_flood",
    "cost_spread_by_streams",
    "mib_per_stream",
    "overload_back_to_normal_s",
)
BEGIN, END = "<!-- releases -->", "<!-- /releases -->"
#: Cores kept busy by others, from which on a row is marked.
_BUSY = 0.1


def row(version: str, figures: dict[str, Any]) -> str:
    """A line of the table; a figure that was not measured stays open."""
    headline = figures["headline"]
    cells = [f"{headline[name]['value']:.3g}" if name in headline else "" for name in COLUMNS]
    machines = dict.fromkeys(f"{one['machine']['cpu']}, {one['machine']['cores']} cores" for one in headline.values())
    machine = "; some on ".join(machines)  # what a release was not measured for again
    busy = max((one["others"] for one in headline.values()), default=0.0)
    note = f"; shared, others kept up to {busy:.1f} cores busy" if busy > _BUSY else ""
    return f"| {version} | {' | '.join(cells)} | {machine}{note} |"


def with_row(page: str, version: str, line: str) -> str:
    """The page with this version's row, new ones last."""
    before, _, rest = page.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = [r for r in table.splitlines() if r.startswith("| ") and not r.startswith(("| release ", f"| {version} "))]
    head = f"| release | {' | '.join(f'`{name}`' for name in COLUMNS)} | machine |"
    lines = [head, "|---" * (len(COLUMNS) + 2) + "|", *rows, line]
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


def main() -> None:
    """Parse, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    page = options.page.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{options.page} has no place for the table: {BEGIN} ... {END}")
    figures = json.loads(options.figures.read_text())
    options.page.write_text(with_row(page, __version__, row(__version__, figures)))


if __name__ == "__main__":
    main()
