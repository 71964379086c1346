"""Life of a connection between the real cores: who finds it, when it is new, kept, rolled over, idle or given up."""

from ipaddress import ip_address

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.node import NodeError, UnknownConnectionError
from connectivity.run import Received, Run
from tests.unit.test_world import answer, connected, question, udp
from tests.unit.world import CLIENT, PORT, RELAY, SECOND_RESOURCE, World

INITIATION_BYTES = 148
BINDING_REQUEST = b"\x00\x01"


def initiations(world: World, name: str) -> int:
    """How many WireGuard handshakes an end has begun, over whatever path."""
    own = {*world.ends[name].addresses}
    return sum(
        str(source.ip) in own and len(data) in {INITIATION_BYTES, INITIATION_BYTES + 4} and data[-INITIATION_BYTES] == 1
        for source, _, data in world.carried
    )


def checks(world: World, name: str) -> int:
    """How many connectivity checks an end has sent directly."""
    own, relay = {*world.ends[name].addresses}, {*RELAY}
    return sum(
        str(source.ip) in own and str(destination.ip) not in relay and data[:2] == BINDING_REQUEST
        for source, destination, data in world.carried
    )


def at(address: str, port: int = PORT) -> Endpoint:
    return Endpoint(ip_address(address), port)


def test_two_clients_behind_one_nat_port_never_get_each_others_packets() -> None:
    world = World(clients=2, versions=(4,))
    world.start()
    for name, tunnel in (("client", "100.64.0.2"), ("client-2", "100.64.0.12")):
        world.send_from_client(udp(tunnel, "10.20.0.5", b"hello"), name=name)
    world.advance(2 * SECOND)
    world.host_received["gateway"].clear()
    world.nat[at("203.0.113.11")] = at(CLIENT[0])  # the NAT gave the port of the first to the second
    for name, tunnel in (("client", "100.64.0.2"), ("client-2", "100.64.0.12")):
        world.send_from_client(udp(tunnel, "10.20.0.5", name.encode()), name=name)
        world.send_from_gateway(udp("10.20.0.5", tunnel, name.encode(), 53, 4000))
    world.advance(100 * MILLISECOND)
    assert world.host_received["gateway"] == [
        udp("100.64.0.2", "10.20.0.5", b"client"),
        udp("100.64.0.12", "10.20.0.5", b"client-2"),
    ]
    assert world.host_received["client"] == [udp("10.20.0.5", "100.64.0.2", b"client", 53, 4000)]
    assert world.host_received["client-2"] == [udp("10.20.0.5", "100.64.0.12", b"client-2", 53, 4000)]
    assert world.errors == []


@pytest.mark.parametrize("changed", [False, True])
def test_an_upsert_keeps_the_connection_unless_the_preshared_key_is_another_one(changed: bool) -> None:
    world = World()
    world.resources = [*world.resources, SECOND_RESOURCE]
    world.start()
    world.send_from_client(question())
    world.advance(25 * SECOND)
    before = list(world.client._tunnel.node._connections), list(world.gateway._tunnel.node._connections)
    world.generation += changed
    world.send_from_client(udp("100.64.0.2", "10.30.0.5", b"second"))
    world.advance(3 * SECOND)
    after = list(world.client._tunnel.node._connections), list(world.gateway._tunnel.node._connections)
    assert (before != after) is changed
    world.send_from_client(question(b"first"))
    world.advance(SECOND)
    assert world.host_received["gateway"][-2:] == [udp("100.64.0.2", "10.30.0.5", b"second"), question(b"first")]


def test_reuse_rolls_the_session_over_but_not_twice_in_twenty_seconds() -> None:
    world = connected()
    client, gateway = world.ends["client"], world.ends["gateway"]
    assert initiations(world, "client") == 1

    def authorize_again() -> None:
        world.client.role._requests.ask("r-1", world.now)  # type: ignore[attr-defined]  # the core is a client
        world.to_client("flow_created", world.flow(client, gateway))
        world.advance(SECOND)

    authorize_again()
    assert initiations(world, "client") == 1
    world.advance(20 * SECOND)
    authorize_again()
    assert initiations(world, "client") == 2
    authorize_again()
    assert initiations(world, "client") == 2


def test_a_gateway_never_starts_a_session_while_it_has_no_path() -> None:
    world = World(direct=False)
    world.relay_alive = False
    world.start()
    world.relay_alive = True
    world.advance(10 * SECOND)
    world.to_gateway("authorize_flow", world.authorization("c-1/r-1"))
    for _ in range(8):
        world.send_from_gateway(answer())
        world.advance(SECOND)
    assert initiations(world, "gateway") == 0
    assert not world.errors


@pytest.mark.parametrize("end", ["client", "gateway"])
def test_silence_slows_the_checks_and_traffic_wakes_them(end: str) -> None:
    world = connected(versions=(4,))
    world.advance(60 * SECOND)  # idle after 20 s, and the last active checks are over
    before = checks(world, end)
    world.advance(50 * SECOND)
    idle = checks(world, end) - before
    if end == "client":
        world.send_from_client(question(b"wake"))
    else:
        world.send_from_gateway(answer(b"wake"))
    before = checks(world, end)
    world.advance(15 * SECOND)
    awake = checks(world, end) - before
    assert 0 < idle <= 6  # 25 s each, on up to two pairs
    assert awake >= 10  # 1.5 s each


