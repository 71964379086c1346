"""Metrics of client and gateway: right values, a fixed set of series, and no cost while they are off."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from connectivity.io import exporters
from connectivity.io.export_settings import MetricsSettings, read_exports
from connectivity.io.metrics import Metrics, Sources, counters, exporting
from connectivity.io.tun import Tun
from connectivity.io.tun_counters import TunCounters
from connectivity.io.udp import UdpSocket
from connectivity.io.udp_counters import UdpCounters
from connectivity.node import Statistics
from connectivity.phoenix.login import PortalLogin, gateway_login
from connectivity.role import TunnelDrop
from connectivity.settings import SettingsError, SettingsReader
from connectivity.wireguard import DropReason

Series = dict[tuple[str, frozenset[tuple[str, str]]], int]
OTLP_MODULE = "opentelemetry.exporter.otlp.proto.grpc.metric_exporter"
DEVICE_ID = "0b7d3c9e-6a52-4a8e-9f5b-3f3f4d1c2a10"


class Host:
    """Counters as sockets, device and core keep them."""

    def __init__(self) -> None:
        self.udp = {4: UdpCounters(), 6: UdpCounters()}
        self.tun = TunCounters()
        self.waiting = {4: 0, 6: 0}
        self.waiting_packets = 0
        self.drops: Counter[DropReason] = Counter()
        self.unconnected = 0

    def sources(self) -> Sources:
        sockets = {
            version: cast(UdpSocket, SimpleNamespace(counters=counted, waiting=self.waiting[version]))
            for version, counted in self.udp.items()
        }
        tun = cast(Tun, SimpleNamespace(counted=lambda: self.tun))
        flow_drops: dict[StrEnum, int] = {TunnelDrop.NO_CONNECTION: self.unconnected, TunnelDrop.HOST_QUEUE_FULL: 0}
        return Sources(sockets, tun, lambda: Statistics(self.waiting_packets, self.drops, flow_drops=flow_drops))


def login() -> PortalLogin:
    return gateway_login(
        "wss://portal.example", token="hush", device_id=DEVICE_ID, name="a", public_key=bytes(32), user_agent="x"
    )


def collected(reader: InMemoryMetricReader) -> Series:
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    assert scope.scope.name == "connlib"
    found: Series = {}
    for metric in scope.metrics:
        for point in cast(Any, metric.data).data_points:
            key = (metric.name, frozenset(point.attributes.items()))
            assert key not in found
            found[key] = point.value
    return found


def series(name: str, **attributes: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Underscores stand for dots."""
    return name, frozenset((key.replace("_", "."), value) for key, value in attributes.items())


def test_each_counter_comes_out_as_its_series() -> None:
    host = Host()
    host.udp[4] = UdpCounters(
        batches_received=2, datagrams_received=10, datagrams_sent=20, receive_errors=3, received_unusable=4
    )
    host.udp[6] = UdpCounters(datagrams_received=30, send_errors=5, backlog_dropped=6)
    host.tun = TunCounters(
        packets_read=100, super_packets_read=11, unusable=1, packets_written=200, super_packets_written=9
    )
    host.tun.write_errors, host.tun.write_dropped, host.tun.host_dropped = 7, 8, 16
    host.waiting, host.waiting_packets = {4: 2, 6: 0}, 12
    host.drops.update({DropReason.QUEUE_FULL: 13, DropReason.NOT_AUTHENTIC: 14})
    host.unconnected = 15
    reader = InMemoryMetricReader()
    Metrics(host.sources()).provide(reader, Resource.create({"service.name": "x"}))
    values = collected(reader)
    packets, errors, dropped = "system.network.packets", "system.network.errors", "network.packet.dropped"
    udp4 = {"network_transport": "udp", "network_type": "ipv4"}
    udp6 = {"network_transport": "udp", "network_type": "ipv6"}
    receive, transmit = {"network_io_direction": "receive"}, {"network_io_direction": "transmit"}
    full = {"error_type": "BufferFull"}
    expected = {
        series(packets, **udp4, **receive): 10,
        series(packets, **udp4, **transmit): 20,
        series(packets, **udp6, **receive): 30,
        series(packets, **receive): 111,
        series(packets, **transmit): 200,
        series(errors, **udp4, **receive): 3,
        series(errors, **udp6, **transmit): 5,
        series(errors, **transmit): 7,
        series(dropped, **udp4, **receive, error_type="Malformed"): 4,
        series(dropped, **udp6, **transmit, **full, system_buffer_pool_name="gso-queue"): 6,
        series(dropped, **receive, error_type="Malformed", system_buffer_pool_name="ip-packet"): 1,
        series(dropped, **transmit, **full, system_buffer_pool_name="tun-queue"): 8,
        series(dropped, **receive, **full, system_buffer_pool_name="tun-queue"): 16,
        series(dropped, **transmit, **full, system_buffer_pool_name="wireguard"): 13,
        series(dropped, **receive, error_type="NotAuthentic", system_buffer_pool_name="wireguard"): 14,
        series(dropped, error_type="NoConnection", system_buffer_pool_name="flow-table"): 15,
        series("system.queue.length", queue_item="udp-gso-batch", network_type="ipv4"): 2,
        series("system.queue.length", queue_item="ip-packet", **transmit): 12,
    }
    assert {key: values[key] for key in expected} == expected
    assert sum(value for key, value in values.items() if key not in expected) == 0


