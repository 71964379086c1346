"""A Prometheus that watches a running stack has data for every panel of every dashboard, and for every alert.

Prometheus is in the portal's namespace of a lab without NAT, from where it reaches all four services.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import yaml

from dist.grafana.dashboards import DASHBOARDS
from dist.grafana.model import document
from lab import network
from lab.measure import PAGE_URL, first_answer_ms
from lab.plan import CLIENT, GATEWAY, LabSettings
from lab.processes import wait_until
from lab.stack import Stack
from lab.topology import Lab
from tests.e2e.engine import install
from tests.unit.test_observe_files import ROOT, RULES, alerts

# The first one may have to install programs.
pytestmark = [pytest.mark.root, pytest.mark.long, pytest.mark.timeout(900)]

PORT: Final = 9464
ASKED: Final = "127.0.0.1:9090"
INTERVAL: Final = "10s"  # in place of Grafana's $__rate_interval: Prometheus asks once a second


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    install(("prometheus", "promtool"), ("prometheus",))


def test_the_rules_say_what_their_own_test_expects() -> None:
    for words in (["check", "rules", str(RULES)], ["test", "rules", str(RULES.with_name("postern.test.yml"))]):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_knows_the_profile() -> None:
    install(("docker-compose",), ("docker-compose",))
    file = ROOT / "compose" / "docker-compose.yml"
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PROMETHEUS_IMAGE": "registry.example/prometheus:1"}

    def services(*words: str) -> dict[str, Any]:
        command = ["docker-compose", "--file", str(file), *words, "config"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
        return dict(yaml.safe_load(done.stdout)["services"])

    told = services("--profile", "observe")
    assert told["prometheus"]["image"] == "registry.example/prometheus:1"
    assert told["grafana"]["image"] == "grafana/grafana"
    configuration = file.parent / "observe" / "prometheus.yml"
    subprocess.run(["promtool", "check", "config", "--syntax-only", str(configuration)], check=True)


class Watched:
    """A stack, and a Prometheus that asks its services once a second."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.lab = stack, stack.lab
        targets = {
            "postern-relay": "203.0.113.101",
            "postern-gateway": GATEWAY.address,
            "postern-client": CLIENT.address,
            "postern-portal": "127.0.0.1",
        }
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"{address}:{PORT}"]}]}
                for job, address in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        prometheus = self.lab.spawn("prometheus", self.namespace, [*command, f"--web.listen-address={ASKED}"])
        ready = partial(self._succeeds, "-/ready")
        wait_until(ready, "Prometheus is ready", [prometheus], 60)

    @property
    def namespace(self) -> str:
        return self.lab.namespace("portal")

    def _succeeds(self, page: str) -> bool:
        command = ["ip", "netns", "exec", self.namespace, "curl", "-sf", f"http://{ASKED}/{page}"]
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0

    def ask(self, page: str) -> Any:
        answer = json.loads(network.execute(self.namespace, ["curl", "-s", f"http://{ASKED}/api/v1/{page}"]))
        assert answer["status"] == "success", f"{page}: {answer}"
        return answer["data"]

    def has_data(self, expression: str) -> bool:
        return bool(self.ask(f"query?query={quote(expression)}")["result"])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Lab(LabSettings()) as lab:
        stack = Stack(lab)
        stack.start()
        watched = Watched(stack, tmp_path_factory.mktemp("prometheus"))
        first_answer_ms(lab, PAGE_URL)
        wait_until(partial(watched.has_data, "sum(up) == 4"), "Prometheus has asked all four", seconds=60)
        yield watched


def wait_for_data(watched: Watched, what: str, expression: str) -> None:
    """The first rates take some rounds."""
    wait_until(partial(watched.has_data, expression), f"data for {what}: {expression}", seconds=60)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_has_data(watched: Watched, name: str) -> None:
    for panel in document(DASHBOARDS[name])["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", INTERVAL).replace("$instance", ".*")
            expression = expression.replace(" > 0)", ")")  # of what does not happen to a healthy stack
            wait_for_data(watched, panel["title"], expression)


def test_every_alert_has_data_and_none_fires(watched: Watched) -> None:
    for name, rule in alerts().items():
        for part in rule["expr"].split(" and "):
            wait_for_data(watched, name, re.sub(r"\s(==|>)\s[\d.]+$", "", part).replace("[5m]", f"[{INTERVAL}]"))
    rules = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(alerts())
    deadline = time.monotonic() + 30
    while any(rule["health"] == "unknown" for rule in rules) and time.monotonic() < deadline:
        rules = [rule for group in watched.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_an_alert_fires_when_it_should(watched: Watched) -> None:
    """What is asked is whether its expression is true, not how long it has been."""
    expressions = [alerts()[name]["expr"] for name in ("PosternNoGateway", "PosternDown")]
    gateway = [process for process in watched.lab.processes if process.name == "gateway"][-1]
    # A scrape that takes a second counts as failed.
    wait_until(lambda: not any(map(watched.has_data, expressions)), "nothing is wrong yet", seconds=30)
    assert gateway.terminate() == 0
    try:
        for expression in expressions:
            wait_for_data(watched, "an alert", expression)
    finally:
        watched.stack.start_gateway()
    wait_until(lambda: not any(map(watched.has_data, expressions)), "nothing is wrong any more", seconds=30)
