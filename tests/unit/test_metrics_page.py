"""docs/metrics.md has a row for each metric that a service makes, with its kind and unit.

Whoever adds a metric is told so here, without starting anything. ``test_metrics_documented`` starts all of it, and
looks at attributes, too.
"""

from types import SimpleNamespace
from typing import Final, cast

import pytest

from connectivity.io import process_metrics, tunnel_metrics
from connectivity.io.http import HttpCounters
from connectivity.io.metric import Metric
from connectivity.io.metrics import Sources, read
from connectivity.io.tun import Tun
from connectivity.io.tun_counters import TunCounters
from connectivity.io.udp_counters import UdpCounters
from connectivity.node import Statistics
from connectivity.status import RoleStatus
from portal.metrics import collect as portal_metrics
from portal.statistics import Sizes
from portal.statistics import Statistics as PortalStatistics
from relay.driver import metrics as relay_metrics
from relay.driver.offload import Offload
from relay.driver.streams import StreamCounters
from tests.netns.test_metrics_documented import SERVICES, documented
from tests.unit.relay.playbook import RelayUnderTest

TUN: Final = cast(Tun, SimpleNamespace(counted=TunCounters))


def made(service: str) -> list[Metric]:
    """All metrics of a service that has done nothing yet."""
    match service:
        case "relay":
            sources = relay_metrics.Sources(Offload(""), UdpCounters(), StreamCounters(), 0)
            found = relay_metrics.collect(RelayUnderTest().server.statistics(), sources)
            found += relay_metrics.states({"portal": "away", "ready": False, "draining": False})
        case "portal":
            found = portal_metrics(PortalStatistics(), Sizes(0, {}, 0, 0, 0), [], HttpCounters())
        case _:
            role = RoleStatus(clients=()) if service == "gateway" else RoleStatus(resources=())
            others = tunnel_metrics.collect([], role, joined=False)
            found = read(Sources({}, TUN, lambda: Statistics(0, {}), others=lambda: others))
    return [*found, *process_metrics.collect(service)]


@pytest.mark.parametrize("service", SERVICES)
def test_every_metric_has_its_row_and_every_row_its_metric(service: str) -> None:
    rows = {name: (told.kind, told.unit) for name, told in documented(service).items()}
    metrics = {metric.name: (metric.kind, metric.unit) for metric in made(service)}
    assert metrics == rows
