"""What PromQL of rules and dashboards asks for: names of series, and labels of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import promql_parser
import yaml

from stream.metrics.catalogue import CATALOGUE, Metric
from stream.metrics.processes import HOOKS, WALL

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
#: What is exposed by workers, and by what runs beside them.
METRICS: tuple[Metric, ...] = (*CATALOGUE.values(), *HOOKS.values(), *WALL.values())
#: Labels that every scrape adds.
SCRAPED = frozenset({"job", "instance"})
#: Labels that a scrape adds where there are several receivers, to what hooks expose.
_SCRAPED_HOOKS = frozenset({"receiver"})
#: What Prometheus has by itself.
_BUILT_IN = {"up": SCRAPED, "ALERTS": SCRAPED | {"alertname", "alertstate", "severity", "kind", "stream"}}
#: What Grafana fills in, and something that may stand in its place.
GRAFANA = {
    "$__rate_interval": "1m",
    "$__interval": "1m",
    "$__range": "1h",
    "$job": ".*",
    "$instance": ".*",
    "$stream": ".*",
}


@dataclass(frozen=True)
class Rule:
    """A recording or alerting rule; ``raw`` as in the file."""

    name: str
    expr: str
    is_alert: bool
    raw: Mapping[str, object]


@dataclass(frozen=True)
class Query:
    """What a panel asks, as Prometheus gets it."""

    where: str
    expr: str
    raw: str


@dataclass(frozen=True)
class Asked:
    """A series that an expression names: labels that it is matched, grouped or joined by, and values they must have."""

    name: str
    labels: frozenset[str]
    values: tuple[tuple[str, str], ...]


def rules() -> list[Rule]:
    """All rules of the deployment."""
    groups = [group for file in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"]]
    return [
        Rule(str(raw.get("alert") or raw["record"]), raw["expr"], "alert" in raw, raw)
        for group in groups
        for raw in group["rules"]
    ]


def dashboards() -> dict[str, dict[str, object]]:
    """All dashboards, by name of the file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def queries() -> list[Query]:
    """Every query of every panel, annotation and variable."""
    found = []
    for name, dashboard in dashboards().items():
        asked = [
            (f"{name}: {panel['title']}", target["expr"])
            for panel in dashboard["panels"]
            for target in panel.get("targets", [])
        ]
        asked += [(f"{name}: annotation {note['name']}", note["expr"]) for note in dashboard["annotations"]["list"]]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":  # label_values(SELECTOR, LABEL)
                selector = variable["query"]["query"].removeprefix("label_values(").rsplit(",", 1)[0]
                asked.append((f"{name}: variable {variable['name']}", selector))
        found += [Query(where, filled(raw), raw) for where, raw in asked]
    return found


def filled(expr: str) -> str:
    """With values in the place of Grafana's variables."""
    for name, value in GRAFANA.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, f"a variable that no dashboard has: {expr}"
    return expr


def known() -> dict[str, frozenset[str]]:
    """Series that there are, from the catalogues, recording rules and Prometheus itself; with their labels.

    What a recording rule keeps stands in its name, before the first colon.
    """
    series = {name: metric.query_labels | SCRAPED for metric in METRICS for name in metric.series}
    series |= {name: series[name] | _SCRAPED_HOOKS for metric in HOOKS.values() for name in metric.series}
    recorded = {rule.name: rule.name.split(":")[0].split("_") for rule in rules() if not rule.is_alert}
    return series | {name: frozenset(labels) for name, labels in recorded.items()} | _BUILT_IN


def asked(expr: str) -> Iterator[Asked]:
    """Each series that an expression names."""
    yield from _asked(promql_parser.parse(expr), frozenset())


def mistakes(expr: str) -> list[str]:
    """What an expression asks for that nobody exposes: series, labels, values of labels, bounds of buckets."""
    series, found = known(), []
    for one in asked(expr):
        if one.name not in series:
            found.append(f"no series {one.name}")
            continue
        found += [f"{one.name} has no label {label}" for label in sorted(one.labels - series[one.name])]
        metric = _metric(one.name)
        for label, value in one.values:
            if metric is not None and label == "le":
                if float(value) not in metric.buckets:
                    found.append(f"{one.name} has no bucket up to {value}")
            elif (
                metric is not None and "`" in metric.labels.get(label, "") and f"`{value}`" not in metric.labels[label]
            ):
                found.append(f"{label} of {one.name} is never {value}")
    return found


def _metric(series: str) -> Metric | None:
    return next((metric for metric in METRICS if series in metric.series), None)


def _asked(node: promql_parser.Expr, outer: frozenset[str]) -> Iterator[Asked]:
    match node:
        case promql_parser.VectorSelector():
            matchers = node.matchers.matchers
            exact = [m for m in matchers if m.value not in (".*", ".+")]
            values = tuple((m.name, value) for m in exact for value in m.value.split("|"))
            yield Asked(node.name, outer | {m.name for m in matchers}, values)
        case promql_parser.MatrixSelector():
            yield from _asked(node.vector_selector, outer)
        case promql_parser.AggregateExpr():
            by = frozenset(node.modifier.labels) if node.modifier else frozenset()
            # What is grouped by must be kept below; what is asked further out must be a label of the group.
            assert outer <= by or not by, f"{sorted(outer - by)} is gone after `by {sorted(by)}`: {node}"
            yield from _asked(node.expr, by)
        case promql_parser.BinaryExpr():
            matching = node.modifier.matching if node.modifier else None
            on = frozenset(matching.labels) if matching else frozenset()
            yield from _asked(node.lhs, outer | on)
            yield from _asked(node.rhs, on)
        case promql_parser.Call():
            for argument in node.args:
                yield from _asked(argument, outer)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
            yield from _asked(node.expr, outer)
        case _:
            return
