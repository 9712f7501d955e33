"""Panels, variables and dashboards as Grafana has them, from what tells them apart."""

from __future__ import annotations

from dataclasses import dataclass, field

Json = dict[str, object]

#: Of Grafana 12; newer ones bring older dashboards up to date by themselves.
SCHEMA_VERSION = 41
WIDTH = 24
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED = "green", "yellow", "red"
#: Wide enough for four scrapes, whatever the zoom.
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        kind: panel type of Grafana.
        title, text: heading and description.
        queries: legend (of a table: the column's name) -> PromQL.
        unit: of Grafana; `overrides` name others for single columns.
        width, height: in Grafana's grid of 24 columns.
        steps: colour from a value on, rising; the first begins at minus infinity.
    """

    kind: str
    title: str
    text: str
    queries: dict[str, str]
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float | None, str], ...] = ()
    defaults: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()

    def json(self, number: int, x: int, y: int) -> Json:
        """As Grafana has it, at a place of the grid."""
        instant = self.kind in ("stat", "table", "bargauge")
        targets = [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": expr,
                "legendFormat": "" if self.kind == "table" else legend,
                "format": {"table": "table", "heatmap": "heatmap"}.get(self.kind, "time_series"),
                "instant": instant,
                "range": not instant,
                "editorMode": "code",
            }
            for place, (legend, expr) in enumerate(self.queries.items())
        ]
        steps = [{"value": value, "color": colour} for value, colour in self.steps or ((None, GREEN),)]
        defaults: Json = {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}, **self.defaults}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "targets": targets,
            "transformations": list(self.transformations),
        }


def stat(
    title: str, text: str, expr: str, unit: str = "short", *steps: tuple[float | None, str], **more: Json
) -> Panel:
    """One figure, coloured by its value."""
    options: Json = {
        "colorMode": "background" if steps else "value",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"]},
    }
    return Panel("stat", title, text, {"": expr}, unit, 4, 4, steps, more.get("defaults", {}), options)


def lines(
    title: str,
    text: str,
    queries: dict[str, str],
    unit: str = "short",
    *,
    width: int = 8,
    stack: bool = False,
    **custom: object,
) -> Panel:
    """Lines over time, or areas on top of each other."""
    look: Json = {"lineWidth": 1, "fillOpacity": 40 if stack else 8, "showPoints": "never", **custom}
    if stack:
        look["stacking"] = {"mode": "normal", "group": "A"}
    options: Json = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, text, queries, unit, width, defaults={"custom": look, "min": 0}, options=options)


def table(
    title: str, text: str, by: str, columns: dict[str, tuple[str, str]], *, width: int = WIDTH, **colours: list[Json]
) -> Panel:
    """A row for each value of the label `by`; columns: heading -> (PromQL that keeps `by` alone, unit)."""
    letters = [chr(ord("A") + place) for place in range(len(columns))]
    names = {f"Value #{letter}": heading for letter, heading in zip(letters, columns, strict=True)}
    if len(columns) == 1:
        names = {"Value": next(iter(columns))}
    overrides: list[Json] = [
        {
            "matcher": {"id": "byName", "options": heading},
            "properties": [{"id": "unit", "value": unit}, *colours.get(heading.replace(" ", "_"), [])],
        }
        for heading, (_, unit) in columns.items()
    ]
    organise: Json = {"excludeByName": {"Time": True}, "renameByName": names}
    return Panel(
        "table",
        title,
        text,
        {heading: expr for heading, (expr, _) in columns.items()},
        width=width,
        height=10,
        options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": by, "desc": False}]},
        overrides=tuple(overrides),
        transformations=({"id": "merge", "options": {}}, {"id": "organize", "options": organise}),
    )


def coloured(*steps: tuple[float | None, str], names: dict[str, str] | None = None) -> list[Json]:
    """Properties of a column whose cells are coloured by value; `names`: value -> word shown for it."""
    shown: list[Json] = [
        {"id": "custom.cellOptions", "value": {"type": "color-background", "mode": "basic"}},
        {
            "id": "thresholds",
            "value": {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]},
        },
    ]
    return shown + (named(names) if names else [])


def named(names: dict[str, str]) -> list[Json]:
    """Properties of a column that shows words for its values."""
    options = {value: {"text": text, "index": place} for place, (value, text) in enumerate(names.items())}
    return [{"id": "mappings", "value": [{"type": "value", "options": options}]}]


def query_variable(name: str, label: str, query: str) -> Json:
    """A choice among the values of a label."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid: str, title: str, text: str, variables: list[Json], rows: dict[str, list[Panel]], link: str) -> Json:
    """A dashboard: rows of panels, laid out from left to right."""
    panels: list[Json] = []
    y = 0
    for heading, row in rows.items():
        place: Json = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "panels": [], "gridPos": place}
        )
        y, x, height = y + 1, 0, 0
        for panel in row:
            if x + panel.width > WIDTH:
                y, x, height = y + height, 0, 0
            panels.append(panel.json(len(panels) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    source: Json = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }
    fired: Json = {
        "name": "DiffFake's own alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": RED,
        "expr": 'ALERTS{alertname=~"DiffFake.+", alertstate="firing", severity="critical", job=~"$job"}',
        "titleFormat": "{{alertname}} {{stream}}",
        "step": "60s",
    }
    other = f"difffake-{link}"
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["difffake"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [fired]},
        "links": [
            {"type": "link", "title": link.capitalize(), "url": f"/d/{other}", "keepTime": True, "includeVars": False}
        ],
        "templating": {"list": [source, *variables]},
        "panels": panels,
    }