def test_what_a_role_adds_is_counted_by_part_and_name() -> None:
    host = Host()
    counted = {"resolver": {"resolved": 3, "timed_out": 0}, "site_dns": {"failed": 2}}
    sources = replace(host.sources(), extension=lambda: counted)
    reader = InMemoryMetricReader()
    Metrics(sources).provide(reader, Resource.create({"service.name": "x"}))
    values = {key: value for key, value in collected(reader).items() if key[0] == "postern.events"}
    assert values == {
        ("postern.events", frozenset({("postern.part", "resolver"), ("postern.event", "resolved")})): 3,
        ("postern.events", frozenset({("postern.part", "resolver"), ("postern.event", "timed_out")})): 0,
        ("postern.events", frozenset({("postern.part", "site_dns"), ("postern.event", "failed")})): 2,
    }
    assert {part: counters(sources)[part] for part in counted} == counted


def test_series_are_the_same_from_the_first_export_to_the_last_and_counters_are_cumulative() -> None:
    host = Host()
    reader = InMemoryMetricReader()
    sampled = Metrics(host.sources())
    sampled.provide(reader, Resource.create())
    first = collected(reader)
    assert set(first.values()) == {0}
    for count in range(1, 50):
        host.udp[4].datagrams_received = count
        host.drops[list(DropReason)[count % len(DropReason)]] += 1
        sampled.sample()
        values = collected(reader)
        assert values.keys() == first.keys()
        assert count in values.values()
    words = {value for _, attributes in first for _, value in attributes}
    assert not any(word[0].isdigit() for word in words)  # no address, no id


def test_what_is_exported_is_the_latest_sample_and_never_read_by_the_exporters_thread() -> None:
    host = Host()
    readers: list[str] = []

    def statistics() -> Statistics:
        readers.append(threading.current_thread().name)
        return Statistics(len(readers), {})

    sources = Sources({}, host.sources().tun, statistics)
    reader = InMemoryMetricReader()
    sampled = Metrics(sources)
    sampled.provide(reader, Resource.create())
    sampled.sample()
    values: list[Series] = []
    thread = threading.Thread(target=lambda: values.append(collected(reader)), name="exporter")
    thread.start()
    thread.join()
    assert values[0][series("system.queue.length", queue_item="ip-packet", network_io_direction="transmit")] == 2
    assert len(readers) == 2
    assert "exporter" not in readers


def test_counters_are_read_once_a_second_and_once_more_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    host, readings, due = Host(), [0], list[tuple[float, Any]]()

    def statistics() -> Statistics:
        readings[0] += 1
        return Statistics(0, {})

    def call_later(delay: float, callback: Any) -> SimpleNamespace:
        due.append((delay, callback))
        return SimpleNamespace(cancel=due.pop)

    async def run() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later)
        sampled = Metrics(Sources({}, host.sources().tun, statistics))
        sampled.provide(InMemoryMetricReader(), Resource.create())
        before = readings[0]
        sampled.start()
        for count in range(1, 4):
            assert readings[0] - before == count
            ((delay, callback),) = due
            due.clear()
            assert delay == 1.0
            callback()
        sampled.stop()
        assert (readings[0] - before, due) == (5, [])

    asyncio.run(run())


