"""Client, gateway and relay together, without IO: what the three promise each other."""

from ipaddress import ip_address

import pytest

from client.drops import ClientDrop
from connectivity.clock import MILLISECOND, SECOND
from connectivity.fragment_table import FragmentDrop
from connectivity.run import Run
from connectivity.tunnel import ConfigureTun, TunnelDrop
from gateway.reasons import GatewayDrop
from tests.unit.world import CLIENT_TUNNEL, GATEWAY_TUNNEL, World

RESOURCE_HOST = "10.20.0.5"


def udp(
    source: str, destination: str, payload: bytes, source_port: int = 4000, destination_port: int = 53, tos: int = 0
) -> bytes:
    """An IPv4 UDP packet without checksum, which IPv4 allows."""
    body = source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    body += (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload
    header = bytearray((0x45, tos, *(20 + len(body)).to_bytes(2, "big"), 0, 0, 0, 0, 64, 17, 0, 0))
    header += ip_address(source).packed + ip_address(destination).packed
    total = sum(int.from_bytes(header[index : index + 2], "big") for index in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
    return bytes(header) + body


def question(payload: bytes = b"question", **ports: int) -> bytes:
    return udp(CLIENT_TUNNEL[0], RESOURCE_HOST, payload, **ports)


def answer(payload: bytes = b"answer") -> bytes:
    return udp(RESOURCE_HOST, CLIENT_TUNNEL[0], payload, 53, 4000)


def connected(**options: object) -> World:
    world = World(**options)  # type: ignore[arg-type]  # passed through to the world as they are
    world.start()
    world.send_from_client(question(b"first"))
    world.advance(2 * SECOND)
    assert world.host_received["gateway"] == [question(b"first")]
    return world


@pytest.mark.parametrize("versions", [(4,), (6,), (4, 6)])
@pytest.mark.parametrize(
    ("direct", "path"), [(True, {"PeerToPeer"}), (False, {"RelayToRelay", "PeerToRelay", "RelayToPeer"})]
)
def test_the_first_packet_waits_for_its_connection_and_arrives(
    versions: tuple[int, ...], direct: bool, path: set[str]
) -> None:
    world = connected(direct=direct, versions=versions)
    assert world.path(world.client) in path
    assert world.path(world.gateway) in path
    world.send_from_gateway(answer())
    world.advance(100 * MILLISECOND)
    assert world.host_received["client"] == [answer()]
    assert world.errors == []
    if not direct:
        assert world.relayed_datagrams > 0
        assert world.installed


def test_both_tunnels_are_configured_with_the_addresses_and_routes_of_the_portal() -> None:
    world = World()
    world.start()
    configured = {name: action for name, event, action in world.portal_log if event == "ConfigureTun"}
    assert isinstance(configured["client"], ConfigureTun)
    assert str(configured["client"].interface.ipv4) == CLIENT_TUNNEL[0]
    assert "10.20.0.0/24" in map(str, configured["client"].routes)
    assert "10.20.0.0/24" not in map(str, configured["gateway"].routes)
    world.to_client("config_changed", {"interface": {"ipv4": CLIENT_TUNNEL[0], "ipv6": CLIENT_TUNNEL[1]}})
    assert [name for name, event, _ in world.portal_log if event == "ConfigureTun"] == ["client", "gateway"]


def test_packets_and_candidates_of_a_pending_flow_ask_the_portal_once_in_two_seconds() -> None:
    world = World()
    world.start()
    world.client.handle_portal("relays_presence", {"disconnected_ids": [], "connected": []}, world.now, world.wall_now)
    for _ in range(5):
        world.send_from_client(question())
    asked = [payload for name, event, payload in world.portal_log if event == "create_flow"]
    assert asked == [{"resource_id": "r-1", "connected_gateway_ids": []}]


def test_a_goodbye_of_the_gateway_ends_the_connection_at_once_and_the_next_packet_asks_again() -> None:
    world = connected()
    world.gateway.close(world.now)
    world.drain("gateway")
    world.advance(20 * MILLISECOND)
    assert world.client.connections() == []
    world.portal_log.clear()
    world.send_from_client(question(b"again"))
    world.advance(2 * SECOND)
    assert ("client", "create_flow", {"resource_id": "r-1", "connected_gateway_ids": ["g-1"]}) in world.portal_log
    assert world.host_received["gateway"][-1] == question(b"again")


def test_a_goodbye_of_the_client_makes_the_gateway_forget_its_authorizations() -> None:
    world = connected()
    world.client.close(world.now)
    world.drain("client")
    world.advance(20 * MILLISECOND)
    assert world.gateway.connections() == []
    world.send_from_gateway(answer())
    world.advance(SECOND)
    assert world.host_received["client"] == []


def test_revoking_the_last_authorization_says_goodbye() -> None:
    world = connected()
    world.to_gateway("reject_access", {"client_id": "c-1", "resource_id": "r-1"})
    world.advance(20 * MILLISECOND)
    assert world.client.connections() == []
    assert world.gateway.connections() == []


def test_an_authorization_that_expires_is_taken_away_within_a_second() -> None:
    world = World()
    world.expires_at = world.wall_now // SECOND + 10
    world.start()
    world.send_from_client(question())
    world.advance(5 * SECOND)
    assert len(world.gateway.connections()) == 1
    world.advance(7 * SECOND)
    assert world.gateway.connections() == []
    assert world.client.connections() == []


def test_an_init_that_does_not_list_the_client_revokes_it() -> None:
    world = connected()
    world.to_gateway("init", world.gateway_init())
    world.advance(50 * MILLISECOND)
    assert world.gateway.connections() == []


def test_an_init_that_lists_the_client_changes_nothing() -> None:
    world = connected()
    row = {"client_id": "c-1", "resource_id": "r-1", "expires_at": world.wall_now // SECOND + 3600}
    world.to_gateway("init", world.gateway_init([row]))
    world.send_from_client(question(b"still"))
    world.advance(50 * MILLISECOND)
    assert world.host_received["gateway"][-1] == question(b"still")


def test_a_filtered_packet_gets_an_icmp_answer_and_does_not_pass() -> None:
    world = World()
    world.filters = [{"protocol": "udp", "port_range_start": 53, "port_range_end": 53}]
    world.start()
    world.send_from_client(question())
    world.advance(SECOND)
    world.send_from_client(question(destination_port=54))
    world.advance(100 * MILLISECOND)
    assert world.host_received["gateway"] == [question()]
    (refusal,) = world.host_received["client"]
    assert refusal[9] == 1
    assert (refusal[20], refusal[21]) == (3, 13)
    assert refusal[28:56] == question(destination_port=54)[:28]


def test_a_client_cannot_send_with_another_source() -> None:
    world = connected()
    world.send_from_client(udp("100.64.0.99", RESOURCE_HOST, b"spoofed"))
    world.advance(100 * MILLISECOND)
    assert world.host_received["gateway"] == [question(b"first")]


def test_a_gateway_cannot_send_from_outside_its_resources() -> None:
    world = connected()
    own = udp(GATEWAY_TUNNEL[0], CLIENT_TUNNEL[0], b"from the site's DNS", 53535)
    for packet in (udp("10.30.0.1", CLIENT_TUNNEL[0], b"foreign"), own, udp(GATEWAY_TUNNEL[0], CLIENT_TUNNEL[0], b"")):
        world.send_from_gateway(packet)
    world.advance(100 * MILLISECOND)
    assert world.host_received["client"] == [own]


def test_what_either_role_refuses_is_counted_by_its_reason() -> None:
    world = connected()
    world.send_from_client(udp("100.64.0.99", RESOURCE_HOST, b"spoofed"))
    world.send_from_client(udp(CLIENT_TUNNEL[0], "10.99.0.1", b"to nobody"))
    world.send_from_client(udp(CLIENT_TUNNEL[0], GATEWAY_TUNNEL[0], b"to a closed port"))
    world.send_from_client(udp(CLIENT_TUNNEL[0], "100.64.9.9", b"to no gateway"))
    world.send_from_gateway(udp("10.30.0.1", CLIENT_TUNNEL[0], b"foreign"))
    world.send_from_gateway(udp(RESOURCE_HOST, "100.64.9.9", b"to no client"))
    world.advance(100 * MILLISECOND)
    counted = [
        {name: count for name, count in core.statistics().flow_drops.items() if count}
        for core in (world.client, world.gateway)
    ]
    assert counted == [
        {"no_resource": 1, "no_gateway": 1},
        {"spoofed": 1, "filtered": 1, "no_client": 1, "filtered_reply": 1},
    ]


def test_reasons_of_tunnel_and_roles_are_told_apart() -> None:
    for role in (ClientDrop, GatewayDrop):
        assert not {reason.value for reason in (*TunnelDrop, *FragmentDrop)} & {reason.value for reason in role}


def test_congestion_on_the_outside_shows_inside() -> None:
    world = connected()
    world.send_from_client(question(tos=0b10))
    entry = world._wire.pop()
    world._put(entry[2], entry[3], Run(memoryview(entry[4]), entry[5]), 0b11)
    world.advance(100 * MILLISECOND)
    marked = world.host_received["gateway"][-1]
    assert marked == question(tos=0b11)


def test_a_dead_relay_is_noticed_and_a_new_one_carries_on() -> None:
    world = connected(direct=False)
    world.relay_alive = False
    world.advance(40 * SECOND)
    world.start_relay("secret-2")
    world.to_client("relays_presence", {"disconnected_ids": ["relay-1"], "connected": world.relays(world.client_keys)})
    world.to_gateway(
        "relays_presence", {"disconnected_ids": ["relay-1"], "connected": world.relays(world.gateway_keys)}
    )
    world.advance(5 * SECOND)
    world.send_from_client(question(b"after"))
    world.advance(10 * SECOND)
    assert world.host_received["gateway"][-1] == question(b"after")


def test_a_relay_that_lost_its_state_unnoticed_is_allocated_on_again_at_the_next_refresh() -> None:
    world = connected(direct=False)
    world.start_relay(world.stamp_secret)
    world.advance(310 * SECOND)
    world.send_from_client(question(b"after"))
    world.advance(5 * SECOND)
    assert world.host_received["gateway"][-1] == question(b"after")


def test_hours_of_silence_and_the_next_packet_still_arrives() -> None:
    world = connected()
    world.expires_at = None
    for _ in range(3):
        world.advance(1200 * SECOND)
        world.send_from_client(question(b"later"))
        world.advance(10 * SECOND)
        assert world.host_received["gateway"][-1] == question(b"later")
        world.host_received["gateway"].clear()
    assert world.errors == []


def test_equal_worlds_do_equal_things() -> None:
    first, second = connected(seed=7, direct=False), connected(seed=7, direct=False)
    assert first.portal_log == second.portal_log
    assert first._wire == second._wire


def test_a_path_that_is_lost_is_replaced_by_the_relay_and_the_connection_stays() -> None:
    world = connected()
    assert world.path(world.client) == "PeerToPeer"
    world.direct = False
    for step in range(30):
        world.send_from_client(question(b"%d" % step))
        world.advance(SECOND)
    assert world.path(world.client) != "PeerToPeer"
    assert world.host_received["gateway"][-1] == question(b"29")
