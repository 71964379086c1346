"""The node on its relays: channels, candidates, mixed batches. Real cores in the virtual-time world."""

from collections import Counter
from ipaddress import ip_address

import pytest

from connectivity.clock import MILLISECOND, SECOND
from connectivity.endpoint import Endpoint
from connectivity.node import Node
from connectivity.run import Received, Run
from connectivity.stun import DecodeError, Message, Method, XorPeerAddress, decode
from tests.unit.test_world import connected, question
from tests.unit.world import CLIENT, GATEWAY, PORT, RELAY, World

HOST = "candidate:fffefe7eaabb 1 udp 2130706175 198.51.100.7 52625 typ host"
SRFLX = "candidate:fffeff64ccdd 1 udp 1694498559 198.51.100.8 40000 typ srflx raddr 0.0.0.0 rport 0"
RELAYED = "candidate:fffe3f02eeff 1 udp 37748479 198.51.100.9 50000 typ relay raddr 0.0.0.0 rport 0"


def node_of(world: World, name: str = "client") -> Node:
    node = world.ends[name].core._tunnel.node
    assert isinstance(node, Node)
    return node


def stun(data: bytes) -> Message | None:
    try:
        return decode(data)
    except DecodeError:
        return None


def bindings(world: World, name: str = "client") -> list[tuple[int, Endpoint]]:
    """Position on the wire and peer of each ChannelBind request of an end."""
    own = world.ends[name].addresses
    found = []
    for position, (source, _, data) in enumerate(world.carried):
        message = stun(data) if str(source.ip) in own else None
        if message is not None and message.method == Method.CHANNEL_BIND:
            peer = message.get(XorPeerAddress)
            assert peer is not None
            found.append((position, peer.endpoint))
    return found


def connecting() -> World:
    """The client has a connection and waits for candidates of a gateway that says nothing by itself."""
    world = World(versions=(4,))
    world.start()
    world.send_from_client(question())
    world.advance(SECOND)
    world.gateway._tunnel.node.close("c-1", b"", world.now)
    world.carried.clear()
    return world


def test_data_goes_through_a_channel_whose_binding_is_in_flight_and_nobody_binds_twice() -> None:
    world = connected(direct=False, versions=(4,))
    binds = bindings(world)
    assert max(Counter(peer for _, peer in binds).values()) == 1
    position, _ = binds[0]
    relay = ip_address(RELAY[0])
    after = [
        data for source, to, data in world.carried[position + 1 : position + 6] if to.ip == relay and source.ip != relay
    ]
    assert any(0x40 <= data[0] <= 0x4F for data in after)  # 5 ms to the relay: no answer came that soon


def test_channels_are_bound_ahead_to_reflexive_and_relayed_candidates() -> None:
    world = connecting()
    node_of(world).add_remote_candidates("g-1", [HOST, SRFLX, RELAYED], world.now, world.wall_now)
    ahead = [node_of(world).poll_transmit() for _ in range(2)]
    peers = []
    for transmit in ahead:
        message = None if transmit is None else stun(bytes(transmit.run.data))
        peer = None if message is None else message.get(XorPeerAddress)
        peers.append(None if peer is None else str(peer.endpoint))
    assert peers == ["198.51.100.8:40000", "198.51.100.9:50000"]


def test_host_candidates_come_from_answers_of_the_relay_not_from_packets() -> None:
    world = connected(versions=(4,))
    signalled = [text for payload in world.sent("broadcast_ice_candidates") for text in payload["candidates"]]
    assert any(f"{CLIENT[0]} {PORT} typ host" in text for text in signalled)
    world.portal_log.clear()
    elsewhere = Endpoint(ip_address("203.0.113.99"), PORT)
    world.send_from_gateway(question())
    stray = Received(elsewhere, Endpoint(ip_address("203.0.113.20"), PORT), Run.single(bytearray(b"\x04" + bytes(40))))
    world.receive("client", stray)
    world.advance(SECOND)
    assert world.sent("broadcast_ice_candidates") == []


def test_candidates_leave_best_first_and_a_faulty_one_spoils_nothing() -> None:
    world = connected()
    (first, *_) = world.sent("broadcast_ice_candidates")
    priorities = [int(text.split()[3]) for text in first["candidates"]]
    assert priorities == sorted(priorities, reverse=True)
    assert {text.split()[7] for text in first["candidates"]} == {"host", "srflx", "relay"}
    waiting = connecting()
    texts = ["candidate:nonsense", HOST, "", SRFLX.replace("udp", "sctp"), "candidate:1 1 udp x 1.2.3.4 5 typ host"]
    waiting.to_client("ice_candidates", {"gateway_id": "g-1", "candidates": texts})
    (connection,) = node_of(waiting)._connections
    assert "198.51.100.7" in {str(candidate.address.ip) for candidate in connection.agent.remote_candidates}


def test_candidates_for_a_connection_that_is_not_there_change_nothing() -> None:
    world = connected()
    for event in ("ice_candidates", "invalidate_ice_candidates"):
        world.to_client(event, {"gateway_id": "g-9", "candidates": [HOST]})
    assert [row.peer_id for row in world.client.connections()] == ["g-1"]


def test_no_peer_can_take_all_channel_numbers_by_naming_candidates() -> None:
    world = connecting()
    flood = [SRFLX.replace("40000", str(port)) for port in range(20_000, 24_000)]
    for start in range(0, len(flood), 80):
        part = flood[start : start + 80]
        world.to_client("ice_candidates", {"gateway_id": "g-1", "candidates": part})
        world.to_client("invalidate_ice_candidates", {"gateway_id": "g-1", "candidates": part})
    world.advance(10 * MILLISECOND)
    assert 0 < len({peer for _, peer in bindings(world)}) <= 256 + 8


