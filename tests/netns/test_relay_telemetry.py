"""What a relay exports reaches a real collector by OTLP, and a collector that is away costs the relay nothing."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectivity.stun import Lifetime, Method
from lab.processes import wait_until
from tests.e2e.stage import END_SECONDS, POSTERN
from tests.netns.otlp_collector import PORT, Collector, attributes, collecting, points
from tests.netns.plain_pair import entered, namespaces
from tests.netns.relay_stage import FAR, RELAY, fetch
from tests.netns.standalone import CHANNEL, StandAlone, allocate
from tests.unit.relay.playbook import error_code

pytestmark = pytest.mark.root

EVERY_HALF_SECOND = {"OTEL_METRIC_EXPORT_INTERVAL": "500", "OTEL_BSP_SCHEDULE_DELAY": "100"}
COLLECTOR = str(FAR[4])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def live_through_an_allocation(relay: StandAlone) -> int:
    """An allocation with a channel that carried one datagram, until its client ends it; its port."""
    client = relay.client()
    peer, address = relay.peer()
    port = allocate(client)
    for _ in range(2):
        assert error_code(client.bind(CHANNEL, address)) == 0
    client.send_data(CHANNEL, b"12345")
    assert peer.recv(10) == b"12345"
    client.call(Method.REFRESH, Lifetime(0))
    return port


@pytest.mark.parametrize(
    "told",
    [{"OTLP_GRPC_ENDPOINT": f"{COLLECTOR}:{PORT}"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{COLLECTOR}:{PORT}"}],
)
def test_metrics_and_traces_reach_a_collector(stack: ExitStack, tmp_path: Path, told: dict[str, str]) -> None:
    environment = {**EVERY_HALF_SECOND, **told, "OTEL_RESOURCE_ATTRIBUTES": "site=north"}
    relay = StandAlone(stack, tmp_path, environment)
    collector = stack.enter_context(collecting(relay.there, COLLECTOR))
    port = live_through_an_allocation(relay)
    wait_until(lambda: bool(collector.spans()), "the span of an allocation that has ended")
    wait_until(lambda: _tells_of_the_end(collector), "metrics of a relay whose allocation has ended")
    told_by_http = re.findall(r"^# TYPE (\w+) \w+$", fetch(relay.here, "metrics")[1], re.MULTILINE)
    relay.process.send_signal(signal.SIGTERM)
    assert relay.process.wait(20) == 0

    (span,) = collector.spans()
    expected = {"turn.relayed_port": port, "turn.families": "ipv4", "network.transport": "udp"}
    assert (span.name, attributes(span.attributes)) == ("allocation", expected)
    events = [(event.name, attributes(event.attributes)) for event in span.events]
    names = ["channel relays", "channel goes on", "channel ends"]
    assert events == [(name, {"turn.channel": CHANNEL}) for name in names]
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano

    latest = collector.latest()
    # What has no series here is not sent: there is no offload.
    assert {name.removesuffix("_total") for name in told_by_http} >= {name.replace(".", "_") for name in latest}
    assert {
        f"postern.relay.{name}" for name in ("packets", "bytes", "allocations", "channels", "offload")
    } <= latest.keys()
    by_python = (("direction", "to_peer"), ("path", "python"))
    assert points(latest["postern.relay.packets"])[by_python] == 1
    assert points(latest["postern.relay.bytes"])[by_python] == 5
    assert points(latest["postern.relay.allocations"]) == {(): 0}
    success = ("error_code", ""), ("message_type", "allocate"), ("response_class", "success")
    assert points(latest["postern.relay.responses"])[success] == 1
    for resource in collector.resources():
        said = attributes(resource.attributes)
        assert (said["service.name"], said["os.type"], said["site"]) == ("postern-relay", "linux", "north")
    sent = b"".join(request.SerializeToString() for request in collector.metrics)
    sent += b"".join(request.SerializeToString() for request in collector.traces)
    for secret in (b"alice", str(FAR[4]).encode(), str(RELAY[4]).encode()):
        assert secret not in sent


def _tells_of_the_end(collector: Collector) -> bool:
    """The last export may find no time before the process ends."""
    latest = collector.latest() if collector.metrics else {}
    if not {"postern.relay.packets", "postern.relay.allocations"} <= latest.keys():
        return False
    return any(points(latest["postern.relay.packets"]).values()) and not points(latest["postern.relay.allocations"])[()]


def test_a_collector_that_is_away_costs_nothing_and_is_found_when_it_comes(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path, {**EVERY_HALF_SECOND, "OTLP_GRPC_ENDPOINT": f"{COLLECTOR}:{PORT}"})
    live_through_an_allocation(relay)
    wait_until(lambda: "UNAVAILABLE" in relay.log(), "it has noticed")
    live_through_an_allocation(relay)
    collector = stack.enter_context(collecting(relay.there, COLLECTOR))
    wait_until(lambda: bool(collector.metrics), "metrics come nevertheless", seconds=60)
    assert points(collector.latest()["postern.relay.allocations"]) == {(): 0}


def test_a_collector_that_hangs_does_not_hold_up_the_end(stack: ExitStack, tmp_path: Path) -> None:
    relay = StandAlone(stack, tmp_path, {**EVERY_HALF_SECOND, "OTLP_GRPC_ENDPOINT": f"{COLLECTOR}:{PORT}"})
    with entered(relay.there):
        silent = stack.enter_context(socket.create_server((COLLECTOR, PORT)))
    live_through_an_allocation(relay)
    exporter, _ = silent.accept()
    with exporter:
        assert exporter.recv(3) == b"PRI"  # HTTP/2 begins, and waits
        told = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(60) == 0
    assert time.monotonic() - told < END_SECONDS
    assert "Traceback" not in relay.log()


def test_a_client_exports_its_metrics_too(stack: ExitStack) -> None:
    here, _ = stack.enter_context(namespaces())
    collector = stack.enter_context(collecting(here, "127.0.0.1"))
    environment = {
        "PATH": os.environ["PATH"],
        "FIREZONE_API_URL": "ws://127.0.0.1:9",
        "FIREZONE_TOKEN": "token",
        "FIREZONE_ID": "device",
        "FIREZONE_DNS_CONTROL": "disabled",
        "POSTERN_STATUS_SOCKET": "off",
        "FIREZONE_METRICS": "otel-collector",
        "OTLP_GRPC_ENDPOINT": f"127.0.0.1:{PORT}",
        **EVERY_HALF_SECOND,
    }
    command = ["ip", "netns", "exec", here, *POSTERN, "client"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: bool(collector.metrics), "metrics come", seconds=60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert "system.network.packets" in collector.latest()
    assert {attributes(resource.attributes)["service.name"] for resource in collector.resources()} == {"postern-client"}