def test_a_gateway_keeps_what_it_authorized_when_the_connection_is_lost() -> None:
    world = World(direct=False)
    world.resources = [*world.resources, SECOND_RESOURCE]
    world.start()
    world.send_from_client(question())
    world.send_from_client(udp("100.64.0.2", "10.30.0.5", b"both"))
    world.advance(2 * SECOND)
    world.relay_alive = False
    world.advance(60 * SECOND)
    assert world.gateway.connections() == world.client.connections() == []
    world.send_from_gateway(answer())
    (error,) = world.errors
    assert isinstance(error, UnknownConnectionError)  # resources go on talking: no news
    world.start_relay(world.stamp_secret)
    for name in ("client", "gateway"):
        keys = world.ends[name].keys
        world.to(name, "relays_presence", {"disconnected_ids": [], "connected": world.relays(keys)})
    world.advance(SECOND)
    world.send_from_client(question(b"again"))
    world.advance(2 * SECOND)
    packet = udp("100.64.0.2", "10.30.0.5", b"never asked for again")
    transmit = world.client._tunnel.node.seal("g-1", Run.single(packet), 0, world.now)
    assert transmit is not None
    world._transmit("client", transmit)
    world.advance(SECOND)
    assert world.host_received["gateway"][-2:] == [question(b"again"), packet]


def test_a_client_that_got_other_addresses_keeps_its_authorizations() -> None:
    world = World()
    world.resources = [*world.resources, SECOND_RESOURCE]
    world.start()
    world.send_from_client(question())
    world.advance(2 * SECOND)
    world.ends["client"].tunnel = ("100.64.0.77", "fd00:2021:1111::77")
    world.send_from_client(udp("100.64.0.77", "10.30.0.5", b"as another"))
    world.advance(2 * SECOND)
    world.send_from_client(udp("100.64.0.77", "10.20.0.5", b"as another"))
    world.send_from_client(udp("100.64.0.2", "10.20.0.5", b"as before"))
    world.send_from_gateway(udp("10.20.0.5", "100.64.0.77", b"answer", 53, 4000))
    world.send_from_gateway(udp("10.20.0.5", "100.64.0.2", b"answer", 53, 4000))
    world.advance(SECOND)
    assert world.host_received["gateway"][1:] == [
        udp("100.64.0.77", "10.30.0.5", b"as another"),
        udp("100.64.0.77", "10.20.0.5", b"as another"),
    ]
    packet, refusal = world.host_received["client"]
    assert refusal[9] == 1  # ICMP for the old source
    assert packet == udp("10.20.0.5", "100.64.0.77", b"answer", 53, 4000)


def test_an_extended_authorization_outlives_its_first_expiry() -> None:
    world = World()
    world.expires_at = world.wall_now // SECOND + 10
    world.start()
    world.send_from_client(question())
    world.advance(5 * SECOND)
    message = {"client_id": "c-1", "resource_id": "r-1", "expires_at": world.expires_at + 20}
    world.to_gateway("access_authorization_expiry_updated", message)
    world.advance(10 * SECOND)
    assert len(world.gateway.connections()) == 1
    world.advance(20 * SECOND)
    assert world.gateway.connections() == []


@pytest.mark.parametrize("direct", [True, False])
def test_a_second_init_renews_relays_and_leaves_the_connection_alone(direct: bool) -> None:
    world = connected(direct=direct)
    world.portal_log.clear()
    world.advance(5 * SECOND)
    row = {"client_id": "c-1", "resource_id": "r-1", "expires_at": world.wall_now // SECOND + 3600}
    world.to_client("init", world.client_init())  # the credentials of the relay are others by now
    world.to_gateway("init", world.gateway_init([row]))
    for _ in range(20):
        world.send_from_client(question(b"still"))
        world.advance(SECOND)
    assert world.host_received["gateway"][-3:] == [question(b"still")] * 3
    assert world.sent("create_flow") == []
    assert world.sent("ConfigureTun") == world.sent("ConfigureTun", name="gateway") == []


def test_one_bad_datagram_costs_only_itself() -> None:
    world = connected(versions=(4,))
    world.carried.clear()
    for payload in (b"one", b"two"):
        world.send_from_client(question(payload))
    (source, destination, one), (_, _, two) = world.carried
    world._wire.clear()
    bad = [b"\x01" + bytes(len(one) - 1), b"\x04" + bytes(len(one) - 1), b"\xff" * len(one)]
    run = Run(memoryview(bytearray(b"".join([one, *bad, two]))), len(one))
    world.receive("gateway", Received(destination, source, run))
    assert world.host_received["gateway"][-2:] == [question(b"one"), question(b"two")]
    assert len(world.errors) == len(bad)
    assert all(isinstance(error, NodeError) for error in world.errors)


def test_a_client_does_not_make_errors_of_strays() -> None:
    world = connected(versions=(4,))
    stray = Received(at(CLIENT[0]), at("198.51.100.99"), Run.single(bytearray(b"\xff" * 40)))
    world.receive("client", stray)
    assert world.errors == []
