"""What a client does when a gateway, a resource or an answer of the portal goes: between the real cores."""

import pytest

from client.drops import ClientDrop
from client.waiting import WAIT_LIMIT
from connectivity.clock import MILLISECOND, SECOND
from connectivity.run import Run
from connectivity.tunnel import ConfigureTun
from tests.unit.test_world import connected, question, udp
from tests.unit.world import RESOURCE, SECOND_RESOURCE, World


def test_a_gateway_that_stops_hands_its_clients_to_another_one_at_once() -> None:
    world = connected(gateways=2)
    assert [row.peer_id for row in world.client.connections()] == ["g-1"]
    world.close("gateway")
    world.advance(20 * MILLISECOND)
    world.send_from_client(question(b"fail over"))
    world.advance(SECOND)
    assert world.host_received["gateway-2"] == [question(b"fail over")]
    assert [row.peer_id for row in world.client.connections()] == ["g-2"]


def test_a_gateway_that_dies_without_a_word_is_replaced_after_ice_gave_up() -> None:
    world = connected(gateways=2, versions=(4,))
    world.online = ["gateway-2"]
    world.ends["gateway"].addresses = ("192.0.2.1", "2001:db8::1")  # whoever asks for it now gets nothing
    for second in range(25):
        world.send_from_client(question(b"%d" % second))
        world.advance(SECOND)
    assert world.host_received["gateway-2"][-1] == question(b"24")


def test_a_resource_that_moves_to_another_gateway_leaves_none_behind() -> None:
    world = connected(gateways=2)
    world.client.role._requests.ask("r-1", world.now)  # type: ignore[attr-defined]  # the core is a client
    world.to("gateway-2", "authorize_flow", world.authorization("c-1/r-1", name="gateway-2"))
    world.advance(SECOND)
    assert [row.peer_id for row in world.client.connections()] == ["g-2"]
    assert world.gateway.connections() == []
    world.send_from_client(question(b"moved"))
    world.advance(SECOND)
    assert world.host_received["gateway-2"] == [question(b"moved")]


@pytest.mark.parametrize("event", ["deleted", "other kind", "other network"])
def test_losing_the_last_resource_of_a_gateway_says_goodbye(event: str) -> None:
    world = connected()
    resource = RESOURCE | {"gateway_groups": [{"id": "s", "name": "site"}]}
    match event:
        case "deleted":
            world.to_client("resource_deleted", "r-1")
        case "other kind":
            world.to_client("resource_created_or_updated", resource | {"type": "internet"})
        case _:
            world.to_client("resource_created_or_updated", resource | {"address": "10.21.0.0/24"})
    world.advance(20 * MILLISECOND)
    assert world.client.connections() == world.gateway.connections() == []
    configured = world.sent("ConfigureTun")[-1]
    assert isinstance(configured, ConfigureTun)
    assert "10.20.0.0/24" not in map(str, configured.routes)


def test_a_gateway_that_serves_another_resource_too_stays() -> None:
    world = World()
    world.resources = [*world.resources, SECOND_RESOURCE]
    world.start()
    for destination in ("10.20.0.5", "10.30.0.5"):
        world.send_from_client(udp("100.64.0.2", destination, b"hello"))
    world.advance(2 * SECOND)
    world.to_client("resource_deleted", "r-1")
    world.advance(20 * MILLISECOND)
    assert len(world.client.connections()) == len(world.gateway.connections()) == 1


