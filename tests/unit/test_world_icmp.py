"""Errors of routers on the way to a resource: whoever sends them, they are judged by the packet that they quote."""

from ipaddress import ip_address

import pytest

from client.drops import ClientDrop
from connectivity.clock import MILLISECOND, SECOND
from connectivity.ip.icmp import (
    V4_FRAGMENTATION_NEEDED,
    V4_TIME_EXCEEDED,
    V4_UNREACHABLE,
    V6_PACKET_TOO_BIG,
    V6_TIME_EXCEEDED,
    build_error,
)
from gateway.reasons import GatewayDrop
from tests.unit.test_world import RESOURCE_HOST, udp
from tests.unit.world import CLIENT_TUNNEL, RESOURCE, World

ROUTERS = {4: ip_address("192.0.2.254"), 6: ip_address("2001:db8:2::fe")}
RESOURCE6 = RESOURCE | {"id": "r-6", "address": "2001:db8:20::/64"}
HOSTS = {4: RESOURCE_HOST, 6: "2001:db8:20::5"}


def connected() -> World:
    world = World()
    world.resources = [RESOURCE, RESOURCE6]
    world.start()
    for version in (4, 6):
        world.send_from_client(question(version))
    world.advance(2 * SECOND)
    assert world.host_received["gateway"] == [question(4), question(6)]
    return world


def question(version: int, *, source: str = "", destination: str = "", port: int = 4000) -> bytes:
    source, destination = source or CLIENT_TUNNEL[version != 4], destination or HOSTS[version]
    if version == 4:
        return udp(source, destination, b"question", port)
    body = port.to_bytes(2, "big") + b"\0\x35\0\x10" + bytes(2) + b"question"
    head = bytes((0x60, 0, 0, 0, 0, len(body), 17, 64))
    return head + ip_address(source).packed + ip_address(destination).packed + body


def error(quoted: bytes, kind: int, code: int, rest: bytes = bytes(4)) -> bytes:
    version = quoted[0] >> 4
    to = ip_address(CLIENT_TUNNEL[version != 4])
    return build_error(ROUTERS[version], to, kind, code, rest, quoted)


@pytest.mark.parametrize(
    ("version", "kind", "code", "rest"),
    [
        (4, V4_TIME_EXCEEDED, 0, bytes(4)),
        (4, V4_UNREACHABLE, V4_FRAGMENTATION_NEEDED, (1000).to_bytes(4, "big")),
        (6, V6_TIME_EXCEEDED, 0, bytes(4)),
        (6, V6_PACKET_TOO_BIG, 0, (1280).to_bytes(4, "big")),
    ],
)
def test_a_router_s_error_reaches_the_client_as_it_is(version: int, kind: int, code: int, rest: bytes) -> None:
    world = connected()
    told = error(question(version), kind, code, rest)
    world.send_from_gateway(told)
    world.advance(100 * MILLISECOND)
    assert world.host_received["client"] == [told]


@pytest.mark.parametrize("version", [4, 6])
def test_a_gateway_cannot_tell_of_what_is_none_of_its_flows(version: int) -> None:
    """A gateway's core lets them through here as one might that is not ours: the client judges, too."""
    world = connected()
    kind = V4_TIME_EXCEEDED if version == 4 else V6_TIME_EXCEEDED
    strange = [
        error(question(version, destination="10.99.0.1" if version == 4 else "2001:db8:99::1"), kind, 0),
        error(question(version, source="100.64.0.99" if version == 4 else "2001:db8::99"), kind, 0),
        error(question(version), 5 if version == 4 else 137, 0),  # a redirect
        error(question(version)[:23], kind, 0),
    ]
    (connection,) = world.gateway.connections()
    for packet in strange:
        world.gateway._tunnel.send(connection.peer_id, packet, 0, world.now)
    world.drain("gateway")
    world.advance(100 * MILLISECOND)
    assert world.host_received["client"] == []
    assert world.client.statistics().flow_drops[ClientDrop.NOT_OF_GATEWAY] == len(strange)


@pytest.mark.parametrize("version", [4, 6])
def test_a_gateway_tells_no_errors_about_what_the_client_may_not_reach(version: int) -> None:
    world = connected()
    kind = V4_TIME_EXCEEDED if version == 4 else V6_TIME_EXCEEDED
    elsewhere = "10.99.0.1" if version == 4 else "2001:db8:99::1"
    world.send_from_gateway(error(question(version, destination=elsewhere), kind, 0))
    world.advance(100 * MILLISECOND)
    assert world.host_received["client"] == []
    assert world.gateway.statistics().flow_drops[GatewayDrop.FILTERED_REPLY] == 1
