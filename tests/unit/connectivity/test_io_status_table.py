"""The status document, and the tables that people see of it."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.io.status_document import Identity, PortalState, build
from connectivity.io.status_table import amount, duration, render
from connectivity.io.table import Screen
from connectivity.node import ConnectionStatus, PathKind, PeerSocket
from connectivity.portal.values import Interface
from connectivity.status import ClientStatus, GrantStatus, ResourceStatus, RoleStatus
from connectivity.tunnel import ConfigureTun

NOW = 5_000 * SECOND
OWN = (IPv4Address("100.64.0.2"), IPv6Address("fd00:2021:1111::2"))
CONFIGURATION = ConfigureTun(
    Interface(*OWN), (), sentinels=((IPv4Address("100.100.111.1"), Endpoint.parse("192.0.2.53:53")),)
)
DIRECT = PeerSocket(PathKind.PEER_TO_PEER, Endpoint.parse("10.0.0.2:52625"), Endpoint.parse("203.0.113.20:52625"), None)
RELAYED = PeerSocket(
    PathKind.RELAY_TO_PEER, Endpoint.parse("[2001:db8::30]:50000"), Endpoint.parse("[2001:db8::20]:52625"), "r-1"
)
CONNECTIONS = [
    ConnectionStatus("p-1", "connected", DIRECT, 10_200_000, 1_234_567, 98_765_432, NOW - 73 * SECOND),
    ConnectionStatus("p-2", "idle", RELAYED, 22 * MILLISECOND, 999, 1000, NOW - 7300 * SECOND),
    ConnectionStatus("p-3", "connecting", None, None, 0, 0, None),
]
CLIENT = RoleStatus(
    resources=(
        ResourceStatus("r-1", "lan", "cidr", "10.20.0.0/24", "online", "p-1", "gateway-1"),
        ResourceStatus("r-2", "wiki", "dns", "**.wiki.internal", "unknown", None),
    ),
    names={"p-1": "gateway-1"},
)
GATEWAY = RoleStatus(
    clients=(
        ClientStatus(
            "p-1",
            OWN,
            (GrantStatus("r-1", "cidr", "10.20.0.0/24", 1_000, "lan"), GrantStatus("r-3", "internet", "", None)),
            "laptop",
            "alice",
        ),
        ClientStatus("p-4", OWN, ()),
    ),
    names={"p-1": "laptop", "p-4": ""},
)
COUNTERS = {"udp4": {"datagrams_sent": 12_345, "send_errors": 0}, "waiting_packets": 0}


def document(service: str, *, name: str = "laptop", portal: PortalState | None = None) -> dict[str, Any]:
    """As a service with all of it says it."""
    is_client = service == "client"
    return build(
        Identity(service, "gid" if is_client else "cid", name, "d-1", "wss://portal.example:443"),
        portal or PortalState(NOW - 190 * SECOND, joined=True),
        CONFIGURATION,
        CONNECTIONS,
        CLIENT if is_client else GATEWAY,
        COUNTERS,
        NOW,
    )


def test_the_document_of_a_client() -> None:
    told = document("client")
    del told["version"]
    assert told == {
        "service": "client",
        "name": "laptop",
        "id": "d-1",
        "ipv4": "100.64.0.2",
        "ipv6": "fd00:2021:1111::2",
        "ready": True,
        "portal": True,
        "portal_url": "wss://portal.example:443",
        "portal_seconds": 190,
        "portal_away_reason": None,
        "connections": [
            {
                "gid": "p-1",
                "name": "gateway-1",
                "state": "connected",
                "path": "PeerToPeer",
                "family": "ipv4",
                "local": "10.0.0.2:52625",
                "remote": "203.0.113.20:52625",
                "relay": None,
                "round_trip_ms": 10.2,
                "sent_bytes": 1_234_567,
                "received_bytes": 98_765_432,
                "handshake_seconds": 73,
            },
            {
                "gid": "p-2",
                "name": None,
                "state": "idle",
                "path": "RelayToPeer",
                "family": "ipv6",
                "local": "[2001:db8::30]:50000",
                "remote": "[2001:db8::20]:52625",
                "relay": "r-1",
                "round_trip_ms": 22.0,
                "sent_bytes": 999,
                "received_bytes": 1000,
                "handshake_seconds": 7300,
            },
            {
                "gid": "p-3",
                "name": None,
                "state": "connecting",
                "path": None,
                "family": None,
                "local": None,
                "remote": None,
                "relay": None,
                "round_trip_ms": None,
                "sent_bytes": 0,
                "received_bytes": 0,
                "handshake_seconds": None,
            },
        ],
        "resources": [
            {
                "rid": "r-1",
                "name": "lan",
                "type": "cidr",
                "address": "10.20.0.0/24",
                "state": "online",
                "gid": "p-1",
                "gateway": "gateway-1",
            },
            {
                "rid": "r-2",
                "name": "wiki",
                "type": "dns",
                "address": "**.wiki.internal",
                "state": "unknown",
                "gid": None,
                "gateway": None,
            },
        ],
        "dns": {"servers": [{"sentinel": "100.100.111.1", "server": "192.0.2.53:53"}], "search_domain": None},
        "counters": COUNTERS,
    }


def test_a_client_sees_resources_gateways_name_servers_and_what_is_not_zero() -> None:
    assert render(document("client")).splitlines() == [
        "client  laptop (d-1)",
        "tunnel  100.64.0.2, fd00:2021:1111::2",
        "portal  wss://portal.example:443, joined for 3 min 10 s",
        "",
        "RESOURCE  ADDRESS           STATE    GATEWAY",
        "lan       10.20.0.0/24      online   gateway-1",
        "wiki      **.wiki.internal  unknown  -",
        "",
        "GATEWAY    STATE       PATH                    RTT     SENT  RECEIVED  HANDSHAKE",
        "gateway-1  connected   direct              10.2 ms  1.23 MB  98.77 MB      1 min",
        "                       203.0.113.20",
        "p-2        idle        relay               22.0 ms    999 B   1.00 kB        2 h",
        "                       2001:db8::30, to",
        "                       2001:db8::20",
        "p-3        connecting  -                         -      0 B       0 B          -",
        "",
        "NAME SERVER    ASKS",
        "100.100.111.1  192.0.2.53:53",
        "",
        "COUNTER               COUNT",
        "udp4.datagrams_sent  12,345",
    ]


def test_a_gateway_sees_its_clients_with_what_they_may_reach_and_until_when() -> None:
    away = PortalState(NOW - 100 * SECOND)
    away.changed(NOW - 40 * SECOND, joined=True)
    away.changed(NOW - 30 * SECOND, joined=False, away_reason="timed out")
    away.changed(NOW - 10 * SECOND, joined=False, away_reason="refused")
    shown = render(document("gateway", portal=away), wall_now=100).split("\n\n")
    assert shown[0].splitlines()[2] == "portal   wss://portal.example:443, away for 30 s: refused"
    assert shown[1].startswith("CLIENT  STATE")
    assert shown[2].splitlines() == [
        "CLIENT  OF     MAY REACH         EXPIRES",
        "laptop  alice  lan 10.20.0.0/24  in 15 min",
        "               internet (r-3)    never",
        "p-4     -      -                 -",
    ]


def test_peers_of_one_name_show_the_beginning_of_their_ids() -> None:
    told = document("gateway")
    for row, cid in zip(told["connections"], ("97ec547d-38cb", "1924b8b7-44b5", "3"), strict=True):
        row |= {"cid": cid, "name": "laptop"}
    told["connections"][2]["name"] = "phone"
    lines = render(told, screen=Screen(120)).split("\n\n")[1].splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "CLIENT",
        "laptop (97ec547d)",
        "laptop (1924b8b7)",
        "phone",
    ]


def test_one_that_has_just_begun_says_so() -> None:
    identity = Identity("client", "gid", "laptop", "d-1", "wss://portal.example:443")
    told = build(identity, PortalState(NOW), None, [], RoleStatus(resources=()), {"waiting_packets": 0}, NOW)
    assert (told["ready"], told["ipv4"], told["dns"]["servers"]) == (False, None, [])
    assert render(told) == (
        "client  laptop (d-1)\n"
        "tunnel  no addresses yet\n"
        "portal  wss://portal.example:443, not joined yet, after 0 s\n"
        "\n"
        "no resources\n"
        "\n"
        "no connections\n"
        "\n"
        "all counters are zero"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (3661, "1 h 1 min"), (200_000, "2 d 7 h")],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_999, "1000.00 kB"), (2_500_000_000, "2.50 GB"),
     (12 * 10**15, "12000.00 TB")],
)  # fmt: skip
def test_bytes_have_units_of_a_thousand(count: int, text: str) -> None:
    assert amount(count) == text