def test_what_waits_for_a_site_that_is_offline_has_the_portal_asked_again_soon_and_then_less_often() -> None:
    world = World()
    world.start()
    world.online = []
    asked: list[int] = []
    started = world.now
    for number in range(150):
        before = len(world.sent("create_flow"))
        if number % 10 == 0:
            world.send_from_client(question(b"%d" % number))
        world.advance(100 * MILLISECOND)
        asked += [(world.now - started) // (100 * MILLISECOND)] * (len(world.sent("create_flow")) - before)
    # At once, after 0.1, 0.2, 0.4, 0.4, 0.4, 0.8, 1.6 and 2 s; then what waited is dropped, and packets ask every 2 s.
    assert asked == [1, 1, 3, 7, 11, 15, 23, 39, 59, 81, 101, 121, 141]


def test_a_gateway_that_comes_back_gets_what_waited() -> None:
    world = World()
    world.start()
    world.online = []
    world.send_from_client(question(b"first"))
    world.advance(500 * MILLISECOND)
    world.online = ["gateway"]
    world.advance(SECOND)
    assert world.host_received["gateway"] == [question(b"first")]
    assert len(world.sent("create_flow")) == 4  # at 0, 0.1, 0.3 and 0.7 s


def test_after_the_portal_has_been_asked_for_long_what_waits_is_dropped() -> None:
    world = World()
    world.start()
    world.online = []
    world.send_from_client(question(b"first"))
    world.advance(10 * SECOND)
    assert world.client.statistics().waiting_packets == 0
    assert world.client.statistics().flow_drops[ClientDrop.UNREACHABLE] == 1
    world.online = ["gateway"]
    world.send_from_client(question(b"at last"))
    world.advance(SECOND)
    assert world.host_received["gateway"] == [question(b"at last")]


@pytest.mark.parametrize("answer", ["forbidden", None])
def test_packets_do_not_wait_for_ever_for_what_the_portal_does_not_give(answer: str | None) -> None:
    world = World()
    world.start()
    world.online = []
    world._portal = lambda *_: None  # type: ignore[method-assign]  # the portal hears nothing
    world.send_from_client(question(b"stale"))
    world.advance(WAIT_LIMIT - SECOND)
    if answer is not None:
        world.to_client("flow_creation_failed", {"resource_id": "r-1", "reason": answer})
    assert world.client.statistics().waiting_packets == 1
    world.advance(SECOND)
    assert world.client.statistics().waiting_packets == 0
    assert world.client.statistics().flow_drops[ClientDrop.UNREACHABLE] == 1


def test_without_a_relay_the_portal_is_asked_for_one_and_the_packets_wait() -> None:
    world = World()
    world.start()
    relays = world.relays(world.client_keys)
    world.to_client("relays_presence", {"disconnected_ids": ["relay-1"], "connected": []})
    for _ in range(10):
        world.send_from_client(question(b"waiting"))
    assert len(world.sent("ReconnectPortal")) == 1
    world.to_client("relays_presence", {"disconnected_ids": [], "connected": relays})
    world.advance(2 * SECOND)
    world.send_from_client(question(b"next"))
    world.advance(2 * SECOND)
    assert world.host_received["gateway"] == [question(b"waiting"), question(b"next")]


def test_a_packet_to_a_gateway_itself_goes_to_it_or_nowhere() -> None:
    world = connected()
    own = udp("100.64.0.2", "100.64.0.3", b"to the site's DNS", destination_port=53535)
    world.send_from_client(own)
    world.send_from_client(udp("100.64.0.2", "100.64.0.3", b"to its host", destination_port=22))
    world.send_from_client(udp("100.64.0.2", "100.64.0.99", b"to nobody"))
    world.advance(100 * MILLISECOND)
    assert world.host_received["gateway"][1:] == [own]
    assert len(world.sent("create_flow")) == 1


def test_a_gateway_cannot_answer_from_outside_its_resources_nor_fill_the_log() -> None:
    world = connected()
    node = world.gateway._tunnel.node
    foreign = udp("192.0.2.66", "100.64.0.2", b"spoofed")
    transmit = node.seal("c-1", Run.single(foreign), 0, world.now)
    assert transmit is not None
    world._transmit("gateway", transmit)
    world.advance(100 * MILLISECOND)
    assert world.host_received["client"] == []
    assert world.errors == []
