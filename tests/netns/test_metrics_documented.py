"""What docs/metrics.md says is what running services tell Prometheus and a collector, no more and no less."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from lab import network
from lab.measure import PAGE_URL, first_answer_ms
from lab.plan import LabSettings
from lab.stack import Stack
from lab.topology import Lab
from tests.e2e.stage import is_within
from tests.netns.otlp_collector import PORT, Collector, attributes, collecting

pytestmark = pytest.mark.root

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
SERVICES: Final = ("relay", "gateway", "client", "portal")
HEADINGS: Final = {
    "Every service": SERVICES,
    "Relay": ("relay",),
    "Gateway and client": ("gateway", "client"),
    "Gateway": ("gateway",),
    "Client": ("client",),
    "Portal": ("portal",),
}
OTLP: Final = {"OTLP_GRPC_ENDPOINT": f"127.0.0.1:{PORT}", "OTEL_METRIC_EXPORT_INTERVAL": "500"}


@dataclass(slots=True)
class Told:
    """A metric as somebody tells it."""

    kind: str
    unit: str = ""
    attributes: set[str] = field(default_factory=set)


def documented(service: str) -> dict[str, Told]:
    """The rows of the tables that are about a service, by name."""
    found = {}
    sections = re.split(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for heading, text in zip(sections[1::2], sections[2::2], strict=True):
        if service not in HEADINGS.get(heading, ()):
            continue
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if len(cells) == 5 and cells[0].startswith("`"):
                names = re.findall(r"`([\w.]+)`", re.sub(r"\(.*?\)", "", cells[3]))
                found[cells[0].strip("`")] = Told(cells[1], cells[2], set(names))
    return found


def exported(collector: Collector) -> dict[str, Told]:
    """What a collector was sent last."""
    return {name: _told(metric) for name, metric in collector.latest().items()}


def _told(metric: Metric) -> Told:
    is_counter = metric.HasField("sum") and metric.sum.is_monotonic
    points = metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points
    names = {name for point in points for name in attributes(point.attributes)}
    return Told("counter" if is_counter else "gauge", metric.unit, names)


def scraped(text: str) -> dict[str, Told]:
    """What Prometheus reads, which has no unit."""
    found = {name: Told(kind) for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE)}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found[name].attributes.update(re.findall(r'(\w+)="', labels))
    return found


def for_prometheus(metrics: dict[str, Told]) -> dict[str, Told]:
    """The same by the rule that the document gives."""
    return {
        name.replace(".", "_") + ("_total" if told.kind == "counter" else ""): Told(
            told.kind, "", {attribute.replace(".", "_") for attribute in told.attributes}
        )
        for name, told in metrics.items()
    }


@dataclass(frozen=True, slots=True)
class Watched:
    """A stack whose services export both ways."""

    stack: Stack
    collectors: dict[str, Collector]

    def scrape(self, service: str) -> str:
        command = ["curl", "-sf", "http://127.0.0.1:9464/metrics"]
        return network.execute(self.stack.lab.namespace(service), command)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with ExitStack() as opened:
        lab = opened.enter_context(Lab(LabSettings()))
        collectors = {
            service: opened.enter_context(collecting(lab.namespace(service), "127.0.0.1")) for service in SERVICES
        }
        environment = OTLP | {"FIREZONE_METRICS": "otel-collector"}
        stack = Stack(lab, environment=environment, portal_environment=OTLP)
        stack.start()
        first_answer_ms(lab, PAGE_URL)
        yield Watched(stack, collectors)


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_documented_is_what_is_exported_both_ways(watched: Watched, service: str) -> None:
    expected, collector = documented(service), watched.collectors[service]
    assert expected
    # The relay samples every five seconds, and has to have answered somebody.
    if not is_within(lambda: scraped(watched.scrape(service)) == for_prometheus(expected), 30):
        assert scraped(watched.scrape(service)) == for_prometheus(expected)
    if not is_within(lambda: bool(collector.metrics) and exported(collector) == expected, 30):
        assert exported(collector) == expected


def test_nobody_is_answered_through_the_tunnel(watched: Watched) -> None:
    stack = watched.stack
    for service, namespace, status in (("client", stack.lab.client, "403"), ("gateway", stack.lab.user, "000")):
        # A client would answer who comes inside the tunnel; a gateway does not let it come so far.
        url = f"http://{stack.status(service)['ipv4']}:9464/metrics"
        asked = f"curl --silent --max-time 5 --output /dev/null --write-out '%{{http_code}}' {url} || true"
        assert network.execute(namespace, ["sh", "-c", asked]) == status
