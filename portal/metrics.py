"""The portal's counters as series, for Prometheus and for OpenTelemetry alike."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from connectivity.io.http import HttpCounters
from connectivity.io.metric import Metric, Row, one
from connectivity.io.metric_export import http_events
from portal.configuration import TokenType
from portal.online import Online
from portal.statistics import FlowResult, LoginResult, Sizes, Statistics

_DEVICES: Final = (TokenType.CLIENT, TokenType.GATEWAY)


def collect(statistics: Statistics, sizes: Sizes, online: Iterable[Online], http: HttpCounters) -> list[Metric]:
    """All metrics, always the same names and series."""
    present = Counter(each.type for each in online)
    logins = [
        ({"type": kind.value, "result": result.value}, statistics.logins[kind, result])
        for kind in TokenType
        for result in LoginResult
    ]
    flows = [({"result": result.value}, statistics.flows[result]) for result in FlowResult]
    devices = [({"type": kind.value}, sizes.devices.get(kind, 0)) for kind in _DEVICES]
    messages = [
        ({"type": kind.value, "direction": direction}, counted[kind])
        for direction, counted in (("receive", statistics.received), ("transmit", statistics.sent))
        for kind in TokenType
    ]
    return [
        _gauge("online", "{component}", "Components that have joined", _by_type(present)),
        _gauge("connections", "{connection}", "WebSockets that were let in", one(sizes.connections)),
        _gauge("devices", "{device}", "Devices that are known, on line or not", devices),
        _gauge("relays", "{relay}", "Relays that are known", one(sizes.relays)),
        _gauge("grants", "{grant}", "Accesses that gateways were told of", one(sizes.grants)),
        _gauge("waiting_flows", "{flow}", "Flows that wait for their gateway", one(sizes.waiting_flows)),
        _counter("logins", "{login}", "What became of requests for a WebSocket", logins),
        _counter("flows", "{flow}", "What clients were told that asked for a resource", flows),
        _counter("messages", "{message}", "Messages of components and to them", messages),
        _counter("cut_off", "{component}", "Components that flooded the portal", _by_type(statistics.cut_off)),
        http_events("postern.portal.http_events", http),
    ]


def _by_type(counted: Counter[TokenType]) -> list[Row]:
    return [({"type": kind.value}, counted[kind]) for kind in TokenType]


def _counter(name: str, unit: str, text: str, rows: Iterable[Row]) -> Metric:
    return Metric(f"postern.portal.{name}", "counter", unit, text, tuple(rows))


def _gauge(name: str, unit: str, text: str, rows: Iterable[Row]) -> Metric:
    return Metric(f"postern.portal.{name}", "gauge", unit, text, tuple(rows))
