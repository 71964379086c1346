"""One list of metrics is read by Prometheus, by people and by exporters; nobody is answered through the tunnel."""

import asyncio
import socket
from ipaddress import ip_address

import pytest

from connectivity.endpoint import Endpoint, IPAddress
from connectivity.errors import FatalError
from connectivity.io import process_metrics, tunnel_metrics
from connectivity.io.metric import Metric, nested, one, render
from connectivity.io.metric_export import serve_metrics
from connectivity.node import ConnectionStatus, PathKind, PeerSocket
from connectivity.status import ClientStatus, GrantStatus, ResourceStatus, RoleStatus

METRICS = [
    Metric("a.packets", "counter", "{packet}", "Packets", [({"network.type": "ipv4"}, 3), ({"network.type": ""}, 0)]),
    Metric("a.time", "gauge", "s", "Time", one(0.25)),
    Metric("b.nothing", "gauge", "1", "Nothing here", ()),
]


def test_prometheus_gets_names_with_underscores_and_totals() -> None:
    assert render(METRICS).splitlines() == [
        "# HELP a_packets_total Packets",
        "# TYPE a_packets_total counter",
        'a_packets_total{network_type="ipv4"} 3',
        'a_packets_total{network_type=""} 0',
        "# HELP a_time Time",
        "# TYPE a_time gauge",
        "a_time 0.25",
        "# HELP b_nothing Nothing here",
        "# TYPE b_nothing gauge",
    ]


def test_what_an_operator_named_is_escaped() -> None:
    odd = Metric("a", "gauge", "1", "Odd", [({"interface": 'a"b\\c\nd'}, 1)])
    assert render([odd]).splitlines()[-1] == 'a{interface="a\\"b\\\\c\\nd"} 1'


def test_people_get_nested_objects() -> None:
    rows = [({"class": "success", "code": ""}, 1), ({"class": "error", "code": "401"}, 2)]
    metrics = [Metric("a.responses", "counter", "{response}", "Answers", rows), *METRICS[1:]]
    assert nested(metrics, "a.") == {"responses": {"success": 1, "error": {"401": 2}}, "time": 0.25}


async def ask(address: Endpoint, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(str(address.ip), address.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("inside", "status"), [((), 200), ((ip_address("127.0.0.2"),), 200), ((ip_address("127.0.0.1"),), 403)]
)
def test_an_address_of_ours_inside_the_tunnel_answers_nobody(inside: tuple[IPAddress, ...], status: int) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = Endpoint.parse(f"127.0.0.1:{free.getsockname()[1]}")
        server = await serve_metrics(address, lambda: METRICS, lambda: inside)
        try:
            found, body = await ask(address, "/metrics")
            assert (found, body == render(METRICS)) == (status, status == 200)
            assert (await ask(address, "/status"))[0] == 404
        finally:
            await server.close()

    asyncio.run(scenario())


def test_an_address_that_is_not_ours_is_told() -> None:
    with pytest.raises(FatalError, match=r"cannot listen on 192\.0\.2\.1:1 for metrics"):
        asyncio.run(serve_metrics(Endpoint.parse("192.0.2.1:1"), list))


def test_the_process_tells_of_itself() -> None:
    values = nested(process_metrics.collect("relay"), "process.")
    assert values["cpu.time"] > 0
    assert values["uptime"] > 0
    assert values["memory.usage"] > 1 << 20
    assert values["unix.file_descriptor.count"] > 2


def connection(kind: PathKind | None, round_trip_ms: int | None, state: str = "connected") -> ConnectionStatus:
    end = Endpoint.parse("[2001:db8::1]:1" if kind is PathKind.PEER_TO_PEER else "192.0.2.1:1")
    path = None if kind is None else PeerSocket(kind, end, end, None)
    return ConnectionStatus("p", state, path, None if round_trip_ms is None else round_trip_ms * 10**6, 0, 0, None)


def test_connections_are_counted_by_state_and_path_and_never_named() -> None:
    connections = [
        connection(PathKind.PEER_TO_PEER, 10),
        connection(PathKind.RELAY_TO_RELAY, 30, "idle"),
        connection(PathKind.PEER_TO_RELAY, 20),
        connection(None, None, "connecting"),
    ]
    grant = GrantStatus("r-1", "cidr", "10.0.0.0/8", None)
    clients = tuple(ClientStatus(f"c-{n}", (), (grant,)) for n in range(3))
    metrics = tunnel_metrics.collect(connections, RoleStatus(clients=clients), joined=True)
    assert nested(metrics, "postern.tunnel.") == {
        "connections": {"connecting": 1, "connected": 2, "idle": 1},
        "paths": {"direct": {"ipv4": 0, "ipv6": 1}, "relayed": {"ipv4": 2, "ipv6": 0}},
        "round_trip": {"median": 0.02, "slowest": 0.03},
    }
    assert nested(metrics, "postern.gateway.") == {"clients": 3, "resources": 1}
    assert nested(metrics, "postern.link.") == {"joined": 1}


def test_a_client_counts_its_resources_by_state() -> None:
    resources = tuple(ResourceStatus(f"r-{n}", "", "cidr", "", state, None) for n, state in enumerate(("online",) * 2))
    metrics = tunnel_metrics.collect([], RoleStatus(resources=resources), joined=False)
    assert nested(metrics, "postern.client.") == {"resources": {"online": 2, "offline": 0, "unknown": 0}}
    assert nested(metrics, "postern.tunnel.")["round_trip"] == {"median": 0, "slowest": 0}