def test_stdout_gets_one_json_line_per_export_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectivity.io.metrics.SHUTDOWN_SECONDS", 30)  # a busy machine needs more than half a second
    host = Host()

    async def scenario() -> None:
        with exporting(MetricsSettings("stdout", None), host.sources(), "gateway", login()):
            host.udp[4].datagrams_sent = 77

    asyncio.run(scenario())
    (line,) = capsys.readouterr().out.splitlines()
    (exported,) = json.loads(line)["resource_metrics"]
    resource: Mapping[str, str] = exported["resource"]["attributes"]
    assert resource["service.name"] == "postern-gateway"
    assert resource["service.version"]
    assert resource["os.type"] == "linux"
    assert len(resource["service.instance.id"]) == 64
    assert DEVICE_ID not in line
    assert "hush" not in line
    by_name = {metric["name"]: metric for metric in exported["scope_metrics"][0]["metrics"]}
    assert 77 in [point["value"] for point in by_name["system.network.packets"]["data"]["data_points"]]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The exporter package, made up: nobody is at the other end, and it waits for somebody."""
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

    made: list[dict[str, Any]] = []
    over = threading.Event()

    class OTLPMetricExporter(ConsoleMetricExporter):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            made.append(options)

        def export(self, *_: Any, **__: Any) -> Any:
            over.wait()

        def shutdown(self, *_: Any, **__: Any) -> None:
            over.wait()

    module = cast(Any, SimpleNamespace(OTLPMetricExporter=OTLPMetricExporter))
    monkeypatch.setitem(sys.modules, OTLP_MODULE, module)
    yield made
    over.set()


def test_a_collector_that_does_not_answer_holds_the_end_up_for_less_than_a_second(
    collector: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert exporters.SHUTDOWN_SECONDS < 1
    monkeypatch.setattr("connectivity.io.metrics.SHUTDOWN_SECONDS", 0.05)
    caplog.set_level(logging.INFO)

    async def scenario() -> float:
        with exporting(MetricsSettings("otel-collector", "collector:4317"), Host().sources(), "client", login()):
            ending = time.monotonic()
        return time.monotonic() - ending

    assert asyncio.run(scenario()) < 20  # it would wait for ever
    assert collector == [{"endpoint": "http://collector:4317", "insecure": True}]
    assert [record.getMessage() for record in caplog.records] == ["The last metrics were not exported in time"]


def test_status_has_every_counter_by_name() -> None:
    host = Host()
    host.udp[6].gso_failures = 1
    host.drops[DropReason.TOO_OLD], host.unconnected = 2, 3
    found = json.loads(json.dumps(counters(host.sources())))
    assert found["udp6"]["gso_failures"] == 1
    assert found["tun"]["packets_read"] == 0
    assert found["drops"]["too_old"] == 2
    assert found["drops"]["duplicate"] == 0
    assert found["flow_drops"] == {"no_connection": 3, "host_queue_full": 0}
    assert found["waiting_packets"] == 0


def settings(environ: dict[str, str], *arguments: str) -> MetricsSettings | None:
    reader = SettingsReader("client", arguments, environ)
    found = read_exports(reader)[0]
    reader.finish()
    return found


def test_metrics_are_off_unless_asked_for() -> None:
    assert settings({}) is None
    assert settings({"OTLP_GRPC_ENDPOINT": "otel:4317"}) is None
    assert settings({}, "--metrics", "stdout") == MetricsSettings("stdout", None)


def test_the_collector_has_an_address() -> None:
    found = settings({"FIREZONE_METRICS": "otel-collector", "OTLP_GRPC_ENDPOINT": "[2001:db8::1]:4317"})
    assert found == MetricsSettings("otel-collector", "[2001:db8::1]:4317")


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"FIREZONE_METRICS": "prometheus"}, "FIREZONE_METRICS is 'prometheus': expected stdout or otel-collector"),
        ({"OTLP_GRPC_ENDPOINT": "collector"}, "OTLP_GRPC_ENDPOINT is 'collector': expected host:port"),
        ({"OTLP_GRPC_ENDPOINT": "http://c:1"}, "OTLP_GRPC_ENDPOINT is 'http://c:1': expected host:port"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(environ)
    assert str(caught.value) == problem


@pytest.mark.parametrize("service", ["client", "gateway"])
def test_nothing_of_opentelemetry_is_imported_while_metrics_are_off(service: str) -> None:
    program = f"""
import sys
from connectivity.io.metrics import exporting
from {service}.command import read_settings
settings = read_settings([])
with exporting(settings.tunnel.metrics, None, "x", None):
    print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"FIREZONE_TOKEN": "token", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
