"""Dashboards, alert rules and the profile of the compose file: they name what there is, and the documents name them."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dist.grafana.dashboards import DASHBOARDS
from dist.grafana.model import document, text
from tests.netns.test_metrics_documented import DOCUMENT, SERVICES, documented, for_prometheus

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "dist" / "prometheus" / "postern.rules.yml"
METRICS: Final = {"up"}.union(*(for_prometheus(documented(service)) for service in SERVICES))


def load(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in load(RULES)["groups"] for rule in group["rules"]}


def names(expression: str) -> set[str]:
    """The metrics of an expression: what is left of it without labels, their values, and functions."""
    bare = re.sub(r"\b(by|on)\s*\([^)]*\)", "", re.sub(r"\{[^}]*\}", "", expression))
    return set(re.findall(r"\b(?:[a-z]+(?:_[a-z0-9]+)+|up)\b", re.sub(r"\[[^]]*\]", "", bare)))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_are_as_they_are_written_and_ask_for_metrics_that_exist(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert (ROOT / "dist" / "grafana" / f"{name}.json").read_text(encoding="utf-8") == text(dashboard)
    for panel in document(dashboard)["panels"]:
        for target in panel.get("targets", ()):
            assert names(target["expr"]) or target["expr"] == "vector(0)", panel["title"]
            assert names(target["expr"]) <= METRICS, panel["title"]
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert labels <= set(re.split(r",\s*", grouped[0] if grouped else "")), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboards_are_what_grafana_imports(name: str) -> None:
    """By its documented model of a dashboard; Grafana itself is not at hand."""
    found = document(DASHBOARDS[name])
    panels, shown = found["panels"], [panel for panel in found["panels"] if panel["type"] != "row"]
    assert found["schemaVersion"] == 38  # Grafana 10, which later ones bring up to their own
    assert "id" not in found, "which is of the Grafana that imports it"
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert all(0 <= x < 24 for x, _ in cells)
    variables = {variable["name"]: variable["type"] for variable in found["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query"}
    for panel in shown:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        assert set(re.findall(r"\$(\w+)", str(panel["targets"]))) <= {*variables, "__rate_interval"}


def test_who_looks_at_night_is_told_what_is_normal() -> None:
    found = {name: document(dashboard) for name, dashboard in DASHBOARDS.items()}
    for name, dashboard in found.items():
        shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        titles = [panel["title"] for panel in shown]
        assert len(set(titles)) == len(titles), name
        assert all(panel["description"] for panel in shown)
        (link,) = dashboard["links"]
        assert all(set(link["tags"]) <= set(other["tags"]) for other in found.values()), "each leads to the others"
        for panel in shown:  # without thresholds Grafana paints each number above 80 red
            assert all(step["color"] == "green" or step["value"] is None for step in _steps(panel)), panel["title"]
            legends = [target["legendFormat"] for target in panel["targets"]]
            assert panel["type"] == "stat" or all(legends), panel["title"]


def _steps(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return list(panel["fieldConfig"]["defaults"]["thresholds"]["steps"])


def test_a_panel_shows_every_metric_but_those_of_others() -> None:
    """Whoever adds a metric is told here to show it, or to say that nobody needs a picture of it."""
    shown = {
        name
        for dashboard in DASHBOARDS.values()
        for panel in document(dashboard)["panels"]
        for target in panel.get("targets", ())
        for name in names(target["expr"])
    }
    without_a_picture = {
        "postern_portal_connections", "postern_portal_devices", "postern_portal_relays", "postern_relay_draining",
        "postern_portal_http_events_total", "postern_relay_http_events_total",
    }  # fmt: skip
    assert METRICS - shown == without_a_picture


def test_alerts_are_documented_and_tested_and_rest_on_metrics_that_exist() -> None:
    rows = re.findall(r"^\| (`Postern\w+`(?:, `Postern\w+`)*) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"Postern\w+", " ".join(rows))) == set(alerts())
    tested = (RULES.parent / "postern.test.yml").read_text(encoding="utf-8")
    for name, rule in alerts().items():
        assert f'alertname="{name}"' in tested
        assert names(rule["expr"]) <= METRICS, name


def test_prometheus_in_the_compose_file_asks_every_part_where_it_answers() -> None:
    services = load(ROOT / "compose" / "docker-compose.yml")["services"]
    answering = {
        f"{network['ipv4_address']}:9464"
        for service in services.values()
        if service.get("environment", {}).get("POSTERN_METRICS_ADDR") == "0.0.0.0:9464"
        for name, network in service["networks"].items()
        if name != "resources"
    }
    jobs = load(ROOT / "compose" / "observe" / "prometheus.yml")["scrape_configs"]
    assert {target for job in jobs for group in job["static_configs"] for target in group["targets"]} == answering
    assert {job["job_name"] for job in jobs} == {f"postern-{service}" for service in SERVICES}
    reached = set(services["prometheus"]["networks"])
    assert {"portal", "relay-1", "relay-2", "gateway-1", "gateway-2", "client", "observe"} == reached
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"prometheus": ["observe"], "grafana": ["observe"]}
