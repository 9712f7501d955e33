"""Writes the catalogue of metrics as one page: python scripts/metrics_page.py docs/metrics.md"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

from stream.metrics.catalogue import CATALOGUE, Metric
from stream.metrics.coverage import GAP_S, QUIET_S
from stream.metrics.processes import HOOKS, WALL
from stream.metrics.settings import MetricsSettings
from stream.metrics.store import MAX_SERIES
from stream.probes import DEFAULT_PORT
from stream.settings import WorkerSettings

_INTRO = f"""\
# Metrics and probes

Made by `make docs` from `stream/metrics/catalogue.py`, which rules and dashboards are tested against, and
`stream/metrics/processes.py`, for the processes beside workers.

```
difffake work --http 0.0.0.0:{DEFAULT_PORT} ...        # or DIFFFAKE_HTTP; off without it
curl localhost:{DEFAULT_PORT}/metrics
```

`/metrics` speaks OpenMetrics and Prometheus' text format. It is rendered beside the worker's loop, once a second at the
most. There is no login: serve it on an address that only Prometheus and the supervisor reach.

| probe | 200 when | else 503 |
|---|---|---|
| `/startupz` | engines are open and the loop has begun | still starting |
| `/livez` | the loop turned over within `--live-timeout` | it hangs: start the process again |
| `/readyz` | partitions are assigned and their state is restored | none yet, draining, or hanging |

On SIGTERM a worker takes no more records, finishes what is in progress or gives it back, commits, leaves the group and
ends with 0, within `--drain-timeout` ({WorkerSettings().drain_timeout_s:g} s). A second signal ends it at once; nothing
is lost or seen twice by that either, only done again.

## Beside workers
```
difffake hooks --http 0.0.0.0:{DEFAULT_PORT} ...       # or DIFFFAKE_HOOK_HTTP: metrics and the same probes
curl localhost:8080/metrics                  # the wall, where its page is
```

Neither tells the name of a stream. A receiver that takes nothing shows in `difffake_hooks_lag_seconds`, an alert that
nobody will get any more in `difffake_hooks_alerts_total{{outcome=~"refused|given_up|expired"}}`: at its first scrape
that may be above 0, which `increase` does not see. The deployment's rules tell of both, and of hooks and walls that are
down ([runbook](runbook.md#is-anybody-told)).

## What counts as looked at
Each due frame stands for the stream time since the due frame before it, {GAP_S:g} s at the most. That time is *covered*
if the frame was scored with a usable face, or has no face at all. It is not covered while the anchor is still being
taken, when no face is fit for scoring, when the frame could not be decoded or was shed, when its record became a dead
letter, or when nothing came for it, an hour at the most. "No alert" means "clean" only where the time is covered:

```
rate(difffake_stream_covered_seconds_total[5m]) / rate(difffake_stream_seconds_total[5m])   # of each stream
time() - difffake_stream_last_covered_timestamp_seconds > 30                                # not looked at now
```

A stream that stops altogether has no frames to count: its second line grows, and its coverage ratio is 0 after
{QUIET_S:g} s. The series of a stream go when nothing came of it for {MetricsSettings().series_idle_s / 60:g} minutes,
or when its partition is another worker's.

A worker tells of a stream from its first frame on. One that was silent before the worker started is known to nobody
here: alert on the absence of those that must be there.

What depends on records is counted when their transaction is committed: work that is thrown away and done again counts
once, as for a reader of the output topics.

## How many series
At most `--max-stream-series` streams ({MetricsSettings().max_stream_series} by default) have series of their own; all
others share those of `stream="_other"`, which has no gauges that make no sense for a sum. Every other metric has
{MAX_SERIES} series at the most. Stream ids are shortened to 200 bytes.

## Useful queries
```
sum(rate(difffake_alerts_total{{state="opened"}}[1h])) / sum(rate(difffake_covered_seconds_total[1h])) * 3600
    # alerts per stream-hour, beside difffake_alert_budget_per_stream_hour
sum by (evidence) (rate(difffake_evidence_p_value_bucket{{le="0.01"}}[1h]))
    / sum by (evidence) (rate(difffake_evidence_p_value_count[1h]))     # 0.01 under real footage
max(difffake_lag_seconds)                                               # what to scale on
histogram_quantile(0.95, sum by (le) (rate(difffake_end_to_end_seconds_bucket[5m])))
rate(difffake_batch_frames_total[5m]) / rate(difffake_batch_room_frames_total[5m])      # how full batches are
rate(difffake_stage_seconds_sum[5m]) / rate(difffake_stage_items_total[5m])             # not for commit alone
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    target: Path = parser.parse_args().page
    page = [_INTRO]
    every = [*CATALOGUE.values(), *HOOKS.values(), *WALL.values()]
    for section, metrics in groupby(every, key=lambda metric: metric.section):
        page += [f"## {section}", "", "| metric | type | what | labels |", "|---|---|---|---|", *map(_row, metrics), ""]
    target.write_text("\n".join(page), encoding="utf-8")


def _row(metric: Metric) -> str:
    labels = "<br>".join(f"`{name}`: {what}" for name, what in metric.labels.items())
    bounds = ", ".join(f"{bound:g}" for bound in metric.buckets)
    what = f"{metric.help} Buckets: {bounds}." if bounds else metric.help
    return f"| `{metric.name}` | {metric.type.value} | {what} | {labels} |"


if __name__ == "__main__":
    main()
