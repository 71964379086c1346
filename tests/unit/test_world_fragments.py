"""Fragments through the tunnel: both ways, with the first one's right to pass and no other."""

from typing import Any

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.fragment_table import LIFETIME, FragmentDrop
from gateway.reasons import GatewayDrop
from tests.unit.connectivity.fragments import fragment, fragments
from tests.unit.test_world_icmp import HOSTS, RESOURCE6
from tests.unit.test_world_icmp import question as small
from tests.unit.world import CLIENT_TUNNEL, RESOURCE, World

PAYLOAD = bytes(range(256)) * 32
DNS_ONLY: list[Any] = [{"protocol": "udp", "port_range_start": 53, "port_range_end": 53}]


def big(version: int, *, back: bool = False, port: int = 53, source: str = "") -> bytes:
    """A UDP datagram of 8 KiB between client and resource, without a checksum that anybody looks at here."""
    ends = [source or CLIENT_TUNNEL[version != 4], HOSTS[version]]
    head = small(version, source=ends[back], destination=ends[not back])[: 20 if version == 4 else 40]
    ports = [(4000).to_bytes(2, "big"), port.to_bytes(2, "big")]
    return head + ports[back] + ports[not back] + (8 + len(PAYLOAD)).to_bytes(2, "big") + b"\0\0" + PAYLOAD


def connected(filters: list[Any] | None = None) -> World:
    world = World()
    world.resources, world.filters = [RESOURCE, RESOURCE6], filters or []
    world.start()
    for version in (4, 6):
        world.send_from_client(small(version))
    world.advance(2 * SECOND)
    world.host_received["gateway"].clear()
    return world


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_of_8_kib_arrives_both_ways(version: int) -> None:
    world = connected(DNS_ONLY)
    question, answer = fragments(big(version)), fragments(big(version, back=True))
    for part in question:
        world.send_from_client(part)
    for part in answer:
        world.send_from_gateway(part)
    world.advance(100 * MILLISECOND)
    assert world.host_received == {"gateway": question, "client": answer}


def test_fragments_wait_for_a_gateway_like_any_packet() -> None:
    world = World()
    world.start()
    parts = fragments(big(4))
    for part in parts:
        world.send_from_client(part)
    world.advance(2 * SECOND)
    assert world.host_received["gateway"] == parts


@pytest.mark.parametrize("version", [4, 6])
def test_filters_hold_for_all_of_a_datagram(version: int) -> None:
    world = connected(DNS_ONLY)
    allowed, refused = fragments(big(version)), fragments(big(version, port=80))
    (connection,) = world.client.connections()
    for part in (*refused, allowed[0], *refused):  # the same datagram, by its id
        world.client._tunnel.send(connection.peer_id, part, 0, world.now)
    world.drain("client")
    world.advance(100 * MILLISECOND)
    assert world.host_received["gateway"] == allowed[:1]
    assert world.gateway.statistics().flow_drops[GatewayDrop.FILTERED] == 2 * len(refused)


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_without_a_first_over_it_or_from_others_do_not_pass(version: int) -> None:
    world = connected(DNS_ONLY)
    whole = big(version)
    head, parts = whole[: 20 if version == 4 else 40], fragments(whole)
    spoofed = fragments(big(version, source="100.64.0.99" if version == 4 else "2001:db8::99"))
    (connection,) = world.client.connections()

    def send(*packets: bytes) -> None:
        for packet in packets:
            world.client._tunnel.send(connection.peer_id, packet, 0, world.now)
        world.drain("client")
        world.advance(100 * MILLISECOND)

    send(parts[1], *spoofed[:2])
    assert world.host_received["gateway"] == []
    send(parts[0], fragment(head, whole[len(head) :][:1232], 8, more=True), parts[1])
    assert world.host_received["gateway"] == [parts[0], parts[1]]
    drops = world.gateway.statistics().flow_drops
    assert (drops[FragmentDrop.UNKNOWN], drops[FragmentDrop.OVERLAP], drops[GatewayDrop.SPOOFED]) == (1, 1, 2)
    world.advance(LIFETIME)
    send(parts[2])
    assert world.host_received["gateway"] == [parts[0], parts[1]]
    assert world.gateway.statistics().flow_drops[FragmentDrop.UNKNOWN] == 2
    world.advance(2 * SECOND)
    assert len(world.gateway._tunnel.fragments) == 0