def test_of_an_endless_list_of_candidates_only_what_can_be_paired_is_read() -> None:
    world = connecting()
    flood = [SRFLX.replace("40000", str(port)) for port in range(20_000, 21_000)]
    world.to_client("ice_candidates", {"gateway_id": "g-1", "candidates": flood})
    world.advance(10 * MILLISECOND)
    assert len({peer for _, peer in bindings(world)}) <= 100


@pytest.mark.parametrize("answer_first", [True, False])
def test_an_answer_of_the_relay_and_channel_data_in_one_batch_both_arrive(answer_first: bool) -> None:
    """The kernel joins what one address sends, a shorter datagram at the end: here a refresh's answer and data."""
    world = connected(direct=False, versions=(4,))
    assert world.path(world.gateway) == "RelayToPeer"
    allocation = node_of(world, "gateway")._relays.get("relay-1")
    assert allocation is not None
    world._wire.clear()
    allocation.probe(world.now)  # asks the relay for a refresh
    world.drain("gateway")
    world.send_from_client(question(b"x" * (1 if answer_first else 400)))
    arrived: list[bytes] = []
    while world._wire:
        _, _, source, destination, data, size, tos = world._wire.pop(0)
        if str(destination.ip) == GATEWAY[0]:
            arrived.append(data)
        else:
            world._deliver(source, destination, data, size, tos)
    (response,) = (data for data in arrived if stun(data) is not None)
    (frame,) = (data for data in arrived if 0x40 <= data[0] <= 0x4F)
    batch = sorted((response, frame), key=len, reverse=True)
    assert (batch[0] == response) is answer_first
    world.host_received["gateway"].clear()
    run = Run(memoryview(bytearray(b"".join(batch))), len(batch[0]))
    relay = Endpoint(ip_address(RELAY[0]), 3478)
    world.receive("gateway", Received(Endpoint(ip_address(GATEWAY[0]), PORT), relay, run))
    assert len(world.host_received["gateway"]) == 1
    world.advance(2 * SECOND)
    assert not world.errors
    assert allocation.relayed_address(4) is not None  # its request was answered


def test_a_connection_whose_relay_is_taken_away_moves_to_another_at_once() -> None:
    world = connected()
    relays = [relay | {"id": "relay-2"} for relay in world.relays(world.client_keys)]
    world.to_client("relays_presence", {"disconnected_ids": ["relay-1"], "connected": relays})
    (connection,) = node_of(world)._connections
    assert connection.relay_id == "relay-2"


def without_relay(world: World, *names: str) -> None:
    for name in names:
        world.to(name, "relays_presence", {"disconnected_ids": ["relay-1"], "connected": []})


def test_a_relay_off_the_list_gets_its_allocation_back_once_nothing_leads_through_it() -> None:
    world = connected()
    assert world.path(world.client) == "PeerToPeer"
    without_relay(world, "client", "gateway")
    world.advance(2 * SECOND)
    assert world.relay.allocation_count == 2
    world.advance(2 * SECOND)
    assert world.relay.allocation_count == 0
    world.carried.clear()
    world.advance(2 * SECOND)
    assert not [data for _, to, data in world.carried if str(to.ip) in RELAY]


@pytest.mark.parametrize("direct", [True, False])
def test_who_ends_gives_back_what_the_relay_lent_behind_the_goodbye(direct: bool) -> None:
    world = connected(direct=direct, versions=(4,))
    assert world.relay.allocation_count == 2
    world.close("client")
    world.advance(100 * MILLISECOND)
    assert world.relay.allocation_count == 1
    assert not world.gateway.connections()
    world.close("gateway")
    world.advance(100 * MILLISECOND)
    assert world.relay.allocation_count == 0


def test_a_relay_off_the_list_carries_on_until_there_is_another_path() -> None:
    world = connected(direct=False, versions=(4,))
    without_relay(world, "client", "gateway")
    for number in range(15):
        world.send_from_client(question(b"%d" % number))
        world.advance(100 * MILLISECOND)
    assert question(b"14") in world.host_received["gateway"]
    world.direct = True
    world.advance(10 * SECOND)
    assert world.relay.allocation_count == 0


def test_a_relay_that_comes_back_while_it_is_being_left_is_used_again() -> None:
    world = connected(direct=False, versions=(4,))
    without_relay(world, "client", "gateway")
    world.advance(SECOND)
    for end in list(world.ends.values()):
        world.to(end.name, "relays_presence", {"disconnected_ids": [], "connected": world.relays(end.keys)})
    world.advance(5 * SECOND)
    world.send_from_client(question(b"again"))
    world.advance(SECOND)
    assert question(b"again") in world.host_received["gateway"]
    assert world.relay.allocation_count == 2


def test_an_address_that_the_peer_has_lost_with_its_relay_is_refused_and_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client learns of the new relay first, and for a while knows only what the gateway had on the old one."""
    caplog.set_level("DEBUG")
    world = connected(direct=False, versions=(4,))
    world.start_relay("secret-2")
    world.to_client("relays_presence", {"disconnected_ids": [], "connected": world.relays(world.client_keys)})
    world.advance(SECOND)
    refused = [record for record in caplog.records if record.getMessage() == "Channel refused"]
    assert refused
    assert {record.levelname for record in refused} == {"DEBUG"}
    world.to_gateway("relays_presence", {"disconnected_ids": [], "connected": world.relays(world.gateway_keys)})
    world.advance(3 * SECOND)
    world.send_from_client(question(b"again"))
    world.advance(SECOND)
    assert question(b"again") in world.host_received["gateway"]
