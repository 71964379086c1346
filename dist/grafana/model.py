"""Dashboards as data, and as the JSON that Grafana imports.

A dashboard is a list of rows of panels below headings; a panel is a title, a unit, queries and what is normal there.
``$instance`` is whom people choose, ``$__rate_interval`` Grafana's.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

COLUMNS: Final = 24
HEIGHT: Final = 8
NONE: Final = "none"
TAG: Final = "postern"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_NUMBER: Final = {"reduceOptions": {"calcs": ["lastNotNull"]}}
_LINES: Final = {
    "tooltip": {"mode": "multi", "sort": "desc"},
    "legend": {
        "displayMode": "table", "placement": "bottom", "showLegend": True,
        "calcs": ["lastNotNull", "max"], "sortBy": "Max", "sortDesc": True,
    },
}  # fmt: skip
# To the other dashboards, with the time that is looked at.
_LINKS: Final = [
    {
        "title": "Postern",
        "type": "dashboards",
        "tags": [TAG],
        "asDropdown": False,
        "keepTime": True,
        "includeVars": False,
    }
]
_SHARED_CROSSHAIR: Final = 1


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and what its series are called: Grafana's ``{{label}}``."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time, or with ``is_number`` the latest value in large.

    Attributes:
        text: what it shows where the title does not say it, and what is normal.
        is_needed: a number that is red where it is zero.
        is_quiet: lines that are not there where all is well; a small one does not fill the panel.
    """

    title: str
    unit: str
    queries: Sequence[Query]
    text: str
    is_number: bool = False
    is_needed: bool = False
    is_quiet: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, below a heading where there is one."""

    panels: Sequence[Panel]
    heading: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """``job`` is whose instances people choose from: a pattern of Prometheus' jobs."""

    uid: str
    title: str
    job: str
    rows: Sequence[Row]


def rate(metric: str, by: str = "", job: str = "", where: str = "", factor: str = "") -> str:
    """How fast a counter grows in a second, summed by some labels."""
    selector = ", ".join(filter(None, (f'job="{job}"' if job else "", 'instance=~"$instance"', where)))
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}(rate({metric}{{{selector}}}[$__rate_interval])){factor}"


def total(metric: str, by: str = "", job: str = "", where: str = "", of: str = "sum") -> str:
    """A gauge, summed by some labels."""
    selector = ", ".join(filter(None, (f'job="{job}"' if job else "", 'instance=~"$instance"', where)))
    return f"{of} by ({by}) ({metric}{{{selector}}})" if by else f"{of}({metric}{{{selector}}})"


def share(part: str, whole: str) -> str:
    """One of the other."""
    return f"{part} / {whole}"


def number(title: str, unit: str, expression: str, text: str, *, is_needed: bool = False) -> Panel:
    """One value."""
    return Panel(title, unit, (Query(expression),), text, is_number=True, is_needed=is_needed)


def lines(title: str, unit: str, text: str, *queries: tuple[str, str]) -> Panel:
    """Some lines."""
    return Panel(title, unit, tuple(Query(*query) for query in queries), text)


def events(title: str, unit: str, text: str, *queries: tuple[str, str], is_quiet: bool = False) -> Panel:
    """Of many kinds the ten largest that are not zero, and a line of nothing, so that there is data."""
    largest = [Query(f"topk(10, {expression} > 0)", legend) for expression, legend in queries]
    return Panel(title, unit, (*largest, Query("vector(0)", NONE)), text, is_quiet=is_quiet)


def troubles(title: str, unit: str, text: str, *queries: tuple[str, str]) -> Panel:
    """Events of which there are none where all is well."""
    return events(title, unit, text, *queries, is_quiet=True)


def panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    """As Grafana has them, row below row, each as wide as its row allows."""
    number_of_panel = top = 0
    for row in dashboard.rows:
        if row.heading:
            number_of_panel += 1
            place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
            yield {"id": number_of_panel, "gridPos": place, **_heading(row.heading)}
            top += 1
        height = HEIGHT // 2 if all(panel.is_number for panel in row.panels) else HEIGHT
        width = COLUMNS // len(row.panels)
        for column, panel in enumerate(row.panels):
            number_of_panel += 1
            place = {"x": column * width, "y": top, "w": width, "h": height}
            yield {"id": number_of_panel, "gridPos": place, **_panel(panel)}
        top += height


def _heading(title: str) -> dict[str, Any]:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query.expression, "legendFormat": query.legend}
        for index, query in enumerate(panel.queries)
    ]
    return {
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _NUMBER if panel.is_number else _LINES,
        "targets": targets,
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    """Without thresholds of ours Grafana paints each number above 80 red."""
    green: dict[str, Any] = {"color": "green", "value": None}
    steps = [{"color": "red", "value": None}, {"color": "green", "value": 1}] if panel.is_needed else [green]
    found: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    return found | ({"custom": {"axisSoftMax": 1}} if panel.is_quiet else {})


def document(dashboard: Dashboard) -> dict[str, Any]:
    """All of it, as Grafana imports it."""
    instances = f'label_values(up{{job=~"{dashboard.job}"}}, instance)'
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": [TAG],
        "links": _LINKS,
        "graphTooltip": _SHARED_CROSSHAIR,
        "schemaVersion": 38,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "instance",
                    "label": "Instance",
                    "type": "query",
                    "datasource": _SOURCE,
                    "query": {"query": instances, "refId": "instances"},
                    "definition": instances,
                    "includeAll": True,
                    "allValue": ".*",
                    "multi": True,
                    "refresh": 2,
                    "current": {"text": ["All"], "value": ["$__all"]},
                },
            ]
        },
        "panels": list(panels(dashboard)),
    }


def text(dashboard: Dashboard) -> str:
    """What stands in its file."""
    return json.dumps(document(dashboard), indent=2) + "\n"
